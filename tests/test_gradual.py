from __future__ import annotations

import pytest

from prunebench.budget.gradual import check_sparsities, cubic_sparsity, ramp_epochs
from prunebench.errors import UserError


@pytest.mark.parametrize(
    ("epoch", "sparsity"), [(0, 0.05), (1, 0.134934), (10, 0.660952), (15, 0.804367), (29, 0.9), (30, 0.9), (99, 0.9)]
)
def test_the_ramp_of_distiller(epoch: int, sparsity: float) -> None:
    found = cubic_sparsity(epoch, initial=0.05, final=0.9, start=0, end=30)
    assert found == pytest.approx(sparsity, abs=1e-6)


def test_before_the_ramp_and_between_updates() -> None:
    ramp = {"initial": 0.1, "final": 0.7, "start": 4, "end": 15, "every": 5}
    values = [cubic_sparsity(epoch, **ramp) for epoch in range(20)]
    assert values[:4] == [0.0] * 4
    # the span is (15 - 4 - 1) // 5 * 5 = 10 epochs: one update halfway
    assert values[4:9] == [pytest.approx(0.1)] * 5
    assert values[9:14] == [pytest.approx(0.7 - 0.6 / 8)] * 5
    assert values[14:] == [0.7] * 6


def test_a_ramp_of_one_epoch_is_a_step() -> None:
    assert cubic_sparsity(0, initial=0.05, final=0.9, start=0, end=1) == 0.9


@pytest.mark.parametrize(
    ("start", "end", "epochs", "expected"),
    [(0.0, 0.1, 100, (0, 10)), (0.0, 0.6, 100, (0, 60)), (0.0, 0.5, 1, (0, 1)), (0.9, 1.0, 3, (2, 3))],
)
def test_shares_of_a_phase(start: float, end: float, epochs: int, expected: tuple[int, int]) -> None:
    assert ramp_epochs(start, end, epochs, where="method") == expected


def test_what_is_no_ramp() -> None:
    with pytest.raises(UserError, match=r"start=0\.5 and end=0\.5"):
        ramp_epochs(0.5, 0.5, 10, where="method")
    for initial, final in ((0.5, 0.4), (-0.1, 0.5), (0.0, 1.0)):
        with pytest.raises(UserError, match="initial_sparsity"):
            check_sparsities(initial, final)
