"""The recurrence of a Simple Recurrent Unit, with a hand-written gradient.

All matrix products are made for the whole window before it. What is left is elementwise; only the state is truly
sequential, since its forget gate sees the state before. So the forward pass runs three small operations per step and
everything else once for all steps; the backward pass is a linear recurrence, one small operation per step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
BLOCK = 131_072
"""Numbers that the elementwise work takes at once on a CPU: few enough to stay in its cache."""


def recurrence(
    u: Tensor, skip: Tensor, vector: Tensor, bias: Tensor, state: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run one layer over a window (Lei et al. 2018, eq. 3 to 7).

    With ``(u0, u1, u2) = u``, ``(v_f, v_r) = vector``, ``(b_f, b_r) = bias`` and ``c`` the state::

        f_t = sigmoid(u1_t + v_f c_{t-1} + b_f)        c_t = f_t c_{t-1} + (1 - f_t) u0_t
        r_t = sigmoid(u2_t + v_r c_{t-1} + b_r)        h_t = skip_t + (c_t - skip_t) r_t mask

    Args:
        u: ``[time, streams, 3, width]``.
        skip: what the highway carries past the layer, ``[time, streams, width]``.
        vector, bias: ``[2, width]``.
        state: ``c`` before the window, ``[streams, width]``.
        mask: dropout that is constant over the window, ``[streams, width]``; None = no dropout.

    Returns:
        ``h`` ``[time, streams, width]`` and ``c`` behind the window ``[streams, width]``.
    """
    steps = len(u) if u.is_cuda else max(1, BLOCK // state.numel())
    outputs = []
    for part, passed in zip(u.split(steps), skip.split(steps), strict=True):
        output, state = _Recurrence.apply(part, passed, vector, bias, state, mask)  # type: ignore[no-untyped-call]
        outputs.append(output)
    return torch.cat(outputs), state


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, skip: Tensor, vector: Tensor, bias: Tensor, state: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        candidate, forget = u[:, :, 0], u[:, :, 1] + bias[0]
        cells = u.new_empty(len(u) + 1, *state.shape)  # the state before each step, and the last one
        cells[0] = state
        before = cells.unbind(0)
        for u0, f, c, after in zip(candidate.unbind(0), forget.unbind(0), before, before[1:], strict=False):
            torch.addcmul(f, vector[0], c, out=f).sigmoid_()
            torch.lerp(u0, c, f, out=after)
        reset = torch.addcmul(u[:, :, 2] + bias[1], vector[1], cells[:-1]).sigmoid_()
        ctx.save_for_backward(candidate, skip, vector, cells, forget, reset, mask)
        return torch.lerp(skip, cells[1:], reset if mask is None else reset * mask), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        candidate, skip, vector, cells, forget, reset, mask = ctx.saved_tensors
        grad, grad_last = grads
        before, after = cells[:-1], cells[1:]
        du = grad.new_empty(*grad.shape[:2], 3, grad.shape[2])
        kept = grad if mask is None else grad * mask
        inner = aten.sigmoid_backward((after - skip).mul_(kept), reset)  # gradient of the argument of r
        direct = kept * reset  # gradient of c_t by h_t, and below by r_{t+1} too
        dskip = grad - direct
        direct[:-1].addcmul_(inner[1:], vector[1])
        slope = aten.sigmoid_backward(before - candidate, forget)  # of c_t by the argument of f
        carry = torch.addcmul(forget, slope, vector[0]).unbind(0)  # of c_t by c_{t-1}
        flow = direct.unbind(0)  # becomes the gradient of c_t
        flow[-1].add_(grad_last)
        for now, later, factor in zip(flow[-2::-1], flow[:0:-1], carry[:0:-1], strict=True):
            now.addcmul_(factor, later)
        torch.addcmul(direct, direct, forget, value=-1, out=du[:, :, 0])
        outer = slope.mul_(direct)  # gradient of the argument of f
        du[:, :, 1], du[:, :, 2] = outer, inner
        dvector = torch.stack(((outer * before).sum((0, 1)), (inner * before).sum((0, 1))))
        dbias = torch.stack((outer.sum((0, 1)), inner.sum((0, 1))))
        dstate = torch.addcmul(inner[0] * vector[1], carry[0], flow[0])
        return du, dskip, dvector, dbias, dstate, None
