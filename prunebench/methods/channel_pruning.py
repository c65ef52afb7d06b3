"""Channel pruning: LASSO chooses what a layer reads, least squares rebuild its output.

He, Zhang, Sun: Channel pruning for accelerating very deep neural networks, ICCV 2017. Official code (Caffe and
scikit-learn): yihui-he/channel-pruning.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench.budget import Choice
from prunebench.budget.amounts import TargetShare
from prunebench.budget.counts import CountName, PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveFloat, PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.criteria.lasso import channel_moments, select_channels
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.methods.bases.inputs import Inputs, Shares, inputs_of
from prunebench.methods.bases.output import Output
from prunebench.methods.bases.reconstruction import Rebuilt, carry_out, draw_places
from prunebench.methods.bases.walk import Walk
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
ENOUGH = 2
"""Samples for each weight of a rebuilt output."""


def refit(windows: Tensor, targets: Tensor, *, intercept: bool) -> tuple[Tensor, Tensor]:
    """Least squares of smallest norm: min over W, b of |targets - windows W' - b|^2.

    Args:
        windows: ``[samples, features]``; ``targets``: ``[samples, outputs]``.
        intercept: whether there is a b; else it is 0.

    Returns:
        W ``[outputs, features]`` and b ``[outputs]``, float64 on the CPU.
    """
    x, y = windows.double().cpu(), targets.double().cpu()
    centre_x, centre_y = (v.mean(dim=0) if intercept else v.new_zeros(v.shape[1]) for v in (x, y))
    # a rotation of the samples leaves the problem as it is: as many rows as features instead of thousands
    rotated = torch.linalg.qr(torch.cat([x - centre_x, y - centre_y], dim=1), mode="r").R[: x.shape[1]]
    weight = torch.linalg.lstsq(*rotated.split([x.shape[1], y.shape[1]], dim=1), driver="gelsd").solution.T
    return weight, centre_y - weight @ centre_x


@validated
class ChannelPruning(Method):
    """Go through the layers from input to output; let each read fewer channels and rebuild what it gave before.

    For one layer: the channels are those that a LASSO leaves whose penalty rises
    (:func:`prunebench.criteria.lasso.select_channels`), one coefficient for each channel's part of the outputs; then
    the weights on these channels are new, by least squares. Outputs are those of the net as it was before the cut,
    inputs those of the net that is pruned so far, at the same places of the same pictures, so that errors do not add
    up. A batch norm behind the layer counts as part of it and is restored with the statistics of the new outputs, as
    the official code merges and restores it.

    Filters of the layer before go with the channels that are not read. Where others read them too (the first
    convolution of a residual branch), the layer selects what it reads and the stream stays as it is. Where a layer's
    output is added to a shortcut, it also makes up for what the shortcut has lost: its outputs are fitted to the sum
    of before minus the shortcut of now (section 3.3). The first convolution stays.

    Args:
        prune_ratio, target_macs, target_params, count, min_channels, round_to: see
            :class:`~prunebench.methods.bases.inputs.Shares`; of the channels that each layer reads.
        layers: "all" convolutions, or names and globs of the layers that read less.
        skip: names and globs of layers that read all; null = projection shortcuts.
        num_images, locations_per_image: training pictures, and different places of each (all of a smaller map).
        select_inputs: prune the layers too that read a stream.
        correct_shortcut: make up for the shortcut's loss.
        intercept: of the regressions; it goes into the bias or the norm's shift, and is left out where there is none.
        lasso_samples: the LASSO sees so many random samples, drawn with replacement; null = all. The official code:
            400.
        penalty_start: where the penalty starts, as a share of the one that removes all channels.
        max_excess: share by which more channels may stay than asked; the official code: 0.1.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"finetune", "oneshot", "iterative", "scratch_e", "scratch_b"})

    def __init__(
        self,
        *,
        prune_ratio: PruneRatio | Mapping[str, PruneRatio] | None = None,
        target_macs: TargetShare | None = None,
        target_params: TargetShare | None = None,
        count: CountName = "keep_floor",
        min_channels: PositiveInt = 1,
        round_to: PositiveInt = 1,
        layers: Annotated[str, Among(("all",))] | Sequence[str] = "all",
        skip: Sequence[str] | None = None,
        num_images: PositiveInt = 500,
        locations_per_image: PositiveInt = 10,
        select_inputs: bool = True,
        correct_shortcut: bool = True,
        intercept: bool = True,
        lasso_samples: PositiveInt | None = None,
        penalty_start: PositiveFloat = 1e-3,
        max_excess: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.shares = Shares(
            prune_ratio=prune_ratio,
            target_macs=target_macs,
            target_params=target_params,
            count=count,
            min_channels=min_channels,
            round_to=round_to,
        )
        self.layers = layers
        self.skip, self.select_inputs, self.correct_shortcut = skip, select_inputs, correct_shortcut
        self.num_images, self.locations = num_images, locations_per_image
        self.intercept, self.lasso_samples = intercept, lasso_samples
        self.penalty_start, self.max_excess = penalty_start, max_excess

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        graph, data = run.graph, run.data
        if data.task != "classification":
            raise UserError(f"method=channel_pruning samples pictures, and dataset={data.name} has none")
        if 0 < data.num_train < self.num_images:
            raise UserError(
                f"method.num_images={self.num_images}, but dataset={data.name} has {data.num_train} pictures to train "
                "on; lower it"
            )
        inputs, _ = self._inputs(graph)
        numbers = self.shares.numbers(inputs, graph, Plan(), 1.0)
        for name, number in numbers.items():
            entry, positions = inputs[name], graph.layers[name].positions
            samples, weights = self.num_images * min(self.locations, positions), number * entry.reader.taps
            if samples < ENOUGH * weights:
                raise UserError(
                    f"least squares for {weights} weights of each output of {name} need {ENOUGH * weights} samples, "
                    f"and method.num_images={self.num_images} with {min(self.locations, positions)} places each give "
                    f"{samples}: raise method.num_images, or method.locations_per_image up to {positions}"
                )
        run.rehearse(net, self._made_up(graph, Plan(), 1.0))
        told = [f"{name} {number}/{inputs[name].reader.width}" for name, number in numbers.items()]
        log.info("layers that read fewer channels: %s", ", ".join(told) or "none")

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        return carry_out(net, run, lambda: self._rebuild(net, run))

    def cut_sizes(self, net: nn.Module, run: Run) -> Extracted:
        return run.cut(net, self._made_up(run.graph, run.plan, run.fraction))

    # -- helpers

    def _inputs(self, graph: ChannelGraph) -> tuple[dict[str, Inputs], dict[str, str]]:
        named = None if isinstance(self.layers, str) else list(self.layers)
        return inputs_of(graph, named, self.skip, select=self.select_inputs)

    def _made_up(self, graph: ChannelGraph, before: Plan, fraction: float) -> Choice:
        """A choice of as many channels of each layer as stay."""
        inputs, _ = self._inputs(graph)
        plan = before
        for name, number in self.shares.numbers(inputs, graph, before, fraction).items():
            plan = inputs[name].cut(plan, inputs[name].kept(before)[-number:])
        return self._choice(graph, plan, fraction)

    def _choice(self, graph: ChannelGraph, plan: Plan, fraction: float) -> Choice:
        inputs, refused = self._inputs(graph)
        whole = [name for name, entry in inputs.items() if len(entry.kept(plan)) == entry.reader.width]
        reasons = refused | dict.fromkeys(whole, "it is to read all channels")
        not_pruned = [{"layer": name, "reason": reason} for name, reason in reasons.items()]
        return Choice(plan, not_pruned, self.shares.describe(plan, inputs, graph, fraction))

    def _rebuild(self, net: nn.Module, run: Run) -> Rebuilt:
        started = time.perf_counter()
        graph = run.graph
        inputs, _ = self._inputs(graph)
        numbers = self.shares.numbers(inputs, graph, run.plan, run.fraction)
        net = copy.deepcopy(net).eval().to(run.device)
        pictures = torch.cat([batch for batch, _ in run.samples("reconstruction", self.num_images)]).to(run.device)
        outputs = {name: Output.of(graph, net, inputs[name].reader, self._places(name, run)) for name in numbers}
        wanted = {name: output.before(corrected=self.correct_shortcut) for name, output in outputs.items()}
        targets = Walk(net, graph, pictures).read(wanted, before=0) if wanted else {}
        walk, plan, tensors = Walk(net, graph, pictures), run.plan, dict[str, Tensor]()
        for name in (name for name in graph.layers if name in numbers):
            entry, output = inputs[name], outputs[name]
            found = walk.read(output.now(corrected=self.correct_shortcut), before=entry.reader.step)
            kept = self._rebuild_layer(net, entry, output, found, targets.pop(name), numbers[name], run.seed)
            tensors |= output.tensors(net)
            plan = entry.cut(plan, tuple(kept))
            log.debug("%s reads %d of %d channels", name, len(kept), entry.reader.width)
        choice = self._choice(graph, plan, run.fraction)
        choice.achieved["seconds"] = time.perf_counter() - started
        return Rebuilt(choice, tensors)

    def _places(self, name: str, run: Run) -> Tensor:
        positions = run.graph.layers[name].positions
        draws = stream("places", run.seed, name)
        return draw_places(self.num_images, self.locations, positions, draws=draws, distinct=True)

    def _rebuild_layer(
        self,
        net: nn.Module,
        entry: Inputs,
        output: Output,
        found: Mapping[str, Tensor],
        before: Tensor,
        number: int,
        seed: int,
    ) -> list[int]:
        """New weights for one layer of ``net``; returns the channels that it reads."""
        windows, weight = found["windows"], output.weight(net)
        targets = output.targets(net, before, found.get("shortcut"))
        some = slice(None) if self.lasso_samples is None else self._some(len(windows), entry.name, seed)
        moments = channel_moments(windows[some], weight, targets[some], intercept=self.intercept)
        kept = select_channels(moments, number, start=self.penalty_start, max_excess=self.max_excess)
        read = windows[:, kept].flatten(1)
        fitted, shift = refit(read, targets, intercept=self.intercept and output.takes_shift)
        output.rebuild(net, kept, fitted, shift, read)
        return kept

    def _some(self, num_samples: int, name: str, seed: int) -> Tensor:
        assert self.lasso_samples is not None
        return torch.randint(num_samples, (self.lasso_samples,), generator=stream("lasso", seed, name))
