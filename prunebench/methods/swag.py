"""SWAG: a Gaussian over the weights from the iterates of SGD, and predictions averaged over samples of it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from torch import Tensor, nn

from prunebench.budget.amounts import Coupling, Scope
from prunebench.budget.counts import PruneRatio
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, FractionBelowOne, NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.data.splits import stream
from prunebench.errors import UserError
from prunebench.layers.iterates import IterateGaussian
from prunebench.layers.vectors import split, to_vector, trainable, write_vector
from prunebench.methods.bases.fresh_norms import check_bn_images, with_fresh_norms
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_gaussian
from prunebench.methods.bases.snr_pruning import PrunedUnit, Score, SnrPruning, collected, read_iterates
from prunebench.methods.bases.stored_states import OPTION, load_fitting

log = logging.getLogger("prunebench")
SCALES = {"swa": 0.0, "swag_diag": 1.0, "swag": 0.5}
"""Variant -> factor of the covariance (experiments/uncertainty/README.md of the official code)."""
ORIGIN = "prunebench_extension"
"""Marks runs that prune: the paper does not."""


@validated
class SWAG(Method):
    """Collect weights while SGD runs at a constant rate, then predict with samples of their Gaussian.

    Maddox et al. 2019, algorithm 1; ``variant: swag`` has the diagonal and the low-rank covariance, ``swag_diag`` the
    diagonal one, ``swa`` the mean alone (Izmailov et al. 2018). A measurement draws its nets once, from (seed, "swag"),
    refreshes the batch norms of each on training pictures and averages the probabilities. Before the first collection
    (the dense net, a best epoch that is early) the net itself predicts. Validation during training predicts with the
    current weights, so the best epoch is theirs. The saved net is the mean with refreshed batch norms.

    Deviation from the official code: moments are float64.
    With a fraction in ``collect_every`` the places of collection are equally spaced in one shuffled epoch, as in
    imagenet/run_swag_imagenet.py; its collection of the pretrained weights themselves is left out.

    **Pruning is an extension of prunebench, not of the paper**: at a cut the weights (or filters) of smallest
    signal-to-noise ratio ``|mean| / std`` go from mean, variance and deviations, so that each sample has them at 0.
    A phase after the cut keeps dead weights at 0 (gradients before, weights after each step) and collects anew.

    Args:
        variant: "swag", "swag_diag" or "swa".
        num_samples: S, nets of which the probabilities are averaged; the mean alone is one.
        rank: K, deviations that are kept, K x d numbers; at least 2 for ``swag``.
        scale: factor of the covariance; null = 0.5 for ``swag``, 1 for ``swag_diag``.
        start: share of the epochs of a phase before the first one that collects, in [0, 1).
        collect_every: epochs from one collection to the next; a fraction collects several times an epoch.
        bn_images: training pictures, augmented, that refresh the batch norms of each net, rounded up to whole batches;
            null = all.
        posterior: folder of a finished run whose Gaussian is taken, instead of training; with ``schedule=oneshot``.
        prune_ratio, score, unit, scope, coupling, layers: of what goes at a cut, see
            :class:`prunebench.methods.bases.snr_pruning.SnrPruning`.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = frozenset({"simultaneous", "oneshot", "finetune"})
    posterior: IterateGaussian | None

    def __init__(
        self,
        *,
        variant: Annotated[str, Among(SCALES)] = "swag",
        num_samples: PositiveInt = 30,
        rank: NonNegativeInt = 20,
        scale: NonNegativeFloat | None = None,
        start: FractionBelowOne = 0.0,
        collect_every: Annotated[float, Range(low=1e-6)] = 1.0,
        bn_images: PositiveInt | None = None,
        posterior: str | None = None,
        prune_ratio: PruneRatio = 0.0,
        score: Score = "snr",
        unit: PrunedUnit = "weight",
        scope: Scope = "global",
        coupling: Coupling = "free",
        layers: Sequence[str] = ("*",),
    ) -> None:
        super().__init__()
        self.pruning = SnrPruning(
            prune_ratio=prune_ratio, score=score, unit=unit, scope=scope, coupling=coupling, layers=layers
        )
        if variant == "swag" and rank < 2:
            raise UserError(f"method.rank must be at least 2 for method.variant=swag, got {rank!r}")
        self.variant, self.rank, self.start, self.collect_every = variant, rank, start, collect_every
        self.num_samples = 1 if variant == "swa" else num_samples
        self.scale = SCALES[variant] if scale is None or variant == "swa" else scale
        if not self.scale and prune_ratio and score == "snr":
            raise UserError(
                "without a variance (method.variant=swa or method.scale=0) no signal-to-noise ratio exists; use "
                "method.variant=swag or method.score=magnitude"
            )
        self.bn_images, self.source = bn_images, posterior
        self.posterior = None

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        check_bn_images(self.bn_images, run)
        if self.pruning.prune_ratio and run.schedule == "simultaneous":
            raise UserError("method.prune_ratio acts at a cut; use schedule=oneshot or finetune, or set it to 0")
        if self.pruning.prune_ratio:
            log.info("layers to prune: %s", ", ".join(self.pruning.chosen(run)))
        before_cut = any(phase.active and not phase.prune for phase in run.phases)
        if self.source is not None:
            if before_cut:
                raise UserError(
                    "method.posterior replaces training: use schedule=oneshot and method.acts.pretrain=false"
                )
            read_iterates(self.source, net)
        elif not before_cut:
            raise UserError("nothing is collected before the cut; set method.acts.pretrain=true or method.posterior")
        for phase in run.phases:
            if phase.active and phase.epochs:
                self._check_phase(phase)
            elif phase.prune and phase.epochs:
                raise UserError(f"the phase {phase.name} must collect weights again; set method.acts.{phase.name}=true")

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        posterior = IterateGaussian(size=len(to_vector(net)), rank=self.rank)
        if self.posterior is not None:
            posterior.prune(self.posterior.live)
        self.posterior, self._sparse = posterior, not bool(posterior.live.all())
        return net

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        if self._sparse:
            assert self.posterior is not None
            masks = split(net, self.posterior.live)
            for name, parameter in trainable(net):
                if parameter.grad is not None:
                    parameter.grad *= masks[name]

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        assert self.posterior is not None
        if self._sparse:
            write_vector(net, to_vector(net) * self.posterior.live)
        done = clock.step + 1 - self._first_epoch(clock.num_epochs) * clock.steps_per_epoch
        if done > 0 and self._num_due(done, clock) > self._num_due(done - 1, clock):
            self.posterior.collect(to_vector(net))

    def report(self, net: nn.Module) -> Mapping[str, float]:
        assert self.posterior is not None
        return {"num_collected": float(self.posterior.num_collected)}

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        if self.source is not None:
            self.posterior = read_iterates(self.source, net)
        assert self.posterior is not None
        log.info("%d collected weight vectors", int(self.posterior.num_collected))
        if not self.pruning.prune_ratio:
            return Extracted(net=self._mean(net, run))
        std = self.posterior.std(scale=self.scale, low_rank=self.variant == "swag")
        if self.pruning.unit == "weight":
            found = self.pruning.cut_weights(net, self.posterior, std, run)
        else:
            found, self.posterior = self.pruning.cut_channels(self._mean(net, run), self.posterior, std, run)
        log.info("pruned by %s of each %s (%s)", self.pruning.score, self.pruning.unit, ORIGIN)
        # the mean of what is left, with batch norms that fit it
        return replace(found, net=self._mean(found.net, run), achieved={**found.achieved, "origin": ORIGIN})

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        return Extracted(net=self._mean(net, run))

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if self.posterior is None or not self.posterior.num_collected:
            return net
        draws = stream("swag", run.seed)
        low_rank = self.variant == "swag"
        vectors = (self.posterior.draw(draws, scale=self.scale, low_rank=low_rank) for _ in range(self.num_samples))
        return nn.ModuleList(self._with_weights(net, vector, run) for vector in vectors)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        if not isinstance(net, nn.ModuleList):
            return super().predict(net, batch, task)
        return torch.stack([task.probabilities(member, batch) for member in net])

    def stored_posterior(self, net: nn.Module, state: Mapping[str, Tensor], run: Run) -> nn.Module | None:
        """Independent weights with the variances of the Gaussian, whose correlations and sampled norms are left out."""
        found = collected(state, net)
        if found is None or not found.num_collected:
            return None
        if not self.scale:
            raise UserError(f"{OPTION} is a run without a variance (method.variant=swa or method.scale=0)")
        std = split(net, found.std(scale=self.scale, low_rank=self.variant == "swag").float())
        # buffers of the net that was trained; the batch norms are then refreshed for the mean
        trained = copy.deepcopy(net)
        load_fitting(trained, {n.removeprefix("net."): v for n, v in state.items() if n.startswith("net.")})
        self.posterior = found
        means = self._mean(trained, run)
        made = to_gaussian(means, list(run.graph.layers), scale="std", initial=0.0, bias_initial=0.0)
        with torch.no_grad():
            for name, layer in gaussian_layers(made).items():
                layer.spread.copy_(std[f"{name}.weight"])
                if layer.bias_spread is not None:
                    layer.bias_spread.copy_(std[f"{name}.bias"])
        return made.eval()

    def _first_epoch(self, num_epochs: int) -> int:
        """The first epoch that collects."""
        return math.floor(self.start * num_epochs + 1e-9)

    def _num_due(self, steps: int, clock: Clock) -> int:
        """How many collections are due after ``steps`` steps since the first epoch that collects."""
        return math.floor(steps / (self.collect_every * clock.steps_per_epoch) + 1e-9)

    def _check_phase(self, phase: Phase) -> None:
        needed = 1 if self.variant == "swa" else 2
        expected = math.floor((phase.epochs - self._first_epoch(phase.epochs)) / self.collect_every + 1e-9)
        if expected < needed:
            raise UserError(
                f"phase {phase.name} would collect {expected} weight vectors in {phase.epochs} epochs, "
                f"{self.variant} needs at least {needed}; lower method.start or method.collect_every"
            )

    def _with_weights(self, net: nn.Module, vector: Tensor, run: Run) -> nn.Module:
        """A copy of ``net`` with the weights ``vector [d]`` and batch norms that fit them."""
        net = copy.deepcopy(net).to(run.device)
        write_vector(net, vector)
        return with_fresh_norms(net, run, num_images=self.bn_images)

    def _mean(self, net: nn.Module, run: Run) -> nn.Module:
        assert self.posterior is not None
        return self._with_weights(net, self.posterior.mean, run).cpu()
