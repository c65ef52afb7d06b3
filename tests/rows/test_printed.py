"""Contradictions inside the papers' tables."""

from __future__ import annotations

import pytest

from prunebench import rows
from prunebench.rows import check_derived
from tests.rows.kit import row_of


def test_the_papers_contradictions_are_known() -> None:
    """Cells that contradict others are those of which a row says so, neither more nor fewer."""
    parts = [part for row in rows.load() for part in row.parts]
    found = {(c.row, c.what): c for c in check_derived(rows.load())}
    assert set(found) == {(part.name, what) for part in parts for what in part.misprints}
    worst = found["fpgm-t1_resnet110_only40_pretrained", "accuracy_drop"]
    assert worst.printed == -0.0016
    assert sum(worst.computed) / 2 == pytest.approx(-0.0006)
    assert "printed as -0.0016, dense accuracy - accuracy gives -0.0006" in str(worst)
    assert worst.note == "93.68 - 93.74 is -0.06; the paper prints -0.16"


@pytest.mark.parametrize(
    ("reported", "printed", "agrees"),
    [
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0111}, True),
        # means rounded on their own may be one unit of the last digit apart
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0112}, True),
        ({"dense_accuracy": 0.922, "accuracy": 0.9109}, {"accuracy_drop": 0.0113}, False),
        ({"dense_macs": 313_000_000, "macs": 206_000_000}, {"macs_removed": 0.342}, True),
        ({"dense_macs": 313_000_000, "macs": 206_000_000}, {"macs_removed": 0.345}, False),
        # 1.5e7 stands for anything from 1.45e7 to 1.55e7
        ({"dense_params": 15_000_000, "params": 5_400_000}, {"params_removed": 0.65}, True),
        ({"dense_latency_ms": 37.05, "latency_ms": 26.77}, {"latency_removed": 0.277}, True),
        ({"dense_latency_ms": 37.05, "latency_ms": 26.77}, {"latency_removed": 0.287}, False),
    ],
)
def test_rounding_is_no_contradiction(reported: dict[str, float], printed: dict[str, float], agrees: bool) -> None:
    assert (check_derived([row_of(reported=reported, printed=printed)]) == []) == agrees
