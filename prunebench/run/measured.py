"""What a run measures and stores, each value once: a run that goes on reads what is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunebench.config.settings import TrainerSettings
from prunebench.core.context import Point
from prunebench.core.method import Method
from prunebench.data.base import Data
from prunebench.disk import artifacts
from prunebench.disk.atomic import write_bytes
from prunebench.errors import UserError
from prunebench.layers.memory_format import to_memory_format
from prunebench.measure.metrics import ACCURACY
from prunebench.measure.stages import STAGES
from prunebench.run import measurement
from prunebench.run.bare import BareRun
from prunebench.run.robustness import Adversary

log = logging.getLogger("prunebench")
T = TypeVar("T")


@dataclass(kw_only=True)
class MeasuredRun(BareRun):
    """A run with a folder, as far as it needs no training.

    Attributes:
        method: what acts on the net.
        folder: of the run.
        settings: of the Trainer: devices and memory format of measurements too.
        ood: foreign pictures, whose predictions are compared with those of the test set; None = no comparison.
        adversary: who changes test pictures, for each stage that the closing table shows; None = nobody.
        metrics: stage -> what was measured.
        warnings: what was said loudly.
        basis: names the run, and the weights and choices so far; what is stored is believed only if it belongs to them.
    """

    method: Method
    folder: Path
    settings: TrainerSettings
    ood: Data | None = None
    adversary: Adversary | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    basis: str = ""
    _watched: bool = False

    @property
    def device(self) -> torch.device:
        """The first of those that train."""
        return self.settings.device

    def probe(self) -> Tensor:
        """The first test batch, at most 256 inputs of it."""
        return next(iter(self.data.test()))[0][:256].cpu()

    def arrange(self, net: nn.Module) -> nn.Module:
        """Weights in the memory format of the run: kernels differ in the last bit, and a resumed run must not."""
        return to_memory_format(net, torch.channels_last) if self.settings.channels_last else net

    # -- stored values

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value ``name`` of this run: made and stored the first time, read afterwards."""
        return self._once(name, make)

    def _once(self, name: str, make: Callable[[], T], *beside: Path) -> T:
        return artifacts.once(self.folder / "stored" / f"{name}.json", make, after=self.basis, beside=beside)

    def once_tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors ``name`` of this run: made and stored the first time, read afterwards."""
        return artifacts.once_tensors(self.folder / "stored" / f"{name}.safetensors", make, after=self.basis)

    # -- measurements

    def validate(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the validation split."""
        if not self.data.num_val:
            raise UserError(
                f"{self.data.name} has no validation split, and something is to be decided on one; "
                "set dataset.validation to a number of samples"
            )
        return measurement.on_validation_split(self.arrange(net), self.method, self)

    def measure(self, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` on the test set, stored as ``stage``.

        Stages: ``dense``, ``before_cut``, ``pruned``, ``final``, ``test_best_val``, and ``saved_net``: one prediction
        of the net that is saved, where ``final`` is the mean of several.
        """
        return self.measure_under(self.method, stage, net)

    def measure_under(self, method: Method, stage: str, net: nn.Module) -> dict[str, Any]:
        """Metrics of ``net`` as ``method`` predicts with it."""

        def evaluate_now() -> dict[str, Any]:
            adversary = None if STAGES[stage].closing == "never" else self.adversary
            metrics, found = measurement.on_test_set(self.arrange(net), method, self, ood=self.ood, adversary=adversary)
            if found is not None:
                artifacts.save_predictions(self.predictions(stage), found.probs, found.labels, found.scores())
            return {"split": "test", **metrics}

        self.metrics[stage] = metrics = self._once(f"metrics-{stage}", evaluate_now, self.predictions(stage))
        log.info("%s: test %s", stage, self.task.headline(metrics))
        self._watch(stage, metrics)
        return metrics

    def repeat(self, stage: str, *, of: str) -> dict[str, Any]:
        """The measurement ``of`` counts as ``stage`` too: it is the same net."""

        def copy_now() -> dict[str, Any]:
            if self.predictions(of).exists():
                write_bytes(self.predictions(stage), self.predictions(of).read_bytes())
            return self.metrics[of]

        self.metrics[stage] = self._once(f"metrics-{stage}", copy_now, self.predictions(stage))
        log.info("%s: the same net", stage)
        return self.metrics[stage]

    def measure_points(self, net: nn.Module) -> list[dict[str, Any]]:
        """What each further operating point of the trained net costs and predicts."""
        found = []
        for point in self.method.points(net, self):
            measured = self.once(f"point-{point.name}", partial(self._measure_point, point))
            log.info("%s: test %s", point.name, self.task.headline(measured["metrics"]))
            found.append(measured)
        return found

    def _measure_point(self, point: Point) -> dict[str, Any]:
        metrics, _ = measurement.on_test_set(self.arrange(point.net), self.method, self, ood=self.ood)
        counted = self.count(point.net).to_dict()
        return {
            "name": point.name,
            "settings": dict(point.settings),
            "metrics": {"split": "test", **metrics},
            "cost": {key: value for key, value in counted.items() if key != "per_layer"},
        }

    def _watch(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Warn if the whole net, or the final one where no whole net was measured, has learned nothing."""
        if stage not in ("dense", "before_cut", "final") or self._watched:
            return
        self._watched = True
        validated = [record[ACCURACY.logged] for record in self.history if ACCURACY.logged in record]
        text = measurement.chance(metrics, self.data.num_classes, validated[-1] if validated else None)
        if text is not None:
            self.warn([f"the {'final' if stage == 'final' else 'dense'} net {text}"])

    def warn(self, sentences: Iterable[str]) -> None:
        """Say ``sentences`` loudly, now and in the result."""
        for sentence in sentences:
            self.warnings.append(sentence)
            log.warning("warning: %s", sentence)

    def predictions(self, stage: str) -> Path:
        """Where the predictions of a measured stage are, if its task keeps them."""
        return self.folder / "stored" / f"predictions-{stage}.npz"
