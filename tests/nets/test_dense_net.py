"""A net of other settings than the dense one: built, counted, kept apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.resnet_cifar import resnet20
from prunebench.nets.dense_net import DenseNet

SETTINGS = {"_target_": "prunebench.models.resnet_cifar.resnet20", "name": "resnet20", "shortcut": "B"}


def make(settings: Mapping[str, Any], purpose: str) -> nn.Module:
    torch.manual_seed(len(purpose))
    return resnet20(**{key: value for key, value in settings.items() if key not in ("_target_", "name")})


@pytest.fixture
def dense() -> DenseNet:
    return DenseNet(SETTINGS, make=make, example=torch.zeros(1, 3, 32, 32))


def test_a_variant_has_its_own_shapes_and_leaves_the_dense_net_alone(dense: DenseNet) -> None:
    wide = dense.variant(width=20)
    # 3 -> w, 6 w -> w at 32x32, then 2w and 4w at half the side; 1x1 shortcuts; 10 classes
    for described, w in ((dense, 16), (wide, 20)):
        macs = 9 * 1024 * (3 * w + 6 * w**2) + 9 * 256 * (2 + 5 * 4) * w**2 + 9 * 64 * (8 + 5 * 16) * w**2
        macs += 256 * 2 * w**2 + 64 * 8 * w**2 + 40 * w
        assert described.cost.macs == macs
    assert wide.graph.layers["layer3.0.conv1"].out_channels == 80
    assert dense.graph.layers["layer3.0.conv1"].out_channels == 64
    assert wide.settings == {**SETTINGS, "width": 20}
    assert dense.settings == SETTINGS
    assert dense.variant(width=20) is wide


def test_arguments_are_the_settings_or_the_targets_defaults(dense: DenseNet) -> None:
    assert dense.argument("width") == 16
    assert dense.argument("shortcut") == "B"
    assert dense.variant(width=20).argument("width") == 20
    with pytest.raises(UserError, match="no argument 'wide' with a default; it takes: num_classes"):
        dense.argument("wide")


def test_weights_depend_on_the_purpose(dense: DenseNet) -> None:
    one, same, other = (dense.fresh(purpose).get_parameter("conv1.weight") for purpose in ("a", "a", "ab"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
