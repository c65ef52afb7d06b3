"""ThiNet: a filter is unimportant if the layer behind it can be rebuilt without it.

Luo, Wu, Lin: ThiNet: A filter level pruning method for deep neural network compression, ICCV 2017; the journal version
"ThiNet: Pruning CNN filters for a thinner net", TPAMI 2018. Official code (Caffe): Roll920/ThiNet_Code.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import Choice
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.criteria.parts import pursue, remove_greedily, scales
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.methods.bases.channels import ChannelMethod
from prunebench.methods.bases.reconstruction import (
    Reader,
    Rebuilt,
    carry_out,
    draw_places,
    pictures_of_each_class,
)
from prunebench.methods.bases.walk import Walk
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")
ENOUGH = 2
"""Instances for each channel that stays."""


def instances(walk: Walk, reader: Reader, net: nn.Module, places: Tensor, filters: Tensor) -> tuple[Tensor, Tensor]:
    """What each channel adds to some outputs of a layer, and these outputs (section 3.2.1).

    Args:
        walk: through ``net``, in which ``reader`` is the layer.
        places, filters: of the outputs, ``[pictures, instances of each]``.

    Returns:
        Parts ``[instances, channels]``, and the outputs without the bias ``[instances]``: the sums over channels.
    """
    weight, bias = reader.weight(net), reader.bias(net)
    filters = filters.to(weight.device)
    windows, outputs = reader.windows(places), reader.outputs(places)

    def parts(x: Tensor, rows: slice) -> Tensor:
        return (windows(x, rows) * weight[filters[rows].flatten()]).sum(dim=-1)

    def whole(y: Tensor, rows: slice) -> Tensor:
        at = filters[rows].flatten()
        return outputs(y, rows).gather(1, at[:, None])[:, 0] - bias[at]

    wanted = {"parts": (reader.source, parts), "whole": (reader.step, whole)}
    found = walk.read(wanted, before=reader.step)
    return found["parts"], found["whole"]


@validated
class ThiNet(ChannelMethod):
    """Remove the filters whose channels the next layer misses least, and rescale what it still reads.

    Each instance is one output of the next layer, of a random filter at a random place for a training picture: a sum
    of one part for each channel. ``selection`` removes the channels whose parts add up to least or chooses those that
    explain most; each slice of the next layer's weights is then multiplied by a least-squares factor. Its bias stays
    (compress_model.py:227-241). The next layer reads what norm, activation and pooling make of the channels.

    Layers are pruned from input to output, each with the statistics of the net as it is by then. Between two of them
    (``turn``) the net trains for ``between_epochs`` epochs; not where the schedule trains nothing after the cut
    (oneshot) or trains anew (scratch_e, scratch_b): there the layers follow each other at once.

    Args:
        selection: "greedy" (ICCV) or "tpami".
        rescale: multiply the next layer's weights by the least-squares factors.
        images_per_class, locations_per_image: training pictures, and outputs of each.
        turn: what is pruned between two trainings, a "layer" (VGG) or a "block" (bottlenecks): the layers of one
            module.
        between_epochs: 0 = all layers at once.
        between_epoch_share: share of the training batches that such an epoch passes over; null = the phase's.
        between_lr: constant; null = the phase's peak rate.
        min_channels: at least 1.
        **channels: see :class:`~prunebench.methods.bases.channels.ChannelMethod`.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"finetune", "oneshot", "iterative", "scratch_e", "scratch_b"})

    def __init__(
        self,
        *,
        selection: Annotated[str, Among(("greedy", "tpami"))] = "greedy",
        rescale: bool = True,
        images_per_class: PositiveInt = 50,
        locations_per_image: PositiveInt = 10,
        turn: Annotated[str, Among(("layer", "block"))] = "layer",
        between_epochs: NonNegativeInt = 1,
        between_epoch_share: PositiveFraction | None = None,
        between_lr: NonNegativeFloat | None = None,
        min_channels: PositiveInt = 1,
        **channels: Any,
    ) -> None:
        super().__init__(min_channels=min_channels, **channels)
        if self.options["scope"] == "global":
            raise UserError("parts of the outputs of different layers cannot be compared; use method.scope=layer")
        self.selection, self.rescale, self.turn = selection, rescale, turn
        self.images_per_class, self.locations = images_per_class, locations_per_image
        self.between_epochs, self.between_epoch_share = between_epochs, between_epoch_share
        self.between_lr = between_lr
        self._turns: dict[str, Collection[str]] = {}  # phase -> layers that its cut prunes; follows from the graph

    # -- which layers, how many channels

    def refuses(self, name: str, graph: ChannelGraph) -> str | None:
        layer = graph.layers[name]
        if layer.meets_addition:
            return "its channels meet an addition, so no single layer reads them"
        if len(layer.readers) != 1:
            return f"its channels are read by {len(layer.readers) or 'no'} layers that can be rebuilt, not by one"
        if Reader.of(graph, layer.readers[0]) is None:
            return f"{layer.readers[0]}, which reads it, is no 2-d convolution or linear layer whose inputs can be told"
        return None

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        data = run.data
        if data.task != "classification":
            raise UserError(f"method.images_per_class needs classes, and dataset={data.name} has none")
        wanted = self.images_per_class * data.num_classes
        if 0 < data.num_train < wanted:
            raise UserError(
                f"method.images_per_class={self.images_per_class} asks for {wanted} pictures of {data.num_classes} "
                f"classes, and dataset={data.name} has {data.num_train} to train on; lower it"
            )
        sizes = self._sizes(run.graph, Plan(), 1.0)
        most = max((len(kept) for kept in sizes.plan.keep.values()), default=0)
        if wanted * self.locations < ENOUGH * most:
            raise UserError(
                f"method.images_per_class={self.images_per_class} and method.locations_per_image={self.locations} give "
                f"{wanted * self.locations} instances for up to {most} factors, and {ENOUGH * most} are needed; "
                "raise one of them"
            )

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        return carry_out(net, run, lambda: self._rebuild(net, run))

    def cut_sizes(self, net: nn.Module, run: Run) -> Extracted:
        return run.cut(net, self._sizes(run.graph, run.plan, run.fraction))

    def _sizes(self, graph: ChannelGraph, before: Plan, fraction: float) -> Choice:
        """How many channels of each layer stay; which ones is made up."""
        made_up = {name: torch.zeros(graph.layers[name].out_channels) for name in self.scored(graph)[0]}
        return self.choose(made_up, graph, fraction=fraction, within=before)

    # -- layer by layer

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        for phase in run.phases:
            if phase.active or not phase.pretrain:
                run.measure_dense(net)
            if phase.prune:
                net = self._prune_in_turns(net, run, phase)
            net = run.fit(net, phase)
        return net

    def _prune_in_turns(self, net: nn.Module, run: Run, phase: Phase) -> nn.Module:
        layers = self._sizes(run.graph, run.plan, phase.fraction).plan.keep
        turns: dict[str, list[str]] = {}
        for name in (name for name in run.graph.layers if name in layers):
            turns.setdefault(name if self.turn == "layer" else name.rpartition(".")[0], []).append(name)
        if phase.epochs and not phase.fresh and self.between_epochs:
            for number, names in enumerate(list(turns.values())[:-1], 1):
                short = self._short(phase, f"{phase.name}_turn_{number}")
                self._turns[short.name] = names
                net = run.fit(run.prune(net, short, measured=False), short)
        self._turns[phase.name] = layers  # those of the turns before are as they should be
        return run.prune(net, phase)

    def _short(self, phase: Phase, name: str) -> Phase:
        return replace(
            phase,
            name=name,
            epochs=self.between_epochs,
            epoch_share=phase.epoch_share if self.between_epoch_share is None else self.between_epoch_share,
            lr=phase.lr if self.between_lr is None else self.between_lr,
            lr_schedule="constant",
            warmup_epochs=0.0,
        )

    # -- one cut

    def _rebuild(self, net: nn.Module, run: Run) -> Rebuilt:
        assert run.phase is not None
        started = time.perf_counter()
        graph, before = run.graph, run.plan
        sizes = self._sizes(graph, before, run.fraction)
        now = self._turns.get(run.phase.name, sizes.plan.keep)
        net = copy.deepcopy(net).eval().to(run.device)
        pictures = pictures_of_each_class(run, self.images_per_class)
        walk = Walk(net, graph, pictures)
        keep, tensors = dict(before.keep), dict[str, Tensor]()
        for name in (name for name in graph.layers if name in now):
            reader, number = Reader.of(graph, graph.layers[name].readers[0]), len(sizes.plan.keep[name])
            assert reader is not None  # it would have been refused
            if len(keep.get(name, range(reader.width))) == number:
                continue
            parts, whole = self._instances(walk, reader, net, len(pictures), run)
            kept = self._select(parts, whole, number, keep.get(name, range(reader.width)))
            factors = torch.zeros(reader.width, dtype=torch.float64)
            factors[kept] = scales(parts[:, kept], whole) if self.rescale else 1.0
            reader.set_weight(net, reader.weight(net) * factors.to(parts)[:, None])
            tensors[f"{reader.name}.weight"] = net.get_parameter(f"{reader.name}.weight").detach().cpu()
            keep[name] = tuple(kept)
            log.debug("%s keeps %d of %d channels", name, number, reader.width)
        plan = Plan(keep=keep, inputs=before.inputs)
        ratio = None if self.like else self.prune_ratio
        achieved = budget.describe(
            plan, self.scored(graph)[0], graph, targets=self.targets, prune_ratio=ratio, fraction=run.fraction
        )
        achieved["seconds"] = time.perf_counter() - started
        return Rebuilt(Choice(plan, sizes.not_pruned, achieved), tensors)

    def _instances(
        self, walk: Walk, reader: Reader, net: nn.Module, num_pictures: int, run: Run
    ) -> tuple[Tensor, Tensor]:
        draws = stream("instances", run.seed, reader.name)
        layer = run.graph.layers[reader.name]
        places = draw_places(num_pictures, self.locations, layer.positions, draws=draws, distinct=False)
        filters = torch.randint(layer.out_channels, places.shape, generator=draws)
        return instances(walk, reader, net, places, filters)

    def _select(self, parts: Tensor, whole: Tensor, number: int, live: Sequence[int]) -> list[int]:
        width = parts.shape[1]
        if self.selection == "greedy":
            gone = sorted(set(range(width)).difference(live))
            return sorted(set(range(width)).difference(remove_greedily(parts, width - number, gone=gone)))
        among = pursue(parts[:, list(live)], whole, number)
        return sorted(live[place] for place in among)
