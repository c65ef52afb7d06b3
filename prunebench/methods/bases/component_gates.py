"""Gates on the components of a net's layers: what the methods that train such gates share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among
from prunebench.core.context import Extracted, Run
from prunebench.core.method import match_layers
from prunebench.core.param_groups import apart, split_decay
from prunebench.errors import UserError
from prunebench.layers.components import Components
from prunebench.layers.convert import FactorInit, FactorRank, by_input, candidates, factorise, gated_layers
from prunebench.layers.gated import Gate, Gated
from prunebench.surgery.replace import replace

Plain = Annotated[str, Among(("factorise", "inputs"))]
TOLERANCE = 0.02
"""How far, as a share of the prunable parameters, training may miss the target (train_enwik8.py:345-348)."""


def choose_layers(net: nn.Module, example: Tensor, *, layers: Iterable[str], skip: Iterable[str] | None) -> list[str]:
    """Paths of the layers to gate.

    Args:
        net: the dense net.
        example: one input.
        layers: names and globs.
        skip: the same, of layers that are left alone; None = those that compute the net's output.

    Raises:
        UserError: a pattern matches nothing, or no layer is left.
    """
    found = candidates(net)
    named = match_layers(layers, found, what="method.layers")
    left = output_layers(net, example, found) if skip is None else match_layers(skip, found, what="method.skip")
    chosen = [name for name in named if name not in left]
    if not chosen:
        raise UserError(
            f"method.layers={list(layers)} without method.skip={left} leaves no layer to prune; "
            f"the net's linear layers and convolutions are {', '.join(found)}"
        )
    return chosen


@torch.no_grad()
def output_layers(net: nn.Module, example: Tensor, names: Collection[str]) -> list[str]:
    """Those of the layers ``names`` whose output is the net's, at most reshaped."""
    net = copy.deepcopy(net).eval()
    made: dict[str, list[Tensor]] = {}
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: made.setdefault(name, []).append(output)
        )
    with torch.random.fork_rng([]):
        leaves = [leaf for leaf in tree_leaves(net(example)) if isinstance(leaf, Tensor)]
    final = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    return [name for name in names if any(t.untyped_storage().data_ptr() in final for t in made.get(name, ()))]


@validated
def install(
    net: nn.Module,
    names: Sequence[str],
    *,
    plain: Plain,
    rank: FactorRank,
    init: FactorInit,
    make_gate: Callable[[Components], Gate] | None,
) -> nn.Module:
    """A copy of ``net`` whose layers ``names`` are components with gates; a net that has gates already is returned.

    Args:
        plain: what becomes of a layer that is no factored pair: "factorise" it, or gate its "inputs" (linear layers).
        rank, init: of new factors, see :func:`prunebench.layers.convert.factorise`.
        make_gate: None = factorise only, and leave layers that would be gated by input as they are.

    Raises:
        UserError: an option outside its values.
    """
    if any(True for _ in gated_layers(net)):
        return net

    def swap(path: str, module: nn.Module) -> nn.Module | None:
        if path not in names:
            return None
        if plain == "inputs" and isinstance(module, nn.Linear):
            components: Components | None = by_input(module) if make_gate else None
        elif make_gate is None and isinstance(module, Components):
            return None
        else:
            components = factorise(module, rank=rank, init=init)
        return Gated(components, make_gate(components)) if make_gate and components else components

    if make_gate is None and all(swap(path, net.get_submodule(path)) is None for path in names):
        return net
    return replace(net, swap)


def sparsity(net: nn.Module) -> float:
    """Share of the parameters under gates that evaluation does without; 0 without gates."""
    layers = [layer for _, layer in gated_layers(net)]
    total = sum(layer.num_params for layer in layers)
    return 1 - sum(layer.num_kept_params() for layer in layers) / total if total else 0.0


def extract(net: nn.Module, run: Run, *, target: float, merge: bool) -> Extracted:
    """The net without gates, and without the components that they have closed.

    Args:
        target: sparsity that was asked for.
        merge: see :meth:`prunebench.layers.components.Components.keep`.
    """
    layers = dict(gated_layers(net))
    if not layers:
        return Extracted(net=net)
    compact = replace(net, lambda _, module: module.extract(merge=merge) if isinstance(module, Gated) else None)
    whole = [name for name, layer in layers.items() if layer.num_kept_params() == layer.num_params]
    achieved = {
        "target": target,
        "reached": sparsity(net),
        "tolerance": TOLERANCE,
        "unit": "share of the parameters under gates that is removed",
        "gated_params": sum(layer.num_params for layer in layers.values()),
        "kept_params": sum(layer.num_kept_params() for layer in layers.values()),
        "kept_components": {
            name: [int(torch.count_nonzero(layer.scales())), layer.gate.size] for name, layer in layers.items()
        },
    }
    return Extracted(
        net=compact,
        not_pruned=[{"layer": name, "reason": "all its gates are open"} for name in whole],
        achieved=achieved,
        max_abs_diff=run.max_abs_diff(net, compact),
    )


def param_groups(net: nn.Module, phase: Phase, *, gate_lr: float | None) -> list[dict[str, Any]]:
    """Optimiser groups: weights as the phase wants them, and the gates without weight decay and clipping.

    Args:
        gate_lr: peak learning rate of the gates; None = the phase's.
    """
    gates = [p for _, layer in gated_layers(net) for p in layer.gate.parameters() if p.requires_grad]
    everything = split_decay([p for p in net.parameters() if p.requires_grad], phase)
    return apart(everything, gates, lr=gate_lr or phase.lr, weight_decay=0.0, clip=False)
