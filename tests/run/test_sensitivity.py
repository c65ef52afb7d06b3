"""Curves of widths: each point is the net in which one layer alone is cut."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.run import assemble, sensitivity
from prunebench.run.job import Job
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.kit import configure

NET = (
    "model=lenet5",
    "dataset=digits",
    "dataset.size=32",
    "schedule=oneshot",
    "trainer.num_threads=1",
    "latency=false",
)


def job_and_net(tmp_path: Path, method: str) -> tuple[Job, nn.Module]:
    config, _ = configure(tmp_path, *NET, f"method={method}", "dataset.validation=200")
    return assemble.build(assemble.identified(config), tmp_path)


def test_each_point_is_a_net_with_one_layer_cut(tmp_path: Path) -> None:
    job, net = job_and_net(tmp_path, "l1norm")
    steps: list[tuple[int, int]] = []
    widths = sensitivity.measure(
        job, net, engine="torch", batch=4, advance=lambda done, total: steps.append((done, total))
    )
    assert [done for done, _ in steps] == list(range(1, len(widths) + 1))
    assert {total for _, total in steps} == {len(widths)}
    layers = list(dict.fromkeys(width.layer for width in widths))
    assert layers == [name for name, layer in job.graph.layers.items() if layer.kind == "conv"]
    dense = job.validate(net)["accuracy"]
    for width in widths:
        if width.kept == width.channels:
            assert (width.accuracy, width.macs) == (dense, 1.0)
            assert width.time == pytest.approx(1.0)
        else:
            norms = dict(net.named_modules())[width.layer].weight.detach().abs().sum(dim=(1, 2, 3))
            kept = tuple(sorted(norms.argsort(descending=True)[: width.kept].tolist()))
            small = shrink(net, job.graph, Plan({width.layer: kept}))
            assert job.validate(small)["accuracy"] == width.accuracy
            assert width.macs == job.count(small).macs / job.dense.cost.macs
            assert width.time <= 1.0 + 1e-9
    paths = sensitivity.write(widths, tmp_path / "out", title="one <layer> at a time")
    assert all(path.stat().st_size > 100 for path in paths)
    with paths[0].open(newline="") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == [width.layer for width in widths]


def test_a_method_without_ranking_is_refused(tmp_path: Path) -> None:
    job, net = job_and_net(tmp_path, "none")
    with pytest.raises(UserError, match="a method that ranks channels"):
        sensitivity.measure(job, net, engine="torch", batch=4)
    assert torch.is_grad_enabled()
