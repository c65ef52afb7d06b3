"""Costs of shapes, exact and expected, the super-net that searches them, and random ones."""

from __future__ import annotations

import itertools

import pytest
import torch

from prunebench.errors import UserError
from prunebench.layers.width_mixture import candidate_widths
from prunebench.measure import cost
from prunebench.methods.bases.shape_costs import NetSizes, Shape, depth_candidates, keep_chances
from prunebench.methods.bases.shape_search import ShapeSpace, temperature
from prunebench.methods.bases.shape_supernet import ShapeSuperNet
from prunebench.models.shaped_resnet import (
    ShapedResNet,
    shaped_resnet20,
    shaped_resnet50,
    shaped_resnet56,
    shaped_resnet110,
    shaped_resnet164,
)

PICTURE = torch.zeros(1, 3, 32, 32)
# widths of all convolutions, those of dropped blocks too: configs/compares/CIFAR010-TAS-R56.config and -R110.config
R56 = """16 16 16 14 14 14 16 12 16 6 16 4 4 4 14 4 4 6 4 32 32 32 32 32 32 22 25 16 32 19 9 9 16 25 12 16 9 64 64 64 64
64 64 64 64 64 51 19 19 32 51 25 32 19 19"""
R110 = """16 14 16 14 16 16 16 16 16 14 16 16 16 12 16 16 16 9 16 8 16 4 16 4 4 4 16 4 4 4 4 6 6 4 6 11 4 32 32 32 32 32
32 32 32 28 32 32 28 22 22 22 32 32 25 28 9 9 28 12 9 12 32 9 9 22 12 16 9 12 9 9 9 64 64 64 64 64 64 64 64 64 64 64 64
64 64 64 38 64 25 19 19 19 19 19 25 32 19 19 25 25 19 19 38 38 19 19 51"""


def shape(text: str, *blocks: int) -> Shape:
    return Shape(tuple(map(int, text.split())), blocks)


def test_depths() -> None:
    assert depth_candidates([3, 3, 3]) == [(1, 2, 3)] * 3
    assert depth_candidates([5]) == [(1, 3, 5)]
    assert depth_candidates([9]) == [(1, 3, 5, 7, 9)]
    assert depth_candidates([18])[0] == (1, 3, 5, 7, 9, 11, 13, 15, 17, 18)
    assert depth_candidates([3, 4, 6, 3]) == [(1, 2, 3), (1, 2, 4), (2, 4, 6), (1, 2, 3)]
    assert depth_candidates([2, 2, 2, 2]) == [(1, 2)] * 4


def test_chances_that_blocks_are_kept() -> None:
    chances = torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(keep_chances(chances, (1, 2, 3, 4), 4), torch.tensor([1.0, 0.9, 0.7, 0.4]))
    grouped = torch.tensor([1.0, 0.9, 0.9, 0.7, 0.7, 0.4, 0.4])
    torch.testing.assert_close(keep_chances(chances, (1, 3, 5, 7), 7), grouped)


@pytest.mark.parametrize(
    ("build", "shape", "estimate", "built"),
    [
        (shaped_resnet56, shape(R56, 5, 5, 5), 57_525_950, 59_451_390),
        (shaped_resnet110, shape(R110, 11, 11, 9), 117_498_238, 119_259_258),
    ],
)
def test_the_official_estimate_and_what_is_built(build, shape: Shape, estimate: int, built: int) -> None:
    sizes = NetSizes.of(build(), PICTURE)
    assert sizes.built(shape, through_dropped=True) == estimate
    assert sizes.built(shape) == built


@pytest.mark.parametrize("build", [shaped_resnet20, shaped_resnet164, shaped_resnet50])
def test_costs_are_those_of_the_net_that_is_built(build) -> None:
    """The formula steers the search, the counter reports: the two never disagree."""
    image = torch.zeros(1, 3, 64, 64) if build is shaped_resnet50 else PICTURE
    whole = build(width=8)
    sizes, draws = NetSizes.of(whole, image), torch.Generator().manual_seed(0)
    for _ in range(3):
        pick = lambda options: options[int(torch.randint(len(options), (1,), generator=draws))]  # noqa: E731
        found = Shape(
            tuple(pick(candidate_widths(c)) for c in whole.widths),
            tuple(pick(depths) for depths in depth_candidates(whole.blocks)),
        )
        net = build(width=8, **sizes.arguments(found))
        assert sizes.built(found) == cost.count(net, image).macs


def test_expected_widths_and_macs() -> None:
    net = ShapeSuperNet(shaped_resnet20(), PICTURE, width=True, depth=True)
    assert net.width_logits is not None and net.depth_logits is not None
    assert net.width_logits.shape == (19, 8) and net.depth_logits.shape == (3, 3)
    with torch.no_grad():
        net.width_logits.zero_()
        net.depth_logits.zero_()
        # uniform: 10, 20.375 and 41.25 channels; blocks stay with 1, 2/3 and 1/3
        w = [10.0, 20.375, 41.25]
        total, before = 1024 * 9 * 3 * w[0], w[0]
        for own, area in zip(w, (1024, 256, 64), strict=True):
            for number, chance in enumerate((1, 2 / 3, 1 / 3)):
                total += chance * area * (9 * before * own + 9 * own * own)
                total += chance * area * before * own if own != w[0] and number == 0 else 0
                before = own
        assert float(net.expected_macs()) == pytest.approx(total + 10 * w[2], rel=1e-5)
        # all chances on the whole net: its own MACs
        net.width_logits[:, -1] = net.depth_logits[:, -1] = 100.0
        assert float(net.expected_macs()) == pytest.approx(40_813_184, rel=1e-6)
        assert net.shape() == Shape(tuple(shaped_resnet20().widths), (3, 3, 3))
        net.width_logits.zero_()
        net.depth_logits.zero_()
        assert net.shape().blocks == (1, 1, 1) and net.shape().widths[0] == 4  # of equal ones the first


def test_deep_nets_have_logits_for_every_convolution() -> None:
    net = ShapeSuperNet(shaped_resnet56(), PICTURE, width=True, depth=True)
    assert net.width_logits is not None and net.width_logits.shape == (55, 8)
    assert net.depth_logits is not None and net.depth_logits.shape == (3, 5)
    assert net.width_logits.std().item() == pytest.approx(0.01, rel=0.2)


@torch.no_grad()
def test_the_cost_does_not_depend_on_the_draw() -> None:
    net = ShapeSuperNet(shaped_resnet20(width=4), PICTURE, width=True, depth=True).eval()
    net.tau = 0.3
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, first = float(net.expected_macs()), net(x)
    assert float(net.expected_macs()) == before
    assert not torch.equal(first, net(x))


@pytest.mark.parametrize("build", [shaped_resnet20, shaped_resnet164])
def test_with_one_choice_it_is_the_net_itself(build) -> None:
    """Norms at their start are nearly the identity, so that the further ones in shortcuts do not matter."""
    torch.manual_seed(0)
    whole: ShapedResNet = build(width=4).eval()
    net = ShapeSuperNet(whole, PICTURE, width=False, depth=False).eval()
    assert net.logits() == []
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(net(x), whole(x), rtol=5e-3, atol=5e-3)
    assert net.macs + 10 * net.linear.in_features == cost.count(whole, PICTURE).macs


def test_the_depths_are_mixed_by_all_their_shares() -> None:
    torch.manual_seed(0)
    whole = shaped_resnet20(width=4)
    net = ShapeSuperNet(whole, PICTURE, width=False, depth=True).eval()
    shallow = ShapeSuperNet(shaped_resnet20(width=4, blocks=[1, 1, 1]), PICTURE, width=False, depth=False).eval()
    shallow.load_state_dict({k: v for k, v in net.state_dict().items() if k in shallow.state_dict()})
    with torch.no_grad():
        assert net.depth_logits is not None
        net.depth_logits[:, 0] = 200.0  # far above the noise: one block each
        x = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(net(x), shallow(x))


def test_temperatures() -> None:
    cosine = [temperature(r, start=5.0, end=0.1, schedule="cosine") for r in (0, 0.25, 0.5, 0.75)]
    assert cosine == pytest.approx([5.0, 4.282412, 2.55, 0.817588], abs=1e-6)
    assert temperature(0.25, start=10.0, end=0.2, schedule="linear") == pytest.approx(7.55)


def space(*, width: bool = True, depth: bool = True) -> ShapeSpace:
    net = shaped_resnet20()
    return ShapeSpace.of(net, NetSizes.of(net, PICTURE), width=width, depth=depth)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_random_shapes_are_inside_and_follow_from_the_seed(share: float) -> None:
    own = space()
    shapes = [own.draw(share - 0.02, share, seed=seed) for seed in (0, 0, 1)]
    assert shapes[0] == shapes[1] != shapes[2]
    for found in shapes:
        assert share - 0.02 <= own.share(found) <= share
        assert all(width in options for width, options in zip(found.widths, own.widths, strict=True))


def test_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(UserError, match=r"at most 0.0200 of the MACs .* the smallest shape has 0\.0\d+; ask for more"):
        space().check(0.01, 0.02)
    only = space(width=False)
    shares = sorted(only.share(Shape(shaped_resnet20().widths, b)) for b in itertools.product((1, 2, 3), repeat=3))
    between = (shares[3] + shares[4]) / 2
    with pytest.raises(UserError, match="no combination of depths has between"):
        only.check(between, between + 1e-5)
    only.check(shares[3], shares[3] + 1e-9)
    one = shaped_resnet20(blocks=[1, 1, 1])
    with pytest.raises(UserError, match="needs stages of several blocks"):
        ShapeSpace.of(one, NetSizes.of(one, PICTURE), width=False, depth=True)
