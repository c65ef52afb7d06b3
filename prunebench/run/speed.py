"""How long the dense and the final net take, in each program that can run them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.measure import latency
from prunebench.measure.latency import ENGINES, ONNXRUNTIME, TORCH
from prunebench.nets.engines import runner

NOISE = 0.3
"""An interquartile range above this share of the median: something else was running."""
SLOWER = 0.9
"""Below this share of the dense net's speed a small net is slower; in between it is as fast."""


def compare(nets: Mapping[str, nn.Module], example: Tensor, *, device: torch.device) -> dict[str, Any]:
    """Times of ``nets``, in turn within one program, on ``device`` in torch, on the CPU in ONNX Runtime.

    Returns:
        What :func:`prunebench.measure.latency.compare` returns, the keys of ONNX Runtime's times with the prefix
        ``onnxruntime_``; ``engines``: the programs that were timed; ``not_timed``: program -> why not.
    """
    found: dict[str, Any] = latency.compare(nets, example, device=device)
    found |= {"engines": [TORCH], "not_timed": {}}
    try:
        if device.type != "cpu":
            raise UserError("onnxruntime: timed on the CPU only, and this run is on another device")
        sessions = {name: runner(ONNXRUNTIME, net, example) for name, net in nets.items()}
    except UserError as error:
        found["not_timed"][ONNXRUNTIME] = str(error)
        return found
    timed = latency.compare(sessions, example.contiguous(), prefix=f"{ONNXRUNTIME}_")
    for name in (*nets, "speedup"):
        found[name] |= timed[name]
    return {**found, "engines": list(ENGINES)}


def reached(times: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, float]:
    """What became of a target of time, for ``budget`` of a result; nothing if it was not timed in the end.

    Args:
        times: of :func:`compare`, empty if nothing was timed. ``facts``: ``budget.latency`` of a result.

    Returns:
        ``reached``: the small net's time as a share of the dense one's in the program and batch of the target;
        ``noise``: by how much the times varied, where that is too much to believe them.
    """
    key = f"{'' if facts['engine'] == TORCH else facts['engine'] + '_'}batch_{facts['batch']}"
    ratio = times.get("speedup", {}).get(key)
    if ratio is None:
        return {}
    varied = noise(times, key)
    return {"reached": 1 / float(ratio), **({"noise": varied} if varied > NOISE else {})}


def noise(times: Mapping[str, Any], key: str) -> float:
    """Interquartile range of the times under ``key`` as a share of their median, of the net where it is larger."""
    return max(float(times[net][f"{key}_spread_ms"] / times[net][f"{key}_ms"]) for net in ("dense", "final"))


def remarks(times: Mapping[str, Any]) -> list[str]:
    """What whoever looks at the times must know: that they were disturbed, or that a small net is no faster.

    Args:
        times: of :func:`compare`, empty if nothing was timed.
    """
    found = []
    for engine in times.get("engines", ()):
        prefix = "" if engine == TORCH else f"{engine}_"
        for batch in latency.BATCHES:
            key, where = f"{prefix}batch_{batch}", f"in {engine}, batch {batch}"
            ratio = times["speedup"][key]
            if (varied := noise(times, key)) > NOISE:
                found.append(f"times {where} vary by {varied:.0%}: the machine was busy, measure them again")
            elif ratio < SLOWER:
                found.append(
                    f"{where} the small net takes {1 / ratio:.2f} times the dense net's time: its widths lie between "
                    "steps of the processor; method.round_to=8, method.coupling=aligned and method.target_latency find "
                    "others"
                )
    return found
