"""Small nets on tokens, one for each way in which transformers are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.surgery.nets import randomise

WIDTH = 8
HEADS = 2


class Fused(nn.Module):
    """One layer for queries, keys and values; a product, a softmax and a product."""

    def __init__(self, width: int = WIDTH, num_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q @ k.transpose(-2, -1)) * self.scale
        weights = self.drop(weights.softmax(dim=-1))
        x = (weights @ v).transpose(1, 2).reshape(b, t, c)
        return self.proj(x)


class Unbound(Fused):
    """The pieces by ``unbind``, torch's own attention."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q * self.scale, k, v, scale=1.0)
        return self.proj(x.transpose(1, 2).flatten(2))


class Chunked(Fused):
    """The pieces by ``chunk``, each with its heads; causal."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.size()
        q, k, v = (
            piece.view(b, t, self.num_heads, self.head_dim).transpose(1, 2) for piece in self.qkv(x).chunk(3, dim=-1)
        )
        share = 0.1 if self.training else 0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=share, is_causal=True)
        return self.proj(x.transpose(1, 2).contiguous().view(b, t, -1))


class Three(nn.Module):
    """Three layers, a mask, and an output that is wider than what is read."""

    def __init__(self, width: int = WIDTH, num_heads: int = HEADS, head_dim: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.inner = num_heads * head_dim
        self.query, self.key = nn.Linear(width, self.inner), nn.Linear(width, self.inner, bias=False)
        self.value, self.out = nn.Linear(width, self.inner), nn.Linear(self.inner, width)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.matmul(q, k.transpose(2, 3)) / self.head_dim**0.5
        mask = torch.tril(torch.ones(x.shape[1], x.shape[1], device=x.device))
        weights = F.softmax(weights.masked_fill(mask == 0, float("-inf")), dim=-1)
        x = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        return self.out(x.view(*x.shape[:2], self.inner))


class Einsum(Three):
    """By letters; queries and keys have norms of their own, each head a bias for each pair of tokens."""

    def __init__(self, width: int = WIDTH, num_heads: int = HEADS, head_dim: int = 4) -> None:
        super().__init__(width, num_heads, head_dim)
        self.q_norm, self.k_norm = nn.LayerNorm(head_dim), nn.RMSNorm(head_dim)
        self.bias = nn.Parameter(torch.randn(1, num_heads, 5, 5))
        self.soft = nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (layer(x).reshape(b, t, self.num_heads, -1) for layer in (self.query, self.key, self.value))
        weights = torch.einsum("bihd, bjhd -> bhij", self.q_norm(q), self.k_norm(k)) * self.head_dim**-0.5
        weights = self.soft(weights + self.bias)
        return self.out(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class Rotary(Three):
    """Queries and keys are turned by the place of their token; the heads come first."""

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2], device=x.device)[:, None] / torch.tensor([1.0, 10.0, 1.0, 10.0])
        left, right = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat((-right, left), dim=-1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        x = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        x = x.permute(2, 0, 1, 3).reshape(x.shape[2], x.shape[0], -1)  # the tokens first
        return self.out(x).transpose(0, 1)


class Parts(nn.Module):
    """Torch's own layers: an encoder with the norms first, and a decoder that reads it."""

    def __init__(self) -> None:
        super().__init__()
        options: dict[str, Any] = {"dropout": 0.1, "batch_first": True}
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        first = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, activation="gelu", norm_first=True, **options)
        self.encoder = nn.TransformerEncoder(first, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, HEADS, 10, **options), 1)
        self.queries, self.head = nn.Parameter(torch.randn(1, 3, WIDTH)), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.decoder(self.queries.expand(x.shape[0], -1, -1), x).mean(1))


class Recurrent(nn.Module):
    """Symbols, an embedding, a recurrent layer in both directions, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.lstm, self.gru = nn.LSTM(6, 5, batch_first=True, bidirectional=True), nn.GRU(10, 4, batch_first=True)
        self.first, self.second, self.head = nn.Linear(4, 12), nn.Linear(12, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.table(x))
        states, _ = self.gru(states)
        return self.head(torch.relu(self.second(torch.relu(self.first(states[:, -1])))))


class Mlp(nn.Module):
    def __init__(self, width: int = WIDTH, hidden: int = 12) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class SwiGLU(nn.Module):
    def __init__(self, width: int = WIDTH, hidden: int = 10) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PackedSwiGLU(nn.Module):
    """Gate and value in one layer, a norm between."""

    def __init__(self, width: int = WIDTH, hidden: int = 10) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, attention: nn.Module, mlp: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = attention, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches of 4x4 pixels, a class token, positions; two blocks."""

    def __init__(self, attention: Callable[[], nn.Module], mlp: Callable[[], nn.Module] = Mlp) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*[Block(attention(), mlp()) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.drop(x + self.positions)
        return self.head(self.norm(self.blocks(x))[:, 0])


class TimeFirst(nn.Module):
    """``[T, B, C]``, as torch's own layers have it by default: an encoder layer between two feed-forward halves."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.before, self.after = Mlp(), SwiGLU()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)
        self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 12, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = x + self.before(x)
        x = self.encoder(x)
        x = x + self.after(self.norm(x))
        return self.head(x.mean(0))


class Mixer(nn.Module):
    """An MLP over the tokens, turned there and back, and one over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.tokens, self.channels = Mlp(16, 6), Mlp(WIDTH, 12)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(dim=1))


NETS: dict[str, Callable[[], nn.Module]] = {
    "fused": lambda: ViT(Fused),
    "unbound": lambda: ViT(Unbound, SwiGLU),
    "chunked": lambda: ViT(Chunked, PackedSwiGLU),
    "three": lambda: ViT(Three),
    "einsum": lambda: ViT(Einsum),
    "rotary": lambda: ViT(lambda: Rotary(head_dim=4)),
    "torch's own": Parts,
    "recurrent": Recurrent,
    "time first": TimeFirst,
    "mixer": Mixer,
}


def inputs(name: str, batch: int = 3) -> Tensor:
    return torch.randint(11, (batch, 7)) if name == "recurrent" else torch.randn(batch, 3, 8, 8)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The net with random norms, so that an error of one channel is seen."""
    torch.manual_seed(seed)
    net = NETS[name]()
    randomise(net)
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return net.eval()
