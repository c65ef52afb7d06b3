"""Spike-and-slab node selection: each unit and filter learns how probable it is; those that are not go."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, NonNegativeInt, OpenFraction, PositiveFloat, PositiveInt, Range
from prunebench.core.context import Extracted, Run
from prunebench.core.method import match_layers
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import holding
from prunebench.layers.sampling import is_stochastic
from prunebench.layers.spike_slab import Selection, SlabEstimator, SpikeSlab, Stds, spike_slab
from prunebench.measure.layer_sizes import macs_with_bias
from prunebench.measure.metrics import ACCURACY, HEADLINES, NLL
from prunebench.methods.bases.dead_channels import without_dead_channels
from prunebench.methods.bases.fresh_norms import with_fresh_norms
from prunebench.methods.bases.gaussian_nets import to_plain
from prunebench.methods.bases.recorded_draws import KeptDraws, Recorded
from prunebench.methods.bases.spike_slab_nets import (
    changed,
    divergence,
    log_priors,
    logit,
    plan_of,
    share,
    spike_slab_layers,
)
from prunebench.surgery.replace import replace as swapped

log = logging.getLogger("prunebench")
MEDIAN, ENSEMBLE, FREEZE_FINETUNE = "median", "ensemble", "freeze_finetune"
NORM_SAMPLES = 10_000
"""At most so many training samples refresh the batch norms of the extracted net."""
FINETUNE = "freeze_finetune"
"""Name of the phase that ``extraction=freeze_finetune`` adds."""
Inclusion = Annotated[str, Among(("formula",))] | OpenFraction


@validated
class SpikeSlabSelection(KeptDraws):
    """Learn a Gaussian for each weight and bias, and for each node the probability that it is part of the net.

    Jantre, Bhattacharya, Maiti 2023 (arXiv 2108.11000), SS-IG. A node is a unit or a filter: the weights into it and
    its bias, which a gate z turns on or off together. Minimised is the mean loss of a batch under one draw of all gates
    and weights plus ``kl_weight`` KL / n; gates are 0 or 1 with the gradient of a binary concrete variable. The output
    layer has no gates. ``selection=edge`` gives every weight and bias a gate (the paper's baseline after Bai et al.
    2020), ``none`` is a plain variational net (VBNN).

    Official code: jsanket12/SS_IG. Its sparsity is that of one draw and its accuracy that of ten, which are
    ``metrics.before_cut.method`` and ``metrics.before_cut`` here; what is left of the net afterwards, ``extraction``,
    is ours. Deviations: batch norms are not variational, and have
    statistics of the extracted net. ``slab=local_reparam`` draws the outputs instead of the
    weights, which the authors do not do.

    Args:
        selection: "node", "edge" or "none".
        extraction: "median" = gates above 1/2 stay, at the means of their weights; "freeze_finetune" = the same after
            ``finetune_epochs`` with these gates fixed; "ensemble" = the posterior stays, and ``num_samples`` nets are
            drawn for each prediction.
        prior_std: sigma_0 of the slab.
        prior_inclusion: lambda: "formula" (layer by layer), a probability, or a table of layer or glob -> one of them;
            layers that the table does not name have the formula.
        inclusion: first probability of each gate.
        spread: first value of all spreads; softplus(-6) = 0.0025.
        temperature: of the soft gate.
        slab: "weight" or "local_reparam".
        kaiming: means start Kaiming-uniform with the gain of a ReLU, biases uniform within 1 / sqrt(inputs), as in the
            official code; false = as the model draws them, or pretrained.
        min_nodes: so many nodes of each layer stay, the most probable ones.
        finetune_epochs, finetune_lr: of ``extraction=freeze_finetune``, with the KL of the slab still on.
        **common: ``layers``, ``kl_weight``, ``kl_start``, ``kl_warmup`` and ``num_samples`` of
            :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        selection: Selection,
        extraction: Annotated[str, Among((MEDIAN, ENSEMBLE, FREEZE_FINETUNE))],
        prior_std: PositiveFloat,
        prior_inclusion: Inclusion | Mapping[str, Inclusion],
        inclusion: OpenFraction,
        spread: Annotated[float, Range(low=-100)],
        temperature: PositiveFloat,
        slab: SlabEstimator,
        kaiming: bool,
        min_nodes: PositiveInt,
        finetune_epochs: NonNegativeInt,
        finetune_lr: PositiveFloat,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.selection, self.extraction = selection, extraction
        if extraction == ENSEMBLE and self.num_samples is None:
            raise UserError("method.extraction=ensemble predicts with several draws; give method.num_samples")
        self.prior_std, self.prior_inclusion = float(prior_std), prior_inclusion
        self.options = {
            "spread": float(spread),
            "inclusion": logit(inclusion),
            "temperature": float(temperature),
            "slab": slab,
            "min_kept": min_nodes,
        }
        self.kaiming = kaiming
        self.finetune_epochs, self.finetune_lr = finetune_epochs, float(finetune_lr)
        self.gated: dict[str, str] = {}
        self.log_priors: dict[str, float] = {}

    # -- hooks

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if self.kaiming and any(phase.pretrain for phase in run.phases):
            raise UserError("method.kaiming=true overwrites pretrained means; set it to false")
        shown = ", ".join(f"{name} {math.exp(value):.4g}" for name, value in self.log_priors.items())
        log.info("gates of %s; prior inclusion: %s", self.selection, shown or "no gates")
        if self.options["slab"] == "local_reparam":
            log.info("method.slab=local_reparam draws outputs, not weights: a deviation from the authors' estimator")

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        net = super().run(net, run)
        if self.extraction != ENSEMBLE:
            run.measure("before_cut", net)
        if self.extraction == FREEZE_FINETUNE:
            phase = replace(
                [phase for phase in run.phases if phase.active][-1],
                name=FINETUNE, epochs=self.finetune_epochs, lr=self.finetune_lr, fresh=False, prune=False,
            )  # fmt: skip
            net = run.fit(changed(net, SpikeSlab.settle), phase)
        return net

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if not is_stochastic(net):
            run.seed_all("posterior")
        return super().attach(net, run)

    def swap(self, net: nn.Module) -> nn.Module:
        def make(path: str, module: nn.Module) -> nn.Module | None:
            if path not in self.names or not isinstance(module, nn.Linear | nn.Conv2d):
                return None
            layer = spike_slab(module, selection=self.gated.get(path, "none"), **self.options)
            if self.kaiming:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    bound = 1 / math.sqrt(layer.weight[0].numel())
                    nn.init.uniform_(layer.bias, -bound, bound)
            return layer

        return swapped(net, make)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        layers = spike_slab_layers(net)
        stds = {name: layer.stds() for name, layer in layers.items()}  # for the draw and for the divergence
        if self.options["slab"] == "weight":
            with holding(layers, {name: layer.draw(stds[name]) for name, layer in layers.items()}):
                found = task.losses(net, batch)
        else:
            found = task.losses(net, batch)
        return {**found, "kl": self.kl_now * self._divergence(layers, stds) / self.num_train}

    def divergence(self, net: nn.Module) -> Tensor:
        layers = spike_slab_layers(net)
        return self._divergence(layers, {name: layer.stds() for name, layer in layers.items()})

    @torch.no_grad()
    def report(self, net: nn.Module) -> Mapping[str, float]:
        found = dict(super().report(net))
        on, expected = 0, 0.0
        for layer in self._gates(net).values():
            assert layer.location is not None
            on += int((layer.location > 0).sum())
            expected += float(torch.sigmoid(layer.location).sum())
        return {**found, "gates_above_half": on, "gates_expected": expected} if self.gated else found

    @torch.no_grad()
    def extract(self, net: nn.Module, run: Run) -> Extracted:
        kept = {name: on for name, layer in self._gates(net).items() if (on := layer.kept()) is not None}
        shares = share(kept)
        what = f"{self.selection}s"
        log.info("%s that stay: %s", what, ", ".join(f"{n} {100 * s:.1f} %" for n, s in shares.items()) or "all")
        achieved: dict[str, Any] = {"gates_kept": {name: int(on.sum()) for name, on in kept.items()}}
        ungated = [name for name in self.names if name not in self.gated]
        whole = [{"layer": name, "reason": "it has no gates"} for name in ungated]
        if self.extraction == ENSEMBLE:
            reason = f"its {what} are drawn anew for each of {self.num_samples} predictions"
            return Extracted(
                net=net, not_pruned=[*whole, *({"layer": name, "reason": reason} for name in kept)], achieved=achieved
            )
        reason = f"all its {what} have a probability above 1/2"
        whole += [{"layer": name, "reason": reason} for name, s in shares.items() if s == 1]
        # statistics of its own: those of training are of nets with other gates
        small = to_plain(changed(net, SpikeSlab.silence))
        sparse = with_fresh_norms(small, run, num_images=min(run.data.num_train, NORM_SAMPLES)).cpu()
        return without_dead_channels(sparse, run, whole=whole, achieved=achieved)

    @torch.no_grad()
    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        if not isinstance(net, Recorded):
            return {}
        predictions, labels = net.recorded()
        return {**_scores_of_draws(predictions, labels, run.task), **self._sizes_of_draws(net, run)}

    # -- helpers

    def _choose(self, net: nn.Module, run: Run) -> None:
        super()._choose(net, run)
        layers = run.graph.layers
        outputs = [name for name in layers if layers[name].is_output]
        hidden = [name for name in self.names if name not in outputs]
        self.gated = {} if self.selection == "none" else dict.fromkeys(hidden, self.selection)
        if not self.gated:
            self.log_priors = {}
            if self.selection != "none":
                raise UserError("there is no hidden layer to select from; use method.selection=none")
            return
        if not run.data.num_train:  # a row is only counted: nothing is read, and nothing will be trained
            self.log_priors = {}
            return
        formula = log_priors(run.template, self.gated, outputs, num_train=run.data.num_train)
        self.log_priors = {name: self._log_prior(name, formula[name]) for name in self.gated}

    def _log_prior(self, name: str, formula: float) -> float:
        given: Any = self.prior_inclusion
        if isinstance(given, Mapping):
            for pattern, value in given.items():
                if name in match_layers([pattern], self.gated, what="method.prior_inclusion"):
                    given = value
                    break
            else:
                return formula
        return formula if given == "formula" else math.log(given)

    def _divergence(self, layers: Mapping[str, SpikeSlab], stds: Mapping[str, Stds]) -> Tensor:
        terms = [
            divergence(layer, stds[name], self.log_priors.get(name, 0.0), self.prior_std)
            for name, layer in layers.items()
        ]
        return torch.stack(terms).sum()

    def _gates(self, net: nn.Module) -> dict[str, SpikeSlab]:
        return {name: layer for name, layer in spike_slab_layers(net).items() if layer.location is not None}

    def _sizes_of_draws(self, net: Recorded, run: Run) -> dict[str, Any]:
        """What single draws of the nodes keep and cost; MACs with one addition for each bias, as the authors count."""
        if self.selection != "node":
            return {}
        draws: list[dict[str, Tensor]] = []

        def look(drawn: nn.Module) -> Tensor:
            draws.append({name: cast(Tensor, layer.gates()) > 0 for name, layer in self._gates(drawn).items()})
            return torch.zeros(())

        net.each(look)
        sizes = [macs_with_bias(run.graph, plan_of(gates, run.graph)) for gates in draws]
        shares = [share(gates) for gates in draws]
        return {
            "draw_macs_bias": statistics.median(sizes),
            "last_draw_macs_bias": sizes[-1],
            "draw_kept_per_layer": {name: statistics.median(s[name] for s in shares) for name in self.gated},
        }


def _scores_of_draws(samples: Tensor, targets: Tensor, task: Task) -> dict[str, float]:
    """What single draws score on average, and the authors' accuracy: of the mean of the logits.

    Args:
        samples: ``[S, N, classes]``. ``targets``: ``[N]``.
    """
    batch = (targets, targets)
    scores = [task.evaluate(lambda _, one=one: one[None], [batch])[0] for one in samples]  # type: ignore[misc]
    known = [metric.key for metric in (*HEADLINES, NLL) if metric.within(scores[0]) is not None]
    found = {f"draw_{key}": statistics.mean(score[key] for score in scores) for key in known}
    if ACCURACY.key in known:
        # logits are ln p up to a number that all classes share
        guess = samples.clamp_min(torch.finfo(samples.dtype).tiny).log().mean(0).argmax(1)
        found["mean_logits_accuracy"] = float((guess == targets).double().mean())
    return found
