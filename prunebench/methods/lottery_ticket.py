"""The lottery ticket hypothesis: prune the smallest trained weights, rewind the others, train again; level by level."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench import criteria
from prunebench.budget.amounts import Scope
from prunebench.budget.counts import PruneRatio, prune_floor
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import Method, Minimise, match_layers
from prunebench.core.task import Batch, Task
from prunebench.criteria.survivors import ceil_count, share_after, shuffled, strictly_above, without_smallest
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.methods.bases.component_gates import output_layers
from prunebench.methods.bases.origin import Origin
from prunebench.methods.bases.weight_masks import WeightMasks

log = logging.getLogger("prunebench")
TICKET, ONE_SHOT, FINETUNE, REINIT, RANDOM_MASK = ARMS = (
    "ticket",
    "one_shot",
    "finetune",
    "random_reinit",
    "random_mask",
)
REWOUND = (TICKET, ONE_SHOT, RANDOM_MASK)
"""Arms that start from the remembered weights."""
BORROWED = (REINIT, RANDOM_MASK)
"""Arms whose masks come from the ticket's."""


@validated
class LotteryTicket(Method):
    """Frankle and Carbin 2019, iterative magnitude pruning; rewinding to step k after Frankle et al., arXiv 1903.01611.

    The whole net is trained (level 0). At each level a share of the weights that are left goes, the smallest by their
    FINAL absolute values; the others return to what they were at step k of level 0 (norm statistics, biases and the
    output layer too) and are trained again, like the first time: settings, rate and order of the samples are those of
    the first phase from step k on, the optimiser is new. Dead weights stay 0: their gradients are zeroed before each
    step and the weights after it.

    ``arms`` are trained at each level, and each is an operating point of the result:

    - ``ticket``: as said.
    - ``one_shot``: one cut of the trained whole net to the level's share, rewound.
    - ``finetune``: a chain of its own, cut but not rewound; trained by the settings of the schedule's phase after the
      cut (a small rate).
    - ``random_reinit``: the ticket's mask, new random weights, the whole first phase.
    - ``random_mask``: as many weights in each layer as the ticket has, at random places, rewound.

    Levels are the rounds of ``schedule=iterative`` (``schedule.phases.finetune.rounds``); ``schedule=finetune`` has one.

    Deviations: a level takes floor(p n) weights; ``rule=open_lth`` takes what the authors' framework takes. Steps
    before k pass without training, so epochs in curves are those of level 0.

    Args:
        prune_ratio: share of the weights left that goes at each level, in [0, 1).
        conv_ratio, output_ratio: the same, of convolutions and of the layers that compute the output; null = the same.
        scope: "layer" = that share of each layer (LeNet, Conv-2/4/6), "global" = one ranking (deep nets).
        rule: "floor", or "open_lth": ceil(p n), n with the weights of skipped layers, and all that are not strictly
            above that threshold (pruning/sparse_global.py), with ``scope=global``.
        rewind_epochs, rewind_steps: k = so many epochs and so many steps.
        arms: what is trained; the first is the run's net.
        reinit: "model" = new weights as the net draws them (the paper), "live" = N(0, sqrt(2 / n)), n = live weights /
            inputs of the layer (Rethinking, cifar/lottery-ticket/weight-level).
        layers: names and globs of convolutions and linear layers.
        skip: the same, of layers that are left alone.

    Raises:
        UserError: an option outside its values, or two that do not go together.
    """

    schedules = frozenset({"iterative", "finetune"})
    objective = "regularised_heuristic"
    sizes_given = False

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio,
        conv_ratio: PruneRatio | None = None,
        output_ratio: PruneRatio | None = None,
        scope: Scope = "layer",
        rule: Annotated[str, Among(("floor", "open_lth"))] = "floor",
        rewind_epochs: NonNegativeInt = 0,
        rewind_steps: NonNegativeInt = 0,
        arms: Sequence[Annotated[str, Among(ARMS)]] = (TICKET,),
        reinit: Annotated[str, Among(("model", "live"))] = "model",
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not arms or len(set(arms)) != len(arms):
            raise UserError(f"method.arms must name each arm once, and at least one of {', '.join(ARMS)}; got {[*arms]}")
        if scope == "global" and not conv_ratio == output_ratio == None:  # noqa: E711 - a chain of comparisons
            raise UserError(
                "method.scope=global ranks all layers together; set method.conv_ratio and method.output_ratio to null"
            )
        if rule == "open_lth" and scope != "global":
            raise UserError("method.rule=open_lth is a rule for all layers together; use method.scope=global")
        self.prune_ratio, self.scope, self.rule, self.reinit = prune_ratio, scope, rule, reinit
        self.conv_ratio = prune_ratio if conv_ratio is None else conv_ratio
        self.output_ratio = prune_ratio if output_ratio is None else output_ratio
        self.rewind_epochs, self.rewind_steps = rewind_epochs, rewind_steps
        self.arms, self.layers, self.skip = tuple(arms), layers, skip
        self.masks, self.origin = WeightMasks(), Origin()
        self.ratios: dict[str, float] = {}  # of each chosen layer
        self.num_skipped = 0  # weights of convolutions and linear layers that are left alone
        self.rewind_step = 0
        # where the walk through the levels is; it is walked anew when a run is resumed
        self._watching, self._first_step, self._moved = False, 0, True
        self._curve: list[Point] = []

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        first, *cuts = run.phases
        if not first.pretrain or not cuts or not all(cut.prune for cut in cuts):
            raise UserError("lottery_ticket needs a phase that trains the whole net, and behind it phases with a cut")
        for phase in run.phases:
            if phase.epochs == 0:
                raise UserError(f"schedule.phases.{phase.name}.epochs=0: each level of lottery_ticket has to be trained")
        steps = run.steps_per_epoch(first)
        self.rewind_step = self.rewind_epochs * steps + self.rewind_steps
        if self.rewind_step >= first.epochs * steps:
            raise UserError(
                f"method.rewind_epochs={self.rewind_epochs} and method.rewind_steps={self.rewind_steps} are step "
                f"{self.rewind_step} of {first.epochs * steps}; rewind to an earlier one"
            )
        self._choose_layers(net, run)
        shares = ", ".join(f"{name} {100 * ratio:g} %" for name, ratio in self.ratios.items())
        log.info("a level takes: %s (%s); rewinds to step %d", shares, self.scope, self.rewind_step)

    def _choose_layers(self, net: nn.Module, run: Run) -> None:
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        found = {name: module for name, module in net.named_modules() if isinstance(module, kinds)}
        skipped = match_layers(self.skip, found, what="method.skip")
        chosen = [name for name in match_layers(self.layers, found, what="method.layers") if name not in skipped]
        if not chosen:
            raise UserError(f"method.layers={[*self.layers]} without method.skip={skipped} leaves no layer to prune")
        last = output_layers(net, run.example, found)
        self.ratios = {
            name: self.output_ratio if name in last
            else self.prune_ratio if isinstance(found[name], nn.Linear)
            else self.conv_ratio
            for name in chosen
        }  # fmt: skip
        self.masks.names = chosen
        self.num_skipped = sum(module.weight.numel() for name, module in found.items() if name not in chosen)

    # -- the levels

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        first, *cuts = run.phases
        whole = self._train_whole(net, first, run)
        nets = dict.fromkeys(ARMS, whole)  # of each arm, as trained at the level before
        live: dict[str, Tensor] = {}
        leading, self._curve = self.arms[0], []
        for level, cut in enumerate(cuts, 1):
            for arm in sorted(self._walked, key=ARMS.index):  # the ticket's mask, which others borrow, comes first
                live[arm] = self._mask(arm, level, whole if arm == ONE_SHOT else nets[arm], live, run)
            self.masks.live = live[leading].clone()
            run.prune(nets[TICKET] if leading in BORROWED else whole if leading == ONE_SHOT else nets[leading], cut)
            for arm in self._walked:
                if arm in self.arms or level < len(cuts):
                    self.masks.live = live[arm].clone()
                    nets[arm] = self._train(arm, level, nets[arm], first, cut, run)
                if arm in self.arms:
                    self._curve.append(self._point(arm, level, nets[arm]))
        return nets[leading]

    @property
    def _walked(self) -> list[str]:
        """Arms in the order in which they are trained: a ticket that only lends its masks, and the run's own last."""
        lends = TICKET not in self.arms and not set(BORROWED).isdisjoint(self.arms)
        return [*([TICKET] if lends else []), *self.arms[1:], self.arms[0]]

    def _train_whole(self, net: nn.Module, first: Phase, run: Run) -> nn.Module:
        """Level 0, during which the weights at step k are remembered."""
        self.origin.take(net)
        self._watching = self.rewind_step > 0
        # watching changes nothing in the net, but only an active phase is watched: it is not shared with other methods
        net = run.fit(net, replace(first, active=True) if self._watching else first)
        if not run.phase_records:
            raise UserError(
                "lottery_ticket needs the weights from which the whole net was trained, and model.pretrained replaces "
                "that training; set model.pretrained to null, or rewind to a later step (method.rewind_steps)"
            )
        self._watching = False
        if self.rewind_step:
            run.measure("dense", net)
        else:
            run.measure_dense(net)
        return net

    def _mask(self, arm: str, level: int, net: nn.Module, live: Mapping[str, Tensor], run: Run) -> Tensor:
        """What lives in ``arm`` at this level; drawn or chosen once, and the same when the run is resumed."""

        def choose() -> Tensor:
            if arm == REINIT:
                return live[TICKET]
            if arm == RANDOM_MASK:
                draws = stream("lottery_ticket random_mask", level, run.seed)
                return torch.cat([shuffled(part, draws) for part in self._parts(live[TICKET], net)])
            before = torch.ones(sum(self._sizes(net)), dtype=torch.bool)
            return self.survivors(net, before if arm == ONE_SHOT else live.get(arm, before), level if arm == ONE_SHOT else 1)

        return run.once_tensors(f"mask-{arm}_{level}", lambda: {"live": choose()})["live"]

    def survivors(self, net: nn.Module, live: Tensor, levels: int = 1) -> Tensor:
        """``live`` of all chosen layers, bool ``[n]``, without what so many levels take from the trained ``net``."""
        weights = [weight.detach().abs().flatten().to(live.device) for weight in self.masks.weights(net)]
        parts = list(zip(self.ratios.values(), weights, self._parts(live, net), strict=True))
        if self.scope == "layer":
            return torch.cat(
                [without_smallest(w, m, prune_floor(int(m.sum()), share_after(p, levels))) for p, w, m in parts]
            )
        share = share_after(self.prune_ratio, levels)
        if self.rule == "open_lth":
            return strictly_above(torch.cat(weights), live, ceil_count(int(live.sum()) + self.num_skipped, share))
        return without_smallest(torch.cat(weights), live, prune_floor(int(live.sum()), share))

    def _sizes(self, net: nn.Module) -> list[int]:
        return [weight.numel() for weight in self.masks.weights(net)]

    def _parts(self, live: Tensor, net: nn.Module) -> tuple[Tensor, ...]:
        return live.split(self._sizes(net))

    def _train(self, arm: str, level: int, net: nn.Module, first: Phase, cut: Phase, run: Run) -> nn.Module:
        """``net`` of the level before, begun anew as ``arm`` says and trained under the present masks."""
        net = copy.deepcopy(net)
        self._first_step = 0
        if arm in REWOUND:
            self.origin.restore(net)
            self._first_step = self.rewind_step
        like = cut if arm == FINETUNE else first
        phase = replace(like, name=f"{arm}_{level}", pretrain=False, prune=False, active=True, fresh=arm == REINIT)
        return run.fit(net, phase)

    def _point(self, arm: str, level: int, net: nn.Module) -> Point:
        assert self.masks.live is not None
        left = float(self.masks.live.double().mean())
        settings = {"arm": arm, "level": level, "weights_left": left, "sparsity": 1 - left}
        return Point(name=f"{arm}_{level}", net=net, settings=settings)

    # -- hooks

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        net = copy.deepcopy(net)
        self.masks.zero(net)
        return Extracted(net=net)

    def fresh(self, net: nn.Module, run: Run) -> nn.Module:
        net = super().fresh(net, run)
        if self.reinit == "live":
            with torch.no_grad():
                for weight, mask in self.masks.pairs(net):
                    weight.normal_(0.0, criteria.redraw_std(mask))
        return net

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self.masks.zero(net)
        return net

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        if clock.step < self._first_step:
            return {}  # the steps before k: rate and order of the samples go on, the net is where it was at k
        return super().update(net, batches, task, minimise, clock)

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero_gradients(net)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self.masks.zero(net)
        if self._watching and clock.step + 1 == self.rewind_step:
            self.origin.take(net)

    def end_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._moved = clock.step >= self._first_step

    def selectable(self, net: nn.Module) -> bool:
        return self._moved

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if not self.masks.num_weights:
            return Extracted(net=net)
        shares = self.masks.shares(net)
        log.info("weights left: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        achieved = {
            "weights": self.masks.num_weights,
            "kept_weights": self.masks.num_live,
            "kept_per_layer": shares,
            "reached": 1 - self.masks.num_live / self.masks.num_weights,
        }
        if self.rule == "floor":
            levels, sizes = len(run.phases) - 1, self._sizes(net)
            asked = sum(n * share_after(p, levels) for n, p in zip(sizes, self.ratios.values(), strict=True))
            achieved |= {
                "target": asked / self.masks.num_weights,
                "tolerance": levels * len(sizes) / self.masks.num_weights,  # whole numbers of weights
                "unit": "share of the weights of the chosen layers that is zero",
            }
        return Extracted(net=net, achieved=achieved)

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        return self._curve
