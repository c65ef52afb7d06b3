"""Linear layers and convolutions with Gaussian weights, and the way from plain layers to them and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.layers.gaussian_weights import Estimator, GaussianWeights, Shape, SpreadScale


class GaussianLinear(GaussianWeights, nn.Linear):
    """A linear layer with Gaussian weights, ``[..., in]`` to ``[..., out]``.

    Args:
        in_features, out_features, bias: as of ``nn.Linear``.
        scale: what ``spread`` means, see :data:`~prunebench.layers.gaussian_weights.SCALES`.
        estimator: how the output is drawn in training, see :mod:`prunebench.layers.gaussian_weights`.
        shape: what has a spread of its own, see :data:`~prunebench.layers.gaussian_weights.Shape`.
        initial: first value of all spreads; ``bias_initial``: the same for biases, None = biases are not random.
        threshold: weights with log alpha at or above it are dead: 0 in evaluation mode; None = all live.
        train_clip: dead weights are 0 in training too. They keep their noise here and lose it in a convolution, as in
            Molchanov et al.'s nets/layers.py:88 and 141.

    Raises:
        UserError: an option outside its values.
    """

    clips_noise = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        scale: SpreadScale = "softplus",
        estimator: Estimator = "lrt",
        shape: Shape = "weight",
        initial: float = -3.0,
        bias_initial: float | None = None,
        threshold: float | None = None,
        train_clip: bool = False,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias=bias)
        self._add(scale, estimator, shape, initial, bias_initial, threshold, train_clip)

    def config(self) -> dict[str, Any]:
        """Arguments that build a layer of the same shapes."""
        return {"in_features": self.in_features, "out_features": self.out_features, **self._options()}

    def _op(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class GaussianConv2d(GaussianWeights, nn.Conv2d):
    """A convolution with Gaussian weights, ``[B, in, H, W]`` to ``[B, out, H', W']``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as of
            ``nn.Conv2d``.
        scale, estimator, shape, initial, bias_initial, threshold, train_clip: as of :class:`GaussianLinear`.

    Raises:
        UserError: an option outside its values.
    """

    clips_noise = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        scale: SpreadScale = "softplus",
        estimator: Estimator = "lrt",
        shape: Shape = "weight",
        initial: float = -3.0,
        bias_initial: float | None = None,
        threshold: float | None = None,
        train_clip: bool = False,
    ) -> None:
        nn.Conv2d.__init__(
            self,
            in_channels,
            out_channels,
            _pair(kernel_size),
            stride=_pair(stride),
            padding=padding if isinstance(padding, str) else _pair(padding),
            dilation=_pair(dilation),
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,  # type: ignore[arg-type]
        )
        self._add(scale, estimator, shape, initial, bias_initial, threshold, train_clip)

    def config(self) -> dict[str, Any]:
        """Arguments that build a layer of the same shapes."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in shape_of(self).items()}
        return {**plain, **self._options()}

    def _op(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = self._conv_forward(x, weight, bias)
        return output


def shape_of(layer: nn.Conv2d) -> dict[str, Any]:
    """Arguments of a convolution but ``bias``."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names}


def _pair(value: int | Sequence[int]) -> Any:
    return value if isinstance(value, int) else tuple(value)


L = TypeVar("L", bound=nn.Linear)
C = TypeVar("C", bound=nn.Conv2d)


def like(
    layer: nn.Linear | nn.Conv2d, linear: Callable[..., L], convolution: Callable[..., C], **options: Any
) -> L | C:
    """A layer of one of two classes, with the shapes and the parameters of ``layer`` and the given options."""
    new: L | C
    if isinstance(layer, nn.Linear):
        new = linear(layer.in_features, layer.out_features, bias=layer.bias is not None, **options)
    else:
        new = convolution(**shape_of(layer), bias=layer.bias is not None, **options)
    new.weight, new.bias = layer.weight, layer.bias
    return new.to(layer.weight.device)


def gaussian(layer: nn.Linear | nn.Conv2d, **options: Any) -> GaussianLinear | GaussianConv2d:
    """A Gaussian layer with the means of ``layer`` (the same parameters) and the given options."""
    return like(layer, GaussianLinear, GaussianConv2d, **options)


@torch.no_grad()
def plain(layer: GaussianWeights) -> nn.Linear | nn.Conv2d:
    """The layer at its means, dead weights exactly 0."""
    new: nn.Linear | nn.Conv2d
    if isinstance(layer, GaussianLinear):
        new = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    else:
        assert isinstance(layer, GaussianConv2d)
        new = nn.Conv2d(**shape_of(layer), bias=layer.bias is not None)
    new.weight = nn.Parameter(layer.posterior()[0])
    new.bias = layer.bias
    return new.train(layer.training)
