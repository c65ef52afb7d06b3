"""Attention by hand and feed-forward halves on tokens: zeroed equals shrunk, whole heads go, counts are the net's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.errors import UserError
from prunebench.layers.attention import Attention
from prunebench.measure import cost
from prunebench.nets.weights import read_into, to_bytes
from prunebench.surgery.equality import same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import draw_plan, images, largest_difference
from tests.surgery.token_nets import HEADS, NETS, WIDTH, Fused, ViT, build, inputs


def carried_out(net: nn.Module, graph: ChannelGraph, plan: Plan, x: Tensor) -> nn.Module:
    """The small net, compared with the zeroed one, with the counts, and with itself written back."""
    small = shrink(net, graph, plan)
    same(zero(net, graph, plan), small, x, lambda net, x: net(x))
    same(restore(net, graph, plan, small), small, x, lambda net, x: net(x))
    counted = cost.count(small, x)
    assert (graph.macs(plan), graph.params(plan)) == (counted.macs, counted.params)
    return small


def draws(graph: ChannelGraph, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.rand(layer.out_channels) for name, layer in graph.layers.items() if not layer.is_output}


@pytest.mark.parametrize("name", NETS)
def test_zeroed_equals_shrunk(name: str, tmp_path: Path) -> None:
    net, other, x = build(name), build(name, seed=1), inputs(name)
    graph, strange = ChannelGraph.trace(net, x), ChannelGraph.trace(other, x)
    dense = cost.count(net, x)
    assert (graph.dense_macs, graph.dense_params) == (dense.macs, dense.params)
    carried_out(net, graph, Plan(), x)
    for coupling in ("free", "aligned"):
        for seed, ratio in enumerate((0.3, 0.6)):
            choice = budget.choose(draws(graph, seed), graph, prune_ratio=ratio, coupling=coupling)
            assert all(entry["reason"] for entry in choice.not_pruned)
            small = carried_out(net, graph, choice.plan, x)
            loaded = shrink(other, strange, choice.plan)
            (tmp_path / "weights").write_bytes(to_bytes(small))
            read_into(loaded, tmp_path / "weights")
            assert largest_difference(small, loaded, inputs(name, 2)) == 0.0


HEAD = WIDTH // HEADS  # features of one head


def rows_of(*heads: int) -> tuple[int, ...]:
    """Those of queries, keys and values in one layer."""
    return tuple(part * WIDTH + head * HEAD + i for part in range(3) for head in heads for i in range(HEAD))


def test_a_head_goes_with_its_queries_keys_values_and_its_part_of_the_projection() -> None:
    net, x = build("fused"), images(3)
    graph = ChannelGraph.trace(net, x)
    small = carried_out(net, graph, Plan({"blocks.0.attn.qkv": rows_of(1)}), x)
    assert small.get_submodule("blocks.0.attn.qkv").weight.shape == (3 * HEAD, WIDTH)
    assert small.get_submodule("blocks.0.attn.proj").weight.shape == (WIDTH, HEAD)
    assert small.get_submodule("blocks.1.attn.qkv").weight.shape == (3 * WIDTH, WIDTH)
    tokens = 5
    each = tokens * (3 * HEAD * WIDTH + WIDTH * HEAD) + 2 * tokens * tokens * HEAD
    assert graph.dense_macs - graph.macs(Plan({"blocks.0.attn.qkv": rows_of(1)})) == each
    for size in (1, 7):
        assert largest_difference(small, zero(net, graph, Plan({"blocks.0.attn.qkv": rows_of(1)})), images(size)) < 1e-5


def test_the_head_with_the_lowest_mean_score_goes() -> None:
    graph = ChannelGraph.trace(build("fused"), images(1))
    scores = torch.ones(3 * WIDTH)
    scores[list(rows_of(1))] = 1.5
    scores[rows_of(1)[0]] = 0.0  # the lowest channel alone says nothing
    name = "blocks.0.attn.qkv"
    for ratio, kept in ((0.4, None), (0.5, rows_of(1)), (0.9, rows_of(1))):
        choice = budget.choose({name: scores}, graph, prune_ratio=ratio)
        assert choice.plan.keep.get(name) == kept
    assert budget.choose({name: scores}, graph, prune_ratio=0.5, round_to=3 * HEAD).plan.keep[name] == rows_of(1)
    assert not budget.choose({name: scores}, graph, prune_ratio=0.5, min_channels=3 * HEAD + 1).plan.keep
    goal = graph.macs(Plan({name: rows_of(1)})) / graph.dense_macs
    assert budget.choose({name: scores}, graph, target_macs=goal).plan.keep[name] == rows_of(1)


def test_three_layers_lose_the_same_heads_in_both_couplings() -> None:
    net, x = build("three"), images(3)
    graph = ChannelGraph.trace(net, x)
    names = [f"blocks.0.attn.{part}" for part in ("query", "key", "value")]
    scores = {names[0]: torch.tensor([5.0, 5, 5, 1, 1, 1]), names[2]: torch.tensor([1.0, 1, 1, 4, 4, 4])}
    for coupling in ("free", "aligned"):
        choice = budget.choose(scores, graph, prune_ratio=0.5, coupling=coupling)
        assert choice.plan.keep == dict.fromkeys(names, (0, 1, 2)), "5 + 1 stay, 1 + 4 go; the keys follow"
        carried_out(net, graph, choice.plan, x)
    alone = budget.choose({names[2]: scores[names[2]]}, graph, prune_ratio=0.5, fixed=names[:2])
    assert set(alone.plan.keep) == {names[2]}
    carried_out(net, graph, alone.plan, x)


def test_heads_whose_queries_and_keys_are_turned_go_with_them() -> None:
    net, x = build("rotary"), images(3)
    graph = ChannelGraph.trace(net, x)
    names = [f"blocks.0.attn.{part}" for part in ("query", "key", "value")]
    choice = budget.choose({name: torch.tensor([1.0] * 4 + [2] * 4) for name in names}, graph, prune_ratio=0.5)
    assert choice.plan.keep == dict.fromkeys(names, (4, 5, 6, 7))
    carried_out(net, graph, choice.plan, x)


def test_values_may_go_one_by_one_but_queries_and_keys_not() -> None:
    net, x = build("three"), images(3)
    graph = ChannelGraph.trace(net, x)
    value = "blocks.0.attn.value"
    assert graph.why_not(value) is None
    for kept in ((0, 1, 2), (1, 4), (3,), (0, 1, 2, 3, 4)):
        small = carried_out(net, graph, Plan({value: kept}), x)
        assert small.get_submodule("blocks.0.attn.out").weight.shape[1] == 3 * len({c // 3 for c in kept})
    for name in ("blocks.0.attn.query", "blocks.0.attn.key"):
        assert "'matmul' at" in str(graph.why_not(name))
        carried_out(net, graph, Plan({name: (2, 3), value: (4, 5)}), x)  # the values' head is there
        with pytest.raises(UserError, match="needs all channels of its input"):
            graph.check(Plan({name: (3, 4, 5), value: (0, 4)}))


def test_an_attention_without_heads_is_bypassed() -> None:
    net, x = build("fused"), images(3)
    graph = ChannelGraph.trace(net, x)
    small = carried_out(net, graph, Plan({"blocks.0.attn.qkv": ()}), x)
    assert "blocks.0.attn.proj" not in dict(small.named_modules())


@pytest.mark.parametrize("name", ["fused", "chunked", "einsum", "rotary", "time first", "torch's own"])
def test_any_plan_that_is_not_refused_is_exact(name: str) -> None:
    net, x, rng = build(name), inputs(name), random.Random(0)
    graph = ChannelGraph.trace(net, x)
    for _ in range(4):
        plan = draw_plan(graph, rng, share=0.5)
        whole = graph.must_stay(plan.keep)
        carried_out(net, graph, Plan({layer: kept for layer, kept in plan.keep.items() if layer not in whole}), x)


def test_dropout_of_attention_follows_the_mode() -> None:
    net, x = build("chunked"), images(3)
    graph = ChannelGraph.trace(net, x)
    small = shrink(net, graph, Plan({"blocks.0.attn.qkv": rows_of(0)}))
    attention = next(module for module in small.modules() if isinstance(module, Attention))
    query = torch.randn(1, 1, 50, 2)
    assert torch.equal(attention(query, query, query), attention(query, query, query))
    attention.train()
    assert not torch.equal(attention(query, query, query), attention(query, query, query))
    weights = attention(torch.zeros(1, 1, 500, 1), torch.zeros(1, 1, 500, 1), torch.ones(1, 1, 500, 1))
    assert weights.mean().item() == pytest.approx(1.0, abs=0.02), "what is left makes up for what is dropped"
    assert weights.std() > 0


def test_factors_of_a_gated_layer_lose_the_same_channels() -> None:
    net, x = build("unbound"), images(3)
    graph = ChannelGraph.trace(net, x)
    gate, up = "blocks.1.mlp.gate", "blocks.1.mlp.up"
    scores = {gate: torch.arange(10.0), up: torch.tensor([9.0, 1, 1, 1, 1, 1, 1, 1, 1, 1])}
    choice = budget.choose(scores, graph, prune_ratio=0.3)
    assert choice.plan.keep == dict.fromkeys((gate, up), (0, 4, 5, 6, 7, 8, 9)), "9, 2, 3, 4, 5, ... are the sums"
    small = carried_out(net, graph, choice.plan, x)
    assert not [node for node in small.graph.nodes if "gather" in str(node.target)]


def test_layers_that_lose_channels_together_have_one_ratio() -> None:
    graph = ChannelGraph.trace(build("unbound"), images(1))
    scores = {f"blocks.0.mlp.{name}": torch.rand(10) for name in ("gate", "up")}
    with pytest.raises(UserError, match=r"different ratios: blocks.0.mlp.gate: 0.5, blocks.0.mlp.up: 0.2; give"):
        budget.choose(scores, graph, prune_ratio={"*.gate": 0.5, "*.up": 0.2})


def test_what_stands_in_the_way_is_named_by_the_line_of_the_net() -> None:
    graph = ChannelGraph.trace(build("torch's own"), images(1))
    assert "LayerNorm 'encoder.layers.0.norm1' at tests/surgery/token_nets.py:" in str(graph.why_not("patches"))
    assert graph.unfollowed["encoder.layers.0.self_attn.out_proj"].startswith("it is inside encoder.layers.0.self_attn")


class Reused(Fused):
    """The weights are read by something else than the values."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, c)) * weights.mean((1, 2)).sum(-1)[:, None, None]


def test_heads_that_others_need_stay() -> None:
    torch.manual_seed(0)
    net, x = ViT(Reused).eval(), images(3)
    graph = ChannelGraph.trace(net, x)
    assert str(graph.why_not("blocks.0.attn.qkv")).startswith("its channels reach 'mean' at")
    choice = budget.choose(draws(graph, 0), graph, prune_ratio=0.5)
    assert not {"blocks.0.attn.qkv", "blocks.1.attn.qkv"} & set(choice.plan.keep)
    carried_out(net, graph, choice.plan, x)


class TalkingHeads(Fused):
    """The heads are mixed between scores and softmax: a head that goes is read no more."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(HEADS, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = self.mix((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, t, c))


def test_mixed_heads_are_read_where_they_are_left() -> None:
    torch.manual_seed(0)
    net, x = ViT(TalkingHeads).eval(), images(3)
    graph = ChannelGraph.trace(net, x)
    small = carried_out(net, graph, Plan({"blocks.0.attn.qkv": rows_of(1)}), x)
    assert small.get_submodule("blocks.0.attn.mix").weight.shape == (HEADS, 1)
