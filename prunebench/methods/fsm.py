"""FSM: remove the channels whose absence shifts the next layer least, block by block, with training between."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.budget.ranked import removal_order
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.criteria.expectations import closed_form, expected_inputs, readers
from prunebench.criteria.feature_shift import REDUCTIONS, TINY, Statistics, adjusted, feature_shift, kernel_sums
from prunebench.errors import UserError
from prunebench.methods.bases.channels import ChannelMethod
from prunebench.surgery.branches import block_of
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import restore, zero

log = logging.getLogger("prunebench")
Members = tuple[str, ...]
"""Layers that lose the same channels: one, or all that meet in additions."""


@validated
class FSM(ChannelMethod):
    """Duan et al., Network Pruning via Feature Shift Minimization, ACCV 2022; official code lscgx/FSM.

    Layer by layer, from input to output, at each cut:

    1. A channel's score is the mean absolute shift of the outputs of the convolutions that read it,
       ``|kernel sum| * E[channel]``, with E in closed form from the batch norms (sections 3.1 and 3.2). Of several
       readers the mean counts; without a convolution behind it E alone does. The lowest go.
    2. The statistics of the readers' norms are adjusted to what is left (section 3.3) and kept if the accuracy on the
       validation split is not worse for it. Channels of a sum have no such step, as in the official code.
    3. After each block the net trains, as small as it is by then; a block is the innermost module that is no mere
       container, and in a plain net each layer by itself. Under ``schedule=oneshot`` nothing is trained.

    How many channels of each layer go is decided before the first of them. Layers that meet in additions have scores
    under ``coupling=aligned`` only: their shift is that of the convolutions behind the last sum.

    Deviations: the official code rolls back and selects epochs on the test set (main.py:220-233, 297-302), and the
    published numbers are those of the best of 200 to 300 epochs there; here the validation split decides, and the
    last epoch counts. It overwrites negative scales in the net itself (main.py:737-761), which is not done here, and
    leaves a convolution's bias out of the recorded mean.

    Args:
        adjust: step 2: ``mean_and_variance`` (official), ``mean`` or ``none`` (GoogLeNet).
        threshold: tau: statistics of outputs whose estimate is no more than this share of the recorded mean stay.
        roll_back: undo the adjustment of a layer where it costs accuracy on the validation split.
        reduction: of the absolute shifts over a reader's outputs: ``mean``, ``sum`` or ``max``.
        negative_scales: of batch norms: ``absolute``, or ``tiny`` = taken as 1e-5 like the official code.
        block_epochs: passes over the training set after each block; 0 = none.
        block_lr, block_weight_decay, block_batch_size, block_epoch_share: of this training, by SGD with momentum 0.9;
            from the second epoch on at a tenth of the rate.
        **channels: see :class:`~prunebench.methods.bases.channels.ChannelMethod`.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"finetune", "oneshot", "iterative", "scratch_e", "scratch_b"})

    def __init__(
        self,
        *,
        adjust: Annotated[str, Among(("mean_and_variance", "mean", "none"))] = "mean_and_variance",
        threshold: NonNegativeFloat = 0.0,
        roll_back: bool = True,
        reduction: Annotated[str, Among(REDUCTIONS)] = "mean",
        negative_scales: Annotated[str, Among(("absolute", "tiny"))] = "absolute",
        block_epochs: NonNegativeInt = 1,
        block_lr: NonNegativeFloat = 1e-3,
        block_weight_decay: NonNegativeFloat = 0.0,
        block_batch_size: PositiveInt | None = None,
        block_epoch_share: PositiveFraction | None = None,
        **channels: Any,
    ) -> None:
        super().__init__(**channels)
        self.adjust, self.threshold, self.roll_back = adjust, threshold, roll_back
        self.reduction, self.negative_scales = reduction, negative_scales
        self.block_phase = Phase(
            name="block",
            epochs=block_epochs,
            lr=block_lr,
            lr_schedule="multistep",
            milestones=(1 / block_epochs,) if block_epochs > 1 else (),
            weight_decay=block_weight_decay,
            batch_size=block_batch_size,
            epoch_share=block_epoch_share,
        )

    def check(self, net: nn.Module, run: Run) -> None:
        if self.adjust != "none" and self.roll_back and run.data.num_train and not run.data.num_val:
            raise UserError(
                "method.roll_back=true decides on the validation split, and there is none (dataset.validation=0); set "
                "dataset.validation to a number of samples, or method.roll_back=false"
            )
        super().check(net, run)

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        phase = run.phase
        assert phase is not None
        choice = run.choose(lambda: self.rank(net, run))
        plan, notes = run.plan, dict[str, bool]()
        for number, units in enumerate(self._blocks(choice.plan, run).values(), start=1):
            step = f"{phase.name}_block_{number}"
            for members in units:
                decide = partial(self._decide, net, members, choice, plan, run)
                decided = run.once(f"{step}-{list(run.graph.layers).index(members[0])}", decide)
                net, plan = self._without(net, members, decided, plan, run)
                notes |= {members[0]: decided["adjusted"]} if decided["tried"] else {}
            net = self._train(net, replace(choice, plan=plan), step, run)
        log.info("statistics adjusted behind %d of %d layers", sum(notes.values()), len(notes))
        counts = {"adjustments_tried": len(notes), "adjustments_kept": sum(notes.values())}
        return run.cut(net, replace(choice, plan=plan, achieved=choice.achieved | counts))

    def scores(self, net: nn.Module, run: Run) -> Mapping[str, Tensor]:
        expected = self._expected(net, run.graph)
        found: dict[str, Tensor] = {}
        for name in self.scored(run.graph)[0]:
            members = self._members(name, run.graph)
            # an aligned choice adds the scores of the members
            found[name] = self._shift(net, members, run.graph, expected) / len(members)
        return found

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        if graph.layers[name].meets_addition and self.options["coupling"] == "free":
            return "it meets an addition, whose layers are scored together (method.coupling=aligned)"
        if not readers(graph, self._members(name, graph)):
            return "no convolution reads it of which a batch norm tells what it may expect"
        return None

    # -- one step

    def _decide(self, net: nn.Module, members: Members, choice: Choice, plan: Plan, run: Run) -> dict[str, Any]:
        """Which channels of ``members`` stay, and whether the adjusted statistics do; plain data."""
        graph = run.graph
        scores = self._shift(net, members, graph, self._expected(net, graph))
        dead = set(range(len(scores))) - set(plan.keep.get(members[0], range(len(scores))))
        order = removal_order(scores.cpu(), dead=dead)
        kept = sorted(order[len(order) - len(choice.plan.keep[members[0]]) :])
        tried = (
            self.adjust != "none" and not graph.layers[members[0]].meets_addition and len(kept) + len(dead) < len(order)
        )
        decided = {"keep": kept, "tried": tried, "adjusted": tried}
        if tried and self.roll_back:
            plain, other = (
                run.validate(self._without(net, members, {**decided, "adjusted": way}, plan, run)[0])
                for way in (False, True)
            )
            # nothing is measured where a cut is only rehearsed
            decided["adjusted"] = other.get("accuracy", 0.0) >= plain.get("accuracy", 0.0)
        return decided

    def _without(
        self, net: nn.Module, members: Members, decided: Mapping[str, Any], plan: Plan, run: Run
    ) -> tuple[nn.Module, Plan]:
        """A copy of ``net`` (dense shapes) without the channels, and the plan with them."""
        then = Plan(keep={**plan.keep, **dict.fromkeys(members, decided["keep"])}, inputs=plan.inputs)
        zeroed = zero(net, run.graph, then)
        if decided["adjusted"]:
            self._adjust(net, zeroed, members[0], plan, then, run.graph)
        return zeroed, then

    @torch.no_grad()
    def _adjust(
        self, net: nn.Module, zeroed: nn.Module, name: str, plan: Plan, then: Plan, graph: ChannelGraph
    ) -> None:
        """Write the adjusted statistics into the norms of ``zeroed``, from the estimates of ``net`` before the cut."""
        expected, keep = self._expected(net, graph), then.keep[name]
        removed = 1 - len(keep) / len(plan.keep.get(name, range(graph.layers[name].out_channels)))
        for reader, channels in readers(graph, (name,)).items():
            norm, layer = graph.layers[reader].norm, net.get_submodule(reader)
            if norm is None or graph.layers[reader].kind != "conv":
                continue
            mean, var = (zeroed.get_submodule(norm)._buffers.get(f"running_{what}") for what in ("mean", "var"))
            if mean is None or var is None:
                continue
            new = adjusted(
                Statistics(mean, var),
                kernel_sums(layer.get_parameter("weight")),
                expected[reader],
                torch.isin(channels, torch.tensor([-1, *keep])),
                removed=removed,
                threshold=self.threshold,
                bias=layer._parameters.get("bias"),
            )
            mean.copy_(new.mean)
            if self.adjust == "mean_and_variance":
                var.copy_(new.var)

    def _train(self, net: nn.Module, so_far: Choice, name: str, run: Run) -> nn.Module:
        """``net`` (dense shapes), trained for a while as the small net that it is by now."""
        if run.schedule == "oneshot" or not self.block_phase.epochs:
            return net
        small = run.cut(net, so_far).net
        if small is net:  # the cut is only noted
            return net
        return restore(run.template, run.graph, so_far.plan, run.fit(small, replace(self.block_phase, name=name)))

    # -- scores

    def _shift(self, net: nn.Module, members: Members, graph: ChannelGraph, expected: Mapping[str, Tensor]) -> Tensor:
        """Feature shift by each channel that ``members`` share, ``[out]``."""
        width, found = graph.layers[members[0]].out_channels, list[Tensor]()
        for reader, channels in readers(graph, members).items():
            if graph.layers[reader].kind == "conv":
                sums = kernel_sums(net.get_parameter(f"{reader}.weight"))
                found.append(feature_shift(sums, expected[reader], channels, width, reduction=self.reduction))
            else:  # no convolution reads it: what it puts out
                ones = torch.ones_like(expected[reader])[None]
                found.append(feature_shift(ones, expected[reader], channels, width))
        return torch.stack(found).mean(0)

    def _expected(self, net: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
        """E of the inputs of each layer, ``[in]``."""

        def mean(beta: Tensor, gamma: Tensor, activation: str | None, slope: float) -> Tensor:
            scale = gamma.clamp_min(TINY) if self.negative_scales == "tiny" else gamma
            return closed_form(beta, scale, activation, slope)

        return expected_inputs(net, graph, mean=mean)

    # -- which layers, in which order

    def _members(self, name: str, graph: ChannelGraph) -> Members:
        if self.options["coupling"] == "free":
            return (name,)
        return next((group for group in graph.groups() if name in group), (name,))

    def _blocks(self, plan: Plan, run: Run) -> dict[str, list[Members]]:
        """Block -> the layers that lose channels in it, in the order of execution."""
        blocks: dict[str, list[Members]] = {}
        seen: set[str] = set()
        for name in (name for name in run.graph.layers if name in plan.keep):
            if name not in seen:
                members = tuple(other for other in self._members(name, run.graph) if other in plan.keep)
                seen |= set(members)
                blocks.setdefault(block_of(name, run.template), []).append(members)
        return blocks
