"""The recurrence of a Simple Recurrent Unit, with a hand-written gradient.

All matrix products are made for the whole window before it. What is left is elementwise; only the state is truly
sequential, since its forget gate sees the state before. So the forward pass runs three small operations per step and
everything else once for all steps; the backward pass is a linear recurrence, one small operation per step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
    return _Recurrence.apply(u, skip, vector, bias, state, mask)  # type: ignore[no-any-return,no-untyped-call]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, skip: Tensor, vector: Tensor, bias: Tensor, state: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        candidate = u[:, :, 0]
        forget = u[:, :, 1] + bias[0]
        v_forget, c, states = vector[0], state, [state]
        for u0, u1 in zip(candidate.unbind(0), forget.unbind(0), strict=True):
            c = torch.lerp(u0, c, torch.addcmul(u1, v_forget, c).sigmoid_())
            states.append(c)
        cells = torch.stack(states)  # [time + 1, streams, width], the state before each step and the last one
        reset = torch.addcmul(u[:, :, 2] + bias[1], vector[1], cells[:-1]).sigmoid_()
        if mask is not None:
            reset *= mask
        ctx.save_for_backward(u, skip, vector, bias, cells, mask)
        return torch.lerp(skip, cells[1:], reset), c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, skip, vector, bias, cells, mask = ctx.saved_tensors
        grad, grad_last = grads
        before, after = cells[:-1], cells[1:]
        forget = torch.addcmul(u[:, :, 1] + bias[0], vector[0], before).sigmoid_()
        reset = torch.addcmul(u[:, :, 2] + bias[1], vector[1], before).sigmoid_()
        inner = reset * (1 - reset) * (after - skip) * grad  # gradient of the argument of r
        if mask is not None:
            inner *= mask
            reset *= mask
        through = grad * reset
        slope = (before - u[:, :, 0]) * forget * (1 - forget)  # of c_t by the argument of f
        # d c_t / d c_{t-1}; the direct gradient of c_{t-1} comes from h_{t-1} and from r_t
        carry = torch.addcmul(forget, slope, vector[0])
        direct = through
        direct[:-1] += inner[1:] * vector[1]
        g, flow = grad_last, []
        for d, a in zip(direct.unbind(0)[::-1], [None, *carry.unbind(0)[:0:-1]], strict=True):
            g = d + g if a is None else torch.addcmul(d, a, g)
            flow.append(g)
        cell = torch.stack(flow[::-1])  # gradient of c_t
        outer = cell * slope  # gradient of the argument of f
        du = torch.stack((cell * (1 - forget), outer, inner), dim=2)
        dskip = grad * (1 - reset)
        dvector = torch.stack(((outer * before).sum((0, 1)), (inner * before).sum((0, 1))))
        dbias = torch.stack((outer.sum((0, 1)), inner.sum((0, 1))))
        dstate = torch.addcmul(inner[0] * vector[1], carry[0], cell[0])
        return du, dskip, dvector, dbias, dstate, None
