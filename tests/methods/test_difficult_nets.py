"""Nets that strangers bring: checked, cut, counted, saved and loaded, with what stays whole listed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.criteria.scorers import FilterNorm
from prunebench.measure import cost
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.nets import package
from prunebench.run.bare import BareRun
from prunebench.run.stays_whole import stays_whole
from tests.bare import bare_run

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Encoder(nn.Module):
    """Three convolutions and attention, whose products a fused kernel hides."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
            nn.Conv2d(16, 8, 1),
        )
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.convs(x).flatten(2).transpose(1, 2)).mean(1))


class DepthwiseOnStream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.dw, self.out = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        s = self.a(x)
        return self.out((s + self.b(self.dw(s))).mean((2, 3)))


class NeedsAll(nn.Module):
    """All that write a stream may be cut; a norm reads the stream as a whole, or a gate is made of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(num_in, 8, 3, padding=1) for num_in in (3, 3, 8))
        self.norm, self.out, self.how = nn.GroupNorm(2, 8), nn.Linear(8, 10), how

    def forward(self, x: Tensor) -> Tensor:
        s = self.a(x) + self.b(x)
        s = self.norm(s) if self.how == "GroupNorm" else s * torch.sigmoid(s + 1)
        return self.out(torch.relu(self.c(torch.relu(s))).mean((2, 3)))


class Factors(nn.Module):
    """A product of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.a(x) * torch.tanh(self.b(x))).mean((2, 3)))


class Unread(nn.Module):
    """A head, a parameter and buffers that the forward pass never reads, and a layer whose result nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)
        self.head = nn.Sequential(nn.Linear(8, 100), nn.Linear(100, 20))
        self.unused = nn.Conv2d(8, 4, 1)
        self.scale = nn.Parameter(torch.ones(7))
        self.register_buffer("steps", torch.arange(3.0))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x - self.mean))
        self.unused(x)
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def large_activations() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 10)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e3)
    return net


def pruned(net: nn.Module, **options: Any) -> tuple[nn.Module, BareRun]:
    run = bare_run(net, EXAMPLE)
    method = FilterPruning(criterion=FilterNorm(order=1), **({"prune_ratio": 0.5} | options))
    method.check(net, run)
    return run.note(method.prune(net, run)), run


def reasons(run: BareRun) -> dict[str, str]:
    return {entry["layer"]: entry["reason"] for entry in stays_whole(run, "all")}


def test_reached_is_what_was_counted() -> None:
    torch.manual_seed(0)
    net = Encoder().eval()
    dense = cost.count(net, EXAMPLE).macs
    attention = 2 * 2 * 64 * 64 * 8  # two layers, two products
    linear = 2 * 64 * (4 * 8 * 8 + 2 * 8 * 16)
    assert dense == 64 * (27 * 16 + 9 * 16 * 16 + 16 * 8) + attention + linear + 80
    small, run = pruned(net, target_macs=0.7, prune_ratio=None)
    assert run.achieved["reached"] == cost.count(small, EXAMPLE).macs / dense
    assert run.achieved["reached"] == pytest.approx(0.7, abs=0.03)
    assert any("encoder" in name for name in reasons(run)), "what is inside is listed"


def test_a_depthwise_layer_on_a_stream() -> None:
    torch.manual_seed(0)
    small, run = pruned(DepthwiseOnStream().eval())
    assert {name: len(kept) for name, kept in run.plan.keep.items()} == {"a": 4, "b": 4}
    assert run.plan.keep["a"] != run.plan.keep["b"]
    assert any(type(module).__name__ == "ScatterAdd" for module in small.modules())


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_layers_of_a_stream_that_is_needed_whole(coupling: str) -> None:
    _, run = pruned(NeedsAll("GroupNorm").eval(), coupling=coupling)
    assert set(run.plan.keep) == {"c"}
    assert set(reasons(run)) == {"a", "b"}
    expected = "GroupNorm 'norm' at"
    assert all(expected in reason and "needs all of them" in reason for reason in reasons(run).values())


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_a_gate_made_of_a_stream_closes_for_its_dead_channels(coupling: str) -> None:
    """sigmoid(0 + 1) is not 0, but it is multiplied with 0."""
    torch.manual_seed(0)
    net = NeedsAll("product").eval()
    small, run = pruned(net, coupling=coupling)
    assert set(run.plan.keep) == {"a", "b", "c"}
    assert reasons(run) == {}
    zeroed = copy.deepcopy(net)
    with torch.no_grad():
        for name, kept in run.plan.keep.items():
            layer = zeroed.get_submodule(name)
            gone = [channel for channel in range(8) if channel not in kept]
            layer.get_parameter("weight")[gone] = 0
            layer.get_parameter("bias")[gone] = 0
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(small(x), zeroed(x))


def test_a_skipped_layer_keeps_the_stream_whole() -> None:
    _, run = pruned(NeedsAll("GroupNorm").eval(), skip=["a"])
    assert set(run.plan.keep) == {"b", "c"}, "only together they cannot be cut"


def test_two_factors() -> None:
    torch.manual_seed(0)
    _, run = pruned(Factors().eval(), prune_ratio=0.8)
    assert len(run.plan.keep["a"]) == 2
    assert run.plan.keep["a"] == run.plan.keep["b"], "what one of them lacks is 0 in the product"
    assert reasons(run) == {}


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_what_is_never_read(ratio: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    net = Unread().eval()
    with caplog.at_level("WARNING"):
        small, run = pruned(net, prune_ratio=ratio, layers=["stem", "conv"])
    assert "never reads scale, steps, head.0.weight" in caplog.text.replace("\n", " ")
    dense, counted = cost.count(net, EXAMPLE), cost.count(small, EXAMPLE)
    assert run.graph.params(run.plan) == counted.params
    if ratio == 0:
        assert (counted.params, counted.macs) == (dense.params, dense.macs)
    assert {"scale", "steps", "head.0.weight", "unused.weight"} <= set(small.state_dict())
    assert not {"cache", "mean"} & set(small.state_dict())
    target = f"{__name__}.Unread"
    package.save(tmp_path, small, model_config={"_target_": target}, example_shape=EXAMPLE.shape, plan=run.plan)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(package.load(tmp_path, trust=True)(x), small(x))


def test_large_activations_are_no_defect() -> None:
    """Their rounding is far above any fixed limit."""
    small, run = pruned(large_activations().eval())
    assert run.difference is not None
    assert float(small(torch.randn(1, 3, 8, 8)).detach().abs().max()) > 1e8


def test_a_wrong_cut_is_found_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.run import bare
    from prunebench.surgery.shrink import shrink

    def wrong(net: nn.Module, *rest: Any) -> nn.Module:
        small = shrink(net, *rest)
        with torch.no_grad():
            next(small.parameters()).mul_(1 + 1e-4)
        return small

    monkeypatch.setattr(bare, "shrink", wrong)
    net = large_activations().eval()
    method = FilterPruning(criterion=FilterNorm(order=1), prune_ratio=0.5)
    with pytest.raises(AssertionError, match="should be equal differ by"):
        method.check(net, bare_run(net, EXAMPLE))
