"""Where particles begin: copies of a trained net with noise, or nets from other random weights, each with gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from prunebench.config.phase import Phase
from prunebench.core.context import Run
from prunebench.methods.bases.gated_groups import GatedGroups
from prunebench.methods.bases.gated_units import with_input_gates, with_weight_gates
from prunebench.methods.bases.hardened_particles import joined
from prunebench.methods.bases.stein_particles import scatter_gates, scattered


def further_nets(run: Run, number: int) -> list[nn.Module]:
    """So many nets from other random weights, trained as the first one."""
    phase = next(phase for phase in run.phases if phase.pretrain)
    # active, so that runs do not take them for the dense net that they share
    phases = [replace(phase, name=f"{phase.name}_{k}", active=True) for k in range(1, number + 1)]
    return [run.fit(run.dense.fresh(f"particle {k}"), own) for k, own in enumerate(phases, 1)]


def particle_phase(phase: Phase, name: str, *, epochs: int, lr: float) -> Phase:
    """The phase in which particles move, at a constant rate, before what ``phase`` cuts."""
    return replace(
        phase,
        name=name,
        prune=False,
        active=True,
        epochs=epochs,
        lr=lr,
        lr_schedule="constant",
        warmup_epochs=0.0,
    )


def first_particles(
    vanilla: Sequence[nn.Module],
    groups: GatedGroups,
    draws: torch.Generator,
    *,
    rows: int,
    temperature: float,
    copies: int | None,
    stds: Mapping[str, float],
    gate_std: float,
) -> nn.Module:
    """The particles in one module.

    Args:
        vanilla: trained nets.
        groups: those of weights that have gates.
        draws: of all noise.
        rows: gates of one net, each of which is a particle.
        temperature: of the gates.
        copies: so many copies with noise of the first net are the particles; None: the nets as they are.
        stds: of the noise, by parameter. ``gate_std``: of the gates' scores.
    """
    nets = [
        with_weight_gates(net, list(groups.paths), rows=rows, temperature=temperature)
        if groups.places is None
        else with_input_gates(net, groups.places, rows=rows, temperature=temperature)
        for net in vanilla
    ]
    if copies is not None:
        nets = [scattered(nets[0], stds, draws) for _ in range(copies)]
    for particle in nets:
        scatter_gates(particle, gate_std, draws)
    return joined(nets)
