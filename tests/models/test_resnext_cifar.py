"""Counts of the paper's ResNeXt-29, depth, groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.resnext_cifar import Bottleneck, resnext20, resnext29, resnext164


@pytest.mark.parametrize(("cardinality", "millions"), [(8, 34.4), (16, 68.1)])
def test_parameters_of_the_paper(count, cardinality, millions):
    # Xie et al. 2017, table 7: 8x64d and 16x64d
    assert count(resnext29, size=32, cardinality=cardinality)[1] == pytest.approx(1e6 * millions, abs=6e4)


@pytest.mark.parametrize(("build", "depth"), [(resnext20, 20), (resnext29, 29), (resnext164, 164)])
def test_depth_is_that_of_the_name(build, depth):
    with torch.device("meta"):
        net = build()
    body = [m for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in name]
    assert len(body) + 1 == depth  # and the classifier
    grouped = [m for m in body if m.groups > 1]
    assert len(grouped) == (depth - 2) // 3 and all(m.in_channels > m.groups for m in grouped)


def test_a_block_is_the_sum_of_its_paths():
    block = Bottleneck(in_channels=8, out_channels=8, width=6, groups=3, stride=1).eval()
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        inside = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
        paths = [nn.functional.conv2d(inside[:, g : g + 2], block.conv3.weight[:, g : g + 2]) for g in (0, 2, 4)]
        torch.testing.assert_close(block(x), torch.relu(block.bn3(sum(paths)) + x))


def test_can_be_traced(assert_traceable):
    assert_traceable(resnext20(), torch.randn(2, 3, 8, 8))


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="resnext20 needs images of at least 4x4"):
        resnext20(image_size=2)
    with pytest.raises(UserError, match="cardinality"):
        resnext20(cardinality=0)
