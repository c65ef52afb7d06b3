"""One layer with the batch norm and the activation behind it, ready to be timed by itself in any width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from prunebench.surgery.graph import ChannelGraph

Call = Callable[[], Any]
BRANCHES = 4
"""Copies of a layer in one ONNX graph: they share what the runtime spends on laying out the input, once a net."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A convolution or a linear layer, with what directly follows it.

    Attributes:
        reads, writes: features of one position; groups follow them in a depthwise layer.
        kernel, stride, padding, dilation: of a convolution, (height, width); empty for a linear layer.
        groups: of the dense layer; a layer with more than one keeps the size of its groups.
        size: of the input behind batch and channels (height, width), or tokens before the features.
        norm, activation: whether a batch norm and a rectifier follow.
    """

    reads: int
    writes: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    size: tuple[int, ...] = ()
    norm: bool = False
    activation: bool = False

    @property
    def key(self) -> str:
        """Names it in a table."""
        return " ".join(f"{name}={_plain(value)}" for name, value in asdict(self).items())

    def sized(self, reads: int, writes: int) -> Operation:
        """The same operation in another width: a depthwise one loses groups, others get smaller ones."""
        is_depthwise = 1 < self.groups == self.reads
        groups = max(1, self.groups * writes // self.writes) if is_depthwise else math.gcd(self.groups, reads, writes)
        return replace(self, reads=reads, writes=writes, groups=groups)

    def torch(self, x: Tensor) -> Call:
        """A call of it in eager torch on ``x``, ``[batch, reads, *size]``."""
        layer: nn.Module = nn.Linear(self.reads, self.writes)
        if self.kernel:
            shape = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
            layer = nn.Conv2d(self.reads, self.writes, self.kernel, bias=not self.norm, **shape)  # type: ignore[arg-type]
        behind = [nn.BatchNorm2d(self.writes)] * self.norm + [nn.ReLU()] * self.activation
        net = nn.Sequential(layer, *behind).eval()
        if x.dim() == 4 and not x.is_contiguous():
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def call() -> None:
            with torch.inference_mode():
                net(x)

        return call

    def onnxruntime(self, x: Tensor, threads: int) -> Call:
        """A call of it in ONNX Runtime on ``x``: of ``BRANCHES`` copies, the outputs pooled away."""
        session = onnxruntime.InferenceSession(self._graph(), _options(threads), providers=["CPUExecutionProvider"])
        feed = {"x": x.contiguous().numpy()}
        return lambda: session.run(None, feed)

    def _graph(self) -> bytes:
        draws = np.random.default_rng(0)
        nodes, weights, outputs = [], [], []
        for branch in range(BRANCHES):
            shape = (self.writes, self.reads // self.groups, *self.kernel)
            values = draws.standard_normal(shape, dtype=np.float32)
            weights += [onnx.numpy_helper.from_array(values, f"w{branch}")]
            weights += [onnx.numpy_helper.from_array(np.zeros(self.writes, np.float32), f"b{branch}")]
            names = ["x", f"w{branch}", f"b{branch}"]
            if self.kernel:
                pads = [*self.padding, *self.padding]
                options: dict[str, Any] = {"strides": self.stride, "pads": pads, "dilations": self.dilation}
                options["group"] = self.groups
                nodes.append(onnx.helper.make_node("Conv", names, [f"y{branch}"], **options))
            else:
                nodes.append(onnx.helper.make_node("Gemm", names, [f"y{branch}"], transB=1))
            last = f"y{branch}"
            if self.activation:
                nodes.append(onnx.helper.make_node("Relu", [last], [f"r{branch}"]))
                last = f"r{branch}"
            if self.kernel:  # a wide output would have to be laid out anew for whoever called
                nodes.append(onnx.helper.make_node("GlobalAveragePool", [last], [f"p{branch}"]))
                last = f"p{branch}"
            outputs.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
        given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(nodes, "operation", [given], outputs, weights)
        opset = onnx.helper.make_opsetid("", 17)
        return bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())


def operations(graph: ChannelGraph) -> dict[str, Operation]:
    """The layers of a dense net whose time depends on their width, in the order of execution."""
    found: dict[str, Operation] = {}
    for step in graph.steps:
        layer = graph.layers.get(step.module)
        if layer is None or step.module in found or not step.inputs:
            continue
        module = graph.traced.net.get_submodule(step.module)
        shape = tuple(graph.traced.values[graph.nodes[step.inputs[0]]].shape[1:])
        behind: dict[str, Any] = {"norm": layer.norm is not None, "activation": layer.activation is not None}
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            sizes: dict[str, Any] = {name: tuple(getattr(module, name)) for name in ("stride", "padding", "dilation")}
            found[step.module] = Operation(
                reads=module.in_channels,
                writes=module.out_channels,
                kernel=tuple(module.kernel_size),
                groups=module.groups,
                size=shape[1:],
                **sizes,
                **behind,
            )
        elif isinstance(module, nn.Linear) and len(shape) == 1:
            found[step.module] = Operation(
                reads=module.in_features,
                writes=module.out_features,
                norm=False,
                activation=layer.activation is not None,
            )
    return found


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return options


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
