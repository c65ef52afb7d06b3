"""Closed layers of people's nets, replaced as the net is built."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prunebench import budget
from prunebench.layers.head_attention import HeadAttention
from prunebench.layers.transposed_linear import TransposedLinear
from prunebench.nets.checkpoints import load_foreign
from prunebench.nets.dense_net import make_net
from prunebench.nets.opened import opened, own_state, written_state
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero

PACKAGE = types.ModuleType("transformers.pytorch_utils")


class Conv1D(nn.Module):
    """As the one of transformers, whose name it has: ``weight`` is ``[in, out]``."""

    __module__ = PACKAGE.__name__

    def __init__(self, width: int, num_in: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(num_in, width) / 4), nn.Parameter(torch.randn(width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], len(self.bias))


class Tokens(nn.Module):
    """A vision transformer of torch's layers, with a feed-forward part as GPT-2 has it."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patch = nn.Conv2d(3, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
        self.up, self.down, self.out = Conv1D(16, 16), Conv1D(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2)
        x = self.encoder(x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1))
        x = x + self.down(torch.relu(self.up(x)))
        found: Tensor = self.out(x.mean(1 if self.batch_first else 0))
        return found


@pytest.fixture(params=[True, False], ids=["batch first", "tokens first"])
def net(request: pytest.FixtureRequest) -> Tokens:
    torch.manual_seed(0)
    found = Tokens(batch_first=request.param).eval()
    for parameter in found.parameters():
        if parameter.dim() < 2:
            nn.init.normal_(parameter, std=0.3)
    return found


def test_it_computes_the_same_and_every_layer_is_known(net: Tokens) -> None:
    x = torch.randn(3, 3, 16, 16)
    expected = net(x)
    new = opened(copy.deepcopy(net))
    torch.testing.assert_close(new(x), expected)
    kinds = [type(module) for module in new.modules()]
    assert nn.MultiheadAttention not in kinds and Conv1D not in kinds
    assert kinds.count(HeadAttention) == kinds.count(TransposedLinear) == 2
    graph = ChannelGraph.trace(new, x)
    assert not graph.unfollowed
    assert len(graph.layers) == 1 + 2 * (4 + 2) + 2 + 1


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_whole_heads_go(net: Tokens, coupling: str) -> None:
    x, new = torch.randn(3, 3, 16, 16), opened(net)
    graph = ChannelGraph.trace(new, x)
    scores = {name: torch.rand(layer.out_channels) for name, layer in graph.layers.items() if name != "out"}
    plan = budget.choose(scores, graph, prune_ratio=0.5, coupling=coupling).plan
    for block in range(2):
        kept = [plan.keep[f"encoder.layers.{block}.self_attn.{name}_proj"] for name in "qkv"]
        assert kept[0] == kept[1] == kept[2] and len(kept[0]) == 8
        assert {channel // 4 for channel in kept[0]} == {kept[0][0] // 4, kept[0][-1] // 4}, "two heads of four"
    small, zeroed = shrink(new, graph, plan).eval(), zero(new, graph, plan).eval()
    torch.testing.assert_close(small(x), zeroed(x))
    assert small.get_submodule("encoder.layers.0.self_attn.q_proj").out_features == 8
    assert sum(p.numel() for p in small.parameters()) == graph.params(plan) < 0.8 * graph.dense_params


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_batches_still_work(net: Tokens) -> None:
    tokens = torch.randn(3, 6, 16)
    padding = torch.tensor([[0] * 6, [0] * 4 + [1] * 2, [0] * 5 + [1]]).bool()
    inputs = tokens if net.batch_first else tokens.transpose(0, 1)
    with torch.no_grad():  # torch takes another way for such batches then, and fills with zeros
        expected = net.encoder(inputs, src_key_padding_mask=padding)
        found = opened(copy.deepcopy(net)).get_submodule("encoder")(inputs, src_key_padding_mask=padding)
    known = ~padding if net.batch_first else ~padding.T
    torch.testing.assert_close(found[known], expected[known])


def test_weights_of_the_net_as_it_was_written(net: Tokens, tmp_path: Path) -> None:
    x, source = torch.randn(2, 3, 16, 16), copy.deepcopy(net)
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.2)
    new = opened(net)
    assert written_state(new).keys() == source.state_dict().keys()
    save_file(
        {f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "theirs.safetensors"
    )
    save_file(opened(copy.deepcopy(source)).state_dict(), tmp_path / "ours.safetensors")
    for name in ("theirs", "ours"):
        for parameter in new.parameters():
            nn.init.zeros_(parameter)
        load_foreign(new, str(tmp_path / f"{name}.safetensors"), sha256=None, cache=tmp_path)
        torch.testing.assert_close(new(x), source(x))
    torch.testing.assert_close(own_state(new, source.state_dict()), dict(new.state_dict()), rtol=0, atol=0)


def test_a_net_is_opened_as_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("a_persons_net")
    module.Tokens = Tokens  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_persons_net", module)
    torch.manual_seed(3)
    built = make_net({"_target_": "a_persons_net.Tokens"})
    torch.manual_seed(3)
    torch.testing.assert_close(dict(built.state_dict()), dict(opened(Tokens()).state_dict()), rtol=0, atol=0)
    assert isinstance(built.get_submodule("up"), TransposedLinear)


def test_a_layer_in_two_places_stays_one() -> None:
    shared = nn.MultiheadAttention(8, 2)
    new = opened(nn.ModuleDict({"a": shared, "b": nn.ModuleDict({"c": shared})}))
    assert new["a"] is new["b"]["c"]
    alone = opened(nn.MultiheadAttention(8, 2))
    assert isinstance(alone, HeadAttention)
