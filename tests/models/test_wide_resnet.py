from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.wide_resnet import wideresnet28x4, wideresnet28x10


def test_size_by_closed_form(count):
    """Zagoruyko and Komodakis, table 1 with N = 4, k = 10, and a bias in every convolution."""
    widths, sides = [16, 160, 320, 640], [32, 32, 16, 8]
    params, macs = 9 * 3 * 16 + 16, 9 * 3 * 16 * 32**2
    for (before, after), (wide, side) in zip(itertools.pairwise(widths), itertools.pairwise(sides), strict=True):
        blocks = [before, *[after] * 3]
        convs = [(9 * a * after, 9 * after * after) for a in blocks]
        params += sum(
            first + second + 2 * after + 2 * a + 2 * after for (first, second), a in zip(convs, blocks, strict=True)
        )
        params += before * after + after  # the projection
        # only the first block of a stage works on the larger maps, in its first convolution
        macs += convs[0][0] * wide**2 + sum(first for first, _ in convs[1:]) * side**2
        macs += sum(second for _, second in convs) * side**2 + before * after * side**2
    params += 2 * 640 + 640 * 10 + 10
    macs += 640 * 10
    assert count(wideresnet28x10, size=32) == (macs, params)
    assert (macs, params) == (5_951_117_568, 36_489_290)  # the paper prints 36.5 M


def test_the_published_details_of_the_swag_paper():
    net = wideresnet28x10(widen=1)
    assert all(module.bias is not None for module in net.modules() if isinstance(module, nn.Conv2d))
    assert [m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)] == [0.1] * 24 + [0.9]
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in net.modules()) == 25  # 28 = 25 + 2 + 1
    assert [m.stride[0] for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1] == [2] * 4


@pytest.mark.parametrize(
    ("depth", "widen", "macs", "params", "weights"),
    [
        (28, 10, 5_243_386_368, 36_536_884, 36_518_832),  # the paper prints 36.5 M
        (28, 4, 845_620_224, 5_872_180, 5_864_880),
        (16, 4, 392_635_392, 2_772_020, 2_768_304),
    ],
)
def test_sizes_of_the_papers_form(count, depth, widen, macs, params, weights):
    assert count(wideresnet28x4, size=32, depth=depth, widen=widen, num_classes=100) == (macs, params)
    with torch.device("meta"):
        net = wideresnet28x4(depth=depth, widen=widen, num_classes=100)
    assert sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)) == weights


def test_details_of_the_papers_form():
    net = wideresnet28x4(depth=10, widen=1)
    assert all(module.bias is None for module in net.modules() if isinstance(module, nn.Conv2d))
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    block = net.layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        active = torch.relu(block.bn1(x))
        branch = block.conv2(torch.relu(block.bn2(block.conv1(active))))
        assert torch.equal(block(x), branch + block.shortcut(active))  # the projection reads what the branch reads
    assert [block.get_submodule(f"conv{i}").stride for i in (1, 2)] == [(2, 2), (1, 1)]


@pytest.mark.parametrize("build", [wideresnet28x10, partial(wideresnet28x4, depth=10)])
def test_traceable(assert_traceable, build):
    net = build(widen=1, in_channels=1, num_classes=7)
    assert_traceable(net, torch.rand(2, 1, 8, 8))


def test_refusals():
    with pytest.raises(UserError, match="widen must be a whole number of at least 1, got 0"):
        wideresnet28x10(widen=0)
    with pytest.raises(UserError, match=r"model.depth of a wide ResNet must be 6n \+ 4 .* got 20"):
        wideresnet28x4(depth=20)
