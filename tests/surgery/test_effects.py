"""What a net does beside computing its outputs is refused by name, and not lost in the cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.effects import check_parameters_stay
from prunebench.surgery.graph import ChannelGraph
from tests.surgery.properties import check_net


def around(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), middle, nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


class Constrained(nn.Conv2d):
    """A largest norm that the weights of a new net are far from."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=100.0)
        return super().forward(x)


class Masked(nn.Conv2d):
    """A mask that the weights have already."""

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 0] = 0
        self.weight.data *= self.mask

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


@pytest.mark.parametrize("make", [lambda: Constrained(8, 8, 3), lambda: Masked(8, 8, 3)])
def test_a_forward_pass_that_changes_its_weights(make: Callable[[], nn.Module]) -> None:
    net = around(make())
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError, match=r"changes its parameter 1\.weight \(through \.data\)"):
        ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items()), "the user's stay"


class Picky(nn.Conv2d):
    """Takes no large weights, and halves its own."""

    def forward(self, x: Tensor) -> Tensor:
        if float(self.weight.detach().abs().max()) > 5:
            raise ValueError("the weights are too large")
        self.bias.data = self.bias.data / 2
        return super().forward(x)


def test_where_large_weights_break_the_net_its_own_are_looked_at() -> None:
    with pytest.raises(UserError, match=r"changes its parameter bias \(through \.data\)"):
        check_parameters_stay(Picky(3, 8, 3), torch.randn(2, 3, 8, 8), apart=())
    check_parameters_stay(nn.Sequential(Picky(3, 8, 3)), torch.randn(2, 3, 8, 8), apart=["0"])


class LayerDrop(nn.Module):
    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.inner, self.draw = nn.Conv2d(8, 8, 3, padding=1), draw

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.draw() < 1e-9:
            return x
        return x + self.inner(x)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1).item(),
        random.random,
        lambda: float(np.random.rand()),  # noqa: NPY002  # as nets of others draw
        lambda: float(torch.bernoulli(torch.ones(1))),
    ],
    ids=["torch", "random", "numpy", "bernoulli"],
)
def test_a_branch_that_is_left_out_at_random(draw: Callable[[], float]) -> None:
    with pytest.raises(UserError, match="draws random numbers of its own in training mode"):
        ChannelGraph.trace(around(LayerDrop(draw)), torch.zeros(1, 3, 8, 8))
    assert ChannelGraph.trace(around(LayerDrop(lambda: 1.0)), torch.zeros(1, 3, 8, 8)).why_not("0") is None


def test_dropout_draws_what_the_graph_draws_too() -> None:
    assert ChannelGraph.trace(around(nn.Dropout(0.3)), torch.zeros(1, 3, 8, 8)).why_not("0") is None


def test_hooks_that_act_on_gradients() -> None:
    net = around(nn.Identity())
    net.get_parameter("0.bias").register_hook(torch.zeros_like)
    with pytest.raises(UserError, match=r"the parameter 0\.bias has a hook for its gradient"):
        ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))
    net = around(nn.Sequential(nn.Conv2d(8, 8, 1)))
    net[1].register_full_backward_hook(lambda *_: None)
    with pytest.raises(UserError, match=r"^1 has a backward hook"):
        ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("call", ["leaky_relu", "leaky_relu_"])
def test_the_slope_of_a_rectifier_is_read_wherever_it_stands(call: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(getattr(nn.functional, call)(self.a(x), 0.2))

    assert ChannelGraph.trace(Net().eval(), torch.zeros(1, 3, 8, 8)).layers["a"].slope == 0.2


def test_three_dimensional_convolutions_have_no_channels_last() -> None:
    from prunebench.layers.memory_format import to_memory_format

    net = nn.ModuleList([nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3)])
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    to_memory_format(net, torch.channels_last)
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last) and net[0].weight.is_contiguous()


def replaced(on: str) -> nn.Module:
    net = around(nn.Conv2d(8, 8, 1))
    module = net.get_submodule(on)
    original = module.forward
    module.forward = lambda x: 2 * original(x)
    return net


@pytest.mark.parametrize("on", ["", "1"])
def test_a_forward_that_was_replaced_on_the_object(on: str) -> None:
    """A copy of the net would still run the original's weights."""
    with pytest.raises(UserError, match=rf"the forward of {on or 'Sequential'} was replaced on the object"):
        ChannelGraph.trace(replaced(on), torch.zeros(1, 3, 8, 8))


class TwoWays(nn.Module):
    """Chooses its forward when it is made, among its own methods."""

    def __init__(self, *, doubled: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        if doubled:
            self.forward = self.twice  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def twice(self, x: Tensor) -> Tensor:
        return 2 * self.conv(x)


@pytest.mark.parametrize("doubled", [False, True])
def test_a_forward_that_the_class_chooses(doubled: bool, tmp_path: Path) -> None:
    net = around(TwoWays(doubled=doubled))
    assert ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8)).why_not("1.conv") is None
    assert check_net(net, torch.randn(4, 3, 8, 8), 0, tmp_path)


def test_a_compiled_part() -> None:
    with pytest.raises(UserError, match="1 is compiled by TorchScript"):
        ChannelGraph.trace(around(torch.jit.script(nn.Conv2d(8, 8, 1))), torch.zeros(1, 3, 8, 8))


class Remembers(nn.Module):
    """Keeps something between two calls, as ``kept`` says."""

    seen: Tensor

    def __init__(self, kept: str, *, own: bool) -> None:
        super().__init__()
        self.kept, self.own, self.calls, self.plain = kept, own, 0, torch.zeros(())
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.kept == "buffer":
            if self.training or not self.own:
                self.seen = 0.9 * self.seen + 0.1 * x.mean().detach()
            return x - self.seen
        if self.kept == "tensor":
            if self.training or not self.own:
                self.plain = 0.9 * self.plain + 0.1 * x.mean().detach()
            return x - self.plain
        self.calls += 1
        return x * min(self.calls / 100, 1.0)


@pytest.mark.parametrize("kept", ["buffer", "tensor", "number"])
@pytest.mark.parametrize("own", [False, True])
def test_what_a_net_remembers_from_call_to_call(kept: str, own: bool, tmp_path: Path) -> None:
    """In a module of its own it is kept, in the net's own forward refused; a number is refused in any."""

    class Net(Remembers):
        def __init__(self) -> None:
            super().__init__(kept, own=False)
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(super().forward(self.one(x)))

    if own and kept != "number":
        graph = ChannelGraph.trace(around(Remembers(kept, own=True)), torch.zeros(1, 3, 8, 8))
        assert "which needs all of them" in str(graph.why_not("0"))
        return
    reason = "replaces its buffer seen" if kept == "buffer" else "computes something else when it is called again"
    with pytest.raises(UserError, match=reason):
        ChannelGraph.trace(around(Remembers(kept, own=True)) if own else Net().eval(), torch.zeros(1, 3, 8, 8))


def test_a_train_method_that_keeps_norms_frozen_is_named() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[1].eval()
            return self

    net = Frozen(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(UserError, match=r"its own train\(\), which may keep layers in evaluation mode"):
        ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))


def test_tensors_beside_those_of_a_layer_are_unread(tmp_path: Path) -> None:
    net = around(nn.Conv2d(8, 8, 1))
    net[0].extra = nn.Parameter(torch.randn(7))
    net[1].add_module("inner", nn.Linear(3, 3))
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))
    assert set(graph.unread) == {"0.extra", "1.inner.weight", "1.inner.bias"}
    assert check_net(net, torch.randn(4, 3, 8, 8), 0, tmp_path)


@pytest.mark.parametrize(
    ("kept", "first"), [("new", False), ("new", True), ("none", False), ("none", True), ("cache", True)]
)
def test_what_is_only_kept_to_be_looked_at(kept: str, first: bool, tmp_path: Path) -> None:
    """And what is made anew whenever it does not fit; ``first``: the net has run before."""

    class Net(nn.Module):
        cache: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
            if kept == "none":
                self.seen: Tensor | None = None
            self.register_buffer("cache", torch.zeros(0), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.one(x).relu()
            if kept != "cache":
                self.seen = h
            elif self.cache.shape[0] != h.shape[3]:
                self.cache = torch.arange(h.shape[3], dtype=x.dtype) / 8
            return self.two(h * self.cache if kept == "cache" else h)

    net, x = Net().eval(), torch.randn(4, 3, 8, 8)
    if first:
        with torch.no_grad():
            net(x)
    assert ChannelGraph.trace(net, x[:1]).why_not("one") is None
    assert check_net(net, x, 0, tmp_path)
