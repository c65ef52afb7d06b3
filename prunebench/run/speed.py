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
