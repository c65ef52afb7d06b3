"""A target of time in a run: what is asked, reached and stored, and what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.errors import UserError
from tests.kit import configure, run

TINY = ("method=l1norm", "model=resnet20", "schedule=oneshot", "dataset.epochs.train=1", "latency=false")
UNWRITABLE = ("model=custom", "model._target_=tests.small_nets.unwritable", "model.name=unwritable")
QUICK = ("trainer.progress=false", "trainer.num_threads=1", "method.batch=16")


@pytest.mark.parametrize("options", [("method.engine=torch", "method.coupling=aligned"), ("method.value=sensitivity",)])
def test_a_run_ends_with_its_target_beside_what_was_measured(tmp_path: Path, options: tuple[str, ...]) -> None:
    result, folder = run(tmp_path, *TINY, *QUICK, "method.target_latency=0.95", *options)
    budget, facts = result["budget"], result["budget"]["latency"]
    assert (budget["target"], budget["target_of"], budget["reached"]) == (0.95, "latency", facts["measured"])
    assert (facts["batch"], facts["threads"]) == (16, 1)
    assert result["status"] == ("complete" if budget["reached"] <= 0.97 else "missed_target")
    assert ("values" in facts) == ("method.value=sensitivity" in options)
    for curve in facts.get("values", {}).values():
        assert list(curve.values()) == sorted(curve.values()), "more channels are never worth less"
    assert list((tmp_path / "latency").glob("*.json")), "the table is kept for the next run"
    assert folder.exists()


def test_measured_worth_decides_the_widths_of_a_target_of_macs(tmp_path: Path) -> None:
    words = ("method.target_macs=0.7", "method.value=sensitivity", "method.value_samples=64")
    result, _ = run(tmp_path, *TINY, *QUICK, *words)
    budget = result["budget"]
    assert result["status"] == "complete" and budget["reached"] == pytest.approx(0.7, rel=0.01)
    assert 1 - result["cost"]["macs_removed"] == pytest.approx(budget["reached"])
    assert len(budget["values"]) == 9, "the layers inside of blocks"
    for curve in budget["values"].values():
        assert list(curve.values()) == sorted(curve.values()) and list(curve)[-1] in {"16", "32", "64"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("method.target_latency=0.8", "method.target_macs=0.5"),
            "exactly one of prune_ratio, .* got target_macs=0.5 and",
        ),
        (("method.target_latency=0.8", "schedule=simultaneous"), "schedule=simultaneous has none"),
        (("method.target_latency=0.001",), "target_latency=0.001 is out of reach"),
        (("method.target_ms=1e6",), r"method.target_ms=1e\+06 is more than the .* ms that the dense net takes"),
        (("method.target_ms=3", "method.target_latency=0.8"), "both say how long"),
        (("method.value=sensitivity",), "belongs to a target; give method.target_macs"),
        (
            ("method.target_macs=0.8", "method.value=sensitivity", "schedule=simultaneous"),
            "looks at the data at a cut; with schedule=simultaneous there is none",
        ),
        (
            ("method.target_latency=0.8", "method.value=sensitivity", "method.value_samples=9999"),
            "must be at most the 1293",
        ),
        (("method.target_latency=0.8", "method.engine=tvm"), "must be one of torch, onnxruntime"),
        (
            ("method.target_latency=0.8", *UNWRITABLE),
            "onnxruntime: the net cannot be written .*special_i0e.*; method.engine=torch goes by the times in torch",
        ),
    ],
)
def test_refused_before_training(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    configure(tmp_path, *TINY, *QUICK)
    with pytest.raises(UserError, match=message):
        run(tmp_path, *TINY, *QUICK, *options)
    assert not (tmp_path / "runs").exists()
