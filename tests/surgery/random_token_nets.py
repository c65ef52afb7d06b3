"""Token nets drawn at random: attention written in one of many ways, a feed-forward half in another."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.surgery.token_nets import Block, Mlp, PackedSwiGLU, SwiGLU

TOKENS = 4


class Attention(nn.Module):
    """Draws how the heads are made, how they meet, what stands between, and how they are put together."""

    def __init__(self, rng: random.Random, width: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = rng.choice((2, 3)), rng.choice((1, 2, 3))
        inner = self.num_heads * self.head_dim
        self.split = rng.choice(("three", "chunk", "pieces first", "heads first", "unbind", "keys and values"))
        self.meet = rng.choice(("matmul", "torch", "einsum"))
        self.between = tuple(name for name in BETWEEN if rng.random() < 0.25)
        self.merge = rng.choice(list(MERGES))
        self.value_act = rng.random() < 0.3
        bias = rng.random() < 0.7
        if self.split == "three":
            self.q, self.k, self.v = (nn.Linear(width, inner, bias=bias) for _ in range(3))
        elif self.split == "keys and values":
            self.q, self.kv = nn.Linear(width, inner, bias=bias), nn.Linear(width, 2 * inner, bias=bias)
        else:
            self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.q_norm = nn.LayerNorm(self.head_dim) if rng.random() < 0.3 else nn.Identity()
        self.table = nn.Parameter(torch.randn(self.num_heads, TOKENS, TOKENS))
        self.drop, self.proj = nn.Dropout(0.1), nn.Linear(inner, width)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B, H, T, D]`` each."""
        b, t, _ = x.shape
        h, d = self.num_heads, self.head_dim
        if self.split == "pieces first":
            y = self.qkv(x).reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4)
            return y[0], y[1], y[2]
        if self.split == "heads first":
            y = self.qkv(x).view(b, t, h, 3, -1).transpose(1, 2)
            return y[:, :, :, 0], y[..., 1, :], y[:, :, :, 2]
        if self.split == "unbind":
            q, k, v = self.qkv(x).reshape(b, -1, 3, h, d).transpose(1, 3).unbind(dim=2)
            return q, k, v
        if self.split == "keys and values":
            k, v = self.kv(x).view(b, t, 2, h, d).permute(2, 0, 3, 1, 4)
            return self.q(x).view(b, t, h, d).transpose(1, 2), k, v
        parts = (self.q(x), self.k(x), self.v(x)) if self.split == "three" else self.qkv(x).chunk(3, -1)
        q, k, v = (part.reshape(b, t, h, d).permute(0, 2, 1, 3) for part in parts)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        q, v = self.q_norm(q), torch.tanh(v) if self.value_act else v
        if self.meet == "torch":
            mask = self.table if "bias" in self.between else None
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        else:
            einsum = self.meet == "einsum"
            scores = torch.einsum("bhid,bhjd->bhij", q, k) if einsum else q @ k.transpose(-2, -1)
            for name in self.between:
                scores = BETWEEN[name](scores, self.table)
            weights = self.drop(scores.softmax(-1))
            y = torch.einsum("bhij,bhjd->bhid", weights, v) if einsum else weights @ v
        return self.proj(MERGES[self.merge](y))


BETWEEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scale": lambda x, table: x * 0.5,
    "bias": lambda x, table: x + table,
    "row": lambda x, table: table[0] + x,
    "mask": lambda x, table: x.masked_fill(torch.ones(TOKENS, TOKENS).triu(1) > 0, -1e9),
    "where": lambda x, table: torch.where(table > 0, x, torch.tensor(-1e9, dtype=x.dtype)),
}
MERGES: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape": lambda x: x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1),
    "view": lambda x: x.permute(0, 2, 1, 3).contiguous().view(x.size(0), -1, x.size(1) * x.size(3)),
    "flatten": lambda x: x.transpose(1, 2).flatten(2),
}


class TokenNet(nn.Module):
    """Features of each token, blocks, a mean over the tokens: ``[batch, 4, 3]`` to five numbers."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        width = rng.choice((3, 4, 6))
        self.embed = nn.Linear(3, width)
        kinds: tuple[Callable[[int, int], nn.Module], ...] = (Mlp, SwiGLU, PackedSwiGLU)
        blocks = [
            Block(Attention(rng, width), rng.choice(kinds)(width, rng.choice((2, 5))), width)
            for _ in range(rng.choice((1, 2)))
        ]
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.blocks(self.embed(x))).mean(1))


def random_token_net(seed: int) -> TokenNet:
    """A net that follows from ``seed``, weights included, in evaluation mode."""
    torch.manual_seed(seed)
    net = TokenNet(random.Random(seed))
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return net.eval()
