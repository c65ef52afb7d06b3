"""SWAG: a Gaussian over the weights from the iterates of SGD, and predictions averaged over samples of it."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget.counts import check_ratio, prune_floor
from prunebench.criteria.snr import filter_signal_to_noise, live_weights, signal_to_noise
from prunebench.data.splits import stream
from prunebench.errors import UserError, nearest
from prunebench.layers.iterates import IterateGaussian
from prunebench.layers.vectors import split, to_vector, trainable, write_vector
from prunebench.measure.batch_norm import refreshed
from prunebench.method import Method, match_layers
from prunebench.result import is_complete, read_result
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

if TYPE_CHECKING:
    from prunebench.job import Job
    from prunebench.phase import Phase
    from prunebench.task import Batch, Task

log = logging.getLogger("prunebench")
SCALES = {"swa": 0.0, "swag_diag": 1.0, "swag": 0.5}
"""Variant -> factor of the covariance (experiments/uncertainty/README.md of the official code)."""
REFRESH_BATCH = 128
"""Pictures a batch when batch norms are refreshed: the official code's training batch."""
ORIGIN = "prunebench_extension"
"""Marks runs that prune: the paper does not."""
CHOICES = {"score": ("snr", "magnitude"), "unit": ("weight", "channel"), "scope": ("global", "layer")}


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
        prune_ratio: share of the weights (of the channels of each layer) that goes at a cut, in [0, 1).
        score: "snr", or "magnitude" of the mean as a control.
        unit: "weight" or "channel".
        scope: for weights: rank them over all layers ("global") or in each ("layer").
        coupling: for channels, see :func:`prunebench.budget.choose`.
        layers: names and globs of the layers that are pruned; only convolutions and linear layers can be.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = frozenset({"simultaneous", "oneshot", "finetune"})
    posterior: IterateGaussian | None

    def __init__(
        self,
        *,
        variant: str = "swag",
        num_samples: int = 30,
        rank: int = 20,
        scale: float | None = None,
        start: float = 0.0,
        collect_every: float = 1.0,
        bn_images: int | None = None,
        posterior: str | None = None,
        prune_ratio: float = 0.0,
        score: str = "snr",
        unit: str = "weight",
        scope: str = "global",
        coupling: str = "free",
        layers: Sequence[str] = ("*",),
    ) -> None:
        super().__init__()
        for name, value in (("variant", variant), ("score", score), ("unit", unit), ("scope", scope)):
            allowed = CHOICES.get(name, tuple(SCALES))
            if value not in allowed:
                hint = nearest(str(value), allowed)
                raise UserError(f"method.{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")
        _check_number("num_samples", num_samples, whole=True, low=1)
        _check_number("rank", rank, whole=True, low=2 if variant == "swag" else 0)
        _check_number("start", start, low=0, below=1)
        _check_number("collect_every", collect_every, low=1e-6)
        if scale is not None:
            _check_number("scale", scale, low=0)
        self.variant, self.rank, self.start, self.collect_every = variant, rank, start, collect_every
        self.num_samples = 1 if variant == "swa" else num_samples
        self.scale = SCALES[variant] if scale is None or variant == "swa" else scale
        if not self.scale and prune_ratio and score == "snr":
            raise UserError(
                "without a variance (method.variant=swa or method.scale=0) no signal-to-noise ratio exists; use "
                "method.variant=swag or method.score=magnitude"
            )
        self.bn_images, self.source = bn_images, posterior
        self.prune_ratio = check_ratio(prune_ratio, where="method.prune_ratio")
        self.score, self.unit, self.scope, self.coupling, self.layers = score, unit, scope, coupling, layers
        self.posterior = None

    def check(self, net: nn.Module, job: Job) -> None:
        super().check(net, job)
        if self.bn_images is not None and not 1 <= self.bn_images <= job.data.num_train:
            raise UserError(
                f"method.bn_images must be 1 to {job.data.num_train} training pictures or null, got {self.bn_images!r}"
            )
        if self.prune_ratio and job.schedule == "simultaneous":
            raise UserError("method.prune_ratio acts at a cut; use schedule=oneshot or finetune, or set it to 0")
        if self.prune_ratio:
            log.info("layers to prune: %s", ", ".join(self._chosen(job)))
        before_cut = any(phase.active and not phase.prune for phase in job.phases)
        if self.source is not None:
            if before_cut:
                raise UserError(
                    "method.posterior replaces training: use schedule=oneshot and method.acts.pretrain=false"
                )
            read_posterior(self.source, net)
        elif not before_cut:
            raise UserError("nothing is collected before the cut; set method.acts.pretrain=true or method.posterior")
        for phase in job.phases:
            if phase.active and phase.epochs:
                self._check_phase(phase)
            elif phase.prune and phase.epochs:
                raise UserError(f"the phase {phase.name} must collect weights again; set method.acts.{phase.name}=true")

    def attach(self, net: nn.Module, job: Job) -> nn.Module:
        assert job.phase is not None
        posterior = IterateGaussian(size=len(to_vector(net)), rank=self.rank)
        if self.posterior is not None:
            posterior.prune(self.posterior.live)
        self.posterior, self._sparse = posterior, not bool(posterior.live.all())
        self._steps_per_epoch, self._first = job.steps_per_epoch(job.phase), self._first_epoch(job.phase)
        return net

    def start_epoch(self, net: nn.Module, epoch: int) -> None:
        # no state of the run: checkpoints are made between epochs, and each epoch sets it anew
        self._done = (epoch - self._first) * self._steps_per_epoch

    def before_step(self, net: nn.Module) -> None:
        if self._sparse:
            assert self.posterior is not None
            masks = split(net, self.posterior.live)
            for name, parameter in trainable(net):
                if parameter.grad is not None:
                    parameter.grad *= masks[name]

    def after_step(self, net: nn.Module) -> None:
        assert self.posterior is not None
        if self._sparse:
            write_vector(net, to_vector(net) * self.posterior.live)
        self._done += 1
        if self._done > 0 and self._num_due(self._done) > self._num_due(self._done - 1):
            self.posterior.collect(to_vector(net))

    def report(self, net: nn.Module) -> Mapping[str, float]:
        assert self.posterior is not None
        return {"num_collected": float(self.posterior.num_collected)}

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        if self.source is not None:
            self.posterior = read_posterior(self.source, net)
        assert self.posterior is not None
        log.info("%d collected weight vectors", int(self.posterior.num_collected))
        if self.prune_ratio and self.unit == "weight":
            self._prune_weights(net, job)
        elif self.prune_ratio:
            net = self._prune_channels(net, job)
        if self.prune_ratio:
            job.achieved["origin"] = ORIGIN
            log.info("pruned by %s of each %s (%s)", self.score, self.unit, ORIGIN)
        return self._mean(net, job)

    def extract(self, net: nn.Module, job: Job) -> tuple[nn.Module, Plan]:
        return self._mean(net, job), job.plan

    def before_measure(self, net: nn.Module, job: Job) -> nn.Module:
        if self.posterior is None or not self.posterior.num_collected:
            return net
        draws = stream("swag", job.seed)
        low_rank = self.variant == "swag"
        vectors = (self.posterior.draw(draws, scale=self.scale, low_rank=low_rank) for _ in range(self.num_samples))
        return nn.ModuleList(self._with_weights(net, vector, job) for vector in vectors)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        if not isinstance(net, nn.ModuleList):
            return super().predict(net, batch, task)
        return torch.stack([task.probabilities(member, batch) for member in net])

    def _first_epoch(self, phase: Phase) -> int:
        return math.floor(self.start * phase.epochs + 1e-9)

    def _num_due(self, steps: int) -> int:
        """How many collections are due after ``steps`` steps since the first epoch that collects."""
        return math.floor(steps / (self.collect_every * self._steps_per_epoch) + 1e-9)

    def _check_phase(self, phase: Phase) -> None:
        needed = 1 if self.variant == "swa" else 2
        expected = math.floor((phase.epochs - self._first_epoch(phase)) / self.collect_every + 1e-9)
        if expected < needed:
            raise UserError(
                f"phase {phase.name} would collect {expected} weight vectors in {phase.epochs} epochs, "
                f"{self.variant} needs at least {needed}; lower method.start or method.collect_every"
            )

    def _with_weights(self, net: nn.Module, vector: Tensor, job: Job) -> nn.Module:
        """A copy of ``net`` with the weights ``vector [d]`` and batch norms that fit them."""
        net = copy.deepcopy(net).to(job.settings.device)
        write_vector(net, vector)
        job.data.to(job.settings.device)
        # augmented like the training: statistics of plain pictures cost a CIFAR-10 ResNet-20 2.8 points of accuracy
        batches = job.data.train(epoch=0, seed=job.seed, batch_size=REFRESH_BATCH)
        num_batches = None if self.bn_images is None else math.ceil(self.bn_images / REFRESH_BATCH)
        return refreshed(net, itertools.islice(batches, num_batches), seed=job.seed).eval()

    def _mean(self, net: nn.Module, job: Job) -> nn.Module:
        assert self.posterior is not None
        return self._with_weights(net, self.posterior.mean, job).cpu()

    def _chosen(self, job: Job) -> list[str]:
        """The layers to prune; by channels only those whose outputs are read by others."""
        layers = job.graph.layers
        fit = [
            name
            for name, layer in layers.items()
            if self.unit == "weight" or (layer.kind != "depthwise" and not layer.is_output)
        ]
        return match_layers(self.layers, fit, what="method.layers")

    def _prune_weights(self, net: nn.Module, job: Job) -> None:
        assert self.posterior is not None
        mean, std = self.posterior.mean, self._std()
        ranked = split(net, mean.abs() if self.score == "magnitude" else signal_to_noise(mean, std))
        scores = {name: ranked[f"{name}.weight"] for name in self._chosen(job)}
        counts = {name: prune_floor(score.numel(), self.prune_ratio) for name, score in scores.items()}
        total = sum(score.numel() for score in scores.values())
        masks = live_weights(scores, counts if self.scope == "layer" else prune_floor(total, self.prune_ratio))
        live = torch.ones_like(self.posterior.live)
        for name, mask in masks.items():
            split(net, live)[f"{name}.weight"].copy_(mask)  # a view of it
        self.posterior.prune(live)
        kept = {name: float(mask.double().mean()) for name, mask in masks.items()}
        log.info("kept weights: %s", ", ".join(f"{name} {100 * share:.1f} %" for name, share in kept.items()))
        job.achieved = {"weights_kept": sum(int(mask.sum()) for mask in masks.values()) / total}
        reason = "all its weights rank above the threshold"
        job.not_pruned = [{"layer": name, "reason": reason} for name, share in kept.items() if share == 1.0]

    def _prune_channels(self, net: nn.Module, job: Job) -> nn.Module:
        assert self.posterior is not None
        mean, std = split(net, self.posterior.mean), split(net, self._std())
        scores = {}
        for name in self._chosen(job):
            weight = mean[f"{name}.weight"]
            spread = torch.ones_like(weight) if self.score == "magnitude" else std[f"{name}.weight"]
            scores[name] = filter_signal_to_noise(weight, spread)
        choice = job.choose(
            lambda: budget.choose(scores, job.graph, prune_ratio=self.prune_ratio, coupling=self.coupling)
        )
        # where each weight of the small net comes from: cut a net that holds the numbers of its weights
        numbered = copy.deepcopy(net).double()
        write_vector(numbered, torch.arange(1, len(self.posterior.mean) + 1))
        index = to_vector(shrink(numbered, job.graph, choice.plan)).long() - 1
        compact = job.cut(self._mean(net, job), choice)
        self.posterior = self.posterior.select(index)
        return compact

    def _std(self) -> Tensor:
        assert self.posterior is not None
        return self.posterior.std(scale=self.scale, low_rank=self.variant == "swag")


def read_posterior(folder: str, net: nn.Module) -> IterateGaussian:
    """The Gaussian that a finished run collected for a net with the parameters of ``net``, before any cut.

    Raises:
        UserError: no finished run, one that collected nothing, or one of another net.
    """
    path = Path(folder).expanduser()
    if not is_complete(path):
        raise UserError(f"method.posterior={folder} is no folder of a finished run (.../seed_<n>)")
    for phase in read_result(path)["phases"]:
        file = path / "phases" / phase["name"] / "weights.safetensors"
        if not file.exists():
            continue
        tensors = load_file(file)
        prefix = "method.posterior."
        state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if not state:
            continue
        for name, parameter in trainable(net):
            if (found := tensors.get(f"net.{name}")) is None or found.shape != parameter.shape:
                raise UserError(f"method.posterior={folder} is a run of another net: '{name}' is missing or differs")
        return IterateGaussian.from_state(state)
    raise UserError(f"method.posterior={folder} is a run that collected no weights; give one with method=swag")


def _check_number(name: str, value: object, *, low: float, below: float = math.inf, whole: bool = False) -> None:
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value < below:
        what = "a whole number" if whole else "a number"
        raise UserError(f"method.{name} must be {what} of at least {low:g} and below {below:g}, got {value!r}")
