"""The graph is the net: what a list of operations would lose is kept, or refused with file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.surgery.equality import same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.surgery.kit import images
from tests.surgery.nets import randomise
from tests.surgery.properties import check

Middle = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Three convolutions, with some statements between them."""

    def __init__(self, middle: Middle, **parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.c2, self.last, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Linear(4, 5)
        self.middle = middle
        for name, part in parts.items():
            self.add_module(name, part)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self, self.bn(self.conv(x)))
        return self.out(self.last(x).mean((2, 3)))


class Own(nn.Module):
    """A module of its own around some statements."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.inner = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.function(self, x))


def relu_method(net: Net, x: Tensor) -> Tensor:
    x.relu_()
    return x


def relu_function(net: Net, x: Tensor) -> Tensor:
    F.relu_(x)
    return x


def relu_module(net: Net, x: Tensor) -> Tensor:
    net.relu(x)
    return x


def add_method(net: Net, x: Tensor) -> Tensor:
    x.add_(net.c2(x))
    return x


def add_under_another_name(net: Net, x: Tensor) -> Tensor:
    y = x
    y += net.c2(x)
    return x


def read_before_and_after(net: Net, x: Tensor) -> Tensor:
    y = net.c2(x)
    x.relu_()
    return x * torch.sigmoid(y) + x


WRITES = [relu_method, relu_function, relu_module, add_method, add_under_another_name, read_before_and_after]


@pytest.mark.parametrize("middle", WRITES)
def test_what_is_written_in_place(middle: Middle) -> None:
    net, x = Net(middle, relu=nn.ReLU(inplace=True)), images(4)
    graph = ChannelGraph.trace(net, x)
    plans = [Plan(), Plan({"conv": (1, 4), "last": (0, 3)})]
    if middle in (add_method, add_under_another_name):
        plans.append(Plan({"conv": (1, 4), "c2": (0, 4)}))
    for plan in plans:
        small = shrink(net, graph, plan)
        same(zero(net, graph, plan), small, x, lambda net, x: net(x))
        assert graph.macs(plan) == cost.count(small, x).macs
    assert graph.dense_macs == cost.count(net, x).macs


def no_grad(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2  # lost


def with_grad(net: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        return x * 2  # lost


def autocast(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = x * 2  # lost
    return x.float()


def without_autocast(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cuda", enabled=False):
        return x * 2  # lost


def by_data(net: nn.Module, x: Tensor) -> Tensor:
    return -x if x.sum() > 0 else x  # lost


def by_mode(net: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if net.training else x  # lost


def view(net: nn.Module, x: Tensor) -> Tensor:
    x.flatten(1).relu_()  # lost
    return x


def detached(net: nn.Module, x: Tensor) -> Tensor:
    x.detach().relu_()  # lost
    return x


LOST: list[Any] = [no_grad, with_grad, autocast, without_autocast, by_data, by_mode, view, detached]


def line_of(function: Callable[..., Any]) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    first = function.__code__.co_firstlineno
    return f"test_faithful.py:{next(n for n, line in enumerate(lines, 1) if n > first and line.endswith('# lost'))}"


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("function", LOST)
def test_what_cannot_be_written_down_is_refused(function: Middle) -> None:
    with pytest.raises(UserError) as caught:
        ChannelGraph.trace(Net(function), images(2))
    assert line_of(function) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("function", LOST)
def test_in_a_module_of_its_own_it_stays_whole(function: Middle) -> None:
    """The net is not refused: what writes for that module is listed, the rest can be cut."""
    net, x = Net(lambda net, x: net.get_submodule("own")(x), own=Own(function)), images(4)
    graph = ChannelGraph.trace(net, x)
    assert list(graph.traced.leaves) == ["own"]
    assert line_of(function) in str(graph.why_not("conv"))
    assert graph.unfollowed["own.inner"].startswith("it is inside own, which is taken as one operation: ")
    plan = Plan({"last": (1, 2)})
    same(zero(net, graph, plan), shrink(net, graph, plan), x, lambda net, x: net(x))


@pytest.mark.parametrize(
    "function", [lambda net, x: F.dropout(x, 0.5), lambda net, x: x + torch.randn_like(x)], ids=["dropout", "noise"]
)
def test_random_outputs_are_refused(function: Middle) -> None:
    with pytest.raises(UserError, match=r"random in evaluation mode: '.*' at .*test_faithful.py:\d+ draws numbers"):
        ChannelGraph.trace(Net(function), images(2))


def test_hooks_of_a_layer_keep_it_whole() -> None:
    net, x = Net(relu_method), images(4)
    net.conv.register_forward_hook(lambda module, args, output: output + 1)
    net.c2.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    graph = ChannelGraph.trace(net, x)
    assert graph.why_not("conv") == "it has forward hooks"
    same(net, shrink(net, graph, Plan({"last": (0, 2)})).eval(), x, lambda net, x: net(x) * 0)
    same(zero(net, graph, Plan({"last": (0,)})), shrink(net, graph, Plan({"last": (0,)})), x, lambda net, x: net(x))


def test_hooks_of_the_net_itself_are_refused() -> None:
    net = Net(relu_method)
    net.register_forward_hook(lambda module, args, output: output + 1)
    with pytest.raises(UserError, match="its forward hooks are lost"):
        ChannelGraph.trace(net, images(2))


def test_a_lost_number_is_seen_behind_zeros() -> None:
    """A branch that ends in a norm of scale 0 would hide it."""

    def drawing(net: Net, x: Tensor) -> Tensor:
        return x + net.get_submodule("norm")(x * torch.randn(6, 1, 1))

    norm = nn.BatchNorm2d(6)
    net = Net(drawing, norm=norm)
    nn.init.zeros_(norm.weight)
    with pytest.raises(UserError, match="does not compute what the net computes in evaluation mode"):
        ChannelGraph.trace(net, images(2))


@pytest.mark.parametrize(
    "seed",
    [0, 26, 29, 41, 20_009, 1_000_332, 1_000_871],
    ids=[
        *("detached write", "view write", "view write behind a product", "padded reader"),
        *("write into a piece", "write into the base of a piece", "product that could be empty"),
    ],
)
def test_counter_examples(seed: int, tmp_path: Path) -> None:
    """Found by the random nets."""
    check(seed, tmp_path)
