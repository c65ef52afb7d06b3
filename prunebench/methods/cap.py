"""CAP: each sample masks the channels softly, hard samples decide which of them stay (Wang, Ma, Yu 2022).

Renamed CWP in its second version, arXiv 2209.03534. No official code was found and the full text could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice, amounts
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    FractionBelowOne,
    NonNegativeFloat,
    PhaseShare,
    PositiveFraction,
    PositiveInt,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.criteria import complexity
from prunebench.criteria.complexity import COMPLEXITIES, POLARISATIONS
from prunebench.errors import UserError
from prunebench.measure.soft_macs import SoftMacs
from prunebench.methods.bases import soft_masks
from prunebench.methods.bases.channels import ChannelMethod
from prunebench.methods.bases.masked_groups import MaskedGroups
from prunebench.methods.bases.sample_memory import SampleMemory
from prunebench.surgery.graph import ChannelGraph

MASKS = "masks"
"""Name of the phase that trains net and masks together."""
TINY = 1e-12  # weight that each sample has at least: the mean is the plain one where no sample has any complexity


@validated
class CAP(ChannelMethod):
    """Train a mask generator behind each norm together with the net, cut by the weighted masks, fine-tune.

    The importance of a channel is the mean of its soft mask over samples, in which hard samples weigh more. In the
    phase ``masks``, which every schedule has in front of its cut, the loss is the task's plus ``polarise`` times a
    regulariser that drives the importances of a batch apart, plus ``cost`` times the squared distance between the
    MACs that they leave and ``target_macs``. Then the importances of the whole training set are taken, without
    augmentation; the channels below one threshold go, and the generators with them: each norm's scale and shift are
    multiplied by the channel's importance. The net that is left is static.

    From the abstracts of v1 and v2: weights by complexity, importance as the weighted sum of sample-specific soft
    masks, a polarising regulariser, static pruning. Chosen here: the generators, all formulas, the term for the cost,
    how the threshold is found, the folding and all of the training.

    ``metrics.before_cut`` is the net with its masks, which depends on the sample; ``metrics.pruned`` the static one.

    Args:
        target_macs: share of the dense net's MACs that stays.
        threshold: "budget" = so that ``target_macs`` is met; "gap" = in the middle of the widest gap.
        instance_complexity: "focal", "ce" or "uniform", see :func:`prunebench.criteria.complexity.complexity`.
        focal_power: of "focal".
        memory: share of a sample's earlier complexity in a moving average over the epochs; 0 = none (on one device).
        polarisation: "variance", "bernoulli" or "zhuang", see :func:`prunebench.criteria.complexity.polarisation`.
        polarise, cost: weights of the two terms. ``balance``: of "zhuang".
        ramp: share of the phase in which the weight ``polarise`` rises linearly from 0.
        prune_residual_width: layers that meet in additions are cut too, all of a sum alike, by their mean importance;
            else only those that meet none.
        mask_epochs, mask_lr, mask_weight_decay, mask_batch_size, mask_epoch_share: of the phase ``masks``.
        generator_lr: rate of the generators there; they have no weight decay.
        skip, min_channels, round_to: see :class:`~prunebench.methods.bases.channels.ChannelMethod`.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"finetune", "oneshot", "scratch_e", "scratch_b"})
    sizes_given = False
    objective = "regularised_heuristic"

    def __init__(
        self,
        *,
        target_macs: amounts.TargetShare,
        threshold: Annotated[str, Among(("budget", "gap"))] = "budget",
        instance_complexity: Annotated[str, Among(COMPLEXITIES)] = "focal",
        focal_power: NonNegativeFloat = 1.0,
        memory: FractionBelowOne = 0.0,
        polarisation: Annotated[str, Among(POLARISATIONS)] = "variance",
        polarise: NonNegativeFloat = 1.0,
        cost: NonNegativeFloat = 5.0,
        balance: NonNegativeFloat = 1.0,
        ramp: PhaseShare = 0.2,
        prune_residual_width: bool = False,
        mask_epochs: PositiveInt = 100,
        mask_lr: NonNegativeFloat = 0.01,
        generator_lr: NonNegativeFloat = 0.05,
        mask_weight_decay: NonNegativeFloat = 5e-4,
        mask_batch_size: PositiveInt | None = None,
        mask_epoch_share: PositiveFraction | None = None,
        skip: Sequence[str] | None = None,
        min_channels: PositiveInt = 1,
        round_to: PositiveInt = 1,
    ) -> None:
        super().__init__(
            target_macs=target_macs,
            layers="all" if prune_residual_width else "interior",
            skip=skip,
            scope="global",
            coupling="aligned" if prune_residual_width else "free",
            min_channels=min_channels,
            round_to=round_to,
        )
        self.target, self.threshold = target_macs, threshold
        self.kind, self.power, self.memory = instance_complexity, focal_power, memory
        self.form, self.balance = polarisation, balance
        self.polarise, self.cost_weight, self.ramp, self.generator_lr = polarise, cost, ramp, generator_lr
        self.masks = Phase(
            name=MASKS,
            active=True,
            epochs=mask_epochs,
            lr=mask_lr,
            lr_schedule="cosine",
            nesterov=True,
            weight_decay=mask_weight_decay,
            batch_size=mask_batch_size,
            epoch_share=mask_epoch_share,
        )
        self.samples: SampleMemory | None = None
        self._risen = 0.0  # share of the ramp that is over: it follows from the clock
        self._seen: dict[str, float] = {}

    # -- the run

    def check(self, net: nn.Module, run: Run) -> None:
        if run.data.task != "classification":
            raise UserError(f"method=cap weighs samples by their labels, and {run.data.name} has none")
        super().check(net, run)
        if self.memory:
            self._memory(run)

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.active or not phase.pretrain:
                run.measure_dense(net)
            if phase.prune:
                net = run.fit(net, self.masks)
                run.measure("before_cut", net)
                net = run.prune(net, phase)
            net = run.fit(net, phase)
        return net

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if run.phase is None or run.phase.name != MASKS or soft_masks.masks_of(net):
            return net
        self._follow(run.graph)
        if self.memory:
            self.samples = self._memory(run)
        with torch.random.fork_rng([]):
            run.seed_all(MASKS)
            return soft_masks.add_masks(net, list(self._groups.norms.values()))

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        self._follow(run.graph)
        found = run.once_tensors("importance", lambda: self._over_training_set(net, run))
        plain = soft_masks.folded(net, {norm: found[name] for name, norm in self._groups.norms.items()})
        return run.cut(plain, run.choose(lambda: self._decide(found, run.graph)))

    # -- the phase with masks

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        generators = [p for mask in soft_masks.masks_of(net).values() for p in mask.parameters()]
        return apart(super().param_groups(net, phase), generators, lr=self.generator_lr, weight_decay=0.0)

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._rise(clock.step, clock.num_steps)
        if self.samples is not None:
            self.samples.start_epoch(clock.epoch)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self._rise(clock.step + 1, clock.num_steps)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        if not soft_masks.masks_of(net):
            return task.losses(net, batch)
        with soft_masks.recorded_masks(net) as masks, soft_masks.recorded_outputs(net) as outputs:
            terms = task.losses(net, batch)
        hard = complexity.complexity(outputs[-1], batch[1], kind=self.kind, power=self.power)
        weights = complexity.instance_weights(hard if self.samples is None else self.samples.update(hard))
        shares = self._groups.shares({name: weights @ masks[norm] for name, norm in self._groups.norms.items()})
        ratio = self._macs(shares) / self._dense_macs
        self._seen = {"macs_ratio": float(ratio.detach()), "hardest_weight": float(weights.max())}
        rate = self.polarise * self._risen
        return {
            **terms,
            "polarisation": rate * complexity.polarisation(self._groups.apart(shares), self.form, balance=self.balance),
            "cost": (self.cost_weight * (ratio - self.target).square()).float(),
        }

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return self._seen

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        norm = graph.layers[name].norm
        module = graph.traced.net.get_submodule(norm) if norm else None
        if type(module) is nn.BatchNorm2d and module.affine:
            return None
        return "no plain batch norm of its own follows it, into which its importance could be folded"

    # -- helpers

    def _follow(self, graph: ChannelGraph) -> None:
        """Which layers have masks, and behind which norms; follows from the net, so it is no state."""
        names, whole = self.scored(graph)[0], self._skipped(graph)
        aligned = self.options["coupling"] == "aligned"
        self._groups = MaskedGroups.of(graph, names, whole=whole, aligned=aligned)
        self._macs, self._dense_macs = SoftMacs(graph), graph.dense_macs

    def _rise(self, step: int, num_steps: int) -> None:
        rising = self.ramp * num_steps
        self._risen = min(1.0, step / rising) if rising else 1.0

    def _memory(self, run: Run) -> SampleMemory:
        return SampleMemory(run.data, seed=run.seed, batch_size=self.masks.batch_size, share=self.memory)

    def _over_training_set(self, net: nn.Module, run: Run) -> dict[str, Tensor]:
        """The importance of each layer's channels, ``[channels]``: masks weighed over all samples, as in evaluation."""

        def weigh(logits: Tensor, labels: Tensor) -> Tensor:
            return complexity.complexity(logits, labels, kind=self.kind, power=self.power) + TINY

        run.data.to(run.device)
        means = soft_masks.mean_masks(net.to(run.device).eval(), run.data.train_eval(), weigh)
        net.cpu()
        return {name: means[norm].cpu() for name, norm in self._groups.norms.items()}

    def _decide(self, importances: Mapping[str, Tensor], graph: ChannelGraph) -> Choice:
        shares = self._groups.shares(importances)
        scores = self._groups.scores(shares)
        if self.threshold == "budget":
            return self.choose(scores, graph)
        values = self._groups.apart(shares)
        limit = complexity.widest_gap(values)
        share = float((torch.cat(values) < limit).double().mean())
        choice = budget.choose(scores, graph, prune_ratio=share, fixed=self._skipped(graph), **self.options)
        return Choice(choice.plan, choice.not_pruned + self.scored(graph)[1], {**choice.achieved, "gap": limit})
