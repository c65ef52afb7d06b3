"""Every row that runs is composed, built and cut; what the papers count is counted as they do."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from prunebench import rows
from prunebench.config.groups import options
from prunebench.models import resnet, resnet_cifar, vgg_cifar
from prunebench.rows import Row
from prunebench.rows.conventions import CONVENTIONS
from prunebench.rows.counting import Count, count
from prunebench.rows.verify import verify
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


@cache
def graph(name: str) -> ChannelGraph:
    if name in ("resnet18", "resnet34"):
        return ChannelGraph.trace(getattr(resnet, name)().eval(), torch.zeros(1, 3, 224, 224))
    module = vgg_cifar if name.startswith("vgg") else resnet_cifar
    return ChannelGraph.trace(getattr(module, name)().eval(), torch.zeros(1, 3, 32, 32))


def all_convolutions(name: str, rate: float) -> dict[str, float]:
    return {layer.name: rate for layer in graph(name).layers.values() if layer.kind == "conv"}


@pytest.mark.parametrize(
    ("name", "dense", "removed"),
    [
        # functions/cal_flop.py of the official repository, run with its own settings
        ("resnet20", 40_550_400, {0.1: 15.24, 0.2: 29.31, 0.3: 42.22, 0.4: 53.96, 0.5: 64.55}),
        ("resnet32", 68_861_952, {0.1: 14.93, 0.2: 28.77, 0.3: 41.51, 0.4: 53.16, 0.5: 63.70}),
        ("resnet56", 125_485_056, {0.1: 14.74, 0.2: 28.42, 0.3: 41.06, 0.4: 52.63, 0.5: 63.16}),
        ("resnet110", 252_887_040, {0.1: 14.62, 0.2: 28.21, 0.3: 40.78, 0.4: 52.31, 0.5: 62.83}),
    ],
)
def test_nominal_macs_of_fpgm(name: str, dense: int, removed: dict[float, float]) -> None:
    assert count(graph(name), Plan(), "conv_nominal", {}) == dense
    for rate, percent in removed.items():
        kept = count(graph(name), Plan(), "conv_nominal", all_convolutions(name, rate))
        assert 100 * (1 - kept / dense) == pytest.approx(percent, abs=0.006)


def test_nominal_macs_of_vgg16() -> None:
    """Uniform 20 % of the 13 convolutions: 35.9 % in FPGM's Table 4."""
    dense, kept = (count(graph("vgg16"), Plan(), "conv_nominal", all_convolutions("vgg16", r)) for r in (0.0, 0.2))
    assert 100 * (1 - kept / dense) == pytest.approx(35.91, abs=0.006)


def test_shortcuts_left_out() -> None:
    """ResNet-34 has 3.64e9 MACs and 2.16e7 parameters only without its projections (Li et al., Table 1)."""
    assert count(graph("resnet34"), Plan(), "conv_linear", {}) == 3_663_761_408
    assert count(graph("resnet34"), Plan(), "conv_linear_no_projection", {}) == pytest.approx(3.644e9, rel=2e-4)
    assert count(graph("resnet18"), Plan(), "conv_nominal", {}) == pytest.approx(1.794e9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "thop"),
    # DCFF's baselines, recomputed in thop 0.0.31's convention
    [("resnet56", 126.555e6), ("resnet110", 254.989e6)],
)
def test_thop_counts(name: str, thop: float) -> None:
    assert count(graph(name), Plan(), "thop", {}) == pytest.approx(thop, rel=1e-4)


def test_flops_are_two_a_mac() -> None:
    macs = graph("vgg19").macs(Plan())
    assert macs == 398_136_320
    assert count(graph("vgg19"), Plan(), "flops_two_per_mac", {}) == 2 * macs


def test_every_convention_is_explained() -> None:
    assert {row.convention for row in rows.load()} <= CONVENTIONS.keys()


def test_a_difference_needs_a_reason() -> None:
    near, far = Count("r", "macs", 100.0, 100.9, None), Count("r", "macs", 100.0, 98.9, None)
    assert (near.differs, far.differs, far.unexplained) == (False, True, True)
    assert not Count("r", "macs", 100.0, 98.9, "a typing error").unexplained


def runnable(paper: str, *, imagenet: bool) -> list[Row]:
    parts = [part for row in rows.load(papers=[paper]) for part in row.parts if part.overrides is not None]
    return [part for part in parts if (part.dataset == "imagenet") == imagenet]


def with_rows(*, imagenet: bool) -> Any:
    return pytest.mark.parametrize("paper", [paper for paper in options("rows") if runnable(paper, imagenet=imagenet)])


def check(parts: list[Row]) -> None:
    """Compose, build, cut with random scores and count; a difference of more than 1 % is named with its reason.

    A ``macs_note`` without a difference is a note too many.
    """
    by_net = sorted(parts, key=lambda part: (part.model, part.dataset))  # each net is traced once
    counts = [found for part in by_net for found in verify(part).counts]
    unexplained = [f"{c.row} {c.what}: {c.published:g} in the paper, {c.ours:g} here" for c in counts if c.unexplained]
    assert not unexplained, "\n".join(unexplained)
    assert {count.row for count in counts if count.differs} == {part.name for part in parts if part.macs_note}


@with_rows(imagenet=False)
def test_some_rows_on_small_pictures(paper: str) -> None:
    """At most five of each paper, evenly spread."""
    parts = runnable(paper, imagenet=False)
    check(parts[:: -(-len(parts) // 5)])


@pytest.mark.slow
@with_rows(imagenet=False)
def test_rows_on_small_pictures(paper: str) -> None:
    check(runnable(paper, imagenet=False))


@pytest.mark.slow
@with_rows(imagenet=True)
def test_rows_on_imagenet(paper: str) -> None:
    check(runnable(paper, imagenet=True))
