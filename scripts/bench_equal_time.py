"""Accuracy right after a cut, of nets that take equally long: section 8 of bench.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_timing import console
from rich.table import Table
from torch import Tensor, nn

from prunebench.cli.composition import composed
from prunebench.cli.main import identified
from prunebench.cli.resolve import resolve
from prunebench.errors import UserError
from prunebench.measure import cost, latency
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.nets.engines import runner
from prunebench.run import assemble, threads
from prunebench.run.job import Job
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

BATCH = 64
LONGER = 1.01  # a net that takes this much longer counts as equally fast: two measurements differ by as much
STEPS = 8  # of the search for the largest net of a family that is not slower
FAMILIES = {
    "target_macs": "method.target_macs={share}",
    "uniform": "method.prune_ratio={rest} method.scope=layer method.coupling=aligned",
}
TIMED = {
    "target_latency": "method.target_latency={share}",
    "target_latency, value=sensitivity": "method.target_latency={share} method.value=sensitivity",
}
Net = Callable[[Tensor], Any]


def equal_time(quick: bool) -> None:
    """Nets with public weights, filters by L1 norm, ONNX Runtime at batch 64 on one thread."""
    for model in ("resnet20",) if quick else ("resnet20", "resnet56"):
        _equal_time(model, quick)


def _equal_time(model: str, quick: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job, net = _job(Path(folder), model)
        batches = list(job.data.test())[: 8 if quick else None]
        dense, known = cost.count(net, job.example).macs, _Known()

        def cut(words: str, share: float) -> nn.Module:
            own, trained = _job(Path(folder), model, *words.format(share=share, rest=1 - share).split())
            assert isinstance(own.method, FilterPruning)
            worth = own.method._worth
            own.method._worth = lambda net, run, plan: known.get(plan, partial(worth, net, run))  # type: ignore[method-assign]
            return shrink(trained, own.graph, own.method.rank(trained, own).plan).eval()

        def shares(nets: dict[str, nn.Module], seconds: float) -> dict[str, float]:
            ready: dict[str, Net] = {name: _ready(job, own) for name, own in {"dense": net, **nets}.items()}
            found = latency.compare(ready, job.example.contiguous(), batches=(BATCH,), min_seconds=seconds)
            key = f"batch_{BATCH}_ms"
            return {name: found[name][key] / found["dense"][key] for name in nets}

        table = Table(title=f"8. {model}, CIFAR-10: accuracy right after the cut at equal time", title_justify="left")
        for heading in ("time asked", "by", "share asked", "time / dense", "MACs / dense", "accuracy %"):
            table.add_column(heading, justify="left" if heading == "by" else "right")
        table.add_row("", "dense", "", "1.000", "1.000", f"{100 * _accuracy(net, batches):.2f}")
        for share in (0.8,) if quick else (0.9, 0.8, 0.7, 0.6):
            asked = dict.fromkeys(TIMED, share)
            try:
                nets = {name: cut(words, share) for name, words in TIMED.items()}
            except UserError as refusal:  # the floors of all layers take longer
                table.caption = f"{share}: {refusal}"
                break
            limit = LONGER * max(shares(nets, 1.0).values())
            for name, words in FAMILIES.items():
                found = _largest(partial(cut, words), lambda own: shares({"own": own}, 0.4)["own"], limit)
                asked[name], nets[name] = found
            for name, time in shares(nets, 1.5).items():
                macs = cost.count(nets[name], job.example).macs / dense
                cells = (f"{time:.3f}", f"{macs:.3f}", f"{100 * _accuracy(nets[name], batches):.2f}")
                table.add_row(str(share), name, f"{asked[name]:.4f}", *cells)
        console.print(table, "")


class _Known:
    """What a plan is worth does not depend on the share of time that is asked for."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def get(self, plan: Plan, measure: Callable[[Plan], float]) -> float:
        if plan.digest() not in self._values:
            self._values[plan.digest()] = measure(plan)
        return self._values[plan.digest()]


def _job(folder: Path, model: str, *words: str) -> tuple[Job, nn.Module]:
    """A run as the command would make it, checked, and its trained net."""
    given = ["dataset=cifar10", f"model={model}", "model.pretrained=akamaster", "schedule=oneshot", "method=l1norm"]
    given += [f"method.engine={latency.ONNXRUNTIME}", f"method.batch={BATCH}", "trainer.num_threads=1"]
    given += [f"paths.outputs={folder}", *words]
    config = identified(resolve(composed(given), given)[0])
    job, net = assemble.build(config, folder / "run")
    threads.settle(job)
    job.method.check(net, job)
    return job, net.eval()


def _ready(job: Job, net: nn.Module) -> Net:
    return runner(latency.ONNXRUNTIME, net, job.example)


def _largest(
    make: Callable[[float], nn.Module], time: Callable[[nn.Module], float], limit: float
) -> tuple[float, nn.Module]:
    """By bisection the share and the largest net of a family that takes no longer than ``limit``."""
    low, high = 0.1, 1.0
    best = make(low)
    for _ in range(STEPS):
        middle = (low + high) / 2
        net = make(middle)
        if time(net) <= limit:
            low, best = middle, net
        else:
            high = middle
    return low, best


@torch.inference_mode()
def _accuracy(net: nn.Module, batches: list[Any]) -> float:
    right = [net(inputs).argmax(1) == labels for inputs, labels in batches]
    return float(torch.cat(right).float().mean())
