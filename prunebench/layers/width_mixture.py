"""A convolution of two widths at once, mixed so that gradients reach the chances of the widths.

Dong, Yang: Network pruning via transformable architecture search, NeurIPS 2019, section 3.1; official code
D-X-Y/AutoDL-Projects, models/shape_searchs/SoftSelect.py and SearchCifarResNet.py:32-40, 118-148.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidate widths as shares of the whole one (SoftSelect.py:93-102)."""
EPSILON = 1e-7
"""Added to chances before a draw without replacement, which needs two that are not 0 (SoftSelect.py:25-28)."""


def candidate_widths(channels: int) -> tuple[int, ...]:
    """The distinct widths that a convolution of ``channels`` can have, ascending; each share truncated, at least 1."""
    return tuple(sorted({max(1, int(channels * share)) for share in SHARES}))


def interpolate_channels(x: Tensor, channels: int) -> Tensor:
    """Channel-wise interpolation: ``[batch, in, height, width]`` to ``[batch, channels, height, width]``.

    Channel k of the result is the mean of channels floor(k in / channels) to ceil((k + 1) in / channels) - 1, as in
    adaptive average pooling along the channels, but with a gradient that is deterministic on every device.
    """
    given = x.shape[1]
    if given == channels:
        return x
    k = torch.arange(channels)
    start, stop = k * given // channels, -(-(k + 1) * given // channels)
    total = x.new_zeros(())
    for offset in range(int((stop - start).max())):
        share = (start + offset < stop).float() / (stop - start)
        picked = x.index_select(1, (start + offset).clamp_max(given - 1).to(x.device))
        total = total + picked * share.to(x)[:, None, None]
    return total


def perturbed(logits: Tensor, tau: float, valid: Tensor | None = None) -> Tensor:
    """(log_softmax(logits) + Gumbel noise) / tau, ``[rows, choices]``, drawn again until everything is finite.

    Args:
        logits: ``[rows, choices]``. ``valid``: which of them a row has, bool; the others become -inf. None = all.
    """
    known = logits if valid is None else logits.masked_fill(~valid, -torch.inf)
    log_chances = known.log_softmax(1)
    while True:
        # drawn on the CPU, so that every device searches alike
        noise = -torch.empty(logits.shape).exponential_().log().to(logits.device)
        found = (log_chances + noise) / tau
        if bool(noise.isfinite().all()) and not bool(found.softmax(1).isnan().any()):
            return found


def draw_pairs(found: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Two different choices in each row of ``found`` (see :func:`perturbed`), and their shares in the mixture.

    The draw has no gradient; the shares are the softmax over the two perturbed logits themselves.

    Returns:
        Indices ``[rows, 2]`` on the CPU, and shares ``[rows, 2]`` that sum to 1.
    """
    with torch.no_grad():
        chances = found.softmax(1) + EPSILON
        if valid is not None:
            chances = chances * valid
        index = torch.multinomial(chances.float().cpu(), 2, replacement=False)
    return index, found.gather(1, index.to(found.device)).softmax(1)


class MixedConv(nn.Module):
    """A convolution whose first channels are its narrower versions, with a batch norm for each width.

    Args:
        conv: the whole convolution, without bias; its weights are used.
        candidates: widths, ascending.

    Attributes:
        macs: multiply-accumulates of the last pass, of one sample.
    """

    def __init__(self, conv: nn.Conv2d, candidates: Sequence[int]) -> None:
        super().__init__()
        assert conv.bias is None and conv.groups == 1
        self.conv = conv
        self.candidates = tuple(candidates)
        self.macs = 0
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in candidates)

    def forward(self, x: Tensor, index: Sequence[int], shares: Tensor) -> Tensor:
        """Mixture of the candidates ``index`` with ``shares [num]``, as wide as the widest of them.

        ``x`` may have fewer channels than the whole convolution reads: the others count as 0.
        """
        top = max(self.candidates[i] for i in index)
        # the same as to pad the input with zeros and to drop outputs, without computing them
        weight = self.conv.weight[:top, : x.shape[1]]
        out = F.conv2d(x, weight, stride=self.conv.stride, padding=self.conv.padding)
        self.macs = weight.numel() * out.shape[-2] * out.shape[-1]
        found = [self.norms[i](out[:, : self.candidates[i]]) for i in index]
        if len(found) == 1:
            return found[0]  # type: ignore[no-any-return]
        first, second = (share * interpolate_channels(part, top) for share, part in zip(shares, found, strict=True))
        return first + second  # type: ignore[no-any-return]
