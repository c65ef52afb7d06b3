"""From particles whose gates were learnt to nets without gates: narrow ones, or ones with zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from prunebench.budget.by_inclusion import choose_by_inclusion, likely
from prunebench.core.context import Extracted, Run
from prunebench.layers.net_ensemble import NetEnsemble
from prunebench.measure.batch_norm import refreshed
from prunebench.methods.bases.weight_masks import WeightMasks
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

NUM_REFRESH = 10_000
"""Training samples, at most, that batch norms see after the cut."""
Inclusion = Mapping[str, Tensor]
"""Layer -> probability of each of its groups."""


def narrow_particles(
    nets: Sequence[nn.Module], inclusions: Sequence[Inclusion], run: Run, *, target_macs: float | None
) -> Extracted:
    """The nets without the channels that are not of use, as one ensemble.

    Args:
        nets: without gates, in the dense net's shapes.
        inclusions: one for all nets, or one for each; the plan is then what any of them keeps.
    """
    choices = [choose_by_inclusion(found, run.graph, target_macs=target_macs) for found in inclusions]
    together = run.choose(lambda: replace(choices[0], plan=_union([choice.plan for choice in choices], run.graph)))
    own_plans = len(inclusions) > 1
    if not own_plans:
        choices = [together] * len(nets)
    cuts = [run.cut(net, choice) for net, choice in zip(nets, choices, strict=True)]
    widths = [
        {name: len(choice.plan.keep.get(name, probabilities)) for name, probabilities in found.items()}
        for choice, found in zip(choices, inclusions, strict=False)
    ]
    differences = [cut.max_abs_diff for cut in cuts if cut.max_abs_diff is not None]
    plans = [choice.plan.to_json() for choice in choices] if own_plans else None
    return Extracted(
        net=joined([_with_statistics(cut.net, run) for cut in cuts], plans),
        plan=together.plan,
        not_pruned=together.not_pruned,
        achieved={**_mean_achieved([cut.achieved for cut in cuts]), "kept_per_layer": widths},
        max_abs_diff=max(differences, default=None),
    )


def mask_particles(nets: Sequence[nn.Module], inclusions: Sequence[Inclusion]) -> tuple[Extracted, list[WeightMasks]]:
    """The nets with zeros in the place of weights that are not of use, as one ensemble, and the masks of each."""
    found = list(inclusions) * (len(nets) // len(inclusions))
    every: list[WeightMasks] = []
    for net, probabilities in zip(nets, found, strict=True):
        masks = WeightMasks()
        masks.names = list(probabilities)
        masks.load([likely(probability) for probability in probabilities.values()])
        masks.zero(net)
        every.append(masks)
    kept = sum(masks.num_live for masks in every) / sum(masks.num_weights for masks in every)
    shares = [masks.shares(net) for masks, net in zip(every, nets, strict=True)][: len(inclusions)]
    return Extracted(net=joined(nets), achieved={"weights_kept": kept, "kept_per_layer": shares}), every


def joined(nets: Sequence[nn.Module], plans: Sequence[str] | None = None) -> nn.Module:
    """The ensemble of several nets, or the one net itself."""
    return NetEnsemble(nets, plans=plans) if len(nets) > 1 else nets[0]


def _with_statistics(net: nn.Module, run: Run) -> nn.Module:
    """``net`` with norm statistics of training samples, on the CPU."""
    run.data.to(run.device)
    batches = run.samples("batch_norms", min(NUM_REFRESH, run.data.num_train))
    return refreshed(net.to(run.device), batches, seed=run.seed).cpu()


def _union(plans: Sequence[Plan], graph: ChannelGraph) -> Plan:
    """The channels that any of the plans keeps, of layers that lose some in all of them."""
    cut: dict[str, tuple[int, ...]] = {}
    for name, layer in graph.layers.items():
        if all(name in plan.keep for plan in plans):
            kept = set().union(*(plan.keep[name] for plan in plans))
            if len(kept) < layer.out_channels:
                cut[name] = tuple(sorted(kept))
    return Plan(cut)


def _mean_achieved(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first one's facts, with the means of those that differ."""
    found = dict(parts[0])
    for name in ("channels_kept", "macs_kept", "params_kept", "reached"):
        values = [part[name] for part in parts if part.get(name) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found
