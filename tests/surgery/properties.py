"""What must hold for any net and any plan."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn

from prunebench import budget
from prunebench.budget import Choice
from prunebench.errors import UserError
from prunebench.layers import wide
from prunebench.measure import cost
from prunebench.nets.weights import read_into, to_bytes
from prunebench.surgery.equality import difference, same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.names import SPLITS, name_of
from prunebench.surgery.plan import Plan
from prunebench.surgery.resize import slices, taken
from prunebench.surgery.shrink import shrink
from prunebench.surgery.steps import Piece, Split, Subtract, Through
from prunebench.surgery.zero import restore, zero
from tests.surgery.random_nets import SIZE, random_net
from tests.surgery.random_token_nets import TOKENS, random_token_net

EXACT = 1e-8  # in float64, relative


def check(seed: int, folder: Path) -> bool:
    """Draw a net and plans from ``seed`` and try them; False if the net was refused by line."""
    net, x = random_net(seed), torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return check_net(net, x, seed, folder)


def check_tokens(seed: int, folder: Path) -> bool:
    """The same with a token net, whose layers can all be followed."""
    net, x = random_token_net(seed), torch.randn(4, TOKENS, 3, generator=torch.Generator().manual_seed(seed))
    assert not ChannelGraph.trace(net, x).unfollowed
    return check_net(net, x, seed, folder)


def check_net(net: nn.Module, x: Tensor, seed: int, folder: Path) -> bool:
    """Try plans drawn from ``seed``; False if the net was refused by line."""
    try:
        graph = ChannelGraph.trace(net, x)
    except UserError as error:
        if "in-place operation" in str(error) and "random_nets.py:" in str(error):
            return False
        raise
    _check_followed(net, x, graph)
    rng, stranger = random.Random(seed), _other_weights(net)
    strange_graph = ChannelGraph.trace(stranger, x[:1])
    dense = cost.count(net, x)
    assert (dense.macs, dense.params) == (graph.dense_macs, graph.dense_params)
    same(net, zero(net, graph, Plan()), x, _run)
    for plan in (Plan(), draw(graph, rng, "free").plan, draw(graph, rng, "aligned").plan):
        _check_plan(net, graph, plan, x)
        _check_loading(net, graph, shrink(stranger, strange_graph, plan), plan, x, folder)
    return True


def _check_followed(net: nn.Module, x: Tensor, graph: ChannelGraph) -> None:
    """Differences of two tensors and pieces along the channels are no operations that need all channels."""
    for step, node in zip(graph.steps, graph.nodes, strict=True):
        values = graph.traced.values
        read = [other for other in node.all_input_nodes if isinstance(values[other], Tensor | tuple | list)]
        known = bool(read) and all(graph.steps[graph.nodes.index(other)].axis is not None for other in read)
        if not known or _is_size(values[node]):
            continue
        if name_of(node) in (*SPLITS, "getitem"):  # a piece of the image has all channels, one of a border has none
            assert isinstance(step, Split | Piece | Through) or _has_empty_piece(net, x, graph, node), node
        elif name_of(node) == "sub" and len(read) == 2:
            assert isinstance(step, Subtract | Through), node  # x - tanh(x) is a function of x


def _is_size(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(part, int) for part in parts)


def _has_empty_piece(net: nn.Module, x: Tensor, graph: ChannelGraph, node: fx.Node) -> bool:
    """Whether a piece is zero in the dense net already, as one of a padded border is."""
    interpreter = fx.Interpreter(fx.GraphModule(copy.deepcopy(net), graph.traced.graph), garbage_collect_values=False)
    interpreter.run(x.clone())
    value = interpreter.env[node]
    return any(not piece.any() for piece in (value if isinstance(value, tuple | list) else (value,)))


def draw(graph: ChannelGraph, rng: random.Random, coupling: str) -> Choice:
    """A choice on random scores, in which every layer that was asked is cut, or listed with a reason."""
    draws = torch.Generator().manual_seed(rng.randrange(2**31))
    asked = [name for name, layer in graph.layers.items() if not layer.is_output]
    scores = {name: torch.rand(graph.layers[name].out_channels, generator=draws) for name in asked}
    ratio, scope = rng.choice((0.3, 0.5, 0.8)), rng.choice(("layer", "global"))
    try:
        choice = budget.choose(scores, graph, prune_ratio=ratio, coupling=coupling, scope=scope)
    except UserError as refusal:  # not one layer of the net can lose channels, and one of the reasons is said
        if not str(refusal).startswith("nothing to prune: "):
            raise
        return Choice(Plan(), [], {})
    listed = {entry["layer"]: entry["reason"] for entry in choice.not_pruned}
    assert all(listed.values())
    assert {*choice.plan.keep, *listed} >= set(asked)
    return choice


def _check_plan(net: nn.Module, graph: ChannelGraph, plan: Plan, x: Tensor) -> None:
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    same(zeroed, small, x, _run)
    same(zeroed, copy.deepcopy(small), x, _run_wide)
    counted = cost.count(small, x)
    assert (graph.macs(plan), graph.params(plan)) == (counted.macs, counted.params)
    assert set(small.state_dict()) <= set(net.state_dict())
    assert all(name in small.state_dict() for name in graph.unread)
    same(small, restore(net, graph, plan, small), x, _run)
    same(small, copy.deepcopy(small), x, _run)
    precise = copy.deepcopy(net).double()  # a constant that goes into a bias is rounded to the bias's type
    pair = zero(precise, graph, plan), shrink(precise, graph, plan)
    _check_training(*pair, x)
    _check_gradients(*pair, graph, plan, x)


def _run(net: nn.Module, x: Tensor) -> Tensor:
    return net(x.clone())


def _run_wide(net: nn.Module, x: Tensor) -> Tensor:
    """In the form that graph runtimes and other devices get."""
    with mock.patch.object(wide, "_takes_narrow", return_value=False):
        return net(x.clone())


def _other_weights(net: nn.Module) -> nn.Module:
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    return other


def _check_loading(net: nn.Module, graph: ChannelGraph, loaded: nn.Module, plan: Plan, x: Tensor, folder: Path) -> None:
    """A net of other weights, cut by the same plan (``loaded``), takes the stored tensors."""
    small = shrink(net, graph, plan)
    (folder / "weights").write_bytes(to_bytes(small))
    read_into(loaded, folder / "weights")
    with torch.no_grad():
        assert difference(_run(small, x), _run(loaded, x)).largest == 0.0


def _check_training(zeroed: nn.Module, small: nn.Module, x: Tensor) -> None:
    """Batch statistics included; where dropout draws, the nets cannot be compared."""
    one, other = (copy.deepcopy(net).double().train() for net in (zeroed, small))
    if _draws(one, x.double()):
        return
    with torch.no_grad():
        assert difference(_run(one, x.double()), _run(other, x.double())).within(EXACT)
        assert difference(_run(one.eval(), x.double()), _run(other.eval(), x.double())).within(EXACT)


def _draws(net: nn.Module, x: Tensor) -> bool:
    before = torch.get_rng_state()
    with torch.no_grad():
        _run(copy.deepcopy(net), x)
    return not torch.equal(before, torch.get_rng_state())


def _check_gradients(zeroed: nn.Module, small: nn.Module, graph: ChannelGraph, plan: Plan, x: Tensor) -> None:
    """Those of the live weights."""
    one, other = (copy.deepcopy(net).double() for net in (zeroed, small))
    try:
        _run(one, x.double()).square().sum().backward()
    except RuntimeError as error:
        if any(f"modified {how}" in str(error) for how in ("by an inplace operation", "inplace")):
            return  # the dense net cannot be trained
        raise
    _run(other, x.double()).square().sum().backward()
    for part in slices(graph, plan):
        if not part.rows:
            continue
        wide, narrow = (net.get_submodule(part.step.module) for net in (one, other))
        found = dict(narrow.named_parameters(recurse=False))
        for name, parameter in wide.named_parameters(recurse=False):
            expected, got = parameter.grad, found[name].grad
            if expected is None or got is None:
                assert expected is None or not expected.any()
                assert got is None or not got.any()
                continue
            expected = taken(expected, part.kept(name, expected)) if expected.dim() else expected
            assert difference(expected, got).within(EXACT) or difference(expected, got).largest < 1e-12
