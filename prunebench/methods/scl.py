"""Sparse connectivity learning: each connection has a mask variable behind a unit step, trained with the weights."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart
from prunebench.errors import UserError
from prunebench.layers.connections import Connected, Granularity, Proxy, connected, disconnected
from prunebench.measure import cost
from prunebench.methods.bases.dead_channels import without_dead_channels
from prunebench.surgery.replace import replace

log = logging.getLogger("prunebench")
TOLERANCE = 0.02
"""How far, as a share of the connections, the adapted penalty may miss ``target_keep``."""


@validated
class Scl(Method):
    """Tang et al. 2023 (arXiv 2201.05020), known here from its abstract alone: w = v H(m), H(m) = 1 for m >= 0, else 0.

    Minimised over values v and mask variables m is task loss + penalty x number of connections. With G the gradient of
    w: v gets G where its connection is on; m gets G v times a proxy of the step's derivative, on or off, so that
    connections may come back; the penalty pulls each m down by a constant. The task's part of m's gradient is brought
    to RMS 1 in each feature (a row: one output unit or filter) before the penalty is added, so that one coefficient
    suits all layers; so the penalty is no term of the loss. m moves by plain SGD, without momentum and decay.

    From the abstract are the parameterisation, the identity as proxy, the normalisation by features, the count of
    connections as penalty. Chosen here, since only the abstract could be read: H(0) = 1, a feature is a row, the rate
    of m, its start, when masks are frozen, the floor of ``min_connections``.

    The masks learn in the first ``mask_share`` of the steps and are frozen after that. The rate is ``budget x initial
    / (penalty x steps)``: a connection that the task never pulls at dies after ``1 / budget`` of the mask steps. Below
    a budget of 1 none of them can.

    At the end dead connections become zeros, and channels that do nothing any more are removed: those that nobody
    reads, and constant ones, whose value moves into the biases behind them. What is left has zeros and costs as many
    MACs as a dense net of its shapes; ``sparse_macs`` counts the others.

    Args:
        penalty: lambda of a connection, in RMS of the gradient; the larger, the fewer stay.
        mask: what has a mask variable: a "weight", an output "filter", an input "channel" (the last two are removed).
        ste: proxy of the step's derivative: "identity" (1), "softplus" (sigmoid of m), "leaky_relu" (1 or 0.01).
        grad_norm: "feature", "layer", or "none". A row of one entry (filters) is no feature: there it is the layer.
        initial: m at the start, the same for all.
        budget: how often the penalty alone could take m from its start to 0.
        mask_lr: rate of m instead; null = from ``budget``.
        mask_share: share of the steps in which masks learn, in (0, 1].
        decay_masked: weight decay shrinks values that are off, too; False = they wait as they are.
        min_connections: the largest so many masks of a layer stay on.
        target_keep: share of the connections that shall stay: once an epoch of mask training the penalty is multiplied
            by exp((kept - target) / (2 target)); null = the penalty stays, the paper's automatic sparsity.
        layers: names and globs of convolutions and linear layers.
        skip: the same, of layers that are left alone.

    Raises:
        UserError: an option outside its values, or two that do not go together.
    """

    schedules = frozenset({"simultaneous"})
    objective = "regularised_heuristic"
    sizes_given = False
    penalty: Tensor

    def __init__(
        self,
        *,
        penalty: NonNegativeFloat,
        mask: Granularity = "weight",
        ste: Proxy = "identity",
        grad_norm: Annotated[str, Among(("feature", "layer", "none"))] = "feature",
        initial: PositiveFloat = 1.0,
        budget: PositiveFloat = 3.0,
        mask_lr: PositiveFloat | None = None,
        mask_share: PositiveFraction = 0.75,
        decay_masked: bool = True,
        min_connections: NonNegativeInt = 1,
        target_keep: OpenFraction | None = None,
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not penalty and (mask_lr is None or target_keep is not None):
            raise UserError("method.penalty=0 gives the masks no rate and cannot grow; raise it, or set method.mask_lr")
        self.granularity, self.ste, self.grad_norm = mask, ste, grad_norm
        self.initial, self.budget, self.mask_lr, self.mask_share = initial, budget, mask_lr, mask_share
        self.decay_masked, self.min_connections, self.target_keep = decay_masked, min_connections, target_keep
        self.layers, self.skip = layers, skip
        self.names: list[str] = []
        self.first_penalty = float(penalty)
        self.register_buffer("penalty", torch.tensor(self.first_penalty))  # moves with target_keep
        self._rate = 0.0  # of the masks in the phase in progress
        self._settled = False
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # values that are off during one step

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        self._choose(net, run)
        log.info("layers with masks: %s", ", ".join(self.names))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self._choose(net, run)
        first = run.clock()
        steps = num_mask_steps(first, self.mask_share)
        self._rate = self.mask_lr or self.budget * self.initial / (self.first_penalty * steps)
        drift = self._rate * self.first_penalty * steps / self.initial
        log.info("masks learn for %d steps at the rate %.3g; drift budget %.3g", steps, self._rate, drift)
        if drift < 1:
            log.warning("warning: the penalty alone takes no mask to 0: its drift budget is %.3g, below 1", drift)
        if connected_layers(net):
            return net
        options = {"granularity": self.granularity, "initial": self.initial, "proxy": self.ste}
        return replace(net, lambda path, layer: connected(layer, **options) if path in self.names else None)  # type: ignore[arg-type]

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        masks = [layer.mask for layer in connected_layers(net).values()]
        # Adam would normalise each entry and erase what the penalty means; momentum would postpone it
        plain = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        groups = super().param_groups(net, phase)
        return apart(groups, masks, lr=self._rate, lr_schedule="constant", clip=False, **plain)

    @torch.no_grad()
    def before_step(self, net: nn.Module, clock: Clock) -> None:
        frozen = clock.step >= num_mask_steps(clock, self.mask_share)
        layers = connected_layers(net).values()
        for layer in layers:
            if frozen or layer.mask.grad is None:
                layer.mask.grad = None
            else:
                layer.mask.grad = normalised(layer.mask.grad, self.grad_norm) + self.penalty
        if not self.decay_masked:
            self._waiting = [(layer.weight, layer.live().clone(), layer.weight.detach().clone()) for layer in layers]

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for weight, live, before in self._waiting:
            weight.copy_(torch.where(live, weight, before))
        self._waiting = []
        for layer in connected_layers(net).values():
            keep_largest(layer.mask, self.min_connections)

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        left = num_mask_steps(clock, self.mask_share) - (clock.step + 1)
        self._settled = left <= 0
        if self.target_keep is not None and left > 0:
            kept = share_kept(net)
            self.penalty *= math.exp(0.5 * (kept - self.target_keep) / self.target_keep)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"connections_kept": share_kept(net), "penalty": float(self.penalty)}

    def selectable(self, net: nn.Module) -> bool:
        return self._settled

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        layers = connected_layers(net)
        if not layers:
            return Extracted(net=net)
        kept = {name: float(layer.live().double().mean()) for name, layer in layers.items()}
        log.info("connections kept: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in kept.items()))
        sparse = replace(net, lambda _, layer: disconnected(layer) if isinstance(layer, Connected) else None)
        reason = "all its connections are on"
        achieved: dict[str, Any] = {
            "connections": sum(layer.weight.numel() for layer in layers.values()),
            "connections_kept": sum(int(layer.live().sum()) for layer in layers.values()),
            "kept_per_layer": kept,
            "penalty": float(self.penalty),
        }
        if self.target_keep is not None:
            reached = 1 - achieved["connections_kept"] / achieved["connections"]
            unit = "share of the connections that is off"
            achieved |= {"target": 1 - self.target_keep, "reached": reached, "tolerance": TOLERANCE, "unit": unit}
        whole = [{"layer": name, "reason": reason} for name, share in kept.items() if share == 1.0]
        found = without_dead_channels(sparse, run, whole=whole, achieved=achieved)
        return Extracted(**{**vars(found), "achieved": {**found.achieved, "sparse_macs": sparse_macs(found.net, run)}})

    def _choose(self, net: nn.Module, run: Run) -> None:
        known = [name for name in run.graph.layers if isinstance(net.get_submodule(name), nn.Linear | nn.Conv2d)]
        skipped = match_layers(self.skip, known, what="method.skip")
        self.names = [name for name in match_layers(self.layers, known, what="method.layers") if name not in skipped]
        if not self.names:
            raise UserError(f"method.layers={[*self.layers]} without method.skip={skipped} leaves no layer with masks")


def normalised(gradient: Tensor, grad_norm: str) -> Tensor:
    """The gradient of a layer's masks ``[out, ...]`` with RMS 1, or 0 where it is 0, in each row or in the layer."""
    if grad_norm == "none":
        return gradient
    rows = grad_norm == "feature" and gradient[0].numel() > 1
    dims = tuple(range(1 if rows else 0, gradient.dim()))
    return gradient / (gradient.square().mean(dims, keepdim=True).sqrt() + 1e-12)


@torch.no_grad()
def keep_largest(mask: Tensor, number: int) -> None:
    """Lift the ``number`` largest entries to 0, where they are on, if fewer are."""
    if int((mask >= 0).sum()) < number:
        flat = mask.view(-1) if mask.is_contiguous() else mask.reshape(-1)
        largest = flat.topk(min(number, mask.numel())).indices
        lifted = flat.index_fill(0, largest[flat[largest] < 0], 0.0)
        mask.copy_(lifted.view(mask.shape))


def num_mask_steps(clock: Clock, share: float) -> int:
    """How many of the phase's first steps train masks; at least one."""
    return max(1, math.floor(share * clock.num_steps + 1e-9))


def connected_layers(net: nn.Module) -> dict[str, Connected]:
    """Path -> layer with masks, in the order of the net."""
    return {name: module for name, module in net.named_modules() if isinstance(module, Connected)}


def share_kept(net: nn.Module) -> float:
    """Share of the connections that is on."""
    live = [layer.live() for layer in connected_layers(net).values()]
    return sum(int(part.sum()) for part in live) / max(1, sum(part.numel() for part in live))


def sparse_macs(net: nn.Module, run: Run) -> int:
    """Multiply-accumulates of one sample if weights of 0 cost nothing: each is used at every position of the output."""
    total = 0
    for row in cost.count(net, run.example).per_layer:
        layer = net.get_submodule(row["layer"]) if row["macs"] else None
        if layer is None or not isinstance(layer, nn.Linear | nn.Conv2d):
            total += row["macs"]
        else:
            total += row["macs"] // layer.weight.numel() * int(torch.count_nonzero(layer.weight))
    return total
