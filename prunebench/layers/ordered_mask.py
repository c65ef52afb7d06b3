"""Ordered masks: of a row of equal blocks of channels the first ones stay, and how many is random.

Cui et al., Bayesian nested neural networks, CVPR 2021 (arXiv 2101.11353). beta_k is the chance that block k stays if
block k - 1 does. So c blocks stay with q(c) = beta_1 ... beta_c (1 - beta_{c+1}), all K with the product of all, and
block k with beta_1 ... beta_k, which falls with k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.config.ranges import Among
from prunebench.layers.sampling import Stochastic

MAX_LOGIT = 5.0
"""Logits of beta are clipped to +-5: beta in [0.0067, 0.9933] (modules/torch_vnd.py of the official code)."""
GumbelInput = Annotated[str, Among(("log_q", "q"))]
"""What is perturbed by Gumbel noise: ``log_q`` draws from q; ``q``, the official slip, draws from softmax(q)."""


@dataclass(frozen=True)
class Blocks:
    """A layer's channels in equal blocks, of which the first ones are never masked.

    Attributes:
        channels: of the layer. ``num``: of blocks, a divisor of it. ``frozen``: blocks that always stay.
    """

    channels: int
    num: int
    frozen: int

    @classmethod
    def of(cls, channels: int, *, num_blocks: int, frozen_blocks: int) -> Blocks:
        """``num_blocks`` blocks, or the greatest common divisor where it does not divide ``channels``.

        The frozen ones keep their share of the blocks, rounded up.
        """
        num = math.gcd(channels, num_blocks)
        return cls(channels, num, -(-frozen_blocks * num // num_blocks))

    @property
    def size(self) -> int:
        """Channels of a block."""
        return self.channels // self.num

    @property
    def num_masked(self) -> int:
        """K, blocks that a mask may drop."""
        return self.num - self.frozen

    def kept(self, share: float) -> int:
        """Blocks that stay at a width ``share`` in [0, 1]: the frozen ones and floor(share K).

        In double precision as in cifar_eval_vnd.py:262-267, noise and all.
        """
        return self.frozen + int(self.num_masked * share)


def stays(keep: Tensor) -> Tensor:
    """P(block k stays) of beta ``[K]``, ``[K]``; its sum is the expected number of blocks that stay."""
    return keep.cumprod(0)


def log_counts(keep: Tensor) -> Tensor:
    """ln q(c) of beta ``[K]`` for c = 0..K, ``[K + 1]``."""
    none = keep.new_zeros(1)
    return torch.cat([none, keep.log().cumsum(0)]) + torch.cat([(-keep).log1p(), none])


def divergence(keep: Tensor, prior: Tensor) -> Tensor:
    """KL of q(c) from p(c), both chains ``[K]``, nats, a scalar.

    Equal to the chain form: the sum over k of P(block k - 1 stays) KL(Bern(beta_k) || Bern(pi_k)).
    """
    log_q = log_counts(keep)
    return (log_q.exp() * (log_q - log_counts(prior))).sum()


def draw_count(scores: Tensor, temperature: float) -> Tensor:
    """One of ``scores [K + 1]`` by the Gumbel-max trick: one-hot, with the gradient of the Gumbel-softmax."""
    soft = F.gumbel_softmax(scores, tau=temperature)
    hard = F.one_hot(soft.argmax(), len(soft)).to(soft.dtype)
    return hard + (soft - soft.detach())  # exactly 0 or 1: a masked channel must not leak by a rounding error


def to_mask(count: Tensor) -> Tensor:
    """One-hot number of blocks that stay, ``[K + 1]``, to the mask ``[K]``: 1 for the first c blocks."""
    return 1 - count.cumsum(0)[:-1]


class OrderedMask(Stochastic):
    """Multiplies channels by a mask over blocks: drawn in training, once a pass and for the whole batch.

    In evaluation each channel is multiplied by the chance that it stays (the mean of its mask), or, with ``kept``, by 1
    in the first so many blocks and by 0 in the others.

    Args:
        blocks: of the input's channels; at least one may go.
        logit: of every beta in the beginning. ``learned``: whether they are trained.
        temperature: of the Gumbel-softmax; changes gradients, not what is drawn.
        gumbel_input: see :data:`GumbelInput`.

    Attributes:
        logits: ``[K]``.
    """

    logits: Tensor
    kept: int | None = None

    def __init__(
        self, blocks: Blocks, *, logit: float, learned: bool, temperature: float, gumbel_input: GumbelInput
    ) -> None:
        super().__init__()
        self.blocks, self.temperature, self.gumbel_input = blocks, temperature, gumbel_input
        logits = torch.full((blocks.num_masked,), float(logit))
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def keep(self) -> Tensor:
        """beta, ``[K]``."""
        return self.logits.clamp(-MAX_LOGIT, MAX_LOGIT).sigmoid()

    def stays(self) -> Tensor:
        """The chance that a channel stays, ``[channels]``; 1 in frozen blocks."""
        return self._spread(stays(self.keep()))

    def expected_share(self) -> Tensor:
        """Expected share of the channels that stay, a scalar."""
        return self.stays().mean()

    def draw(self) -> Tensor:
        """One mask, ``[channels]``, with a gradient for ``logits``."""
        log_q = log_counts(self.keep())
        scores = log_q if self.gumbel_input == "log_q" else log_q.exp()
        return self._spread(to_mask(draw_count(scores, self.temperature)))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]`` to the same shape and type."""
        if self.training or self.sampling:
            mask = self.draw()
        elif self.kept is not None:
            mask = (torch.arange(self.blocks.channels, device=x.device) < self.kept * self.blocks.size).float()
        else:
            mask = self.stays()
        return x * mask.to(x.dtype).view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        """The blocks."""
        return f"{self.blocks}"

    def _spread(self, mask: Tensor) -> Tensor:
        """``[K]`` to ``[channels]``."""
        return torch.cat([mask.new_ones(self.blocks.frozen), mask]).repeat_interleave(self.blocks.size)
