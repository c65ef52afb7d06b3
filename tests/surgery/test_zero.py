"""Zeroed nets, and the way back from the small net."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import draw_plan, images, largest_difference
from tests.surgery.nets import NETS, build, randomise


def outputs(net: nn.Module, x: Tensor, names: list[str]) -> dict[str, Tensor]:
    """What the named modules emit (copies: a later operation may work in place)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, value: Tensor) -> None:
            seen[name] = value.clone()

        return hook

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_dead_channels_are_exactly_zero(name: str, training: bool) -> None:
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(4))
    zeroed = zero(net, graph, plan).train(training)
    cut = {layer: graph.layers[layer] for layer in plan.keep}
    norms = {layer.norm: name for name, layer in cut.items() if layer.norm is not None}
    emitted = outputs(zeroed, x, [*cut, *norms])
    for module, value in emitted.items():
        layer = norms.get(module, module)
        dead = [c for c in range(cut[layer].out_channels) if c not in plan.keep[layer]]
        assert torch.count_nonzero(value[:, dead]) == 0
        if plan.keep[layer]:
            assert torch.count_nonzero(value[:, list(plan.keep[layer])]) > 0


def test_the_dense_net_is_left_alone() -> None:
    net, x = build("option B"), images()
    graph = ChannelGraph.trace(net, x[:1])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plan = draw_plan(graph, random.Random(0))
    compact = shrink(net, graph, plan)
    zero(net, graph, plan)
    restore(net, graph, plan, compact)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["option A, both ends", "chain", "preactivation", "mobile"])
def test_norms_must_be_zeroed_too(name: str) -> None:
    """A norm emits its bias for a dead channel, so zeroing filters alone is another net."""
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(5))
    zeroed, small = zero(net, graph, plan), shrink(net, graph, plan)
    assert largest_difference(zeroed, small, x) < 1e-5
    for module, dense in zip(zeroed.modules(), net.modules(), strict=True):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.load_state_dict(dense.state_dict())
    assert largest_difference(zeroed, small, x) > 1e-2


def test_dead_units_do_not_matter_and_kept_ones_do() -> None:
    net, x = build("bottlenecks"), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(6))
    reference = shrink(net, graph, plan)
    for layer, kept in plan.keep.items():
        dead = [c for c in range(graph.layers[layer].out_channels) if c not in kept]
        for channels, matters in ((dead, False), (list(kept), True)):
            other = build("bottlenecks")
            other.load_state_dict(net.state_dict())
            with torch.no_grad():
                other.get_submodule(layer).weight[channels] += 1.0
            for make in (shrink, zero):
                change = largest_difference(make(other, graph, plan), reference, x)
                assert (change > 1e-4) == matters or (not matters and change < 1e-5)


@pytest.mark.parametrize("name", NETS)
def test_restore_after_training(name: str) -> None:
    """The weights that training moved are written to their places, counters and statistics too."""
    net, x = build(name), images(6)
    graph = ChannelGraph.trace(net, x[:1])
    plan = draw_plan(graph, random.Random(7))
    compact = shrink(net, graph, plan).train()
    optimiser = torch.optim.SGD(compact.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        optimiser.zero_grad()
        compact(x).square().mean().backward()
        optimiser.step()
    compact.eval()
    dense = restore(net, graph, plan, compact)
    assert largest_difference(dense, compact, x) < 1e-5
    assert largest_difference(dense, zero(net, graph, plan), x) > 1e-5
    assert [value.shape for value in dense.state_dict().values()] == [v.shape for v in net.state_dict().values()]
    # what is dead stays dead: cutting again gives the same small net, bit for bit
    again = shrink(dense, graph, plan)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in compact.state_dict().items())


def test_mistakes() -> None:
    net, x = build("chain"), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = Plan({"conv1": (0, 2)})
    small = shrink(net, graph, plan)
    with pytest.raises(UserError, match=r"at 'conv1' that has Conv2d .* plans are always for the dense net"):
        zero(small, graph, plan)
    with pytest.raises(UserError, match=r"'conv1' .* has none of that name"):
        shrink(nn.Sequential(), graph, plan)
    with pytest.raises(UserError, match=r"the small net has weight of shape \(2, 3, 3, 3\) in layer 'conv1'"):
        restore(net, graph, Plan({"conv1": (0,)}), small)


class Padded(nn.Module):
    """A norm behind channels that are padded: it makes constants of them."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.next = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1)
        self.head = nn.Linear(4, 2)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(nn.functional.pad(self.enter(x), (0, 0, 0, 0, 1, 1)))
        logits: Tensor = self.head(self.next(x).mean((2, 3)))
        return logits


def test_a_norm_behind_padded_channels_keeps_its_constants() -> None:
    net, x = Padded(), images()
    graph = ChannelGraph.trace(net, x[:1])
    assert largest_difference(zero(net, graph, Plan()), net, x) == 0
    assert largest_difference(shrink(net, graph, Plan()), net, x) == 0
    assert "BatchNorm2d 'norm'" in str(graph.why_not("enter"))
    plan = Plan({"next": (0, 3)})
    assert largest_difference(zero(net, graph, plan), shrink(net, graph, plan), x) < 1e-5
