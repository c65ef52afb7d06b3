from __future__ import annotations

import random

import pytest

from prunebench.surgery.align import align
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.surgery.kit import draw_plan, images, largest_difference
from tests.surgery.nets import NETS, build


def num_scatters(graph: ChannelGraph, plan: Plan, name: str) -> int:
    small = shrink(build(name), graph, plan)
    return sum(type(module).__name__ == "ScatterAdd" for module in small.modules())


def test_by_hand() -> None:
    """Stage 1 keeps 1 and 5 of 8; padded by 4 in front they are 5 and 9 of stage 2, which keeps 0 and 9."""
    net = build("option A, both ends")
    graph = ChannelGraph.trace(net, images(1))
    first, second = ["conv", "blocks.0.conv2", "blocks.1.conv2"], ["blocks.2.conv2", "blocks.3.conv2"]
    plan = align(graph, Plan(dict.fromkeys(first, (1, 5)) | dict.fromkeys(second, (0, 9)) | {"blocks.0.conv1": (3,)}))
    assert plan.keep == dict.fromkeys(first, (1, 5)) | dict.fromkeys(second, (0, 5, 9)) | {"blocks.0.conv1": (3,)}
    assert num_scatters(graph, plan, "option A, both ends") == 1, "the padded shortcut"


@pytest.mark.parametrize("name", NETS)
def test_no_addition_scatters(name: str) -> None:
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(0))
    aligned = align(graph, plan)
    assert num_scatters(graph, aligned, name) == (1 if "option A" in name else 0)
    assert set(aligned.keep) == set(plan.keep) or name in ("squeeze", "branches", "chain", "dense")
    assert all(set(kept) <= set(aligned.keep[layer]) for layer, kept in plan.keep.items())
    assert align(graph, aligned) == aligned
    small = shrink(net, graph, aligned)
    assert largest_difference(small, zero(net, graph, aligned), x) < 1e-5


def test_removed_layers_stay_removed() -> None:
    net = build("option B")
    graph = ChannelGraph.trace(net, images(1))
    plan = align(graph, Plan({"blocks.1.conv2": (), "blocks.0.conv2": (1, 2), "conv": (2, 4)}))
    assert plan.keep == {"blocks.1.conv2": (), "blocks.0.conv2": (1, 2, 4), "conv": (1, 2, 4)}
