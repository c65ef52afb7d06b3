"""Gates to counts, by hand and by invariants."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prunebench.budget.bisection import bisect, count_kept, largest, num_tied, pick
from prunebench.errors import UserError

GATES = [torch.tensor(row) for row in ([0.9, 0.8, 0.1, 0.0], [0.7, 0.6, 0.5, 0.2], [0.95, 0.4, 0.3, 0.05])]
FULL = 6344


def removed(counts: Sequence[int]) -> float:
    """Three 3x3 convolutions on 4x4 maps of 3 channels, then a linear layer of 2 outputs."""
    a, b, c = counts
    return 1 - (144 * (3 * a + a * b + b * c) + 2 * c) / FULL


def trace_of(target: float = 0.5, gates: list[Tensor] = GATES, **options: float) -> list:
    return bisect(gates, removed, target=target, max_iterations=int(options.get("max_iterations", 10)), tolerance=1e-3)


def test_a_trace_by_hand() -> None:
    assert removed((4, 4, 4)) == 0
    trace = trace_of()
    assert [step.kept for step in trace] == [6, 9, 8, 8, 9, 8, 9, 8, 9, 8]
    assert [step.counts for step in trace[:3]] == [(2, 3, 1), (2, 4, 3), (2, 3, 3)]
    assert [round(step.removed, 4) for step in trace[:3]] == [0.6592, 0.4089, 0.5224]
    # the tolerance is never met: the last step counts, as in the official code
    assert pick(trace, 0.5, "last").counts == (2, 3, 3)
    assert pick(trace, 0.5, "last").removed == pytest.approx(0.52238, abs=5e-6)


def test_it_stops_at_the_tolerance() -> None:
    # 8 gates are the third step, and remove exactly what is asked for
    assert [step.kept for step in trace_of(removed((2, 3, 3)))] == [6, 9, 8]


def test_which_step_counts() -> None:
    goal = 0.45  # between 9 gates (0.4089) and 8 (0.5224)
    trace = trace_of(goal)
    assert {step.kept for step in trace} >= {8, 9}
    assert pick(trace, goal, "closest").kept == 9
    assert pick(trace, goal, "within_budget").kept == 8
    with pytest.raises(UserError, match="none of the 1 steps of the bisection removes at least"):
        pick(trace_of(0.9, max_iterations=1), 0.9, "within_budget")


def test_a_net_that_is_wider_than_the_one_it_is_compared_with() -> None:
    # without any gate dropped it costs 1.5 times as much: the share removed starts below 0
    trace = bisect(GATES, lambda counts: 1 - 1.5 * (1 - removed(counts)), target=0.1, max_iterations=10, tolerance=1e-3)
    assert min(step.removed for step in trace) < 0.1 < max(step.removed for step in trace)


def test_counts_fall_with_the_share_and_add_up() -> None:
    gates = [torch.rand(width).clamp(0.2, 0.8).sub(0.2).div(0.6) for width in (16, 5, 40, 1)]  # many exact 0 and 1
    total = sum(len(part) for part in gates)
    before = count_kept(gates, total, seed=3)
    assert before == (16, 5, 40, 1)
    for kept in range(total - 1, -1, -1):
        counts = count_kept(gates, kept, seed=3)
        assert sum(counts) == kept
        assert all(now <= then for now, then in zip(counts, before, strict=True))
        before = counts


def test_which_of_equal_gates_stay_is_drawn_and_favours_no_layer() -> None:
    num_seeds, equal = 400, [torch.ones(3), torch.ones(3), torch.ones(3)]
    drawn = torch.tensor([count_kept(equal, 3, seed=seed) for seed in range(num_seeds)]).float()
    assert torch.equal(drawn.sum(1), torch.full((num_seeds,), 3.0))
    # a mean of draws without replacement: 1 of a layer, with a variance of 3 * (1/3) (2/3) (6/8) = 1/2
    assert float((drawn.mean(0) - 1).abs().max()) < 4 * (0.5 / num_seeds) ** 0.5
    assert count_kept(equal, 3, seed=5) == count_kept(equal, 3, seed=5)
    mixed = [torch.tensor([0.0, 2.0]), torch.ones(3), torch.zeros(3)]
    for seed in range(20):
        first, second, third = count_kept(mixed, 5, seed=seed)
        assert first in (1, 2) and second == 3 and first + third == 2  # only zeros are equal at the threshold


def test_a_tie_at_the_threshold_is_counted() -> None:
    gates = [torch.tensor([0.0, 2.0]), torch.ones(3), torch.zeros(3)]
    assert [num_tied(gates, kept) for kept in range(9)] == [0, 0, 3, 3, 0, 4, 4, 4, 0]


def test_the_largest_of_a_layer_with_ties_are_the_first() -> None:
    assert largest(torch.tensor([0.0, 1.0, 0.5, 1.0, 0.5]), 3) == (1, 2, 3)


def test_a_layer_keeps_one_channel() -> None:
    gates = [torch.full((4,), 0.1), torch.full((4,), 0.9), torch.full((4,), 0.8)]
    assert trace_of(0.6, gates)[-1].counts[0] >= 1
    assert all(min(step.counts) >= 1 for step in trace_of(0.95, gates))
