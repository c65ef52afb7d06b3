"""Transformable architecture search: widths and depths of a ResNet are learnt by gradient, the small net from scratch.

Dong, Yang: Network pruning via transformable architecture search, NeurIPS 2019 (arXiv 1905.09717); official code
D-X-Y/AutoDL-Projects, exps/TAS, read at f46486e.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import NET, Method, Minimise
from prunebench.core.param_groups import split_decay
from prunebench.core.task import Batch, Task
from prunebench.data.base import Batches
from prunebench.errors import UserError
from prunebench.methods.bases.search_cost import beside_pretraining
from prunebench.methods.bases.shape_costs import NetSizes, Shape
from prunebench.methods.bases.shape_search import ShapeSpace, temperature
from prunebench.methods.bases.shape_supernet import ShapeSuperNet
from prunebench.models.shaped_resnet import ShapedResNet

log = logging.getLogger("prunebench")
SEARCH, ARCH = "search", "arch"
ADAM_BETAS = (0.5, 0.999)
"""Of the official code (search-transformable.py:123-128)."""


@validated
class TAS(Method):
    """Search widths and depths on a net that shares its weights among all of them, then train what is found.

    The phase ``search`` alternates, with one draw each: the weights learn from one half of the training set, the
    chances of widths and depths from the other, by cross-entropy and ``cost_weight`` times log(expected MACs), with
    the sign that leads into the interval: + while the most probable net is too large, - while it is too small, 0
    inside. The most probable shape after the last epoch is built, and trained from new random weights; a teacher
    (``teacher=dense_if_trained``, the paper's) is heard there and not in the search.

    Deviations: the MACs that are steered into the interval are those of the net that would be built
    (``estimate=official`` counts as the official code does, which overlooks that dropped blocks change what follows);
    each half is gone through once an epoch, where the official code draws from the second one with replacement, and
    they are not stratified; a convolution is computed only in the width that is needed, which changes no number.

    Args:
        target_macs: R, share of the whole net's MACs, in (0, 1).
        tolerance: t. ``cost_loss``: the interval, "official" = [R - t, R] (search_main_v2.py:12-25), "paper" =
            [R (1 - t), R (1 + t)], all in shares of the whole net's MACs.
        cost_weight: of the cost term.
        search: "both", "depth" or "width" (TAS, TAS (D), TAS (W)).
        structure: "learnt" by the search, or "random": drawn by the seed from the same candidates, inside the same
            interval, without a search; the control.
        widths, blocks: a shape that is known already (as the model's arguments), so that nothing is searched.
        estimate: "built" or "official", see above.
        tau_start, tau_end, tau_schedule: temperature of an epoch, "cosine" (official, 5 to 0.1) or "linear" (the
            paper's, 10 to 0.1).
        arch_lr, arch_weight_decay: of Adam over the chances, constant.
        search_epochs, search_lr, search_batch_size, search_weight_decay, search_epoch_share: of SGD over the weights,
            with a cosine.

    Attributes:
        spent: multiply-accumulates of the search so far.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"scratch", "scratch_e", "scratch_b"})
    spent: Tensor

    def __init__(
        self,
        *,
        target_macs: OpenFraction,
        tolerance: OpenFraction = 0.05,
        cost_loss: Annotated[str, Among(("official", "paper"))] = "official",
        cost_weight: NonNegativeFloat = 2.0,
        search: Annotated[str, Among(("both", "depth", "width"))] = "both",
        structure: Annotated[str, Among(("learnt", "random"))] = "learnt",
        widths: Sequence[PositiveInt] | None = None,
        blocks: Sequence[PositiveInt] | None = None,
        estimate: Annotated[str, Among(("built", "official"))] = "built",
        tau_start: PositiveFloat = 5.0,
        tau_end: PositiveFloat = 0.1,
        tau_schedule: Annotated[str, Among(("cosine", "linear"))] = "cosine",
        arch_lr: PositiveFloat = 1e-3,
        arch_weight_decay: NonNegativeFloat = 1e-3,
        search_epochs: PositiveInt = 600,
        search_lr: PositiveFloat = 0.1,
        search_batch_size: PositiveInt | None = None,
        search_weight_decay: NonNegativeFloat = 5e-4,
        search_epoch_share: PositiveFraction | None = None,
    ) -> None:
        super().__init__()
        low, high = target_macs - tolerance, target_macs
        if cost_loss == "paper":
            low, high = target_macs * (1 - tolerance), target_macs * (1 + tolerance)
        if low <= 0:
            raise UserError(
                f"method.tolerance={tolerance:g} must be below method.target_macs={target_macs:g}: the interval of "
                f"method.cost_loss={cost_loss} begins at their difference"
            )
        self.low, self.high, self.target_macs = low, high, target_macs
        self.cost_weight = cost_weight
        self.width, self.depth = search != "depth", search != "width"
        self.structure, self.through_dropped = structure, estimate == "official"
        self.given = {name: list(v) for name, v in (("widths", widths), ("blocks", blocks)) if v is not None}
        self.sizes_given = bool(self.given)
        self.tau = (tau_start, tau_end, tau_schedule)
        self.arch = {"lr": arch_lr, "weight_decay": arch_weight_decay}
        self.search = Phase(
            name=SEARCH,
            active=True,
            epochs=search_epochs,
            lr=search_lr,
            lr_schedule="cosine",
            momentum=0.9,
            nesterov=True,
            weight_decay=search_weight_decay,
            batch_size=search_batch_size,
            epoch_share=search_epoch_share,
        )
        self._searches = False
        self.register_buffer("spent", torch.zeros((), dtype=torch.int64))

    # -- before training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if not isinstance(net, ShapedResNet):
            raise UserError(
                "method=tas searches the shape of a net that can have any; use model=shaped_resnet20 or another "
                f"shaped_resnet, got {run.dense.settings.get('name', type(net).__name__)}"
            )
        if any(run.dense.settings.get(key) is not None for key in ("widths", "blocks")):
            raise UserError(
                "method=tas begins with the whole net: leave out model.widths and model.blocks; a known shape is given "
                "by method.widths and method.blocks"
            )
        if self.given:
            _ = run.dense.variant(**self.given).template  # refuses what does not fit
            return
        self._space(run).check(self.low, self.high)

    # -- the order of the phases

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.pretrain:
                net = run.fit(net, phase)
                run.measure_dense(net)
                continue
            if phase.prune and not self.given and self.structure == "learnt":
                net = run.fit(run.dense.fresh(SEARCH), self.search)
            if phase.prune:
                net = run.prune(net, phase, measured=False)  # its weights are random
            net = run.fit(net, phase)
        return net

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        if self.given:
            small = run.adopt(run.dense.variant(**self.given))
            assert isinstance(small, ShapedResNet)
            return Extracted(net=small, achieved={"widths": list(small.widths), "blocks": list(small.blocks)})
        space, whole = self._space(run), run.dense.cost.macs
        if isinstance(net, ShapeSuperNet):
            shape, expected = net.shape(), float(net.expected_macs().detach()) / whole
            log.info("search: %.4f of the MACs are expected", expected)
        else:
            shape, expected = space.draw(self.low, self.high, seed=run.seed), None
        arguments = space.sizes.arguments(shape)
        achieved = {
            **arguments,
            "target": (self.low + self.high) / 2,
            "tolerance": (self.high - self.low) / 2,
            "reached": space.sizes.built(shape) / whole,
            "asked": self.target_macs,
            "interval": [self.low, self.high],
            "expected": expected,
            "official_estimate": space.sizes.built(shape, through_dropped=True) / whole,
        }
        log.info("widths %s, blocks %s", arguments["widths"], arguments["blocks"])
        return Extracted(net=run.adopt(run.dense.variant(**arguments)), achieved=achieved)

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        searched = any(record["name"] == SEARCH for record in run.phase_records)
        return Extracted(net=net, achieved={SEARCH: beside_pretraining(run, SEARCH)} if searched else {})

    def hears_teacher(self, phase: Phase) -> bool:
        return phase.name != SEARCH

    # -- the search

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        assert run.phase is not None
        self._searches = run.phase.name == SEARCH
        if not self._searches or isinstance(net, ShapeSuperNet):
            return net
        assert isinstance(net, ShapedResNet)
        run.seed_all("logits")
        self.spent.zero_()
        return ShapeSuperNet(net, run.example, width=self.width, depth=self.depth)

    def streams(self, run: Run) -> Mapping[str, Callable[[int], Batches]]:
        if run.phase is None or run.phase.name != SEARCH:
            return {}
        data, seed, size = run.data, run.seed, self.search.batch_size

        def half(part: int) -> Callable[[int], Batches]:
            return lambda epoch: data.train(epoch=epoch, seed=seed, batch_size=size, part=(part, 2))

        return {NET: half(0), ARCH: half(1)}

    def optimizers(self, net: nn.Module, phase: Phase) -> Mapping[str, list[dict[str, Any]]]:
        if not isinstance(net, ShapeSuperNet):
            return super().optimizers(net, phase)
        apart = {id(logits) for logits in net.logits()}
        weights = [p for p in net.parameters() if id(p) not in apart]
        own = {"optimizer": "adam", "betas": ADAM_BETAS, "lr_schedule": "constant", "clip": False, **self.arch}
        return {NET: split_decay(weights, phase), ARCH: [{"params": net.logits(), **own}]}

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        if isinstance(net, ShapeSuperNet):
            start, end, schedule = self.tau
            net.tau = temperature(clock.epoch / clock.num_epochs, start=start, end=end, schedule=schedule)

    def update(
        self, net: nn.Module, batches: Mapping[str, Batch], task: Task, minimise: Minimise, clock: Clock
    ) -> Mapping[str, Tensor]:
        if not isinstance(net, ShapeSuperNet):
            return super().update(net, batches, task, minimise, clock)
        first = dict(task.losses(net, batches[NET]))
        minimise(first)
        self.spent += 3 * net.macs * len(batches[NET][1])
        second = {f"{ARCH}_{name}": term for name, term in task.losses(net, batches[ARCH]).items()}
        # gradients of the activations alone: the weights get none
        self.spent += 2 * net.macs * len(batches[ARCH][1])
        second["cost"] = self.cost_weight * self.direction(net) * net.expected_macs().div(1e6).log()
        minimise(second, ARCH)
        return first | second

    def direction(self, net: ShapeSuperNet) -> float:
        """Where the expected MACs must go: 1 = down, -1 = up, 0 = the most probable shape is in the interval."""
        share = self._share(net)
        return float(share > self.high) - float(share < self.low)

    def spent_macs(self) -> int | None:
        return int(self.spent) if self._searches else None

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        if not isinstance(net, ShapeSuperNet):
            return {}
        return {
            "macs_share": self._share(net),
            "expected_macs_share": float(net.expected_macs()) / net.sizes.built(_whole(net)),
            "tau": net.tau,
        }

    def _share(self, net: ShapeSuperNet) -> float:
        return net.sizes.built(net.shape(), through_dropped=self.through_dropped) / net.sizes.built(_whole(net))

    def _space(self, run: Run) -> ShapeSpace:
        template = run.dense.template
        assert isinstance(template, ShapedResNet)
        return ShapeSpace.of(template, NetSizes.of(template, run.example), width=self.width, depth=self.depth)


def _whole(net: ShapeSuperNet) -> Shape:
    return Shape(tuple(row[-1] for row in net.widths), tuple(row[-1] for row in net.depths))
