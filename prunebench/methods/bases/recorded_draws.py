"""Measurements whose single draws are kept, for what cannot be computed from the mean of their predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.core.context import Run
from prunebench.core.task import Batch, Task
from prunebench.layers.sampling import Ensemble, is_stochastic
from prunebench.measure import uncertainty_calibration
from prunebench.measure.pruning_curve import Spread
from prunebench.methods.bases.variational import VariationalMethod


class Recorded(Ensemble):
    """S draws whose predictions are kept until they are asked for; made for one measurement.

    Args:
        net, num_samples, seed: of :class:`~prunebench.layers.sampling.Ensemble`.
    """

    def __init__(self, net: nn.Module, *, num_samples: int, seed: int) -> None:
        super().__init__(net, num_samples=num_samples, seed=seed)
        self._seen: list[tuple[Tensor, ...]] = []

    def record(self, predictions: Tensor, *rows: Tensor) -> None:
        """Keep predictions ``[S, B, ...]`` and what belongs to the same examples, labels for one, each ``[B, ...]``.

        Where gradients are taken an attack is looking at the net, and nothing is kept.
        """
        if torch.is_grad_enabled():
            return
        self._seen.append(tuple(tensor.cpu() for tensor in (predictions, *rows)))

    def recorded(self) -> tuple[Tensor, ...]:
        """All since the last call, in the order of :meth:`record`: ``[S, N, ...]``, then ``[N, ...]`` each."""
        predictions, *rows = zip(*self._seen, strict=True)
        self._seen = []
        return torch.cat(predictions, 1), *(torch.cat(parts) for parts in rows)


class KeptDraws(VariationalMethod):
    """A net that draws is measured by ``num_samples`` draws whose predictions are kept for ``metrics``."""

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if self.num_samples is None or not is_stochastic(net):
            return net
        return Recorded(net, num_samples=self.num_samples, seed=run.seed)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        found = super().predict(net, batch, task)
        if isinstance(net, Recorded):
            net.record(found, batch[1])
        return found


@validated
class RecordedDraws(VariationalMethod):
    """Each measurement has ``metrics.<stage>.method``: errors of single draws and at the mean, UCE, overlap.

    See :func:`prunebench.measure.uncertainty_calibration.summarise`; also of the data set's further test sets.

    Args:
        num_passes: R, single draws whose errors are counted; null = those S whose predictions are averaged.
        **common: the arguments of :class:`~prunebench.methods.bases.variational.VariationalMethod`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(self, *, num_passes: PositiveInt | None, **common: Any) -> None:
        super().__init__(**common)
        self.num_passes = num_passes

    @property
    def passes(self) -> int:
        """R; 0 without any draw."""
        return self.num_passes or self.num_samples or 0

    def before_measure(self, net: nn.Module, run: Run) -> nn.Module:
        if not self.passes or not is_stochastic(net):
            return net
        return Recorded(net, num_samples=max(self.passes, self.num_samples or 0), seed=run.seed)

    def predict(self, net: nn.Module, batch: Batch, task: Task) -> Tensor:
        found = super().predict(net, batch, task)
        if not isinstance(net, Recorded):
            return found
        at_mean = task.probabilities(net.net, batch)
        net.record(found, at_mean, batch[1])
        return found[: self.num_samples] if self.num_samples else at_mean[None]

    @torch.no_grad()
    def metrics(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        if not isinstance(net, Recorded):
            return {}
        found = self._summary(net)
        further = {}
        for name, batches in run.data.further_tests().items():
            for batch in batches:
                self.predict(net, batch, run.task)
            further[name] = self._summary(net)
        return {**found, "further": further} if further else found

    @torch.no_grad()
    def errors(self, net: nn.Module, batches: Iterable[Batch], run: Run) -> Spread:
        """Mean and deviation of the error of the R single draws of ``net`` on ``batches``."""
        drawn = self.before_measure(net.to(run.device).eval(), run)
        assert isinstance(drawn, Recorded)
        run.data.to(run.device)
        for batch in batches:
            self.predict(drawn, batch, run.task)
        found = self._summary(drawn)
        net.to("cpu")
        return Spread(found["sample_error"], found["sample_error_sd"])

    def _summary(self, net: Recorded) -> dict[str, Any]:
        samples, at_mean, labels = net.recorded()
        wrong = (samples[: self.passes].argmax(-1) != labels).double().mean(1)
        return {
            **uncertainty_calibration.summarise(samples[: self.num_samples], labels),
            "sample_error": float(wrong.mean()),
            "sample_error_sd": float(wrong.std(correction=0)),
            "error_at_mean": float((at_mean.argmax(-1) != labels).double().mean()),
        }
