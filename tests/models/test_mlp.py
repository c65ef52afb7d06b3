from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.mlp import mlp_784_500_300


def test_sizes_of_the_paper(count):
    # 784*500 + 500*300 + 300*10 weights, two scales and shifts for each of 800 neurons, 10 biases
    assert count(mlp_784_500_300, size=28, channels=1) == (545_000, 545_000 + 2 * 800 + 10)


def test_scales_begin_as_asked():
    net = mlp_784_500_300(norm_weight=0.25)
    assert all((m.weight == 0.25).all() for m in net.modules() if isinstance(m, nn.BatchNorm1d))
    assert net(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_traceable(assert_traceable):
    assert_traceable(mlp_784_500_300(image_size=8), torch.rand(4, 1, 8, 8))


@pytest.mark.parametrize("value", [0, -1, "one", True, None])
def test_bad_scales_are_refused(value):
    with pytest.raises(UserError, match=r"^norm_weight must be a number above 0, got"):
        mlp_784_500_300(norm_weight=value)
