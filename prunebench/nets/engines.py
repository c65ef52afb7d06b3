"""The programs that a net runs in, for measurements: torch as it is, and ONNX Runtime.

ONNX Runtime gets its graph from torch's tracer, which takes a fifteenth of the time of the exporter that writes files
(:mod:`prunebench.nets.export`); both fold the batch norms into the convolutions and give the same operations.
"""

from __future__ import annotations

import copy
import ctypes
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunebench.errors import UserError, first_line
from prunebench.layers.memory_format import to_memory_format
from prunebench.measure.latency import TORCH, Runner
from prunebench.surgery.counter import plain_attention

AGREEMENT = 1e-3
"""Largest difference of two programs' outputs, as a share of the largest output: it is the same net."""


def runner(engine: str, net: nn.Module, example: Tensor) -> Runner:
    """A copy of ``net`` in evaluation mode on the CPU, ready to be called with inputs like ``example``.

    Args:
        engine: ``torch`` (the net itself), or ``onnxruntime`` (its graph, with the number of threads that torch has).
        example: ``[batch, ...]``.

    Raises:
        UserError: the net cannot be written as a graph, or the graph computes something else: a tracer takes for
            constant whatever depends on the values of a sample.
    """
    net = copy.deepcopy(net).cpu().eval()
    if engine == TORCH:
        return net
    if not example.is_floating_point():
        raise UserError(f"{engine}: only nets for images are timed, and this one takes {example.dtype}")
    ready = OnnxNet(traced_onnx(net, example))
    inputs = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = net(inputs), ready(inputs)
    difference = (expected - got).abs().max() / expected.abs().max().clamp(min=1e-12)
    if not difference <= AGREEMENT:
        raise UserError(f"{engine}: its outputs differ from torch's by {float(difference):.1e} of the largest")
    return ready


def traced_onnx(net: nn.Module, example: Tensor) -> bytes:
    """The graph of ``net`` in evaluation mode for any batch size, as an ONNX file.

    Raises:
        UserError: the tracer cannot follow the net.
    """
    written = io.BytesIO()
    net = to_memory_format(net.eval(), torch.contiguous_format)
    try:
        # a fused attention kernel has no form in ONNX, and what fails is printed as a page of the tracer's graph
        with warnings.catch_warnings(), torch.no_grad(), plain_attention(), _quiet():
            warnings.simplefilter("ignore")  # this exporter is called old, and constants of the plan are constants
            torch.onnx.export(
                net,
                (example[:1].contiguous().expand(2, *example.shape[1:]),),
                written,  # type: ignore[arg-type]  # torch's annotations lack what the tracer's exporter takes
                dynamo=False,
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
            )
    except Exception as error:  # torch has no common error for what it cannot write
        raise UserError(f"onnxruntime: the net cannot be written as a graph ({first_line(error)})") from error
    return written.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing reaches the process's standard output: the tracer writes there from C++, past ``sys.stdout``."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    stdout, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)


class OnnxNet(nn.Module):
    """An ONNX file as a net: ONNX Runtime computes it on the processor, wherever the inputs are.

    Args:
        content: of the file, with all weights inside and one input.

    Raises:
        UserError: it is no such file.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as torch has beside it
        options.inter_op_num_threads = 1
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # each sort of damage has its own class, hidden in a binary module
            raise UserError(f"this is no ONNX file that can be executed ({first_line(error)})") from error
        self.input = self.session.get_inputs()[0].name

    def __deepcopy__(self, memo: Any) -> OnnxNet:
        return OnnxNet(self.content)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        found = self.session.run(None, {self.input: numbers(x)})[0]
        return torch.from_numpy(found).to(x.device)


def numbers(x: Tensor) -> NDArray[np.float32]:
    """``x`` for ONNX Runtime."""
    return x.detach().float().cpu().contiguous().numpy()
