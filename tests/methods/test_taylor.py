"""Taylor as a method: a run from one word to the small net."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.errors import UserError
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

# the short runs have fewer training pictures than the scores are averaged over by default
CONFORMANCE = {"taylor": Conformance(options=("method.criterion.num_samples=128",))}


def test_more_samples_than_there_are_is_said_before_any_training(tmp_path: Path) -> None:
    message = r"method.criterion.num_samples must be at most the 437 training samples of dataset=digits, got 1024"
    with pytest.raises(UserError, match=message):
        run(tmp_path, *SHORT, "method=taylor", "schedule=oneshot")
    assert not list(tmp_path.rglob("metrics.csv"))
