"""Levels of iterative magnitude pruning: how many weights go, and which."""

from __future__ import annotations

import pytest
import torch

from prunebench.budget.levels import Level, ceil_count, share_after, shuffled, strictly_above, without_smallest
from prunebench.errors import UserError


def test_a_level_takes_its_share_of_what_is_left() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1000)
    mask, counts = torch.ones(1000, dtype=torch.bool), []
    for _ in range(4):
        counts.append(int(mask.sum()))
        mask = without_smallest(weight.abs(), mask, int(0.2 * int(mask.sum())))
    assert counts == [1000, 800, 640, 512]
    # the authors' framework: ceil(p n), and one more, since what equals the threshold goes
    mask, counts = torch.ones(1000, dtype=torch.bool), []
    for _ in range(4):
        counts.append(int(mask.sum()))
        mask = strictly_above(weight.abs(), mask, ceil_count(counts[-1], 0.2))
    assert counts == [1000, 799, 638, 509]  # 1000 - 201, 799 - 161, 638 - 129
    assert ceil_count(10, 0.3) == 3 and ceil_count(11, 0.3) == 4
    with pytest.raises(UserError, match="600 weights are to go, and only 509 are left"):
        strictly_above(weight.abs(), torch.arange(1000) < 509, 600)


def test_the_smallest_live_ones_go_by_hand() -> None:
    magnitudes = torch.tensor([0.1, 0.5, 0.0, 0.2, 0.2, 0.0])
    mask = torch.tensor([True, True, False, True, True, True])
    assert without_smallest(magnitudes, mask, 0).tolist() == mask.tolist()
    # the last one is 0 and alive: it goes before any other, and a dead one counts for nothing
    assert without_smallest(magnitudes, mask, 1).tolist() == [True, True, False, True, True, False]
    assert without_smallest(magnitudes, mask, 3).tolist() == [False, True, False, False, True, False]
    assert strictly_above(magnitudes, mask, 2).tolist() == [False, True, False, False, False, False]  # both 0.2


def test_layers_by_themselves_or_all_together() -> None:
    weights = [torch.arange(1.0, 11.0).view(2, 5), torch.tensor([20.0, -0.5, 30.0, -40.0])]
    live = torch.ones(14, dtype=torch.bool)
    live[9] = False  # the largest of the first layer is dead
    each = Level(ratios=[1 / 3, 0.5], scope="layer").survivors(weights, live)
    assert each.tolist() == [False] * 3 + [True] * 6 + [False] + [False, False, True, True]
    together = Level(ratios=[0.5, 0.5], scope="global").survivors(weights, live)  # 6 of 13
    assert together.tolist() == [False] * 5 + [True] * 4 + [False] + [True, False, True, True]
    # the framework counts three skipped weights, too: ceil(0.5 * 16), and one more
    theirs = Level(ratios=[0.5, 0.5], scope="global", rule="open_lth", num_skipped=3).survivors(weights, live)
    assert int(theirs.sum()) == 13 - 9


def test_two_levels_at_once() -> None:
    assert share_after(0.2, 1) == 0.2 and share_after(0.2, 3) == pytest.approx(0.488)
    weights, live = [torch.arange(100.0), torch.arange(50.0)], torch.ones(150, dtype=torch.bool)
    level = Level(ratios=[0.2, 0.1], scope="layer")
    kept = torch.cat([weights[0] >= 36, weights[1] >= 9])  # floor(0.36 * 100), floor(0.19 * 50)
    assert torch.equal(level.survivors(weights, live, levels=2), kept)
    assert level.share_gone([100, 50], levels=2) == pytest.approx((36 + 9.5) / 150)


def test_a_random_mask_of_a_layer_is_a_permutation() -> None:
    mask = torch.arange(100) < 30
    found = shuffled(mask, torch.Generator().manual_seed(0))
    assert int(found.sum()) == 30 and not torch.equal(found, mask)
