"""Modules of no known class that have numbers for each channel: as frozen norms are written for detectors."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunebench.surgery.channel_modules import layouts_of
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.narrow import narrow, take_shapes
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore
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


def halves(module: nn.Module, x: Tensor) -> Tensor:
    """A complex product."""
    a, b, p, q = *x.chunk(2, 1), *module.get_parameter("scale").view(1, -1, 1, 1).chunk(2, 1)
    return torch.cat([a * p - b * q, a * q + b * p], 1)


def scaled(module: nn.Module, x: Tensor) -> Tensor:
    return x * module.get_parameter("scale").view(1, -1, 1, 1)


MIXING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "halves": halves,
    "the first channel": lambda m, x: scaled(m, x - x[:, :1]),
    "the first channel alone": lambda m, x: torch.cat([x[:, :1], scaled(m, x)[:, 1:]], 1),
    "the first number": lambda m, x: scaled(m, x) / m.get_parameter("scale")[0],
    "the last number": lambda m, x: scaled(m, x) / m.get_parameter("scale")[-1],
    "the order": lambda m, x: scaled(m, x.flip(1)),
    "the order of halves": lambda m, x: scaled(m, torch.cat([*reversed(x.chunk(2, 1))], 1)),
    "the batch": lambda m, x: scaled(m, x) + (x.shape[0] == 4) * x.mean(1, keepdim=True),
    "large numbers": lambda m, x: scaled(m, x) + (x.abs().max() > 50) * x.mean(1, keepdim=True),
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
@pytest.mark.parametrize("width", [5, 6, 8])
def test_what_mixes(name: str, width: int) -> None:
    if name != "its old width" or width == 6:
        assert not layouts_of(Written(MIXING[name], width))


def test_a_lazy_module_is_none_of_them() -> None:
    assert not layouts_of(nn.LazyBatchNorm2d())


def test_an_attribute_of_a_strangers_module_is_left_alone() -> None:
    module = Written(lambda m, x: scaled(m, x) * m.num_features**-0.5)
    module.num_features = 6  # type: ignore[assignment]
    net = nn.Sequential(nn.Conv2d(3, 6, 3), module, nn.Conv2d(6, 2, 3)).eval()
    graph = ChannelGraph.trace(net, images(1))
    small = carried_out(net, graph, Plan({"0": (0, 2, 4, 5)}))
    assert small.get_submodule("1").num_features == 6


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


@pytest.mark.parametrize("kept", [(2,), (0, 2, 5)])
def test_written_back_where_the_channels_lie(kept: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 6), Affine(1, 1, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    tokens = torch.randn(3, 4, 7)
    graph, plan = ChannelGraph.trace(net, tokens), Plan({"0": kept})
    carried_out(net, graph, plan, tokens)
    back = restore(net, graph, plan, shrink(net, graph, plan)).get_parameter("1.scale").flatten()
    assert [place for place, value in enumerate(back.tolist()) if value] == list(kept)


class Flagged(Affine):
    """Mixes the channels if it is asked to."""

    def forward(self, x: Tensor, mix: bool = False) -> Tensor:
        y = super().forward(x)
        return y - y.mean(1, keepdim=True) if mix else y


@pytest.mark.parametrize("call", [lambda module, x: module(x, True), lambda module, x: module(x, mix=True)])
def test_a_call_with_more_than_a_tensor_needs_all_channels(call: Callable[[nn.Module, Tensor], Tensor]) -> None:
    class Called(Residual):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.last(call(self.one, self.first(x)).mean((2, 3)))
            return logits

    graph = ChannelGraph.trace(Called(lambda width: Flagged(1, width, 1, 1)).eval(), images(1))
    assert "which needs all of them" in str(graph.why_not("first"))


NARROWED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "channels last": (lambda: nn.Sequential(nn.Linear(7, 6), Affine(1, 1, 6), nn.ReLU(), nn.Linear(6, 2)), (3, 4, 7)),
    "buffers": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), Frozen(6), nn.ReLU(), nn.Conv2d(6, 2, 3)), (2, 3, 8, 8)),
}


@pytest.mark.parametrize("name", NARROWED)
def test_removed_in_steps_while_the_net_stays_the_same(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NARROWED[name]
    net, x = make().eval(), torch.randn(shape)
    graph, plans = ChannelGraph.trace(net, x), [Plan(), Plan({"0": (1, 3, 4)}), Plan({"0": (4,)})]
    narrowed, roomy = copy.deepcopy(net), copy.deepcopy(net)
    for before, after in itertools.pairwise(plans):
        narrow(narrowed.get_submodule, graph, before=before, after=after)
    torch.testing.assert_close(narrowed(x), shrink(net, graph, plans[-1])(x))
    take_shapes(roomy.get_submodule, graph, plans[-1])
    roomy.load_state_dict(narrowed.state_dict())
    assert torch.equal(roomy(x), narrowed(x))


class Sized(nn.Module):
    """Works on each channel by itself for small pictures only."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        return x - x.mean(1, keepdim=True) if x.shape[-1] > 6 else x


@pytest.mark.parametrize(("size", "cut"), [(8, False), (6, True)])
def test_a_module_is_tried_out_at_the_size_it_gets(size: int, cut: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Sized(), nn.Conv2d(8, 4, 1)).eval()
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, size, size))
    assert (graph.why_not("0") is None) == cut


class Fused(nn.BatchNorm2d):
    """A norm that can take a summand."""

    def forward(self, x: Tensor, summand: float | Tensor = 0.0) -> Tensor:
        return super().forward(x) + summand


@pytest.mark.parametrize(("summand", "cut"), [(None, True), (1.0, False)])
def test_a_module_is_tried_out_with_one_tensor_and_known_for_no_more(summand: float | None, cut: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two = nn.Conv2d(3, 8, 1), Fused(8), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.two(self.norm(x) if summand is None else self.norm(x, summand))

    graph = ChannelGraph.trace(Net().eval(), torch.zeros(1, 3, 8, 8))
    assert (graph.why_not("one") is None) == cut
