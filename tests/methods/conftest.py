"""A published ResNet-56 and the test pictures of CIFAR-10 that its accuracy is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunebench.models.resnet_cifar import resnet56
from prunebench.nets.checkpoints import load_foreign

MEAN, STD = (
    torch.tensor(values).reshape(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)  # those that the net was trained with


@pytest.fixture(scope="session")
def trained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    weights = data_root / "weights" / "resnet56-4bfd9763.th"
    if not weights.exists():
        pytest.skip(f"needs {weights}")
    net = resnet56()
    load_foreign(net, str(weights), sha256=None, cache=tmp_path_factory.mktemp("cache"))
    return net.eval()


@pytest.fixture(scope="session")
def test_pictures(data_root: Path) -> tuple[Tensor, Tensor]:
    """The first 2,000, normalised, and their classes."""
    records = np.fromfile(data_root / "cifar-10-batches-bin" / "test_batch.bin", dtype=np.uint8).reshape(-1, 3073)
    images = torch.from_numpy(records[:2000, 1:]).reshape(-1, 3, 32, 32) / 255
    return (images - MEAN) / STD, torch.from_numpy(records[:2000, 0]).long()
