"""Transformer-XL for characters: relative attention over the window and a memory of the windows before it.

Zihang Dai et al., "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context", ACL 2019, arXiv
1901.02860, in the version of ``kimiyoung/transformer-xl:pytorch/mem_transformer.py``, with the plain softmax that its
enwik8 scripts use.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PositiveInt
from prunebench.errors import UserError

INIT_STD = 0.02


class RelativeAttention(nn.Module):
    """Attention with relative positions, then dropout, the residual sum and its norm (``mem_transformer.py:212-291``).

    Args:
        width: d of the stream.
        heads: number H of heads. ``head_size``: D of each.
        dropout: of the output. ``attention_dropout``: of the attention weights.
    """

    def __init__(self, *, width: int, heads: int, head_size: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.qkv = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.position = nn.Linear(width, heads * head_size, bias=False)
        self.out = nn.Linear(heads * head_size, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = nn.Dropout(attention_dropout)

    def forward(self, x: Tensor, memory: Tensor, table: Tensor, hidden: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """One layer of attention.

        Args:
            x: ``[B, q, d]``. ``memory``: what this layer got before, ``[B, m, d]``.
            table: sinusoids of the distances m + q - 1 down to 0, ``[m + q, d]``.
            hidden: bool ``[q, m + q]``, True where a query may not look.
            u, v: the biases of content and position, ``[H, D]``.
        """
        split = (self.heads, self.head_size)
        q, k, value = (part.unflatten(-1, split) for part in self.qkv(torch.cat((memory, x), 1)).chunk(3, -1))
        q = q[:, memory.shape[1] :]
        p = self.position(table).unflatten(-1, split)  # [m + q, H, D]
        content = torch.einsum("bihd,bjhd->bhij", q + u, k)
        place = relative_shift(torch.einsum("bihd,jhd->bhij", q + v, p))
        scores = (content + place).float() / math.sqrt(self.head_size)
        weights = self.attention_dropout(scores.masked_fill(hidden, -math.inf).softmax(-1).to(value.dtype))
        heads = torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2)
        return self.norm(x + self.dropout(self.out(heads)))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers around a ReLU, then dropout, the residual sum and its norm."""

    def __init__(self, *, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, q, d]`` to the same."""
        return self.norm(x + self.dropout(self.down(self.dropout(self.up(x).relu()))))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and feed-forward part of one layer."""

    def __init__(self, attention: RelativeAttention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, x: Tensor, memory: Tensor, table: Tensor, hidden: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """See :class:`RelativeAttention`."""
        return self.feed_forward(self.attention(x, memory, table, hidden, u, v))  # type: ignore[no-any-return]


class TransformerXL(nn.Module):
    """The language model; see ``prunebench.core.language`` for how it is called. The state is the memory of all layers.

    Args:
        num_symbols: size of the vocabulary V.
        layers, width, heads, head_size, inner: L, d, H, D and the size inside the feed-forward part.
        dropout, attention_dropout: in [0, 1).
        mem_length: outputs of the past that each layer keeps, in symbols; ``eval_mem_length`` in evaluation.
        eval_clamp: distances beyond it count as it, in evaluation; None = none do.
        same_length: in evaluation every symbol sees the same number of others, ``eval_mem_length``.
    """

    def __init__(
        self,
        *,
        num_symbols: int,
        layers: int,
        width: int,
        heads: int,
        head_size: int,
        inner: int,
        dropout: float,
        attention_dropout: float,
        mem_length: int,
        eval_mem_length: int,
        eval_clamp: int | None,
        same_length: bool,
    ) -> None:
        super().__init__()
        self.width, self.mem_length, self.eval_mem_length = width, mem_length, eval_mem_length
        self.eval_clamp, self.same_length = eval_clamp, same_length
        self.embedding = nn.Embedding(num_symbols, width)  # its table is the output layer's too
        self.u = nn.Parameter(torch.empty(heads, head_size))  # shared by all layers
        self.v = nn.Parameter(torch.empty(heads, head_size))
        self.bias = nn.Parameter(torch.zeros(num_symbols))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(
                RelativeAttention(
                    width=width,
                    heads=heads,
                    head_size=head_size,
                    dropout=dropout,
                    attention_dropout=attention_dropout,
                ),
                FeedForward(width=width, inner=inner, dropout=dropout),
            )
            for _ in range(layers)
        )
        self.initialise(self)

    @property
    def memory(self) -> str:
        """What is carried in evaluation, in words."""
        clamp = "" if self.eval_clamp is None else f", distances clamped at {self.eval_clamp}"
        return f"the last {self.eval_mem_length} outputs of each layer{clamp}, same_length {self.same_length}"

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Matrices, embedding, u and v from N(0, 0.02), norm weights from N(1, 0.02), biases 0."""
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0.0, INIT_STD)
            elif isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1.0, INIT_STD)
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, TransformerXL):
                nn.init.normal_(module.u, 0.0, INIT_STD)
                nn.init.normal_(module.v, 0.0, INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, symbols: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next symbols.

        Args:
            symbols: int64 ``[streams, time]``.
            state: inputs of each layer at the last symbols, ``[layers, streams, memory, width]``; None = no memory yet.

        Returns:
            Logits ``[streams, time, symbols]`` and the state behind the last symbol.
        """
        x = self.dropout(self.embedding(symbols) * math.sqrt(self.width))
        if state is None:
            state = x.new_zeros(len(self.layers), len(symbols), 0, self.width)
        length = self.mem_length if self.training else self.eval_mem_length
        num_queries, num_keys = symbols.shape[1], symbols.shape[1] + state.shape[2]
        clamp = None if self.training else self.eval_clamp
        table = self.dropout(sinusoids(num_keys, self.width, clamp, x))
        window = length if self.same_length and not self.training else None
        hidden = unseen(num_queries, num_keys, window, symbols.device)
        states = []
        for layer, memory in zip(self.layers, state.unbind(0), strict=True):
            joined = torch.cat((memory, x.to(memory.dtype)), 1)
            states.append(joined[:, max(0, num_keys - length) :])
            x = layer(x, memory, table, hidden, self.u, self.v)
        return F.linear(self.dropout(x), self.embedding.weight, self.bias), torch.stack(states)


def sinusoids(num: int, width: int, clamp: int | None, like: Tensor) -> Tensor:
    """Sines, then cosines, of the distances ``num - 1`` down to 0, ``[num, width]`` (``mem_transformer.py:15-31``)."""
    distance = torch.arange(num - 1, -1, -1.0, device=like.device)
    if clamp is not None:
        distance = distance.clamp(max=clamp)
    rate = 10_000 ** -(torch.arange(0, width, 2.0, device=like.device) / width)
    angle = distance[:, None] * rate
    return torch.cat((angle.sin(), angle.cos()), 1).to(like.dtype)


def unseen(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where query i may not see key j, ``[queries, keys]``: the future, and with ``window`` all but so many."""
    offset = num_keys - num_queries
    place = torch.arange(num_keys, device=device) - torch.arange(num_queries, device=device)[:, None]  # j - i
    hidden = place > offset
    if window is not None and num_keys > window:
        hidden |= place <= offset - window
    return hidden


def relative_shift(x: Tensor) -> Tensor:
    """Move row i of ``[..., q, k]`` to the left by q - 1 - i, so that column j is key j.

    What comes in from the right belongs to keys of the future, which are hidden (``mem_transformer.py:194-207``).
    """
    queries, keys = x.shape[-2:]
    padded = F.pad(x, (1, 0)).reshape(*x.shape[:-2], keys + 1, queries)
    return padded[..., 1:, :].reshape(x.shape)


@validated
def transformer_xl(
    *,
    num_symbols: PositiveInt = 205,
    layers: PositiveInt = 12,
    width: PositiveInt = 512,
    heads: PositiveInt = 8,
    head_size: PositiveInt = 64,
    inner: PositiveInt = 2048,
    dropout: FractionBelowOne = 0.1,
    attention_dropout: FractionBelowOne = 0.0,
    mem_length: PositiveInt = 512,
    eval_mem_length: PositiveInt | None = None,
    eval_clamp: PositiveInt | None = None,
    same_length: bool = False,
) -> TransformerXL:
    """Transformer-XL; the defaults are the base model of the enwik8 script (41 M parameters)."""
    if width % 2:
        raise UserError(f"transformer_xl: width must be even, for pairs of sine and cosine, got {width}")
    return TransformerXL(
        num_symbols=num_symbols,
        layers=layers,
        width=width,
        heads=heads,
        head_size=head_size,
        inner=inner,
        dropout=dropout,
        attention_dropout=attention_dropout,
        mem_length=mem_length,
        eval_mem_length=mem_length if eval_mem_length is None else eval_mem_length,
        eval_clamp=eval_clamp,
        same_length=same_length,
    )
