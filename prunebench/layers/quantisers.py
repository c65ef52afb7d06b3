"""Numbers of few bits in floating point: weights and activations on a grid, with straight-through gradients.

``round`` is to even. A bit width k is that of the stored integers; ``levels`` = 2^k - 1 steps between 0 and 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

TERNARY_THRESHOLD = 0.7  # TWN, eq. 6: of the mean size of the weights
TRAINED_THRESHOLD = 0.05  # TTQ, section 4: of the largest weight


def rounded(x: Tensor) -> Tensor:
    """``x`` rounded, with the gradient of the identity."""
    return straight(x, x.round())


def unit(x: Tensor, bits: int) -> Tensor:
    """Numbers in [0, 1] on the 2^bits levels from 0 to 1 (DoReFa, eq. 5)."""
    levels: int = 2**bits - 1
    return rounded(x * levels) / levels


def signs(x: Tensor) -> Tensor:
    """-1 or +1, 0 counts as +1; no gradient."""
    return torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))


def straight(x: Tensor, value: Tensor) -> Tensor:
    """``value``, exactly, with the gradient of ``x``."""
    return value.detach() + (x - x.detach())


def clipped(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` within [low, high], with the gradient of what lies in it or on its bounds: torch's own varies there."""
    return torch.where((x >= low) & (x <= high), x, x.detach().clamp(low, high))


def per_filter(w: Tensor) -> list[int]:
    """The dimensions of one output filter of ``[out, ...]``."""
    return list(range(1, w.ndim))


# -- weights: [out, ...] to the same shape


def binary_connect(w: Tensor) -> Tensor:
    """sign(w), gradient where |w| <= 1 (Courbariaux et al. 2015)."""
    return straight(clipped(w, -1, 1), signs(w))


def bwn(w: Tensor) -> Tensor:
    """alpha sign(w) with alpha = mean |w| of each filter, the nearest such numbers (XNOR-Net, eq. 6)."""
    return straight(w, w.abs().mean(per_filter(w), keepdim=True) * signs(w))


def twn(w: Tensor) -> Tensor:
    """-alpha, 0 or alpha for each filter, alpha = mean size of what is above 0.7 mean |w| (Li et al. 2016)."""
    size = w.abs()
    large = (size > TERNARY_THRESHOLD * size.mean(per_filter(w), keepdim=True)).to(w.dtype)
    alpha = (size * large).sum(per_filter(w), keepdim=True) / large.sum(per_filter(w), keepdim=True).clamp_min(1)
    return straight(w, alpha * signs(w) * large)


def ttq(w: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """-``negative``, 0 or ``positive``, trained scales (Zhu et al. 2017); the threshold is 0.05 max |w|.

    The gradient of a weight is scaled by the scale of its set (eq. 8), those of the scales are sums over the sets.
    """
    above, below = ttq_sets(w)
    value = positive * above - negative * below
    slope = (positive * above + negative * below + (1 - above - below)).detach()
    return value + slope * (w - w.detach())


def ttq_sets(w: Tensor) -> tuple[Tensor, Tensor]:
    """1 where a weight takes the positive scale; 1 where it takes the negative one."""
    threshold = TRAINED_THRESHOLD * w.detach().abs().max()
    return (w > threshold).to(w.dtype), (w < -threshold).to(w.dtype)


def dorefa(w: Tensor, bits: int) -> Tensor:
    """2 unit(tanh w / (2 max |tanh w|) + 1/2) - 1; 1 bit: mean |w| of the layer times the sign (DoReFa-Net, eq. 9)."""
    if bits == 1:
        return straight(w, w.abs().mean() * signs(w))
    squashed = torch.tanh(w)
    largest = squashed.detach().abs().max().clamp_min(torch.finfo(w.dtype).tiny)
    return 2 * unit(squashed / (2 * largest) + 0.5, bits) - 1


def symmetric(w: Tensor, bits: int, *, per_channel: bool) -> Tensor:
    """Multiples -L..L of s = max |w| / L with L = 2^(bits-1) - 1, of the layer or of each filter; at least 2 bits."""
    largest = w.detach().abs()
    largest = largest.amax(per_filter(w), keepdim=True) if per_channel else largest.max()
    return symmetric_grid(w, largest, bits)


# -- activations: any shape


def symmetric_grid(x: Tensor, largest: Tensor, bits: int) -> Tensor:
    """``x``, clipped at +- ``largest``, in 2^bits - 1 equal steps around 0; no gradient where it is clipped."""
    levels: int = 2 ** (bits - 1) - 1
    step = largest.clamp_min(torch.finfo(x.dtype).tiny) / levels
    return rounded(clipped(x / step, -levels, levels)) * step


def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    """unit(clip(x, 0, 1)), gradient inside [0, 1] (DoReFa-Net, eq. 11)."""
    return unit(clipped(x, 0, 1), bits)


def sign_activation(x: Tensor) -> Tensor:
    """sign(x), gradient where |x| <= 1."""
    return binary_connect(x)


def pact(x: Tensor, clip: Tensor, bits: int) -> Tensor:
    """c unit(clip(x, 0, c) / c), c = ``clip``, whose gradient is that of the x >= c (Choi et al. 2018, eq. 3)."""
    inside = torch.where(x >= clip, clip.to(x.dtype), x.clamp_min(0))
    levels: int = 2**bits - 1
    largest = clip.detach().clamp_min(torch.finfo(x.dtype).tiny)
    return straight(inside, (inside / largest * levels).round() / levels * largest)
