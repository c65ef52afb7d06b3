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
from prunebench.budget.counts import PruneRatio
from prunebench.budget.levels import RULES, Level, shuffled
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeInt
from prunebench.core.context import Extracted, Point, Run
from prunebench.core.method import match_layers
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.own_weight import has_own_weight
from prunebench.methods.bases.component_gates import output_layers
from prunebench.methods.bases.rewinding import Rewinding

log = logging.getLogger("prunebench")
TICKET, ONE_SHOT, FINETUNE, REINIT, RANDOM_MASK = "ticket", "one_shot", "finetune", "random_reinit", "random_mask"
ARMS = (TICKET, ONE_SHOT, FINETUNE, REINIT, RANDOM_MASK)
REWOUND = (TICKET, ONE_SHOT, RANDOM_MASK)
"""Arms that start from the remembered weights."""
BORROWED = (REINIT, RANDOM_MASK)
"""Arms whose masks come from the ticket's."""


@validated
class LotteryTicket(Rewinding):
    """Frankle and Carbin 2019, iterative magnitude pruning; rewinding to step k after Frankle et al., arXiv 1903.01611.

    The whole net is trained (level 0). At each level a share of the weights that are left goes, the smallest by their
    FINAL absolute values; the others return to what they were at step k of level 0 (norm statistics, biases and the
    output layer too) and are trained again, like the first time: settings, rate and order of the samples are those of
    the first phase from step k on, the optimiser is new. Levels are the rounds of ``schedule=iterative``
    (``schedule.phases.finetune.rounds``); ``schedule=finetune`` has one.

    Each of ``arms`` is trained at each level, and is an operating point of the result. ``ticket``: as said.
    ``one_shot``: one cut of the trained whole net to the level's share, rewound. ``finetune``: a chain of its own, not
    rewound, trained by the settings of the schedule's phase after the cut. ``random_reinit``: the ticket's mask, new
    random weights, the whole first phase. ``random_mask``: as many weights in each layer as the ticket has, at random
    places, rewound.

    Args:
        prune_ratio: share of the weights left that goes at each level, in [0, 1).
        conv_ratio, output_ratio: the same, of convolutions and of the layers that compute the output; null = the same.
        scope: "layer" = that share of each layer (LeNet, Conv-2/4/6), "global" = one ranking (deep nets).
        rule: "floor" = floor(p n) weights go; "open_lth", with ``scope=global``: as in the authors' framework
            ceil(p n), n with the weights of skipped layers, and what equals the threshold.
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
        rule: Annotated[str, Among(RULES)] = "floor",
        rewind_epochs: NonNegativeInt = 0,
        rewind_steps: NonNegativeInt = 0,
        arms: Sequence[Annotated[str, Among(ARMS)]] = (TICKET,),
        reinit: Annotated[str, Among(("model", "live"))] = "model",
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not arms or len(set(arms)) != len(arms):
            raise UserError(f"method.arms must name at least one arm, and each once ({', '.join(ARMS)}); got {[*arms]}")
        if scope == "global" and (conv_ratio, output_ratio) != (None, None):
            raise UserError("method.scope=global is one ranking: set method.conv_ratio and method.output_ratio to null")
        if rule == "open_lth" and scope != "global":
            raise UserError("method.rule=open_lth is a rule for all layers together; use method.scope=global")
        self.scope, self.rule, self.reinit = scope, rule, reinit
        given = {"linear": prune_ratio, "conv": conv_ratio, "output": output_ratio}
        self.ratios = {kind: prune_ratio if ratio is None else ratio for kind, ratio in given.items()}
        self.rewind_epochs, self.rewind_steps = rewind_epochs, rewind_steps
        self.arms, self.layers, self.skip = tuple(arms), layers, skip
        self.level = Level(ratios=(), scope=scope)  # of the chosen layers
        self.rewind_step = 0
        self._curve: list[Point] = []

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        first, *cuts = run.phases
        if not first.pretrain or not all(cut.prune for cut in cuts):
            raise UserError("lottery_ticket needs a phase that trains the whole net, and behind it phases with a cut")
        for phase in run.phases:
            if phase.epochs == 0:
                raise UserError(f"schedule.phases.{phase.name}.epochs=0: lottery_ticket trains at each level")
        self._choose_layers(net, run)
        log.info("layers to prune: %s", ", ".join(self.masks.names))
        if FINETUNE not in self.arms:
            log.info("levels train like the phase %s; %s is for the arm finetune alone", first.name, cuts[0].name)

    def _choose_layers(self, net: nn.Module, run: Run) -> None:
        kinds = (nn.Linear, nn.modules.conv._ConvNd)
        found = {name: m for name, m in net.named_modules() if isinstance(m, kinds) and has_own_weight(m)}
        skipped = match_layers(self.skip, found, what="method.skip")
        self.masks.names = [n for n in match_layers(self.layers, found, what="method.layers") if n not in skipped]
        if not self.masks.names:
            raise UserError(f"method.layers={[*self.layers]} without method.skip={skipped} leaves no layer to prune")
        last = output_layers(net, run.example, found)
        kind = {name: "linear" if isinstance(module, nn.Linear) else "conv" for name, module in found.items()}
        self.level = Level(
            ratios=[self.ratios["output" if name in last else kind[name]] for name in self.masks.names],
            scope=self.scope,
            rule=self.rule,
            num_skipped=sum(m.weight.numel() for name, m in found.items() if name not in self.masks.names),
        )

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
        steps = run.steps_per_epoch(first)
        self.rewind_step = self.rewind_epochs * steps + self.rewind_steps
        if self.rewind_step >= first.epochs * steps:
            raise UserError(
                f"method.rewind_epochs={self.rewind_epochs} and method.rewind_steps={self.rewind_steps} are step "
                f"{self.rewind_step} of {first.epochs * steps}; rewind to an earlier one"
            )
        self.origin.take(net)
        self.remembered_step, self.first_step = self.rewind_step or None, 0
        # to watch changes nothing in the net, but only active phases are watched, and those are not shared by methods
        net = run.fit(net, replace(first, active=True) if self.rewind_step else first)
        if not run.phase_records:
            raise UserError(
                "lottery_ticket needs the weights from which the whole net was trained, and model.pretrained replaces "
                "that training; set model.pretrained to null, or rewind to a later step (method.rewind_steps)"
            )
        self.remembered_step = None
        if self.rewind_step:
            run.measure("dense", net)  # the same net as without a method
        else:
            run.measure_dense(net)
        return net

    def _mask(self, arm: str, level: int, net: nn.Module, live: Mapping[str, Tensor], run: Run) -> Tensor:
        """What lives in ``arm`` at this level; drawn or chosen once, and the same when the run is resumed."""

        def choose() -> Tensor:
            weights = self.masks.weights(net)
            sizes = [weight.numel() for weight in weights]
            if arm == REINIT:
                return live[TICKET]
            if arm == RANDOM_MASK:
                draws = stream("lottery_ticket random_mask", level, run.seed)
                return torch.cat([shuffled(part, draws) for part in live[TICKET].split(sizes)])
            before = torch.ones(sum(sizes), dtype=torch.bool)
            if arm == ONE_SHOT:
                return self.level.survivors(weights, before, levels=level)
            return self.level.survivors(weights, live.get(arm, before))

        return run.once_tensors(f"mask-{arm}_{level}", lambda: {"live": choose()})["live"]

    def _train(self, arm: str, level: int, net: nn.Module, first: Phase, cut: Phase, run: Run) -> nn.Module:
        """``net`` of the level before, begun anew as ``arm`` says and trained under the present masks."""
        net = copy.deepcopy(net)
        self.first_step = self.rewind_step if arm in REWOUND else 0
        if arm in REWOUND:
            self.origin.restore(net)
        like = cut if arm == FINETUNE else first
        phase = replace(like, name=f"{arm}_{level}", pretrain=False, prune=False, active=True, fresh=arm == REINIT)
        return run.fit(net, phase)

    def _point(self, arm: str, level: int, net: nn.Module) -> Point:
        left = self.masks.num_live / self.masks.num_weights
        settings = {"arm": arm, "level": level, "weights_left": left, "sparsity": 1 - left}
        return Point(name=f"{arm}_{level}", net=net, settings=settings)

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

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        if not self.masks.num_weights:
            return Extracted(net=net)
        shares, num_weights, num_live = self.masks.shares(net), self.masks.num_weights, self.masks.num_live
        log.info("weights left: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))
        achieved = {"weights": num_weights, "kept_weights": num_live, "kept_per_layer": shares}
        achieved["reached"] = 1 - num_live / num_weights
        if self.rule == "floor":
            levels, sizes = len(run.phases) - 1, [weight.numel() for weight in self.masks.weights(net)]
            achieved |= {
                "target": self.level.share_gone(sizes, levels=levels),
                "tolerance": levels * len(sizes) / num_weights,  # whole numbers of weights
                "unit": "share of the weights of the chosen layers that is zero",
            }
        return Extracted(net=net, achieved=achieved)

    def points(self, net: nn.Module, run: Run) -> Iterable[Point]:
        return self._curve
