"""Measure the saved net of a run again, from its folder and the data set, and compare with what is stored.

``config.yaml`` and ``net.yaml`` name the code that is called: evaluate folders that you trust.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunebench.core.method import Method
from prunebench.core.result import read_result
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS
from prunebench.nets import package
from prunebench.run import assemble, measurement, runner
from prunebench.run.job import Job


@dataclass(frozen=True)
class Again:
    """One number, as stored and as measured now."""

    name: str
    stored: float
    now: float
    tolerance: float = 0.0

    @property
    def same(self) -> bool:
        """Whether the two agree within the tolerance."""
        return abs(self.now - self.stored) <= self.tolerance


def reevaluate(folder: Path, *, data: Path | None = None) -> list[Again]:
    """Accuracy and NLL (or bits per character), parameters and MACs of the saved net, stored and now.

    Where the final net's metrics are an average over several predictions, those of the saved net alone are compared.
    MACs that depend on the input are left out: they are a measurement of the method.

    Args:
        folder: of a run that ended with numbers.
        data: the data folder; None = the one of the run.

    Raises:
        UserError: there are no numbers or no net, or the data are others than the run's.
    """
    result = read_result(folder)
    if result["status"] == "failed":
        raise UserError(f"{folder} holds a failed run without numbers; give the folder of a run that ended with them")
    config = read_config(folder)
    config["model"]["pretrained"] = None  # the net is saved; what it started from may be gone
    if data is not None:
        config["paths"]["data"] = str(data.expanduser().resolve())
    job, _ = assemble.build(config, folder)
    runner.set_threads(job.settings.num_threads)
    _same_data(result["data"], job)
    net = job.arrange(package.load(folder, trust=True))
    counted = job.count(net)
    metrics = result["metrics"].get("saved_net") or result["metrics"]["final"]
    now, _ = measurement.on_test_set(net, Method(), job)
    cost = result["cost"]["final"]
    found = [
        Again(metric.key, metrics[metric.key], now[metric.key], metric.rounding)
        for metric in METRICS.values()
        if metric.rounding is not None and metric.key in metrics
    ]
    if type(job.method).cost is Method.cost:
        found.append(Again("macs", cost["macs"], counted.macs))
    return [*found, Again("params", cost["params"], counted.params)]


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of the run in ``folder``.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "config.yaml"
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read ({error}); give the whole folder of a run") from None
    assert isinstance(config, dict)
    return config


def _same_data(stored: dict[str, Any], job: Job) -> None:
    now = json.loads(json.dumps(job.data.fingerprint()))
    if wrong := [key for key in sorted({*stored, *now}) if stored.get(key) != now.get(key)]:
        key = wrong[0]
        raise UserError(
            f"the data are not those of the run: {key} is {now.get(key)!r} here and was {stored.get(key)!r}; "
            "give the folder of the same files with --data"
        )
