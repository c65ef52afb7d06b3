"""Channels put to their places: what a shrunk net needs where the live sets of two tensors differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_MATRIX_ROWS = 4096  # from so many rows on, building the 0/1 matrix costs less than it gains


class Spread(nn.Module):
    """Zero channels between the live ones, for an operation that takes the dense net's tensor.

    Args:
        width: channels of the result.
        places: ascending places of the input's channels.
        axis: dimension of the channels.
    """

    places: Tensor
    order: Tensor

    def __init__(self, *, width: int, places: Sequence[int], axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        order = torch.full((width,), len(places))  # the channel of zeros behind the input's
        order[list(places)] = torch.arange(len(places))
        # not in the state dict: the places follow from the plan
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)
        self.register_buffer("order", order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, places, ...]`` to ``[batch, width, ...]``."""
        behind = [0, 0] * (x.dim() - 1 - self.axis) + [0, 1]
        return F.pad(x, behind).index_select(self.axis, self.order)

    def extra_repr(self) -> str:
        """Widths."""
        return f"{len(self.places)} -> {len(self.order)}, axis={self.axis}"


class Gather(nn.Module):
    """The channels that a reader still uses.

    Args:
        places: ascending places in the input.
        axis: dimension of the channels.
    """

    places: Tensor

    def __init__(self, *, places: Sequence[int], axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]`` to ``[batch, places, ...]``."""
        return x.index_select(self.axis, self.places)

    def extra_repr(self) -> str:
        """Number of channels."""
        return f"{len(self.places)}, axis={self.axis}"


class Constant(nn.Module):
    """A tensor that the net reads and does not store.

    Args:
        value: follows the net to its device.
    """

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone(), persistent=False)

    def forward(self) -> Tensor:
        """The tensor."""
        return self.value


class ScatterAdd(nn.Module):
    """Sum of two tensors that hold different channels of one stream.

    It stands where the layers in front of an addition have few channels, in the narrow form of
    :mod:`prunebench.layers.wide`; a tensor that comes in the wide form has all channels and is added as it is. And
    where there is no wide form: at shortcuts that pad channels, and behind other layers. Each channel is moved and
    added once, so the result is exact, and the default kernels count no multiply-accumulates.
    Which kernel is fastest depends on how the channels lie in memory. Training steps of ResNet-56 (batch 128, 10, 20
    and 39 filters kept, sets differ) per step of the dense net, in CPU time of one thread of an AMD Zen 5 core; "none"
    is a net of that width whose additions need no scatter:

    ================ ===== ========= =========== =========== ====
    \\                dense index_add scatter_add 0/1 product none
    ================ ===== ========= =========== =========== ====
    NCHW, float32    1     0.83      -           -           0.78
    NCHW, bfloat16   1     0.96      -           -           1.04
    NHWC, float32    1     0.86      0.74        0.78        0.62
    NHWC, bfloat16   1     1.30      0.89        0.85        0.70
    ================ ===== ========= =========== =========== ====

    Slower throughout: adding runs of channels slice by slice, concatenating them with zeros, gathering from a padded
    tensor. The product with a 0/1 matrix is exact too; it is left out while operations are counted, because it is a
    copy and no work of the net.

    Args:
        width: channels of the sum.
        first, second: ascending places of each input's channels in the sum, if it does not come with all of them;
            None if the first always does.
        axis: dimension of the channels.
    """

    def __init__(self, *, width: int, first: Sequence[int] | None, second: Sequence[int], axis: int = 1) -> None:
        super().__init__()
        self.width = width
        self.axis = axis
        self.first = None if first is None else Spread(width=width, places=first, axis=axis)
        self.second = Spread(width=width, places=second, axis=axis)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """``[batch, k1, ...]`` and ``[batch, k2, ...]`` to ``[batch, width, ...]``."""
        if first.dtype != second.dtype:  # an ordinary addition would promote
            dtype = torch.promote_types(first.dtype, second.dtype)
            first, second = first.to(dtype), second.to(dtype)
        into, what = self._spread_of(self.first, first), self._spread_of(self.second, second)
        if what is None:  # the first one, or none, is put into the other
            first, second, into, what = second, first, None, into
        if what is None:
            return torch.add(first, second)
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
            # operations that compilers fuse and every ONNX runtime has: pad by a zero, gather, add
            total = first if into is None else into(first)
            return torch.add(total, what(second))
        if first.device.type == "cpu" and (self._is_last(first) or self._is_last(second)):
            return self._rows(first, second, into, what)
        if into is None:
            return first.index_add(self.axis, what.places, second)
        total = first.new_zeros(self._shape(first)).index_add_(self.axis, into.places, first)
        return total.index_add_(self.axis, what.places, second)

    def _spread_of(self, spread: Spread | None, tensor: Tensor) -> Spread | None:
        """How a tensor gets all channels; None if it has them."""
        return None if tensor.shape[self.axis] == self.width else spread

    def _shape(self, tensor: Tensor) -> list[int]:
        return [self.width if dim == self.axis else size for dim, size in enumerate(tensor.shape)]

    def _is_last(self, tensor: Tensor) -> bool:
        """Whether the channels of one pixel are neighbours in memory."""
        return tensor.stride(self.axis) == 1 and tensor.shape[self.axis] > 1

    def _rows(self, first: Tensor, second: Tensor, into: Spread | None, what: Spread) -> Tensor:
        """The same on ``[pixels, channels]``, which is how channels_last lies in memory."""
        narrow, wide = (tensor.movedim(self.axis, -1) for tensor in (second, first))
        shape = [*wide.shape[:-1], self.width]
        total, part = wide.reshape(-1, wide.shape[-1]), narrow.reshape(-1, narrow.shape[-1])
        if into is not None:
            total = self._add_rows(total.new_zeros(len(total), self.width), total, into.places)
        return self._add_rows(total, part, what.places).view(shape).movedim(-1, self.axis)

    def _add_rows(self, total: Tensor, part: Tensor, places: Tensor) -> Tensor:
        # oneDNN multiplies bfloat16 faster than scatter_add converts it; a dispatch mode counts or records
        if part.dtype == torch.bfloat16 and len(part) >= _MATRIX_ROWS and not is_in_torch_dispatch_mode():
            matrix = part.new_zeros(len(places), self.width).scatter_(1, places[:, None], 1.0)
            return torch.addbmm(total, part[None], matrix[None])
        return total.scatter_add(1, places.expand(len(part), -1), part)
