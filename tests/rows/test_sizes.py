"""Sizes in a convention that is not ours: from the channels that a run has kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench import rows
from prunebench.models.lenet import lenet300_100
from prunebench.models.resnet_cifar import resnet20
from prunebench.rows.sizes import Own, compare_sizes, mean_sizes, own_sizes
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

ROW = rows.find("fpgm-t1_resnet20_only40")


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return ChannelGraph.trace(resnet20().eval(), torch.zeros(1, 3, 32, 32))


@pytest.fixture
def result(graph: ChannelGraph, tmp_path: Path) -> dict[str, Any]:
    """A run that has removed 40 % of every convolution, whole filters."""
    convolutions = [layer for layer in graph.layers.values() if layer.kind == "conv"]
    keep = {layer.name: tuple(range(layer.out_channels - int(0.4 * layer.out_channels))) for layer in convolutions}
    plan = Plan(keep)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plan.json").write_text(plan.to_json())
    final = {"macs": graph.macs(plan), "params": graph.params(plan), "nonzero_params": graph.params(plan)}
    return {
        "run": {"folder": str(tmp_path)},
        "method": {"settings": {"prune_ratio": 0.4}},
        "model": {"settings": {"name": "resnet20", "_target_": "prunebench.models.resnet_cifar.resnet20"}},
        "dataset": {"settings": {"in_channels": 3, "size": 32}},
        "cost": {"dense": {"macs": graph.macs(Plan()), "params": graph.params(Plan())}, "final": final},
    }


def test_nominal_counts_are_those_of_the_official_script(result: dict[str, Any]) -> None:
    """functions/cal_flop.py with 40 %: 53.96 % of 40,550,400 are gone; the paper prints 54.0 % and 1.87e7."""
    assert ROW.convention == "conv_nominal"
    own = own_sizes(result, ROW)
    assert own.missing == {}
    assert own.values["dense_macs"] == 40_550_400
    assert own.values["macs_removed"] == pytest.approx(0.5396, abs=1e-4)
    assert all(size.within for size in compare_sizes(own, ROW))
    # the net that was cut has other counts
    assert 1 - result["cost"]["final"]["macs"] / result["cost"]["dense"]["macs"] != pytest.approx(0.5396, abs=0.02)


def test_another_ratio_is_another_size(result: dict[str, Any]) -> None:
    own = own_sizes(result | {"method": {"settings": {"prune_ratio": 0.3}}}, ROW)
    assert not any(size.within for size in compare_sizes(own, ROW))


@pytest.mark.parametrize("broken", ["plan", "net", "folder"])
def test_what_cannot_be_counted_is_named(result: dict[str, Any], broken: str, tmp_path: Path) -> None:
    if broken == "plan":  # its net is not the one that was measured
        (tmp_path / "model" / "plan.json").write_text(Plan().to_json())
        reason = "do not explain its final net"
    elif broken == "net":  # code from elsewhere is not called for a report
        result["model"] = {"settings": {"_target_": "os.system", "command": "true"}}
        reason = "os.system is not called for model"
    else:
        result["run"] = {"folder": str(tmp_path / "nowhere")}
        reason = "what the run has kept is not stored"
    own = own_sizes(result, ROW)
    assert "macs_removed" not in own.values
    assert reason in own.missing["macs_removed"]


ODD: tuple[Any, ...] = (None, "x", -1, 0, 10**9, 10**30, [], [1], {}, {"a": 1}, True, "1e999", "a" * 500)
PLACES = ("model", "model.settings", "model.settings.*", "dataset", "dataset.settings", "dataset.settings.*", "method")


def odd_results(result: dict[str, Any]) -> list[dict[str, Any]]:
    """``result`` with another value at each place that a count looks at."""
    found = []
    for place in PLACES:
        group, _, inner = place.partition(".")
        settings = result[group]["settings"]
        for value in ODD:
            if not inner:
                found.append({**result, group: value})
            elif inner == "settings":
                found.append({**result, group: {"settings": value}})
            else:
                found += [{**result, group: {"settings": {**settings, key: value}}} for key in settings]
    return found


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_settings_from_a_stranger_are_no_trouble(result: dict[str, Any], every: int) -> None:
    found = odd_results(result)
    assert len(found) > 100
    for changed in found[::every]:
        own = own_sizes(changed, ROW)
        assert all(isinstance(size, int | float) for size in own.values.values())


def test_a_net_without_convolutions_has_no_count_of_convolutions(tmp_path: Path) -> None:
    target = {"_target_": "prunebench.models.lenet.lenet300_100", "in_channels": 1, "image_size": 28, "num_classes": 10}
    net = lenet300_100(in_channels=1, image_size=28, num_classes=10)
    macs, params = 784 * 300 + 300 * 100 + 100 * 10, sum(p.numel() for p in net.parameters())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plan.json").write_text(Plan().to_json())
    found = {
        "run": {"folder": str(tmp_path)},
        "method": {"settings": {}},
        "model": {"settings": target},
        "dataset": {"settings": {"in_channels": 1, "size": 28}},
        "cost": {name: {"macs": macs, "params": params, "nonzero_params": params} for name in ("dense", "final")},
    }
    assert "the dense net costs nothing" in own_sizes(found, ROW).missing["macs_removed"]


def test_a_mean_over_seeds_needs_all_of_them() -> None:
    both = mean_sizes([Own({"macs": 10.0, "params": 4.0}, {}), Own({"macs": 20.0}, {"params": "lost"})])
    assert (both.values, both.missing) == ({"macs": 15.0}, {"params": "lost"})


def test_rows_without_sizes_ask_for_none(result: dict[str, Any]) -> None:
    assert own_sizes(result, replace(ROW, reported={"accuracy": 0.9}, printed={})) == Own({}, {})
