"""Pruning from Scratch: learn channel gates on a random, frozen, widened net; train what they select from scratch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.budget.bisection import ITERATES
from prunebench.budget.by_gates import choose_by_gates, select_epoch
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    Fraction,
    NonNegativeFloat,
    OpenFraction,
    PositiveFraction,
    PositiveInt,
    Range,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.measure.metrics import ACCURACY
from prunebench.methods.bases.channel_gates import ChannelGate, add_gates, density_penalty, gates_of
from prunebench.methods.bases.search_cost import beside_pretraining
from prunebench.nets.dense_net import DenseNet
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
SEARCH = "search"


@validated
class PruningFromScratch(Method):
    """Wang et al., Pruning from Scratch, AAAI 2020; official code frankwang345/pruning-from-scratch, 3102332.

    Three steps, none of which needs trained weights:

    1. The phase ``search``: the net, widened, keeps its random weights; only gates behind the norm layers of
       convolutions that meet no addition learn, by cross-entropy and a penalty on their mean, with Adam, clamped to
       [0, 1] after each step (learn_gates.py:97-116). Norm layers run in training mode and adapt their statistics.
    2. A bisection turns the gates into numbers of channels, so that a share of the standard net's MACs is left.
    3. The small net is trained from new random weights; under ``schedule=scratch`` for ``int(epochs / target_macs)``
       epochs. No weight and no gate is inherited.

    Results are relative to the net of standard width; ``cost.base`` is the widened one. Schedules that pretrain
    (``scratch_e``, ``scratch_b``) train the standard net only to be compared with.

    Deviations: MACs are this package's (the official counter adds 4,096 for a ResNet's pooling, 0.01 %); which of
    equal gates stay is drawn by the seed; a layer keeps one channel (the official code builds none or crashes); the
    validation split is stratified and the same in all phases (the official one: the last 5,000 pictures, in stage 1
    only).

    Args:
        target_macs: share of the standard net's MACs that stays, in (0, 1).
        widen: width of the searched net as a multiple of the model's ``width``, at least 1; 1 = the standard net.
        search_epochs, search_lr, search_batch_size, search_epoch_share: of the search; the rate is constant.
        density: mean gate that the penalty aims at, in [0, 1].
        balance: weight of the penalty.
        max_iterations, tolerance: of the bisection; the tolerance is relative to the share that goes.
        structure: "learnt" by the search, or "random": gates drawn from the seed, without a search, through the same
            bisection; the control at the same MACs.
        iterate: which step of the bisection counts: the ``last`` (official), the ``closest`` to the target, or the
            closest that is ``within_budget``.
        longer: under ``schedule=scratch``, train longer in proportion to the MACs saved.

    Attributes:
        gates: at the end of each epoch of the search, ``[epochs, gates]``.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"scratch", "scratch_e", "scratch_b"})
    gates: Tensor

    def __init__(
        self,
        *,
        target_macs: OpenFraction,
        widen: Annotated[float, Range(low=1)] = 1.25,
        search_epochs: PositiveInt = 10,
        search_lr: NonNegativeFloat = 0.01,
        search_batch_size: PositiveInt | None = None,
        search_epoch_share: PositiveFraction | None = None,
        density: Fraction = 0.2,
        balance: NonNegativeFloat = 0.5,
        max_iterations: PositiveInt = 10,
        tolerance: NonNegativeFloat = 1e-3,
        structure: Annotated[str, Among(("learnt", "random"))] = "learnt",
        iterate: Annotated[str, Among(ITERATES)] = "last",
        longer: bool = True,
    ) -> None:
        super().__init__()
        self.target_macs, self.widen, self.longer = target_macs, widen, longer
        self.structure = structure
        self.density, self.balance = density, balance
        self.max_iterations, self.tolerance, self.iterate = max_iterations, tolerance, iterate
        self.search = Phase(
            name=SEARCH,
            active=True,
            epochs=search_epochs,
            optimizer="adam",
            lr=search_lr,
            weight_decay=0.0,
            batch_size=search_batch_size,
            epoch_share=search_epoch_share,
        )
        self.register_buffer("gates", torch.zeros(0, 0))

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        wide = self._wide(run)
        gated, _ = _gated(wide.graph)
        smallest = self._kept(run, wide, dict.fromkeys(gated, (0,)))
        if smallest > self.target_macs:
            raise UserError(
                f"method.target_macs={self.target_macs:g} is out of reach: with one channel in each layer that has "
                f"gates {smallest:.4f} of the standard net's MACs stay; ask for more, or lower method.widen "
                f"(now {self.widen:g})"
            )
        log.info("layers with gates: %s", ", ".join(gated))

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.pretrain:
                net = run.fit(net, phase)
                run.measure_dense(net)
                continue
            if phase.prune:
                wide = run.adopt(self._wide(run))
                searched = run.fit(wide, self.search) if self.structure == "learnt" else wide
                net = run.prune(searched, phase, measured=False)  # its weights are random
            if self.longer and run.schedule == "scratch":
                phase = phase.stretched(1, self.target_macs)
            net = run.fit(net, phase)
        return net

    def hears_teacher(self, phase: Phase) -> bool:
        return phase.name != SEARCH

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if self.structure == "random":
            return Extracted(net=net)
        return Extracted(net=net, achieved={SEARCH: beside_pretraining(run, SEARCH)})

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        if run.phase.name != SEARCH or gates_of(net):
            return net
        gated, _ = _gated(run.graph)
        self._norms = list(gated.values())
        self.gates = torch.zeros(self.search.epochs, sum(run.graph.layers[name].out_channels for name in gated))
        net = add_gates(net, self._norms).requires_grad_(False)
        for gate in gates_of(net):
            gate.requires_grad_(True)
        return net

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        # only the counts matter: the weights are drawn anew, so those of any widened net will do
        return run.cut(run.template, run.choose(lambda: self._choose(run)))

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        terms = dict(task.losses(net, batch))
        if gates_of(net):
            terms["density"] = density_penalty(self._now(net), density=self.density, balance=self.balance)
        return terms

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for gate in gates_of(net):
            gate.clamp(0.0, 1.0)

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        if gates_of(net):
            self.gates[clock.epoch] = self._now(net).detach()

    def report(self, net: nn.Module) -> Mapping[str, float]:
        if not gates_of(net):
            return {}
        gates = self._now(net).detach()
        return {"mean_gate": float(gates.mean()), "nonzero_gates": float((gates != 0).float().mean())}

    def _now(self, net: nn.Module) -> Tensor:
        """All gates of ``net`` in the order of execution, ``[gates]``."""
        parts: list[Tensor] = []
        for norm in self._norms:
            gate = net.get_submodule(f"{norm}.gate")
            assert isinstance(gate, ChannelGate)
            parts.append(gate.gate)
        return torch.cat(parts)

    def _wide(self, run: Run) -> DenseNet:
        if self.widen == 1:
            return run.dense
        return run.dense.variant(width=round(self.widen * run.dense.argument("width")))

    def _kept(self, run: Run, wide: DenseNet, keep: Mapping[str, Sequence[int]]) -> float:
        """Share of the standard net's MACs that a plan for the widened net leaves."""
        return wide.graph.macs(Plan({name: tuple(kept) for name, kept in keep.items()})) / run.dense.cost.macs

    def _choose(self, run: Run) -> Choice:
        graph = run.graph
        gated, whole = _gated(graph)
        layers = list(gated)
        widths = [graph.layers[name].out_channels for name in layers]
        if self.structure == "random":
            found, gates = {}, torch.rand(sum(widths), generator=torch.Generator().manual_seed(run.seed))
        else:
            accuracies = [row.get(ACCURACY.logged) for row in run.history if row["phase"] == SEARCH]
            epoch = select_epoch(self.gates, accuracies, self.density)
            found, gates = {"selected_epoch": epoch}, self.gates[epoch].cpu()
        choice = choose_by_gates(
            dict(zip(layers, gates.split(widths), strict=True)),
            lambda keep: self._kept(run, run.base, keep),
            target=self.target_macs,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
            iterate=self.iterate,
            seed=run.seed,
        )
        not_pruned = choice.not_pruned + [{"layer": name, "reason": reason} for name, reason in whole.items()]
        return replace(choice, not_pruned=not_pruned, achieved=choice.achieved | found)


def _gated(graph: ChannelGraph) -> tuple[dict[str, str], dict[str, str]]:
    """Convolutions that get gates -> their norm layers, and the others that meet no addition -> the reason.

    In a basic block that is the first convolution, in a bottleneck the first two, in a VGG all.

    Raises:
        UserError: there is none.
    """
    found: dict[str, str] = {}
    whole: dict[str, str] = {}
    for name, layer in graph.layers.items():
        if layer.kind != "conv" or layer.meets_addition or layer.is_output:
            continue
        if reason := graph.why_not(name):
            whole[name] = reason
        elif graph.pieces(name):
            whole[name] = "its channels go into pieces that keep one each, which a threshold on gates does not know"
        elif layer.norm is None:
            whole[name] = "no norm layer follows, behind which gates could stand"
        else:
            found[name] = layer.norm
    together = graph.must_stay(found)
    found = {name: norm for name, norm in found.items() if name not in together}
    if not found:
        raise UserError(
            "method=pruning_from_scratch puts gates behind norm layers, and this net has no convolution that a norm "
            "layer follows and whose channels meet no addition"
        )
    return found, whole | together
