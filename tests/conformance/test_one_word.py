"""``python -m prunebench method=X`` runs for every method that exists, and ends with a net worth showing.

Slow: each method is trained at its own length, with its own schedule, net and data.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunebench.config.groups import controls, options
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.nets.dense_net import make_net
from tests.kit import configure, run

METHODS = sorted(options("method"))
LEAST, MOST_LOST = 0.97, 0.02
STRUCTURE = "layers cut:"
"""A warning that tells how the net is built: what writes into an addition stays whole for some methods."""
LARGEST = 17_000_000
"""MACs up to which a net is small: ResNet-110 has 15.8 million on digits of 8x8."""
RADIO = {"conv_bbb"}
"""Nets for galaxies of 150x150 pixels, without norms; on digits 30 epochs take them to 96.9 %."""
LEAST_REMOVED = 0.15
"""Share of the MACs: LeNet-20-50-800-500 has two thirds of them in a linear layer, which the default leaves whole."""
SHARE_OF_BITS = 0.15
"""A pruned language model may need so many more bits than the whole one, relative to it."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")  # one place: the dense nets are trained once and shared


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_one_word_is_enough(method: str, outputs: Path) -> None:
    result, _ = run(outputs, f"method={method}", "trainer.progress=false")
    final = result["metrics"]["final"]
    whole = result["metrics"].get("dense") or result["metrics"].get("before_cut") or final
    assert result["status"] == "complete"
    assert [said for said in result["warnings"] if not said.startswith(STRUCTURE)] == []
    if "bpc" in final:
        assert final["bpc"] < (1 + SHARE_OF_BITS) * whole["bpc"] and whole["bpc"] < 4
        return
    assert whole["accuracy"] >= LEAST
    lost = whole["accuracy"] - final["accuracy"]
    assert lost <= MOST_LOST or method in controls()


def smallest(name: str) -> tuple[int, int] | None:
    """The smallest size of digits that a net takes, and its MACs there; None for a net that takes no pictures."""
    for size in (8, 16, 32):
        try:
            words = (f"model={name}", "dataset=digits", f"dataset.size={size}")
            net = make_net(configure(Path("unused"), *words)[0]["model"])
        except UserError:
            continue
        return size, cost.count(net, torch.zeros(1, 1, size, size)).macs
    return None


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(options("model")))
def test_fpgm_on_every_small_net(model: str, tmp_path: Path) -> None:
    found = smallest(model)
    if model in RADIO or found is None or found[1] > LARGEST:
        pytest.skip(f"no net for digits, or of more than {LARGEST:,} MACs there")
    words = (f"model={model}", "dataset=digits", f"dataset.size={found[0]}")
    result, _ = run(tmp_path, *words, "latency=false", "trainer.progress=false")
    dense, final = (result["metrics"][stage]["accuracy"] for stage in ("dense", "final"))
    assert dense >= LEAST and final >= dense - MOST_LOST
    assert result["status"] == "complete" and result["cost"]["macs_removed"] > LEAST_REMOVED
