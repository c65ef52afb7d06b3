"""Counts of HRank's and FSM's GoogLeNet, structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.googlenet_cifar import INCEPTIONS, Inception, googlenet


def test_counts_of_the_official_net(count):
    # FSM: 1,521.75616 M MACs of convolutions and the classifier, 6,166,250 parameters
    assert count(googlenet, size=32) == (1_521_756_160, 6_166_250)


def test_branches_are_joined_in_their_order():
    module = Inception(in_channels=6, channels=(2, 3, 4, 2, 3, 5)).eval()
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        out = module(x)
        branches = (module.branch1x1, module.branch3x3, module.branch5x5, module.branch_pool)
        assert torch.equal(out, torch.cat([branch(x) for branch in branches], 1))
    assert out.shape == (2, 2 + 4 + 3 + 5, 8, 8)


def test_names_and_layers_are_those_of_published_checkpoints():
    with torch.device("meta"):
        net = googlenet()
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 1 + 7 * len(INCEPTIONS)
    assert convs[:6] == [
        "pre_layers.0",
        *(f"inception_a3.branch{name}" for name in ("1x1.0", "3x3.0", "3x3.3", "5x5.0", "5x5.3")),
    ]
    assert net.inception_b5.branch_pool[1].out_channels == 128 and net.linear.in_features == 1024


def test_can_be_traced(assert_traceable):
    assert_traceable(googlenet(), torch.randn(2, 3, 8, 8))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="googlenet needs images of at least 4x4"):
        googlenet(image_size=2)
