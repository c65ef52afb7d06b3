"""A transposed convolution of stride 1 is an ordinary one whose kernel is turned, so all criteria score both alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench import budget
from prunebench.criteria.filters import l1_norm
from prunebench.criteria.group_norm import GroupNorm
from prunebench.criteria.lamp import Lamp
from prunebench.criteria.scorers import BatchNormStatistic, Criterion, FilterNorm, GeometricMedian, look_at
from prunebench.criteria.taylor import VARIANTS, Taylor
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.criteria.test_taylor import Given
from tests.surgery.nets import randomise

LAYERS = ("enter", "up", "next")


class Net(nn.Module):
    """Three layers, the second and third transposed or not, and a head."""

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.enter, self.up, self.next = nn.Conv2d(2, 5, 3, padding=1), make(5, 6), make(6, 4)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(4, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.up(F.relu(self.enter(x)))))
        logits: Tensor = self.head(F.relu(self.next(x)).mean((2, 3)))
        return logits


def pair() -> tuple[Net, Net]:
    """A net with transposed convolutions, and the same function without."""
    net = Net(lambda num_in, num_out: nn.ConvTranspose2d(num_in, num_out, 3, padding=1))
    randomise(net)
    twin = Net(lambda num_in, num_out: nn.Conv2d(num_in, num_out, 3, padding=1))
    turned = {f"{name}.weight" for name in ("up", "next")}
    state = net.state_dict()
    twin.load_state_dict({k: v.transpose(0, 1).flip(2, 3) if k in turned else v for k, v in state.items()})
    return net, twin


def test_the_twin_computes_the_same() -> None:
    net, twin = pair()
    x = torch.randn(2, 2, 8, 8)
    torch.testing.assert_close(net(x), twin(x))


CRITERIA: dict[str, Criterion] = {
    "l1": FilterNorm(order=1),
    "l1 greedy": FilterNorm(order=1, strategy="greedy"),
    "l2": FilterNorm(order=2),
    "fpgm": GeometricMedian(),
    "lamp": Lamp(score=FilterNorm(order=2)),
    "group norm": GroupNorm(biases=True),
    **{f"taylor {variant}": Taylor(variant=variant, num_samples=4, batch_size=2) for variant in VARIANTS},
    **{name: BatchNormStatistic(statistic=name) for name in ("gamma", "mean_x_next", "shift", "var_x_next")},
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
def test_both_are_scored_alike(criterion: Criterion) -> None:
    draws = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 2, 8, 8, generator=draws), torch.tensor([0, 1, 2, 0])
    found: list[dict[str, Tensor]] = []
    for net in pair():
        given = Given(net, batch, lambda net, batch: F.cross_entropy(net(batch[0]), batch[1]))
        ready, graph = criterion.prepare(net, given), given.graph
        kept = {name: [0, 2, 3] for name in LAYERS[1:]} if criterion.in_order else {}
        found.append({})
        for name in (name for name in LAYERS if not criterion.refuses(graph.layers[name])):
            subject = look_at(name, net, graph, torch.Generator(), live_inputs=kept.get(name))
            found[-1][name] = ready(subject)
    assert found[0].keys() == found[1].keys() and "up" in found[0]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_both_are_cut_alike(coupling: str) -> None:
    nets, x = pair(), torch.randn(3, 2, 8, 8)
    found = []
    for net in nets:
        graph = ChannelGraph.trace(net, x[:1])
        scores = {n: l1_norm(graph.layers[n].by_outputs(net.get_parameter(f"{n}.weight"))) for n in LAYERS}
        plan = budget.choose(scores, graph, prune_ratio=0.4, coupling=coupling).plan
        small = shrink(net, graph, plan)
        found.append((plan, small(x), graph.macs(plan), graph.params(plan)))
    assert found[0][0] == found[1][0] != Plan()
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[0][2:] == found[1][2:]
