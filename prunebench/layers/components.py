"""Linear maps that are sums of components, each of which can be scaled and removed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_FEW = 0.8  # in training, from this share of zero scales on, leaving components out pays for copying the others


class Components(nn.Module, ABC):
    """W(z) = sum over k of z_k W_k, plus a bias that no component owns.

    Attributes:
        num_components: length of z.
        params_per_component: parameters that go with one component.
    """

    num_components: int
    params_per_component: int

    @abstractmethod
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The map applied to ``x``; ``scale`` is z, ``[num_components]``, None stands for ones."""

    @abstractmethod
    def take_norms(self) -> Tensor:
        """Divide each component by its norm (for two factors |p_k| |q_k|), in place; returns the norms."""

    @abstractmethod
    def keep(self, indices: Tensor, scale: Tensor, *, merge: bool) -> nn.Module:
        """A smaller layer with the components ``indices`` only, times their ``scale``; this one stays as it is.

        Args:
            indices: ascending, ``[kept]``.
            scale: ``[kept]``, folded into the weights.
            merge: give one dense layer where that is at most as large.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments that build a layer of these shapes."""

    def __repr__(self) -> str:
        """Its constructor's arguments."""
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self.config().items())})"


class Factorised(Components):
    """The matrix W = Q diag(z) P of a layer, stored as its two factors.

    Attributes:
        first: P, ``[rank, in, ...]``. ``second``: Q, ``[out, rank, ...]``. ``bias``: ``[out]`` or None.
    """

    first: nn.Parameter
    second: nn.Parameter
    bias: nn.Parameter | None

    def _make(self, first: tuple[int, ...], second: tuple[int, ...], bias: bool) -> None:
        """Parameters of these shapes, with PyTorch's default weights of two layers in a row."""
        self.first, self.second = nn.Parameter(torch.empty(first)), nn.Parameter(torch.empty(second))
        self.bias = nn.Parameter(torch.empty(second[0])) if bias else None
        self.num_components = first[0]
        self.params_per_component = math.prod(first[1:]) + second[0]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(fan-in), each factor on its own."""
        for weight in (self.first, self.second):
            bound = 1 / math.sqrt(max(1, math.prod(weight.shape[1:])))
            weight.uniform_(-bound, bound)
        if self.bias is not None:
            bound = 1 / math.sqrt(max(1, self.num_components))
            self.bias.uniform_(-bound, bound)

    @torch.no_grad()
    def load_matrix(self, weight: Tensor, bias: Tensor | None) -> None:
        """The best approximation of ``weight`` (``[out, in, ...]``) of this rank: P = sqrt(S) V', Q = U sqrt(S)."""
        u, s, v = torch.linalg.svd(weight.detach().float().flatten(1), full_matrices=False)
        root = s[: self.num_components].sqrt()
        self.first.copy_((root[:, None] * v[: self.num_components]).view_as(self.first))
        self.second.copy_((u[:, : self.num_components] * root).view_as(self.second))
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    @torch.no_grad()
    def load_factors(self, first: Tensor, second: Tensor, bias: Tensor | None) -> None:
        """Copy P, Q and the bias."""
        self.first.copy_(first)
        self.second.copy_(second)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)

    @torch.no_grad()
    def take_norms(self) -> Tensor:
        first: Tensor = self.first.flatten(1).norm(dim=1)
        second: Tensor = self.second.flatten(1).norm(dim=0)
        tiny = torch.finfo(first.dtype).tiny
        self.first.div_(first.clamp_min(tiny).view(-1, *[1] * (self.first.dim() - 1)))
        self.second.div_(second.clamp_min(tiny).view(1, -1, *[1] * (self.second.dim() - 2)))
        return first * second

    def matrix(self) -> Tensor:
        """Q P, ``[out, in * ...]``."""
        return self.second.flatten(1) @ self.first.flatten(1)

    def _factors(self, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """P and Q diag(scale); in training without the components of scale 0, whose gradients are exactly 0.

        The scale goes into the smaller factor and not into the activations, as in flop/linear.py:270-288.
        """
        if scale is None:
            return self.first, self.second
        first: Tensor = self.first
        second: Tensor = self.second
        if self.training:
            live = scale.nonzero().flatten()
            if 0 < len(live) <= _FEW * self.num_components:
                first, second, scale = first[live], second[:, live], scale[live]
        return first, second * scale.view(1, -1, *[1] * (second.dim() - 2)).to(second.dtype)

    def _is_smaller_dense(self, rank: int) -> bool:
        inputs, outputs = math.prod(self.first.shape[1:]), self.second.shape[0]
        return rank * (inputs + outputs) >= inputs * outputs


def preserving_rank(inputs: int, outputs: int) -> int:
    """floor(in out / (in + out)): the rank whose factors have at most as many parameters as the matrix.

    As in flop/linear.py:45-47; at least 1.
    """
    return max(1, inputs * outputs // (inputs + outputs))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with lists for tuples, as YAML reads them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
