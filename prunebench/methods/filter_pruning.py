"""Remove whole filters by a criterion: at one cut, in steps, or again and again while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice, amounts
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.criteria.compensation import compensated
from prunebench.criteria.greedy import in_order
from prunebench.criteria.scorers import Criterion, look_at
from prunebench.errors import UserError
from prunebench.methods.bases.channel_masks import ChannelMasks
from prunebench.methods.bases.channels import ChannelMethod
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero

VALUES = ("scores", "sensitivity")


@validated
class FilterPruning(ChannelMethod):
    """Score the channels of each layer by a criterion; zero or remove the lowest.

    In the schedules with a cut the chosen channels are removed there, and nothing else happens in training.
    Under ``simultaneous`` the lowest are zeroed before the first epoch and chosen anew and zeroed at the end of each
    epoch, before validation; after the last one they are removed (SFP, He et al. 2018, algorithm 1; FPGM, He et al.
    2019, algorithm 1). The weights are overwritten, not masked in the forward pass: a zeroed filter receives
    gradient and may come back, unless its batch norm still has the shift 0 of a new net and a ReLU follows: there the
    gradient is 0, so from scratch only the filters in front of additions return. ``grad_mask`` is what FPGM's
    official code does instead (pruning_cifar10.py:313): the gradients of zeroed filters are zeroed too, which
    freezes the first choice.

    Args:
        criterion: the score.
        grad_mask: under ``simultaneous``, freeze the first choice.
        mask_norm: under ``simultaneous``, zero scale and shift of the dead channels' norm layers too: with
            ``grad_mask`` from the start, else after the last epoch. Otherwise only validation sees their constants.
        compensate_mean: at a cut, take the removed channels' expected values out of their readers' running means
            (Oh et al. 2022; needs a batch norm that directly follows the layer).
        target_latency: share of the dense net's time that stays, see :func:`prunebench.budget.choose`; replaces
            ``prune_ratio``. ``target_ms``: the same in milliseconds for a batch. Both are of ``engine`` and ``batch``.
        value: ``sensitivity`` = a width is worth minus the training loss of the net in which this layer alone is cut to
            it, over ``value_samples`` samples, and the widths are chosen that are worth most at the target, whatever
            ``scope`` says. ``scores`` = the sum of its scores with a target of time, else ``scope`` decides.
        **channels: see :class:`~prunebench.methods.bases.channels.ChannelMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        criterion: Criterion,
        grad_mask: bool = False,
        mask_norm: bool = True,
        compensate_mean: bool = False,
        target_latency: amounts.TargetShare | None = None,
        target_ms: PositiveFloat | None = None,
        value: Annotated[str, Among(VALUES)] = "scores",
        value_samples: PositiveInt = 512,
        **channels: Any,
    ) -> None:
        self.timed = target_latency is not None or target_ms is not None
        if self.timed:  # widths of different layers compete
            channels["normalise"] = channels.get("normalise") or "mean"
        elif channels.get("scope") == "global" and channels.get("coupling", "free") == "free":
            # measured: where layers share sets, mean scores protect the streams better than ranks do
            channels["normalise"] = channels.get("normalise") or criterion.among_layers
        super().__init__(**channels)
        if target_latency is not None and target_ms is not None:
            raise UserError("method.target_latency and method.target_ms both say how long the net may take; give one")
        if self.timed and self.like is not None:
            raise UserError(
                "method.like takes the counts of another run; set method.target_latency and target_ms to null"
            )
        if value != VALUES[0] and not self.timed and not any(self.targets.values()):
            raise UserError(
                f"method.value={value} belongs to a target; give method.target_macs, target_params, target_latency or "
                "target_ms"
            )
        self.target_ms = target_ms
        self.widths_come_later = self.timed or value != VALUES[0]
        self.value, self.value_samples = value, value_samples
        self.targets["target_latency"] = target_latency
        if criterion.in_order and self.options["coupling"] == "aligned":
            raise UserError("method.criterion.strategy=greedy goes from layer to layer, it needs method.coupling=free")
        if criterion.norm_ratio:
            self.options["count"] = budget.mixed_floor(criterion.norm_ratio)
        self.criterion = criterion
        self.grad_mask = grad_mask
        self.mask_norm = mask_norm
        self.compensate_mean = compensate_mean
        self.masks: ChannelMasks | None = None

    def check(self, net: nn.Module, run: Run) -> None:
        if self.timed:
            self._prepare_timing(run)
        super().check(net, run)
        if run.schedule != "simultaneous":
            wanted = {"criterion.num_samples": self.criterion.num_samples}
            wanted |= {"value_samples": self.value_samples} if self.value == "sensitivity" else {}
            for name, number in wanted.items():
                if 0 < run.data.num_train < number:  # without any the row is only counted
                    raise UserError(
                        f"method.{name} must be at most the {run.data.num_train} training samples of "
                        f"dataset={run.data.name}, got {number}"
                    )
            return
        if self.compensate_mean:
            raise UserError("method.compensate_mean acts at a cut; with schedule=simultaneous set it to false")
        if self.value != VALUES[0]:
            raise UserError(
                f"method.value={self.value} looks at the data at a cut; with schedule=simultaneous there is none, use "
                "schedule=finetune or oneshot"
            )
        if self.criterion.needs_data:
            raise UserError(
                f"the criterion {type(self.criterion).__name__} looks at data, which it is given at a cut; with "
                "schedule=simultaneous there is none, use schedule=finetune or oneshot"
            )

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        choice = run.choose(lambda: self.rank(net, run))
        if self.compensate_mean:
            net = compensated(net, run.graph, choice.plan, run.plan)
        return run.cut(net, choice)

    def scores(self, net: nn.Module, run: Run) -> Mapping[str, Tensor]:
        return self._scores(self.criterion.prepare(net, run), net, run.graph, run.seed)

    def rank(self, net: nn.Module, run: Run) -> Choice:
        if self.value == "sensitivity":
            self.options["value"] = partial(self._worth, net, run)
        return self._in_order(super().rank(net, run), net, run.graph, run.plan)

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        return self.criterion.refuses(graph.layers[name])

    # -- while training

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if run.schedule == "simultaneous" and self.masks is None:
            self.masks = ChannelMasks(run.graph)
            self._graph, self._seed = run.graph, run.seed
        return net

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        if self.masks is not None and clock.epoch == 0:
            self._select(net, 0, last=False)

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        if self.masks is not None and self.grad_mask:
            self.masks.zero_gradients(net, thorough=self.mask_norm)

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        # with masked gradients the first choice is final: the zeroed filters coincide and stay the lowest
        if self.masks is not None and not self.grad_mask:
            self._select(net, clock.epoch + 1, last=clock.epoch + 1 == clock.num_epochs)

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if self.masks is None:
            return Extracted(net=net)
        plan = self.masks.plan()
        again = self._rank(net, run.graph, run.seed, within=plan)  # for the reasons: the dead channels go first
        whole = [entry for entry in again.not_pruned if entry["layer"] not in plan.keep]
        ratio = None if self.like else self.prune_ratio
        achieved = budget.describe(
            plan,
            self.scored(run.graph)[0],
            run.graph,
            targets=self.targets,
            prune_ratio=ratio,
        )
        return run.cut(net, Choice(plan, whole, achieved))

    def _select(self, net: nn.Module, num_epochs_done: int, *, last: bool) -> None:
        assert self.masks is not None
        choice = self._rank(net, self._graph, self._seed * 1_000_003 + num_epochs_done)
        self.masks.load_plan(choice.plan)
        self.masks.zero(net, thorough=self.mask_norm and (self.grad_mask or last))

    # -- helpers

    def _prepare_timing(self, run: Run) -> None:
        timing = self.prepare_timing(run)
        if self.target_ms is not None:
            dense = 1e3 * timing.dense_cost
            if self.target_ms > dense:
                raise UserError(
                    f"method.target_ms={self.target_ms:g} is more than the {dense:.3g} ms that the dense net takes in "
                    f"{self.engine} with batches of {self.batch}; ask for less"
                )
            self.targets["target_latency"] = self.target_ms / dense

    def _worth(self, net: nn.Module, run: Run, plan: Plan) -> float:
        """Minus the loss of ``net`` without what ``plan`` leaves out."""
        cut = zero(net, run.graph, plan).to(run.device).eval()
        total, number = 0.0, 0
        with torch.no_grad():
            for batch in run.samples("sensitivity", self.value_samples):
                total += float(run.loss(cut, batch)) * len(batch[1])
                number += len(batch[1])
        return -total / number

    def _rank(self, net: nn.Module, graph: ChannelGraph, seed: int, *, within: Plan | None = None) -> Choice:
        """Score the layers of ``net`` (dense shapes) by its weights alone and choose."""
        choice = self.choose(self._scores(self.criterion, net, graph, seed), graph, within=within)
        return self._in_order(choice, net, graph, within or Plan())

    def _scores(self, criterion: Criterion, net: nn.Module, graph: ChannelGraph, seed: int) -> dict[str, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        names = self.scored(graph)[0]
        aligned = self.options["coupling"] == "aligned"
        groups = {name: group for group in graph.groups() for name in group} if aligned else {}
        found: dict[str, Tensor] = {}
        for name in names:
            group = groups.get(name, (name,))
            found[name] = criterion(look_at(name, net, graph, draws, group=group))
            if criterion.of_group:  # the budget adds what the members say: what all of them say counts once
                found[name] = found[name] / sum(member in names for member in group)
        return found

    def _in_order(self, choice: Choice, net: nn.Module, graph: ChannelGraph, before: Plan) -> Choice:
        """``choice`` made anew from input to output, where the scores of a layer depend on those before it."""
        if not self.criterion.in_order:
            return choice
        return replace(choice, plan=in_order(self.criterion, choice.plan, net, graph, before))
