"""Counts multiply-accumulates below the modules, where torch dispatches each operation.

A subclass of ``Conv2d``, a functional ``linear``, an ``einsum`` and a fused attention kernel all end there.
The formulas are those of ``torch.utils.flop_counter``; they count two operations per multiply-accumulate and
are halved. What has no formula must be known to be free of products, or the counter refuses the net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from prunebench.errors import UserError
from prunebench.surgery.weak_numbers import Numbers

aten = torch.ops.aten

ROOT = "(net)"  # name of the row for operations that run directly in the net's own forward

# words in the names of operations that multiply and sum: without a formula they would hide MACs
PRODUCTS = frozenset(
    {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "vdot", "matmul"}
    | {"linear", "bilinear", "trilinear", "convolution", "conv1d", "conv2d", "conv3d"}
    | {"attention", "rnn", "lstm", "gru", "cdist"}
    | {"inv", "inverse", "solve", "cholesky", "qr", "svd", "eig", "eigh", "eigvals", "eigvalsh", "lstsq", "lu", "det"}
    | {"slogdet", "pinv", "householder", "matrix", "pdist", "fft"}
)
# operations, besides elementwise ones and views, that may join activations and parameters without a product
JOINS = frozenset(
    {"cat", "stack", "embedding", "index", "scatter", "gather", "pad", "fill", "copy", "repeat", "view"}
    | {"prelu", "norm"}
)

_SUMS = frozenset({"sum", "mean"})
_REAL_IN_COMPLEX = 4  # multiply-accumulates of real numbers in one of complex numbers


@dataclass
class Call:
    """What was seen while one module was the innermost running one; ``channels`` are (input, output)."""

    macs: int = 0
    kind: str = ""
    channels: tuple[int | None, int | None] = (None, None)
    output_shape: list[int] | None = None
    words: set[str] = field(default_factory=set)


class Counter(TorchDispatchMode):
    """Adds up MACs by the module that runs.

    Args:
        net: gets hooks while the counter is active.
        sample: the tensor that the net will be called with.

    Attributes:
        calls: what each module did, in the order of first execution.
        has_fixed: whether something was multiplied that no input has a say in, as computed weights: it costs the same
            for any number of samples.

    Raises:
        UserError: while the net runs: an operation may hide multiply-accumulates, for example ``nn.LSTM``.
    """

    def __init__(self, net: nn.Module, sample: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, Call] = {}
        self.has_fixed = False
        self._formulas = _formulas()
        self._stack = [ROOT]
        self._depth = 0
        self._types = {name or ROOT: type(module).__name__ for name, module in net.named_modules()}
        # memory that depends on the input, and memory that depends on parameters only
        self._memory = Numbers().memory
        self._live = {self._memory(sample)}
        self._weights = {self._memory(parameter) for parameter in net.parameters()}
        # products of each entry with each weight: summed they are a linear layer in other words
        self._outer: set[int] = set()
        self._net = net
        self._hooks: list[RemovableHandle] = []

    @property
    def macs(self) -> int:
        """Multiply-accumulates so far."""
        return sum(call.macs for call in self.calls.values())

    def __enter__(self) -> Self:
        if not self._hooks:  # torch enters it again while it takes an operation apart
            for name, module in self._net.named_modules():
                self._hooks.append(module.register_forward_pre_hook(self._enter(name or ROOT)))
                self._hooks.append(module.register_forward_hook(self._leave))
        self._depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if not self._depth:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._stack.append(name)
            self.calls.setdefault(name, Call())

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.calls[self._stack.pop()]
        shapes = [list(leaf.shape[1:]) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        call.output_shape = shapes[0] if shapes else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in self._formulas:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        output = func(*args, **kwargs)
        operands = _tensors((args, kwargs))
        live = [self._memory(tensor) in self._live for tensor in operands]
        call = self.calls.setdefault(self._stack[-1], Call())
        call.words |= _words(packet)
        if packet in self._formulas:
            operations = self._formulas[packet](*args, **kwargs, out_val=output)
            assert operations % 2 == 0, f"{packet} gave {operations}, expected two per multiply-accumulate"
            if any(tensor.is_complex() for tensor in operands):
                operations *= _REAL_IN_COMPLEX
            call.macs += operations // 2
            self.has_fixed |= operations > 0 and not any(live)
            if not call.kind:
                call.kind, call.channels = _describe(packet, args, operands, live, output)
        else:
            self._refuse_hidden(func, operands, live, output)
        self._follow(operands, live, _tensors(output))
        return output

    def _refuse_hidden(self, func: Any, operands: list[Tensor], live: list[bool], output: Any) -> None:
        words = _words(func._overloadpacket)
        weighs = any(live) and any(self._memory(tensor) in self._weights for tensor in operands)
        joins = torch.Tag.pointwise in func.tags or func.is_view or bool(words & JOINS)
        if weighs and "mul" in words:
            entries = max(tensor.numel() for tensor, depends in zip(operands, live, strict=True) if depends)
            if output.numel() > entries:
                self._outer.add(self._memory(output))
        summed = bool(words & _SUMS) and any(self._memory(tensor) in self._outer for tensor in operands)
        if words & PRODUCTS or (weighs and not joins) or summed:
            layer = self._stack[-1]
            raise UserError(
                f"cost: layer {layer!r} ({self._types[layer]}) runs {func}, whose multiply-accumulates are "
                "not counted; write the layer with convolutions, linear layers and matmul"
            )

    def _follow(self, operands: list[Tensor], live: list[bool], outputs: list[Tensor]) -> None:
        """Outputs depend on the input if one operand does; else they are weights if one operand is."""
        memory = {self._memory(tensor) for tensor in outputs}
        if any(live):
            self._live |= memory
            self._weights -= memory
        elif any(self._memory(tensor) in self._weights for tensor in operands):
            self._weights |= memory


def _formulas() -> dict[Any, Callable[..., int]]:
    """Operations per call, by operation: torch's own formulas and those it lacks."""
    known: dict[Any, Callable[..., int]] = dict(FlopCounterMode(display=False).flop_registry)
    bmm = known[aten.bmm]
    return known | {
        aten.mv: lambda matrix, vector, out_val: 2 * matrix.numel(),
        aten.dot: lambda left, right, out_val: 2 * left.numel(),
        aten.vdot: lambda left, right, out_val: 2 * left.numel(),
        aten.addmv: lambda summand, matrix, vector, out_val, **_: 2 * matrix.numel(),
        aten.addbmm: lambda summand, left, right, out_val, **_: bmm(left, right),
        aten._scaled_dot_product_flash_attention_for_cpu: known[aten._scaled_dot_product_flash_attention],
        aten.mkldnn_rnn_layer: lambda x, *tensors, out_val, **_: _recurrent(x, tensors[:2]),
        aten._cudnn_rnn: lambda x, weights, *_, out_val, **__: _recurrent(x, weights),
        aten.miopen_rnn: lambda x, weights, *_, out_val, **__: _recurrent(x, weights),
    }


def _recurrent(inputs: Tensor, weights: Sequence[Tensor]) -> int:
    """Every matrix of a recurrent layer is multiplied with one vector a step and sample; gates are elementwise."""
    steps = inputs.numel() // inputs.shape[-1]
    return 2 * steps * sum(weight.numel() for weight in weights if weight.dim() > 1)


def _describe(
    packet: Any, args: Any, operands: list[Tensor], live: list[bool], output: Any
) -> tuple[str, tuple[int | None, int | None]]:
    """Kind and (input, output) channels of an operation that has a formula."""
    if "convolution" in _words(packet):
        channels, groups = operands[0].shape[1], args[8]
        kind = "conv" if groups == 1 else "depthwise" if groups == channels else "grouped"
        return kind, (channels, output.shape[1])
    if "attention" in _words(packet) or all(live[-2:]):
        return "matmul", (None, None)
    left, right = operands[-2:]  # behind the summand, if there is one
    if live[-2]:  # [..., m, k] @ [..., k, n]
        return "linear", (left.shape[-1], right.shape[-1] if right.ndim > 1 else 1)
    return "linear", (left.shape[-1], left.shape[-2] if left.ndim > 1 else 1)


def _words(packet: Any) -> set[str]:
    return set(packet.__name__.strip("_").split("_"))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention and encoder layers run operation by operation: a fused kernel hides its products."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
