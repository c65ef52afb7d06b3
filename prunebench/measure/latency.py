"""Measured time of a forward pass, of several nets side by side.

Nets are timed in turn within each repetition, so that a change of the machine's clock or load meets all of them; the
speed-up is the median of the ratios within the repetitions.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.errors import UserError

Runner = Callable[[Tensor], Any]
BATCHES = (1, 64)
TORCH, ONNXRUNTIME = ENGINES = ("torch", "onnxruntime")
"""Programs that a net can be timed in: eager torch, and ONNX Runtime on the CPU."""
MIN_REPETITIONS = 9  # the least that has quartiles worth the name
MAX_REPETITIONS = 1000
WARMUP_CALLS = 2  # the first call allocates and chooses kernels, the second one still fills caches
WARMUP_SHARE = 0.1  # of the measuring time
WARMUP_SAMPLES = 5


def compare(
    nets: Mapping[str, nn.Module | Runner],
    example: Tensor,
    *,
    batches: Sequence[int] = BATCHES,
    min_seconds: float = 0.5,
    device: torch.device | str = "cpu",
    prefix: str = "",
) -> dict[str, Any]:
    """Time copies of ``nets`` in evaluation mode on repeated copies of the first sample of ``example`` [B, ...].

    Each batch size is measured until every net has run for ``min_seconds``, 9 to 1000 times.

    Args:
        nets: modules, or whatever else takes a batch; the latter are called as they are.
        prefix: of the keys of all times, to tell one engine's from another's.

    Returns:
        ``device``, ``device_name``, ``threads``, ``memory_format``, ``dtype``; per net a dict with, for each batch size
        b, ``batch_b_ms`` (median), ``batch_b_spread_ms`` (interquartile range) and ``batch_b_repetitions``; and
        ``speedup``: ``batch_b`` = median over the repetitions of first net's time / last net's time.

    Raises:
        UserError: no net, an empty example, or a batch size below 1.
    """
    if not nets or example.ndim == 0 or len(example) == 0 or not batches or min(batches) < 1:
        raise UserError(
            f"latency: needs nets, a sample and batch sizes of at least 1, got {list(nets)}, shape "
            f"{list(example.shape)} and batches {list(batches)}"
        )
    device = torch.device(device)
    runs = {name: _ready(net, device) for name, net in nets.items()}
    result: dict[str, Any] = {**_circumstances(runs, example, device), **{name: {} for name in nets}, "speedup": {}}
    for batch in batches:
        x = repeated(example, batch).to(device)
        times = _times(runs, x, min_seconds)
        for name, seconds in times.items():
            low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
            result[name] |= {
                f"{prefix}batch_{batch}_ms": 1e3 * median,
                f"{prefix}batch_{batch}_spread_ms": 1e3 * (high - low),
                f"{prefix}batch_{batch}_repetitions": len(seconds),
            }
        first, *_, last = [*times.values(), *times.values()]  # one net is compared with itself
        result["speedup"][f"{prefix}batch_{batch}"] = statistics.median(a / b for a, b in zip(first, last, strict=True))
    return result


def compare_samples(nets: Mapping[str, nn.Module], samples: Tensor) -> dict[str, Any]:
    """Time copies of ``nets`` in evaluation mode on each of ``samples`` [N, ...] alone, on the CPU.

    For nets whose work depends on the sample: the spread is one of the samples, not of repetitions. The quicker of two
    calls counts. CPU time is that of all threads of this process; other processes do not lengthen it.

    Returns:
        ``device``, ``device_name``, ``threads``, ``memory_format``, ``dtype``, ``num_samples``; per net ``median_ms``
        and ``spread_ms`` (interquartile range) over the samples, ``cpu_median_ms``, and, against the first net,
        ``speedup`` and ``cpu_speedup``: the medians over the samples of first net's time / its time.

    Raises:
        UserError: no net, or fewer than two samples.
    """
    if not nets or len(samples) < 2:
        raise UserError(f"latency: needs nets and at least two samples, got {list(nets)} and {len(samples)}")
    runs = {name: copy.deepcopy(net).eval().cpu() for name, net in nets.items()}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    with torch.inference_mode():
        for sample in [*samples[:WARMUP_SAMPLES].cpu().split(1), *samples.cpu().split(1)]:
            for name in order:
                both = [_wall_and_cpu(runs[name], sample) for _ in range(2)]
                wall[name].append(min(times[0] for times in both))
                busy[name].append(min(times[1] for times in both))
            order.reverse()  # none is always the one that runs behind the other
    first = next(iter(runs))
    result: dict[str, Any] = {**_circumstances(runs, samples, torch.device("cpu")), "num_samples": len(samples)}
    for name in runs:
        low, median, high = statistics.quantiles(wall[name][-len(samples) :], n=4, method="inclusive")
        result[name] = {
            "median_ms": 1e3 * median,
            "spread_ms": 1e3 * (high - low),
            "cpu_median_ms": 1e3 * statistics.median(busy[name][-len(samples) :]),
            "speedup": _median_ratio(wall[first], wall[name], len(samples)),
            "cpu_speedup": _median_ratio(busy[first], busy[name], len(samples)),
        }
    return result


def device_name(device: torch.device | str) -> str:
    """The model of the processor or the graphics card."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on many Linux systems
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _ready(net: nn.Module | Runner, device: torch.device) -> nn.Module | Runner:
    return copy.deepcopy(net).eval().to(device) if isinstance(net, nn.Module) else net


def _circumstances(nets: Mapping[str, nn.Module | Runner], example: Tensor, device: torch.device) -> dict[str, Any]:
    modules = [net for net in nets.values() if isinstance(net, nn.Module)]
    dtype = next((p.dtype for net in modules for p in net.parameters()), example.dtype)
    return {
        "device": device.type,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "memory_format": "channels_last" if is_channels_last(example) else "contiguous",
        "dtype": str(dtype).removeprefix("torch."),
    }


def _times(nets: Mapping[str, nn.Module | Runner], x: Tensor, min_seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each net, one entry per repetition."""
    timer = _cuda_timer if x.is_cuda else _cpu_timer
    times: dict[str, list[float]] = {name: [] for name in nets}
    with torch.inference_mode():
        for net in nets.values():
            spent, calls = 0.0, 0
            while calls < WARMUP_CALLS or (spent < WARMUP_SHARE * min_seconds and calls < MAX_REPETITIONS):
                spent, calls = spent + timer(net, x), calls + 1
        order = list(nets)
        for repetition in range(MAX_REPETITIONS):
            if repetition >= MIN_REPETITIONS and min(map(sum, times.values())) >= min_seconds:
                break
            for name in order:
                times[name].append(timer(nets[name], x))
            order.reverse()  # none is always the one that runs behind the other
    return times


def _cpu_timer(net: Callable[[Tensor], Any], x: Tensor) -> float:
    start = time.perf_counter()
    net(x)
    return time.perf_counter() - start


def _wall_and_cpu(net: Callable[[Tensor], Any], x: Tensor) -> tuple[float, float]:
    start, busy = time.perf_counter(), time.process_time()
    net(x)
    return time.perf_counter() - start, time.process_time() - busy


def _median_ratio(above: Sequence[float], below: Sequence[float], last: int) -> float:
    return statistics.median(a / max(b, 1e-9) for a, b in zip(above[-last:], below[-last:], strict=True))


def _cuda_timer(net: Callable[[Tensor], Any], x: Tensor) -> float:
    """Time on the device between two events; the wait keeps the queue of one call out of the next one."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    net(x)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def repeated(example: Tensor, batch: int) -> Tensor:
    """``batch`` copies of the first sample of ``example`` [B, ...], in its memory format."""
    x = example[:1].detach().repeat(batch, *[1] * (example.ndim - 1))
    return x.contiguous(memory_format=torch.channels_last) if is_channels_last(example) else x.contiguous()


def is_channels_last(x: Tensor) -> bool:
    """Whether a batch of images lies in memory pixel by pixel."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
