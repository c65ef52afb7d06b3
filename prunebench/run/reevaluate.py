"""Measure the saved net of a run again, from its folder and the data set, and compare with what is stored.

``config.yaml`` and ``net.yaml`` name the code that is called. Without ``trust`` only classes and functions of this
package and modules of ``torch.nn`` are, so that a folder from somebody else is no program.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.config.plain_values import check_values
from prunebench.core.method import Method
from prunebench.core.result import FILE, read_result
from prunebench.disk.paths import user_path
from prunebench.disk.yaml_files import read_yaml
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS, is_number
from prunebench.nets import package
from prunebench.nets.dense_net import make_net
from prunebench.nets.engines import OnnxNet
from prunebench.nets.spec import without_memory
from prunebench.run import assemble, measurement, quantized, threads
from prunebench.run.job import Job

_GROUPS = ("model", "dataset", "method", "schedule", "trainer", "paths")


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


def reevaluate(folder: Path, *, data: Path | None = None, trust: bool = False) -> list[Again]:
    """Accuracy and NLL (or bits per character), parameters and MACs of the saved net, stored and now.

    Exported files of integers (``quantize``) are executed, too: accuracy, NLL and size of each.

    Where the final net's metrics are an average over several predictions, those of the saved net alone are compared.
    MACs that depend on the input are left out: they are a measurement of the method.

    Args:
        folder: of a run that ended with numbers.
        data: the data folder; None = the one of the run.
        trust: call whatever the folder names; needed for a net, method or data set of your own.

    Raises:
        UserError: there are no numbers or no net, the folder names code that is not trusted, or the data are not
            the run's.
    """
    stored = _read_stored(folder)
    config = read_config(folder)
    config["model"]["pretrained"] = None  # the net is saved; what it started from may be gone
    # foreign and attacked pictures are not measured again, nothing is quantised again or trained
    config["ood"] = config["attack"] = config["quantize"] = config["teacher"] = None
    if data is not None:
        config["paths"]["data"] = str(user_path(data).resolve())
    if not trust:
        with without_memory():
            make_net(config["model"], trust=False)
    job, _ = assemble.build(config, folder, trust=trust)
    threads.settle(job)
    _same_data(stored.data, job)
    net = job.arrange(package.load(folder, trust=trust))
    counted = job.count(net)
    now, _ = measurement.on_test_set(net, Method(), job)
    found = list(_compared(stored.metrics, now))
    if type(job.method).cost is Method.cost:
        found.append(Again("macs", stored.cost["macs"], counted.macs))
    return [*found, Again("params", stored.cost["params"], counted.params), *_integers(folder, stored, job)]


def _compared(stored: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[Again]:
    for metric in METRICS.values():
        if metric.rounding is not None and metric.key in stored:
            yield Again(prefix + metric.key, stored[metric.key], now[metric.key], metric.rounding)


def _integers(folder: Path, stored: _Stored, job: Job) -> Iterator[Again]:
    """The exported files of integers: their predictions and sizes."""
    for stage, metrics in stored.integers.items():
        content = quantized.measured_file(folder, stage, stored.files).read_bytes()
        now, _ = measurement.on_test_set(OnnxNet(content), Method(), job)
        yield from _compared(metrics, now, f"{stage}.")
        yield Again(f"{stage}.file_bytes", stored.sizes[stage], len(content))


@dataclass(frozen=True)
class _Stored:
    """What the result says of the data and of the saved net."""

    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    cost: Mapping[str, Any]
    integers: Mapping[str, Mapping[str, Any]]  # stage -> metrics of an exported file of integers
    sizes: Mapping[str, int]  # stage -> bytes of that file
    files: Mapping[str, str]  # path -> checksum


def _read_stored(folder: Path) -> _Stored:
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} holds no {FILE}; give the folder of a finished run (.../seed_<n>)")
    result = read_result(folder)
    if result["status"] == "failed":
        raise UserError(f"{folder} holds a failed run without numbers; give the folder of a run that ended with them")
    try:
        metrics = result["metrics"].get("saved_net") or result["metrics"]["final"]
        integers = {s: result["metrics"][s] for s in quantized.STAGES.values() if s in result["metrics"]}
        sizes = {stage: result["cost"][stage]["file_bytes"] for stage in integers}
        found = _Stored(
            result["data"], metrics, result["cost"]["final"], integers, sizes, dict(result.get("files") or {})
        )
        used = [found.cost["macs"], found.cost["params"]]
        used += [metrics[m.key] for m in METRICS.values() if m.rounding is not None and m.key in metrics]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / FILE} is no whole result ({error!r}); give the folder of a finished run") from None
    if not isinstance(found.data, Mapping) or not all(map(is_number, used)):
        raise UserError(f"{folder / FILE} is no whole result (numbers are missing); give the folder of a finished run")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of the run in ``folder``.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing; give the whole folder of a run")
    config = read_yaml(path)
    if wrong := [group for group in _GROUPS if not isinstance(config.get(group), dict)]:
        raise UserError(f"{path} is no configuration of a run ({wrong[0]} is no group); give the whole folder of a run")
    try:
        if not isinstance(config["schedule"].get("phases"), dict):
            raise UserError("schedule.phases is no table")
        check_values(config)
    except (UserError, KeyError) as error:
        raise UserError(f"{path} is no configuration of a run ({error}); give the whole folder of a run") from None
    return config


def _same_data(stored: Mapping[str, Any], job: Job) -> None:
    now = json.loads(json.dumps(job.data.fingerprint()))
    if wrong := [key for key in sorted({*stored, *now}) if stored.get(key) != now.get(key)]:
        key = wrong[0]
        raise UserError(
            f"the data are not those of the run: {key} is {now.get(key)!r} here and was {stored.get(key)!r}; "
            "give the folder of the same files with --data"
        )
