"""torch's multi-head attention with a linear layer for each of its four matrices, so that heads can be cut."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from prunebench.layers.attention import Attention
from prunebench.layers.rewritten import Rewritten, is_hooked

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class HeadAttention(Rewritten):
    """What ``nn.MultiheadAttention`` computes, in its parameters and with its arguments.

    Queries, keys and values are three linear layers here, where torch keeps one matrix, so each of them can lose the
    channels of a head; with :meth:`to_written` and :meth:`from_written` weights come and go under torch's names.

    Args:
        original: a module for which :meth:`fits` holds; its parameters are copied.
    """

    # torch's transformer layers ask for these, and take a fused kernel where the second is true
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = original.embed_dim, original.num_heads
        self.head_dim, self.batch_first = original.head_dim, original.batch_first
        weight, bias = original.out_proj.weight, original.in_proj_bias is not None
        options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        self.q_proj = skip_init(nn.Linear, self.embed_dim, self.embed_dim, bias=bias, **options)
        self.k_proj = skip_init(nn.Linear, original.kdim, self.embed_dim, bias=bias, **options)
        self.v_proj = skip_init(nn.Linear, original.vdim, self.embed_dim, bias=bias, **options)
        self.out_proj = skip_init(nn.Linear, self.embed_dim, self.embed_dim, bias=bias, **options)
        self.attend = Attention(original.dropout)
        self.take_over(original)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a module is torch's own as it was made, without keys and values that it adds."""
        if type(module) is not nn.MultiheadAttention or module.add_zero_attn or module.bias_k is not None:
            return False
        return not is_hooked(module) and all(parameter.requires_grad for parameter in module.parameters())

    def from_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give the tensors of torch's module at ``prefix`` the names that they have here, in place."""
        for what in ("weight", "bias"):
            joined = state.pop(f"{prefix}in_proj_{what}", None)
            if joined is not None:
                parts = joined.chunk(3)
                state.update({f"{prefix}{name}.{what}": p for name, p in zip(_PROJECTIONS, parts, strict=True)})
        for name in _PROJECTIONS:  # where keys or values have another width
            if f"{prefix}{name}_weight" in state:
                state[f"{prefix}{name}.weight"] = state.pop(f"{prefix}{name}_weight")

    def to_written(self, state: dict[str, Tensor], prefix: str) -> None:
        """The other way round."""
        parts = [state.pop(f"{prefix}{name}.weight") for name in _PROJECTIONS]
        if len({part.shape for part in parts}) == 1:
            state[f"{prefix}in_proj_weight"] = torch.cat(parts)
        else:
            state.update({f"{prefix}{name}_weight": part for name, part in zip(_PROJECTIONS, parts, strict=True)})
        if f"{prefix}q_proj.bias" in state:
            state[f"{prefix}in_proj_bias"] = torch.cat([state.pop(f"{prefix}{name}.bias") for name in _PROJECTIONS])

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # the mask says all of it
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's: ``[N, tokens, embed_dim]``, ``[tokens, N, embed_dim]`` or ``[tokens, embed_dim]``."""
        if query.dim() == 2:
            out, weights = self(
                *(x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value)),
                key_padding_mask=None if key_padding_mask is None else key_padding_mask.unsqueeze(0),
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
            )
            return out.squeeze(0 if self.batch_first else 1), None if weights is None else weights.squeeze(0)
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        mask = self._mask(q, attn_mask, key_padding_mask)
        if need_weights:
            scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(self.head_dim))
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = nn.functional.dropout(weights, self.attend.dropout, training=self.training)
            out = weights @ v
        else:
            weights, out = None, self.attend(q, k, v, attn_mask=mask)
        out = out.transpose(1, 2).flatten(2)
        if not self.batch_first:
            out = out.transpose(0, 1)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return self.out_proj(out), weights

    def _heads(self, x: Tensor) -> Tensor:
        """``[N, heads, tokens, head_dim]``."""
        x = x if self.batch_first else x.transpose(0, 1)
        return x.reshape(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """What is added to the scores: ``[N or 1, heads or 1, queries or 1, keys]``."""
        found = None
        if attn_mask is not None:
            found = _additive(attn_mask, q)
            if found.dim() == 3:  # torch's shape is [N * heads, queries, keys]
                found = found.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            own = _additive(padding, q)[:, None, None, :]
            found = own if found is None else found + own
        return found

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    """A mask of torch's kind, where true says "not this one", as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
