"""The nets of a run in integers: made from their exports in the end, kept beside the result, measured as a stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunebench.core.method import Method
from prunebench.disk import artifacts
from prunebench.disk.atomic import write_bytes
from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError
from prunebench.measure import latency
from prunebench.nets.engines import OnnxNet
from prunebench.run.job import Job

log = logging.getLogger("prunebench")

FOLDER = "export"
STAGES = {"dense": "dense_quantized", "final": "quantized"}
"""Net -> the stage at which its integers are measured."""
FILES = [f"{FOLDER}/{net}_{kind}.onnx" for net in STAGES for kind in ("float32", "int8")]


def measured_file(folder: Path, stage: str, files: Mapping[str, str]) -> Path:
    """The file that was measured at ``stage`` of the run in ``folder``.

    Args:
        files: checksums in the run's result, by name.

    Raises:
        UserError: the run has measured none, it is missing, or it is another one.
    """
    name = f"{FOLDER}/{next(net for net, name in STAGES.items() if name == stage)}_int8.onnx"
    if name not in files:
        raise UserError(f"{folder} has measured no {name}: quantize=int8 makes one")
    if not (folder / name).is_file() or file_sha256(folder / name) != files[name]:
        raise UserError(
            f"{folder / name} is missing or not the file that was measured; give the whole folder of the run"
        )
    return folder / name


def check(job: Job) -> None:
    """Refuse before anything is trained what could not be quantised in the end, as far as the untrained net shows it.

    Raises:
        UserError: the dense net cannot be exported or quantised.
    """
    if job.integers is None:
        return
    if job.integers.samples > job.data.num_train:
        log.info(
            "quantize.samples=%d: ranges are taken from all %d training pictures, there are no more",
            job.integers.samples,
            job.data.num_train,
        )
    job.integers.check(job.dense.template, job.example)


def measure(job: Job, compact: nn.Module, *, timed: bool) -> dict[str, Any]:
    """Quantise the saved net and the dense one, and measure both.

    A net that cannot be exported after all is said loudly; nothing that was trained is lost by it.

    Returns:
        Of the result: ``cost``: sizes and what is executed in integers, by stage; ``quantized``: latencies.
    """
    if job.integers is None:
        return {}
    nets = {"dense": job.dense_net(), "final": compact}
    number = min(job.integers.samples, job.data.num_train)
    pictures = [inputs.cpu() for inputs, _ in job.samples("quantize", number)]
    costs: dict[str, Any] = {}
    runs: dict[str, nn.Module] = {}
    for name, net in nets.items():
        try:
            facts = _make(job, name, net, pictures)
        except UserError as error:
            job.warn([f"the {name} net is not measured in integers: {error}"])
            continue
        runs |= {f"{name}_torch": net}
        for kind, engine in (("float32", "onnxruntime"), ("int8", "int8")):
            runs[f"{name}_{engine}"] = OnnxNet((job.folder / FOLDER / f"{name}_{kind}.onnx").read_bytes())
        if name == "dense" and not job.dense_measured:
            continue  # random weights: their time is that of trained ones, and nothing else
        job.measure_under(Method(), STAGES[name], runs[f"{name}_int8"])
        costs[STAGES[name]] = facts
        log.info(
            "%s net in integers: file %.3f of its float32 file, %d of %d layers executed in integers",
            name,
            facts["file_bytes"] / facts["float32_file_bytes"],
            facts["layers_int8"],
            facts["layers_int8"] + facts["layers_float"],
        )
    found: dict[str, Any] = {"cost": costs} if costs else {}
    if timed and runs:
        found["quantized"] = {"latency": latency.compare(runs, job.example)}
        for batch in (1, 64):
            times = found["quantized"]["latency"]
            log.info(
                "ms, batch %d: %s", batch, ", ".join(f"{run} {times[run][f'batch_{batch}_ms']:.3g}" for run in runs)
            )
    return found


def _make(job: Job, name: str, net: nn.Module, pictures: list[Tensor]) -> dict[str, Any]:
    """What is known of the integers of ``net``; its two files are written the first time."""
    integers = job.integers
    assert integers is not None
    float32, int8 = (job.folder / FOLDER / f"{name}_{kind}.onnx" for kind in ("float32", "int8"))

    def make() -> dict[str, Any]:
        found = integers.quantise(net.cpu(), pictures)
        write_bytes(float32, found.floats)
        write_bytes(int8, found.content)
        return found.facts()

    return artifacts.once(job.folder / FOLDER / f"{name}.json", make, after=job.basis, beside=[float32, int8])
