"""Network slimming: an L1 penalty on the scales of the batch norms, then one threshold through all layers.

Liu, Li, Shen, Huang, Yan, Zhang: Learning efficient convolutional networks through network slimming, ICCV 2017.
Details from the group's PyTorch port, Eric-mingjie/network-slimming (main.py:126-129, vggprune.py, resprune.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice, amounts
from prunebench.budget.by_scales import Amount, choose_by_scales
from prunebench.budget.counts import PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.ranges import NonNegativeFloat, PositiveFloat, PositiveFraction, PositiveInt
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_scales import Scale, norm_scales, without_scale
from prunebench.surgery.plan import Plan

log = logging.getLogger("prunebench")


@validated
class Slimming(Method):
    """Train with a penalty on the scales, cut the channels of small scale, fine-tune.

    The loss is ``ce + penalty * sum |gamma|`` over the norms that can switch channels off. Its gradient is
    ``penalty * sign(gamma)`` with sign(0) = 0: the port's sub-gradient step, as a term that is logged. Weight decay
    acts on the scales too, and no proximal step makes them exactly 0.

    Which channels a scale switches off depends on its place (:mod:`prunebench.surgery.norm_scales`). The layer in front
    of the norm loses them; where the norm reads a stream (pre-activation ResNet, DenseNet) the layers behind it stop
    reading them, and the stream keeps its width. Norms in front of an addition have no part: neither penalty nor cut.
    In the paper's nets there are none.

    The configuration's ``acts`` says in which phases the penalty acts: while the whole net is trained and, in the
    iterative schedule, between two cuts. After the last cut there is none.

    Args:
        penalty: weight of the L1 norm, >= 0 (lambda of the paper).
        prune_ratio, target_macs, target_params, scope, min_channels, max_layer_ratio, round_to: see
            :class:`prunebench.budget.by_scales.Amount`; the cut is that of
            :func:`prunebench.budget.by_scales.choose_by_scales`.
        linear: hidden linear layers with a batch norm take part too. In a net without convolutions they always do.
        skip: names and globs of norm layers that have no part.
        small: scales below count as switched off in the log, > 0.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"finetune", "oneshot", "iterative", "scratch_e", "scratch_b"})
    objective: ClassVar[str] = "regularised_heuristic"

    def __init__(
        self,
        *,
        penalty: NonNegativeFloat,
        prune_ratio: PruneRatio | None = None,
        target_macs: amounts.TargetShare | None = None,
        target_params: amounts.TargetShare | None = None,
        scope: amounts.Scope = "global",
        min_channels: PositiveInt = 1,
        max_layer_ratio: PositiveFraction | None = None,
        round_to: PositiveInt = 1,
        linear: bool = False,
        skip: Sequence[str] = (),
        small: PositiveFloat = 0.01,
    ) -> None:
        super().__init__()
        self.sizes_given = scope == "layer"
        self.penalty = float(penalty)
        self.linear = linear
        self.skip = tuple(skip)
        self.small = float(small)
        self.amount = Amount(
            prune_ratio=None if target_macs is not None or target_params is not None else prune_ratio,
            target_macs=target_macs,
            target_params=target_params,
            scope=scope,
            min_channels=min_channels,
            max_layer_ratio=max_layer_ratio,
            round_to=round_to,
        )
        self._live: dict[str, Tensor] = {}  # norm -> channels that have an effect; follows from the plan, so no state

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        scales, _ = self._scales(run.graph)
        # a target out of reach is refused here, and the cut itself is tried
        draws = torch.Generator().manual_seed(0)
        made_up = {norm: 1.0 + torch.rand(scale.width, generator=draws) for norm, scale in scales.items()}
        run.rehearse(net, choose_by_scales(made_up, scales, run.graph, self.amount))
        self._watch(scales, run.plan)
        total = sum(scale.width for scale in scales.values())
        streams = sum(scale.layer is None for scale in scales.values())
        log.info("scales: %d channels in %d norm layers, of which %d select from a stream", total, len(scales), streams)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        self._watch(self._scales(run.graph)[0], run.plan)
        return net

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        return {**task.losses(net, batch), "scale_l1": self.penalty * self._gammas(net).abs().sum()}

    def report(self, net: nn.Module) -> Mapping[str, float]:
        sizes = self._gammas(net).detach().abs()
        return {"small_scales": float((sizes < self.small).float().mean()), "mean_scale": float(sizes.mean())}

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        scales, refused = self._scales(run.graph)
        # rounds grow towards the whole amount: what the cuts before this one were to reach
        done = max((p.fraction for p in run.phases if p.prune and p.fraction < run.fraction), default=0.0)

        def decide() -> Choice:
            values = {norm: net.get_parameter(f"{norm}.weight") for norm in scales}
            how_far = {"done": done, "fraction": run.fraction}
            choice = choose_by_scales(values, scales, run.graph, self.amount, **how_far, within=run.plan)
            return replace(choice, not_pruned=choice.not_pruned + refused)

        return run.cut(net, run.choose(decide))

    def _watch(self, scales: Mapping[str, Scale], plan: Plan) -> None:
        """Remember the channels that have an effect after ``plan``, by their places in the net that it makes."""
        self._live = {}
        for norm, scale in scales.items():
            kept = scale.kept(plan)
            # a norm that is cut has only live channels, one that selects has its full width
            self._live[norm] = torch.tensor(kept if scale.layer is None else range(len(kept)))

    def _gammas(self, net: nn.Module) -> Tensor:
        """The scales that have an effect, in one vector."""
        found = []
        for norm, live in self._live.items():
            gamma = net.get_parameter(f"{norm}.weight")
            found.append(gamma if len(live) == len(gamma) else gamma[live.to(gamma.device)])
        return torch.cat(found)

    def _scales(self, graph: ChannelGraph) -> tuple[dict[str, Scale], list[dict[str, str]]]:
        """The norm layers that take part; the others with the reason, each under the layer that it follows, if one."""
        scales, refused = norm_scales(graph)
        skipped = match_layers(self.skip, scales, what="method.skip")
        refused |= dict.fromkeys(skipped, "it is to stay whole (method.skip)")
        of_images = not self.linear and any(scale.is_image for scale in scales.values())
        if of_images:
            features = [norm for norm, scale in scales.items() if not scale.is_image]
            refused |= dict.fromkeys(features, "it is in front of or behind a linear layer (method.linear=false)")
        scales = {norm: scale for norm, scale in scales.items() if norm not in refused}
        together = graph.must_stay([scale.layer for scale in scales.values() if scale.layer is not None])
        refused |= {norm: together[scale.layer] for norm, scale in scales.items() if scale.layer in together}
        scales = {norm: scale for norm, scale in scales.items() if norm not in refused}
        if not scales:
            norm, reason = next(iter(refused.items()), ("", "it has no norm layers"))
            what = norm or "the net"
            raise UserError(f"no scale of a norm layer can switch off channels of this net: {what}: {reason}")
        cut = {layer.norm: name for name, layer in graph.layers.items() if layer.norm is not None}
        listed = {cut.get(norm, norm): reason for norm, reason in refused.items()}
        listed |= {
            name: "no norm layer follows, whose scales could switch its channels off"
            for name in without_scale(graph, scales)
            if graph.layers[name].kind != "linear" or not of_images
        }
        return scales, [{"layer": name, "reason": reason} for name, reason in listed.items()]
