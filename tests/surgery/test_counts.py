"""Published and independently derived counts of real nets."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from prunebench.measure import cost
from prunebench.models.resnet_cifar import resnet20, resnet56, resnet110
from prunebench.models.vgg_cifar import vgg16
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Indices, Plan
from prunebench.surgery.shrink import shrink

CLASSIFIER = 640  # MACs of the last layer, which the papers leave out
STAGES = {1: (16, 32), 2: (32, 16), 3: (64, 8)}  # width, height of the image


@pytest.fixture(scope="module")
def resnet56_graph() -> ChannelGraph:
    return ChannelGraph.trace(resnet56(), torch.zeros(1, 3, 32, 32))


def counts_by_hand(keep: Mapping[str, Indices], *, blocks: int, full_stream: bool = False) -> tuple[int, int]:
    """(MACs, parameters) of an option-A ResNet, straight from its definition with sets of indices."""
    stream = set(keep["conv1"])
    macs = 32 * 32 * 9 * 3 * len(stream)
    params = len(stream) * (27 + 2)
    for stage, (width, size) in STAGES.items():
        for block in range(blocks):
            first, second = (set(keep[f"layer{stage}.{block}.conv{place}"]) for place in (1, 2))
            taps = 9 * (len(stream) * len(first) + len(first) * len(second))
            macs += size * size * taps
            params += taps + 2 * (len(first) + len(second))
            if block == 0 and stage > 1:
                stream = {channel + width // 4 for channel in stream}
            stream |= second
            if full_stream:
                stream = set(range(width))
    return macs + 10 * len(stream), params + 10 * len(stream) + 10


def drawn(graph: ChannelGraph, counts: Mapping[int, int], seed: int = 0) -> Plan:
    rng = random.Random(seed)
    widths = {name: layer.out_channels for name, layer in graph.layers.items() if layer.kind == "conv"}
    return Plan({name: tuple(sorted(rng.sample(range(width), counts[width]))) for name, width in widths.items()})


@pytest.mark.parametrize("seed", range(5))
def test_true_live_sets(resnet56_graph: ChannelGraph, seed: int) -> None:
    plan = drawn(resnet56_graph, {16: 10, 32: 20, 64: 39}, seed)
    assert (resnet56_graph.macs(plan), resnet56_graph.params(plan)) == counts_by_hand(plan.keep, blocks=9)
    # FPGM's extractor lets all blocks after the first read the whole stream
    macs, _ = counts_by_hand(plan.keep, blocks=9, full_stream=True)
    assert macs == 62_222_400 + CLASSIFIER
    assert resnet56_graph.macs(plan) <= macs


@pytest.mark.parametrize(
    ("build", "blocks", "kept", "macs", "params"),
    [
        (resnet20, 3, (10, 20, 39), 19_585_728, 129_177),
        (resnet56, 9, (10, 20, 39), 62_222_400, 416_295),
        (resnet110, 18, (10, 20, 39), 126_177_408, 846_972),
        (resnet20, 3, (12, 23, 45), 24_721_344, 159_282),
        (resnet56, 9, (12, 23, 45), 77_739_840, 510_606),
    ],
)
def test_fpgm_table(build: type, blocks: int, kept: tuple[int, int, int], macs: int, params: int) -> None:
    """With sets whose union is the whole stream from the first block on, the counts are FPGM's integers."""
    graph = ChannelGraph.trace(build(), torch.zeros(1, 3, 32, 32))
    keep: dict[str, Indices] = {"conv1": tuple(range(kept[0]))}
    for stage, (width, _) in STAGES.items():
        num = kept[stage - 1]
        # the stem covers the front of stage 1, the padded shortcut the middle of the others
        ends = tuple(range(width - num, width))
        if stage > 1:
            front = width // 4
            ends = (*range(front), *range(width - num + front, width))
        for block in range(blocks):
            keep[f"layer{stage}.{block}.conv1"] = tuple(range(num))
            keep[f"layer{stage}.{block}.conv2"] = ends
    plan = Plan(keep)
    assert graph.macs(plan) == macs + CLASSIFIER
    norms = 2 * sum(len(indices) for indices in keep.values())
    assert graph.params(plan) == params + norms + 650


def first_convs(widths: Mapping[int, list[int]]) -> Plan:
    return Plan(
        {
            f"layer{stage}.{block}.conv1": tuple(range(width))
            for stage, kept in widths.items()
            for block, width in enumerate(kept)
        }
    )


A56 = first_convs({1: [14] * 7 + [16, 14], 2: [32] + [28] * 8, 3: [64] + [57] * 7 + [64]})
B56 = first_convs({1: [6] * 7 + [16, 16], 2: [32] + [22] * 6 + [32, 22], 3: [64] + [57] * 7 + [64]})
A110 = first_convs({1: [8] * 17 + [16]})
B110 = first_convs({1: [8] * 17 + [16], 2: [32] + [19] * 17, 3: [64] + [44] * 17})


@pytest.mark.parametrize(
    ("build", "plan", "macs", "params"),
    [
        (resnet56, Plan(), 125_485_056, 853_018),
        (resnet56, A56, 112_435_200, 773_336),
        (resnet56, B56, 90_906_624, 735_712),
        (resnet110, Plan(), 252_887_040, 1_727_962),
        (resnet110, A110, 212_779_008, 1_688_522),
        (resnet110, B110, 155_123_712, 1_168_424),
    ],
)
def test_pruning_filters_for_efficient_convnets(build: type, plan: Plan, macs: int, params: int) -> None:
    net = build()
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 32, 32))
    assert (graph.macs(plan) - CLASSIFIER, graph.params(plan)) == (macs, params)
    assert sum(parameter.numel() for parameter in shrink(net, graph, plan).parameters()) == params


def test_vgg_a() -> None:
    net = vgg16()
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 32, 32))
    assert (graph.macs(Plan()), graph.params(Plan())) == (313_463_808, 14_987_722)
    names = list(graph.layers)
    plan = Plan({names[0]: tuple(range(32))} | {name: tuple(range(256)) for name in names[7:13]})
    assert (graph.macs(plan), graph.params(plan)) == (206_279_680, 5_397_034)


class Frames(nn.Module):
    """Four pictures a sample, which lie in the batch while the layers look at them."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.a, self.middle, self.b = nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(8, 6, 3, padding=1)
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.middle(torch.relu(self.a(x.flatten(0, 1)))))
        logits: Tensor = self.out(torch.relu(self.b(x)).mean((2, 3)).unflatten(0, (-1, 4)).mean(1))
        return logits


MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "depthwise": lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=8),
    "grouped": lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 4, 2, 1),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_frames_in_the_batch(name: str) -> None:
    net, frames = Frames(MIDDLES[name]()).eval(), torch.randn(2, 4, 3, 8, 8)
    graph = ChannelGraph.trace(net, frames)
    assert graph.macs(Plan()) == graph.dense_macs == cost.count(net, frames).macs
    assert graph.layers["a"].positions == 4 * 64
    assert graph.layers["middle"].positions == 4 * (256 if name == "transposed" else 16)
    plan = Plan({"a": (0, 1, 4, 5), "b": (0, 2)} if name != "transposed" else {"a": (0, 3), "middle": (1, 2, 5)})
    plan = Plan({**plan.keep, "middle": (0, 1, 4, 5)}) if name == "grouped" else plan
    assert graph.macs(plan) == cost.count(shrink(net, graph, plan), frames).macs


def test_removing_filters_takes_their_share_of_two_layers(resnet56_graph: ChannelGraph) -> None:
    """m of n filters: m/n of the MACs of the layer and of its reader."""
    plan = Plan({"layer2.3.conv1": tuple(range(24))})
    each = 16 * 16 * 9 * 32 * 32
    assert resnet56_graph.macs(Plan()) - resnet56_graph.macs(plan) == 2 * each * 8 // 32


def test_the_counts_of_a_bisection_cost_less_than_measuring_the_net_twice(resnet56_graph: ChannelGraph) -> None:
    plans = [drawn(resnet56_graph, {16: 10, 32: 20, 64: 39}, seed) for seed in range(30)]
    net, example = resnet56(), torch.zeros(1, 3, 32, 32)

    def seconds(work: Callable[[], object]) -> float:
        started = time.process_time()  # other processes may take the core
        work()
        return time.process_time() - started

    counting = min(seconds(lambda: [resnet56_graph.macs(plan) for plan in plans]) for _ in range(3))
    measuring = min(seconds(lambda: cost.count(net, example)) for _ in range(3))
    assert counting < 2 * measuring
