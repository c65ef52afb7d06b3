"""Static quantisation: the ONNX export of a net in 8-bit integers, and an ONNX file as a net that can be measured.

Batch norms are folded into the convolutions before them; weights and biases become integers, and so do the activations,
whose ranges come from training pictures. What is written is a file that ONNX Runtime executes in integers, so accuracy
and time measured on it are those of the integers, not of their imitation in floating point.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt, Range
from prunebench.errors import UserError, first_line
from prunebench.nets.engines import numbers
from prunebench.nets.export import to_onnx

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
# operators of the graph that ONNX Runtime executes, by what they compute in
INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "ConvInteger")
FLOAT = ("Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


@dataclass(frozen=True)
class Integers:
    """A quantised net.

    Attributes:
        content: the ONNX file of the integers. ``floats``: the ONNX file that it was made from, batch norms folded.
        layers_int8, layers_float: convolutions and matrix products that ONNX Runtime executes in integers, and in
            floating point.
    """

    content: bytes
    floats: bytes
    layers_int8: int
    layers_float: int

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        return {
            "file_bytes": len(self.content),
            "float32_file_bytes": len(self.floats),
            "layers_int8": self.layers_int8,
            "layers_float": self.layers_float,
            "executed_quantised": self.layers_float == 0,
        }


@validated
class StaticInt8:
    """Static quantisation by ONNX Runtime (``quantize_static``, QDQ format).

    Args:
        samples: training pictures from which the ranges of activations are taken; all, if there are fewer.
        calibration: ``minmax``, ``percentile`` or ``entropy``.
        percentile: percent of the absolute values that are inside the range, for ``percentile``.
        per_channel: a scale for each output channel of a weight.
        activations: ``uint8`` or ``int8``; weights are always int8.
        reduce_range: weights of 7 bits, whose products do not saturate where a processor lacks VNNI.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        samples: PositiveInt,
        calibration: Annotated[str, Among(METHODS)] = "minmax",
        percentile: Annotated[float, Range(above=0, high=100)] = 99.99,
        per_channel: bool = True,
        activations: Annotated[str, Among(TYPES)] = "uint8",
        reduce_range: bool = True,
    ) -> None:
        self.samples = samples
        self.calibration, self.percentile = calibration, percentile
        self.per_channel, self.activations, self.reduce_range = per_channel, activations, reduce_range

    def check(self, net: nn.Module, example: Tensor) -> None:
        """Try all of it on an untrained ``net`` and made-up pictures of the shape of ``example`` [1, ...].

        Raises:
            UserError: the net cannot be exported or quantised.
        """
        generator = torch.Generator().manual_seed(0)
        self.quantise(net, [torch.randn(2, *example.shape[1:], generator=generator)])

    def quantise(self, net: nn.Module, pictures: Sequence[Tensor]) -> Integers:
        """``net`` in integers.

        Args:
            net: on the CPU; it is left as it is.
            pictures: batches ``[batch, channels, height, width]``, as the net takes them.

        Raises:
            UserError: the net cannot be exported or quantised.
        """
        with tempfile.TemporaryDirectory() as name, _quiet():
            exported, folded, quantised = (Path(name) / f"{word}.onnx" for word in ("exported", "folded", "quantised"))
            with torch.no_grad():
                to_onnx(net.eval(), pictures[0][:1].repeat(2, *[1] * (pictures[0].ndim - 1)), exported)
            try:
                quant_pre_process(exported, folded)
                quantize_static(
                    folded,
                    quantised,
                    _Pictures(pictures),
                    quant_format=QuantFormat.QDQ,
                    per_channel=self.per_channel,
                    reduce_range=self.reduce_range,
                    activation_type=TYPES[self.activations],
                    weight_type=QuantType.QInt8,
                    calibrate_method=METHODS[self.calibration],
                    # one batch after the other: all activations of all pictures would not fit into the memory
                    extra_options={"CalibStridedMinMax": 1, "CalibPercentile": self.percentile},
                )
            except Exception as error:  # the tools have no common error
                raise UserError(f"quantize: ONNX Runtime cannot quantise this net ({first_line(error)})") from error
            content = quantised.read_bytes()
            counts = _executed(content, Path(name) / "executed.onnx")
            return Integers(content, folded.read_bytes(), *counts)


def _executed(content: bytes, scratch: Path) -> tuple[int, int]:
    """Layers that ONNX Runtime executes in integers and in floating point, read off the graph that it has made."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(scratch)
    options.log_severity_level = 3  # that such a file suits this machine alone is known: it is only counted
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = Counter(node.op_type for node in onnx.load(scratch).graph.node)
    return sum(found[word] for word in INTEGER), sum(found[word] for word in FLOAT)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Batches for a calibration, by number."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches
        self.left: Iterator[Tensor] = iter(())

    def __len__(self) -> int:
        return len(self.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.batches[start_index:end_index])

    def get_next(self) -> Mapping[str, NDArray[np.float32]] | None:
        x = next(self.left, None)
        return None if x is None else {"input": numbers(x)}


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools print their progress, and log hints on the root logger, for example to do what was just done."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
