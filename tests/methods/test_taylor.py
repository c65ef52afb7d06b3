"""Taylor as a method: a run from one word to the small net."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.errors import UserError
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

# the short runs have fewer training pictures than the scores are averaged over by default
CONFORMANCE = {"taylor": Conformance(options=("method.criterion.num_samples=128",))}


def test_more_samples_than_there_are_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"digits has 437 training pictures, 1024 were asked for"):
        run(tmp_path, *SHORT, "method=taylor", "schedule=oneshot", "schedule.phases.pretrain.epochs=0")
