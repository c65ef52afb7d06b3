"""MobileNetV2 for CIFAR: counts, structure, and cuts that go through depthwise convolutions and additions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.mobilenet_cifar import InvertedResidual, mobilenetv2
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.surgery.nets import randomise


def test_counts(count):
    assert count(mobilenetv2, size=32, num_classes=100) == (88_091_648, 2_351_972)
    with torch.device("meta"):
        net = mobilenetv2(num_classes=100)
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)) == 2_317_760


def test_structure():
    with torch.device("meta"):
        net = mobilenetv2()
    blocks = [m for m in net.modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 17
    assert [b.conv2.stride[0] for b in blocks if b.conv2.stride[0] > 1] == [2, 2, 2]
    assert sum(b.adds for b in blocks) == 10  # all but the first block of each of the seven stages
    assert [b.expands for b in blocks] == [False] + 16 * [True]


def test_a_block_adds_its_input_and_has_no_activation_at_its_end():
    block = InvertedResidual(in_channels=4, out_channels=4, expansion=6, stride=1).eval()
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).clamp(0, 6))).clamp(0, 6)
        assert torch.equal(block(x), x + block.bn3(block.conv3(inner)))


def test_can_be_traced(assert_traceable):
    assert_traceable(mobilenetv2(), torch.randn(2, 3, 8, 8))


def test_a_cut_of_an_expansion_takes_the_depthwise_channels_along():
    """Block 2 (24 -> 144 -> 24): 144 - 44 = 100 inner channels, by hand; the stream keeps its width."""
    torch.manual_seed(0)
    net, x = mobilenetv2(), torch.randn(2, 3, 16, 16)
    randomise(net.eval())
    graph = ChannelGraph.trace(net, x[:1])
    plan = Plan(keep={"blocks.2.conv1": tuple(range(44, 144))})
    small = shrink(net, graph, plan)
    shapes = [list(small.state_dict()[f"blocks.2.conv{i}.weight"].shape) for i in (1, 2, 3)]
    assert shapes == [[100, 24, 1, 1], [100, 1, 3, 3], [24, 100, 1, 1]]
    assert small.get_submodule("blocks.2.conv2").groups == 100
    with torch.no_grad():
        expected, found = zero(net, graph, plan)(x), small(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    gone = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in small.parameters())
    assert gone == 44 * (24 + 2 + 9 + 2 + 24)  # rows of three convolutions, scales and shifts of two norms


def test_small_pictures_are_refused():
    with pytest.raises(UserError, match="mobilenetv2 needs images of at least 8x8"):
        mobilenetv2(image_size=4)
