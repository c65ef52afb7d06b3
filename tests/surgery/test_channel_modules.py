"""Modules of no known class that have numbers for each channel: as frozen norms are written for detectors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunebench.surgery.channel_modules import layouts_of
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from tests.surgery.kit import images
from tests.surgery.nets import Affine, Bias, Frozen, randomise
from tests.surgery.test_split_rules import carried_out


class Written(nn.Module):
    """Not to be cut, as ``compute`` says."""

    def __init__(self, compute: Callable[[nn.Module, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.width, self.scale, self.compute = width, nn.Parameter(torch.ones(width)), compute
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def counting(module: nn.Module, x: Tensor) -> Tensor:
    module.get_buffer("seen").add_(1)
    return x * module.get_parameter("scale").view(1, -1, 1, 1)


MIXING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "channels": lambda m, x: x * m.get_parameter("scale").softmax(0).view(1, -1, 1, 1),
    "its input's channels": lambda m, x: x / x.norm(dim=1, keepdim=True) * m.get_parameter("scale").view(1, -1, 1, 1),
    "modes": lambda m, x: x * (1 + m.training * m.get_parameter("scale")).view(1, -1, 1, 1),
    "its old width": lambda m, x: x * m.get_parameter("scale").view(1, 6, 1, 1),
    "a constant": lambda m, x: x * m.get_parameter("scale").view(1, -1, 1, 1) + 1,
    "an exponent": lambda m, x: x + m.get_parameter("scale").exp().view(1, -1, 1, 1),
    "another shape": lambda m, x: (x * m.get_parameter("scale").view(1, -1, 1, 1)).mean((2, 3)),
    "a count": counting,
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes(name: str) -> None:
    assert not layouts_of(Written(MIXING[name]))


def test_layouts() -> None:
    assert layouts_of(Frozen(6)) == layouts_of(Affine(1, 6, 1, 1)) == {(4, 1)}
    assert layouts_of(Affine(6, 1, 1)) == {(4, 1)}
    assert layouts_of(Affine(6)) == {(2, 1), (3, 2), (4, 3), (5, 4)}
    assert layouts_of(Affine(1, 1, 6)) == {(3, 2), (4, 3), (5, 4)}
    assert not layouts_of(nn.BatchNorm2d(6))
    assert not layouts_of(nn.Sequential(Affine(6)))


MODULES: dict[str, Callable[[int], nn.Module]] = {
    "frozen": Frozen,
    "affine": lambda width: Affine(1, width, 1, 1),
    "bias": Bias,
}


class Residual(nn.Module):
    """Two layers, each with its module, around a shortcut."""

    def __init__(self, make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 6, 3, padding=1), make(6)
        self.inner, self.two = nn.Conv2d(6, 5, 3, padding=1), make(5)
        self.outer, self.three = nn.Conv2d(5, 6, 3, padding=1), make(6)
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(self.first(x)))
        x = torch.relu(x + self.three(self.outer(torch.relu(self.two(self.inner(x))))))
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("name", MODULES)
def test_a_residual_net(name: str) -> None:
    torch.manual_seed(0)
    net = Residual(MODULES[name])
    randomise(net)
    graph = ChannelGraph.trace(net.eval(), images(1))
    assert all(graph.why_not(layer) is None for layer in ("first", "inner", "outer"))
    aligned = carried_out(net, graph, Plan({"first": (0, 2, 3), "inner": (1, 4), "outer": (0, 2, 3)}))
    width = {n: t.numel() for n, t in (*aligned.named_parameters(), *aligned.named_buffers()) if n.startswith("two.")}
    assert width
    assert set(width.values()) == {2}
    carried_out(net, graph, Plan({"first": (0, 2, 3), "inner": (1,), "outer": (1, 3, 5)}))
    small = carried_out(net, graph, Plan({"inner": (), "outer": ()}))
    assert not hasattr(small, "two")
    small(images(5)).square().sum().backward()


def test_channels_last() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 6), Affine(6), nn.GELU(), nn.Linear(6, 5), Affine(1, 1, 5), nn.Linear(5, 2)).eval()
    tokens = torch.randn(3, 4, 7)
    graph = ChannelGraph.trace(net, tokens)
    small = carried_out(net, graph, Plan({"0": (0, 2, 5), "3": (1,)}), tokens)
    assert small.get_parameter("4.scale").shape == (1, 1, 1)


def test_a_module_that_is_called_twice_needs_all_channels() -> None:
    class Twice(Residual):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(self.one(self.outer(self.two(self.inner(self.one(self.first(x)))))).mean((2, 3)))
            return logits

    graph = ChannelGraph.trace(Twice(Frozen).eval(), images(1))
    assert "it is called 2 times" in str(graph.why_not("first"))
    assert graph.why_not("inner") is None
