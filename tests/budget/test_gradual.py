from __future__ import annotations

from typing import Any

import pytest

from prunebench.budget.gradual import CubicRamp, cubic_sparsity
from prunebench.errors import UserError


@pytest.mark.parametrize(
    ("epoch", "sparsity"), [(0, 0.05), (1, 0.134934), (10, 0.660952), (15, 0.804367), (29, 0.9), (30, 0.9), (99, 0.9)]
)
def test_the_ramp_of_distiller(epoch: int, sparsity: float) -> None:
    found = cubic_sparsity(epoch, initial=0.05, final=0.9, start=0, end=30)
    assert found == pytest.approx(sparsity, abs=1e-6)


def test_before_the_ramp_and_between_updates() -> None:
    ramp: dict[str, Any] = {"initial": 0.1, "final": 0.7, "start": 4, "end": 15, "every": 5}
    values = [cubic_sparsity(epoch, **ramp) for epoch in range(20)]
    assert values[:4] == [0.0] * 4
    # the span is (15 - 4 - 1) // 5 * 5 = 10 epochs: one update halfway
    assert values[4:9] == [pytest.approx(0.1)] * 5
    assert values[9:14] == [pytest.approx(0.7 - 0.6 / 8)] * 5
    assert values[14:] == [0.7] * 6


def test_a_ramp_of_one_epoch_is_a_step() -> None:
    assert cubic_sparsity(0, initial=0.05, final=0.9, start=0, end=1) == 0.9


def ramp(*, start: float = 0.0, end: float = 0.5, every: float = 1.0) -> CubicRamp:
    return CubicRamp(initial=0.05, final=0.9, start=start, end=end, every=every)


def run(made: CubicRamp, *, epochs: int = 10, steps: int = 7) -> tuple[list[float], list[int]]:
    """The sparsity in each step of a phase, and before which steps an update is due within an epoch."""
    every_step = range(epochs * steps)
    values = [made.sparsity(step, epochs, steps) for step in every_step]
    return values, [step for step in every_step if made.is_due(step, epochs, steps)]


def test_a_ramp_by_epochs_is_that_of_distiller() -> None:
    values, due = run(ramp(start=0.2, end=0.8))
    by_epoch = [cubic_sparsity(epoch, initial=0.05, final=0.9, start=2, end=8) for epoch in range(10)]
    assert values == [by_epoch[step // 7] for step in range(70)]
    assert due == []  # all at the start of an epoch
    assert by_epoch[7] == 0.9


def test_a_ramp_within_an_epoch() -> None:
    # 2 epochs of 8 steps: a ramp over the first, with updates at steps 0, 2, 4 and 6
    values, due = run(ramp(end=0.5, every=0.25), epochs=2, steps=8)
    expected = [0.9 - 0.85 * (1 - done / 6) ** 3 for done in (0, 2, 4, 6)]
    assert values[:8:2] == pytest.approx(expected)
    assert values[1::2] == pytest.approx(values[::2]) and values[8:] == [0.9] * 8
    assert due == [2, 4, 6, 10, 12, 14]  # those at 0 and 8 are the start of an epoch


def test_short_phases_have_a_ramp_too() -> None:
    assert run(ramp(), epochs=1)[0] == [0.9] * 7
    assert run(ramp(start=0.9, end=1.0), epochs=3)[0] == [0.0] * 14 + [0.9] * 7


def test_a_step_has_its_sparsity_whatever_was_asked_before() -> None:
    # 10 epochs of 7 steps, an update every round(0.25 * 7) = 2 of them until step 34
    resumed = ramp(every=0.25).sparsity(10, 10, 7)
    assert resumed == pytest.approx(0.9 - 0.85 * (1 - 10 / 34) ** 3)
    assert run(ramp(every=0.25))[0][10] == resumed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.5}, r"method\.start=0\.5 must be below method\.end=0\.5"),
        ({"end": 1.5}, r"end must be a number in \[0, 1\] \(a share of the phase\), got 1\.5"),
        ({"every": 0.0}, r"every must be a number above 0, got 0\.0"),
    ],
)
def test_what_is_no_ramp(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ramp(**options)


@pytest.mark.parametrize(
    ("initial", "final", "message"),
    [
        (0.5, 0.4, r"method\.initial_sparsity=0\.5 must not be above method\.target_sparsity=0\.4"),
        (-0.1, 0.5, r"initial must be a number in \[0, 1\), got -0\.1"),
        (0.0, 1.0, r"final must be a number in \[0, 1\), got 1\.0"),
    ],
)
def test_sparsities_out_of_range(initial: float, final: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CubicRamp(initial=initial, final=final, start=0.0, end=0.5, every=1)
