"""Layers with few channels beside a wider tensor, for additions of different sets: two forms of one function.

Where the live channels of an addition differ, somebody has to put them in their places.

In the wide form the weights move: a layer places those that it has among zeros for the duration of a call, its output
has the dead channels too, as exact zeros, and an ordinary addition follows. Graph runtimes, compilers and devices other
than the CPU get it: whatever moves activations costs them more.

In the narrow form the activations move: the layer runs as small as it is, and so does what works channel by channel
behind it, up to the addition (:class:`prunebench.layers.scatter.ScatterAdd`). Torch on a CPU gets it for layers that
write at most half of the channels, since much of its time goes into writing. Shares of the dense ResNet-56's time, free
sets, float32, one thread of an AMD EPYC, in the narrow and the wide form:

================== ============= =============
filters cut        call, 64      step, 128
================== ============= =============
40 % (10 of 16)    0.91, 0.85    0.79, 0.82
50 %               0.50, 0.58    0.50, 0.60
75 %               0.40, 0.47    0.40, 0.50
================== ============= =============

Each layer sees from its input which form that has. Parameters, files and gradients are those of the small layer in
either. While operations are counted the small layer runs, so that the count is the small layer's as well: the products
with zeros are a kernel's way of moving data, no work of the net.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class _Places(nn.Module):
    """Where ``part`` stands in ``whole``; both ascending, ``part`` inside ``whole``."""

    index: Tensor

    def __init__(self, part: Sequence[int], whole: Sequence[int]) -> None:
        super().__init__()
        self.width = len(whole)
        self.same = len(part) == len(whole)
        ranks = {channel: rank for rank, channel in enumerate(whole)}
        # not in the state dict: it follows from the plan
        self.register_buffer("index", torch.tensor([ranks[channel] for channel in part]), persistent=False)

    def spread(self, tensor: Tensor, *, filling: float = 0.0) -> Tensor:
        """``[part, ...]`` to ``[whole, ...]``."""
        if self.same:
            return tensor
        return torch.index_put(tensor.new_full((self.width, *tensor.shape[1:]), filling), (self.index,), tensor)

    def extra_repr(self) -> str:
        """Numbers of channels."""
        return f"{len(self.index)} of {self.width}"


def _is_counted() -> bool:
    return is_in_torch_dispatch_mode() and not torch.compiler.is_compiling()


def _takes_narrow(tensor: Tensor) -> bool:
    """Whether activations are moved where this tensor is."""
    is_graph = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    return tensor.device.type == "cpu" and not is_graph


class _Remembered:
    """Placed tensors between evaluations: made anew when a source has changed, and always where gradients flow.

    The sources are compared by value: what is written through ``.data`` changes no version of a tensor. Elsewhere than
    on the CPU a comparison waits for the device, and costs more than it saves.
    """

    def __init__(self) -> None:
        self._sources: tuple[Tensor, ...] = ()
        self._value: tuple[Tensor, ...] = ()
        self._form: object = None

    def __deepcopy__(self, memo: Any) -> _Remembered:
        return _Remembered()

    def __reduce__(self) -> tuple[type[_Remembered], tuple[()]]:
        return _Remembered, ()

    def get(
        self, layer: nn.Module, sources: Sequence[Tensor], make: Callable[[], tuple[Tensor, ...]], form: object = None
    ) -> Any:
        if layer.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
            return make()
        if any(source.device.type != "cpu" for source in sources):
            return make()
        known = form == self._form and len(sources) == len(self._sources)
        if not known or not all(map(_same, sources, self._sources)):
            self._sources, self._value = tuple(source.detach().clone() for source in sources), make()
            self._form = form
        return self._value


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)


def _matrix(weight: Tensor, rows: _Places | None, columns: _Places | None) -> Tensor:
    """``[small out, small in, ...]`` to ``[out, in, ...]``, zeros elsewhere, in the memory format of ``weight``."""
    places = (rows, columns)
    sides = [size if place is None else place.width for place, size in zip(places, weight.shape, strict=False)]
    wide = torch.zeros((*sides, *weight.shape[2:]), dtype=weight.dtype, device=weight.device)
    if weight.ndim == 4 and not weight.is_contiguous():
        wide = wide.contiguous(memory_format=torch.channels_last)
    if columns is None:
        assert rows is not None
        return torch.index_put(wide, (rows.index,), weight)
    into = torch.arange(len(weight), device=weight.device) if rows is None else rows.index
    return torch.index_put(wide, (into[:, None], columns.index), weight)


class WideConv2d(nn.Conv2d):
    """A convolution that reads and writes tensors in which only some channels are live.

    Args:
        small: the convolution of the live channels; its parameters are taken over.
        rows: its outputs among those of the result. ``columns``: its inputs among those of the argument.
        narrow: whether whoever reads the result takes the live channels alone, too.
    """

    def __init__(self, small: nn.Conv2d, *, rows: _Places, columns: _Places, narrow: bool) -> None:
        super().__init__(
            small.in_channels,
            small.out_channels,
            small.kernel_size,  # type: ignore[arg-type]
            small.stride,  # type: ignore[arg-type]
            small.padding,  # type: ignore[arg-type]
            small.dilation,  # type: ignore[arg-type]
            small.groups,
            small.bias is not None,
            small.padding_mode,
            device="meta",
        )
        self.weight, self.bias = small.weight, small.bias
        self.rows, self.columns, self.narrow = rows, columns, narrow
        self.remembered = _Remembered()

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, in, h, w]`` to ``[batch, out, h, w]``; of the argument all channels, or the live ones alone."""
        reads = None if input.shape[1] == len(self.columns.index) else self.columns
        writes = None if self.narrow and _takes_narrow(input) else self.rows
        if _is_counted():
            live = input if reads is None else input.index_select(1, reads.index)
            small = self._conv_forward(live, self.weight, self.bias)
            return small if writes is None else _spread_second(small, writes)
        output: Tensor = self._conv_forward(input, *_placed(self, writes, reads))
        return output


class WideLinear(nn.Linear):
    """A linear layer that reads and writes vectors in which only some features are live; see :class:`WideConv2d`."""

    def __init__(self, small: nn.Linear, *, rows: _Places, columns: _Places) -> None:
        super().__init__(small.in_features, small.out_features, small.bias is not None, device="meta")
        self.weight, self.bias = small.weight, small.bias
        self.rows, self.columns = rows, columns
        self.remembered = _Remembered()

    def forward(self, input: Tensor) -> Tensor:
        """``[..., wide in]`` to ``[..., wide out]``."""
        if _is_counted():
            narrow = F.linear(input.index_select(-1, self.columns.index), self.weight, self.bias)
            return _spread_last(narrow, self.rows)
        return F.linear(input, *_placed(self, self.rows, self.columns))


class WideBatchNorm2d(nn.BatchNorm2d):
    """A batch norm of a tensor in which only some channels are live; dead ones stay 0 and have no statistics.

    Args:
        small: the norm of the live channels; its parameters and statistics are taken over.
        rows: its channels among those of the argument.
    """

    def __init__(self, small: nn.BatchNorm2d, *, rows: _Places) -> None:
        super().__init__(
            small.num_features,
            small.eps,
            small.momentum,
            small.affine,
            small.track_running_stats,
            device="meta",
        )
        self.weight, self.bias = small.weight, small.bias
        for name, buffer in small.named_buffers(recurse=False):
            setattr(self, name, buffer)
        self.rows = rows
        self.remembered = _Remembered()

    def forward(self, input: Tensor) -> Tensor:
        """``[batch, channels, h, w]`` to the same shape: all channels, or the live ones alone."""
        if input.shape[1] == len(self.rows.index):
            return super().forward(input)
        if self.weight is None or self.bias is None or self.running_mean is None or self.running_var is None:
            return _spread_second(super().forward(input.index_select(1, self.rows.index)), self.rows)
        share = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1.0 / float(self.num_batches_tracked)
        sources = (self.running_mean, self.running_var, self.weight, self.bias)
        fillings = (0.0, 1.0, 0.0, 0.0)

        def place() -> tuple[Tensor, ...]:
            return tuple(self.rows.spread(t, filling=f) for t, f in zip(sources, fillings, strict=True))

        mean, variance, weight, bias = self.remembered.get(self, sources, place)
        output = F.batch_norm(input, mean, variance, weight, bias, self.training, share, self.eps)
        if self.training:
            with torch.no_grad():
                self.running_mean.copy_(mean[self.rows.index])
                self.running_var.copy_(variance[self.rows.index])
        return output


def _placed(
    layer: WideConv2d | WideLinear, rows: _Places | None, columns: _Places | None
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer among zeros, along the dimensions for which there are places."""
    if rows is None and columns is None:
        return layer.weight, layer.bias

    def place() -> tuple[Tensor, ...]:
        matrix = _matrix(layer.weight, rows, columns)
        if layer.bias is None:
            return (matrix,)
        return matrix, layer.bias if rows is None else rows.spread(layer.bias)

    sources = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    found = layer.remembered.get(layer, sources, place, form=(rows is None, columns is None))
    return found[0], found[1] if len(found) > 1 else None


def _spread_second(narrow: Tensor, places: _Places) -> Tensor:
    """``[batch, part, ...]`` to ``[batch, whole, ...]``."""
    if places.same:
        return narrow
    wide = narrow.new_zeros(narrow.shape[0], places.width, *narrow.shape[2:])
    return wide.index_copy(1, places.index, narrow)


def _spread_last(narrow: Tensor, places: _Places) -> Tensor:
    if places.same:
        return narrow
    return narrow.new_zeros(*narrow.shape[:-1], places.width).index_copy(-1, places.index, narrow)


WIDE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
"""Layers that have a wide form."""


def widened(
    small: nn.Module,
    *,
    rows: tuple[Sequence[int], Sequence[int]],
    columns: tuple[Sequence[int], Sequence[int]] | None,
    narrow: bool = False,
) -> nn.Module:
    """The wide form of a small layer, or the layer itself where its channels are all that there are.

    Args:
        small: a layer of :data:`WIDE`; its parameters are taken over.
        rows: its output channels, and those of the tensor that it shall write, both ascending.
        columns: the same for what it reads; None for a norm.
        narrow: of a convolution, whether those that read it take the live channels alone as well.
    """
    if len(rows[0]) == len(rows[1]) and (columns is None or len(columns[0]) == len(columns[1])):
        return small
    if isinstance(small, nn.BatchNorm2d):
        wide: nn.Module = WideBatchNorm2d(small, rows=_Places(*rows))
    else:
        assert columns is not None
        places = {"rows": _Places(*rows), "columns": _Places(*columns)}
        if isinstance(small, nn.Conv2d):
            wide = WideConv2d(small, **places, narrow=narrow)
        else:
            assert isinstance(small, nn.Linear)
            wide = WideLinear(small, **places)
    return wide.train(small.training)
