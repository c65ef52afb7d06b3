"""Counts of SSS's PreResNet-50, structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.preresnet import PreActBottleneck, preresnet50


def test_counts_of_the_paper(count):
    # SSS: 4.089e9 MACs and 25.5 million parameters, without those of the norms 25,503,912
    macs, params = count(preresnet50, size=224)
    assert (macs, params) == (4_089_184_256, 25_549_480)
    with torch.device("meta"):
        norms = [m for m in preresnet50().modules() if isinstance(m, nn.BatchNorm2d)]
    assert params - sum(2 * norm.num_features for norm in norms) == 25_503_912


def test_the_projection_reads_what_the_first_norm_puts_out():
    block = PreActBottleneck(in_channels=6, width=2, stride=2, project=True).eval()
    x = torch.randn(2, 6, 8, 8)
    assert block.downsample is not None
    with torch.no_grad():
        nn.init.zeros_(block.conv3.weight)
        assert torch.equal(block(x), block.downsample(torch.relu(block.bn1(x))))
    block = PreActBottleneck(in_channels=8, width=2, stride=1, project=False).eval()
    x = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        nn.init.zeros_(block.conv3.weight)
        assert torch.equal(block(x), x)


def test_can_be_traced(assert_traceable):
    assert_traceable(preresnet50(num_classes=3), torch.randn(2, 3, 32, 32))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="preresnet50 needs images of at least 32x32"):
        preresnet50(image_size=16)
