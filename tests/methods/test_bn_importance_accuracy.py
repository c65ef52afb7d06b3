"""One-shot accuracies of a published ResNet-56 without any training, a regression test against our own measurements.

First 2,000 test images of CIFAR-10 (dense 92.95 %), first convolution of each block, nothing trained after the cut.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from prunebench.criteria.scorers import BatchNormStatistic, Criterion, FilterNorm
from prunebench.methods.filter_pruning import FilterPruning
from tests.bare import bare_run
from tests.kit import accuracy

pytestmark = pytest.mark.slow


def one_shot(net: nn.Module, criterion: Criterion, prune_ratio: float, **options: Any) -> nn.Module:
    run = bare_run(net)
    # the specification's numbers are of scores as they are
    options |= {"layers": "interior", "normalise": "none"}
    method = FilterPruning(criterion=criterion, prune_ratio=prune_ratio, **options)
    return method.prune(net, run).net.eval()


def test_dense(trained: nn.Module, test_pictures: tuple[Tensor, Tensor]) -> None:
    assert accuracy(trained, test_pictures) == pytest.approx(92.95, abs=0.1)


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
    test_pictures: tuple[Tensor, Tensor],
    criterion: Criterion,
    scope: str,
    prune_ratio: float,
    expected: float,
) -> None:
    assert accuracy(one_shot(trained, criterion, prune_ratio, scope=scope), test_pictures) == pytest.approx(
        expected, abs=1.5
    )


@pytest.mark.parametrize(("statistic", "expected"), [("mean", 83.2), ("var_x_next", 86.9)])
def test_compensated(trained: nn.Module, test_pictures: tuple[Tensor, Tensor], statistic: str, expected: float) -> None:
    net = one_shot(trained, BatchNormStatistic(statistic=statistic), 0.3, compensate_mean=True)
    assert accuracy(net, test_pictures, count=1000) == pytest.approx(expected, abs=1.5)
