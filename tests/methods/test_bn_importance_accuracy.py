"""One-shot accuracies of a published ResNet-56 without any training, a regression test against our own measurements.

First 2,000 test images of CIFAR-10 (dense 92.95 %), first convolution of each block, nothing trained after the cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunebench.criteria.scorers import BatchNormStatistic, Criterion, FilterNorm
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.models.resnet_cifar import resnet56
from prunebench.nets.checkpoints import load_foreign
from tests.bare import bare_run

pytestmark = pytest.mark.slow

MEAN = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)


@pytest.fixture(scope="module")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    weights = data_root / "weights" / "resnet56-4bfd9763.th"
    if not weights.exists():
        pytest.skip(f"needs {weights}")
    net = resnet56()
    load_foreign(net, str(weights), sha256=None, cache=tmp_path_factory.mktemp("cache"))
    return net.eval()


@pytest.fixture(scope="module")
def test_set(data_root: Path) -> tuple[Tensor, Tensor]:
    records = np.fromfile(data_root / "cifar-10-batches-bin" / "test_batch.bin", dtype=np.uint8).reshape(-1, 3073)
    images = torch.from_numpy(records[:2000, 1:]).reshape(-1, 3, 32, 32) / 255
    return (images - MEAN) / STD, torch.from_numpy(records[:2000, 0]).long()


def accuracy(net: nn.Module, test_set: tuple[Tensor, Tensor], count: int = 2000) -> float:
    """In percent."""
    images, labels = (part[:count] for part in test_set)
    with torch.inference_mode():
        hits = [net(x).argmax(1) == y for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return 100 * float(torch.cat(hits).float().mean())


def one_shot(net: nn.Module, criterion: Criterion, prune_ratio: float, **options: Any) -> nn.Module:
    run = bare_run(net)
    # the specification's numbers are of scores as they are
    options |= {"layers": "interior", "normalise": "none"}
    method = FilterPruning(criterion=criterion, prune_ratio=prune_ratio, **options)
    return method.prune(net, run).net.eval()


def test_dense(trained: nn.Module, test_set: tuple[Tensor, Tensor]) -> None:
    assert accuracy(trained, test_set) == pytest.approx(92.95, abs=0.1)


@pytest.mark.parametrize(
    ("criterion", "scope", "prune_ratio", "expected"),
    [
        (BatchNormStatistic(statistic="mean"), "layer", 0.3, 78.2),
        (BatchNormStatistic(statistic="std"), "layer", 0.3, 81.0),
        (BatchNormStatistic(statistic="gamma"), "layer", 0.3, 83.8),
        (BatchNormStatistic(statistic="shift"), "layer", 0.3, 82.6),
        (BatchNormStatistic(statistic="mean_x_next"), "global", 0.3, 83.4),
        (FilterNorm(order=1), "layer", 0.3, 85.9),
        (FilterNorm(order=1), "global", 0.3, 14.5),
    ],
)
def test_one_shot(
    trained: nn.Module,
    test_set: tuple[Tensor, Tensor],
    criterion: Criterion,
    scope: str,
    prune_ratio: float,
    expected: float,
) -> None:
    assert accuracy(one_shot(trained, criterion, prune_ratio, scope=scope), test_set) == pytest.approx(
        expected, abs=1.5
    )


@pytest.mark.parametrize(("statistic", "expected"), [("mean", 83.2), ("var_x_next", 86.9)])
def test_compensated(trained: nn.Module, test_set: tuple[Tensor, Tensor], statistic: str, expected: float) -> None:
    net = one_shot(trained, BatchNormStatistic(statistic=statistic), 0.3, compensate_mean=True)
    assert accuracy(net, test_set, count=1000) == pytest.approx(expected, abs=1.5)
