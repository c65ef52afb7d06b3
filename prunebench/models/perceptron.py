"""Plain perceptrons for MNIST: the nets of Bayes by backprop, of variational dropout and of node selection.

Blundell et al., ICML 2015: two hidden layers of 400, 800 or 1200 units. Kingma et al., NIPS 2015, figure 1a: three of
100 to 1250. Jantre et al. 2023: two of 400 with SiLU. A small one of our own is for the 8x8 digits. Linear layers with
biases, an activation after each hidden one, a ReLU unless another is named, no norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models.activations import ACTIVATIONS, Activation


class Perceptron(nn.Module):
    """Hidden linear layers, each with an activation, and a linear classifier.

    Args:
        in_features, num_classes: sizes of the first and the last layer.
        hidden: widths of the hidden layers.
        activation: a key of :data:`~prunebench.models.activations.ACTIVATIONS`.
    """

    def __init__(self, *, in_features: int, hidden: Sequence[int], num_classes: int, activation: str = "relu") -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(num_in, num_out) for num_in, num_out in zip(sizes, hidden, strict=False))
        self.out = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return cast(Tensor, self.out(x))


def _perceptron(
    hidden: Sequence[int], num_classes: int, in_channels: int, image_size: int, activation: str = "relu"
) -> Perceptron:
    in_features = in_channels * image_size**2
    return Perceptron(in_features=in_features, hidden=hidden, num_classes=num_classes, activation=activation)


@validated
def mlp_2x100(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 1, image_size: PositiveInt = 8
) -> Perceptron:
    """64-100-100-10: 17,610 parameters and 17,400 MACs for the 8x8 digits. Raises ``UserError``."""
    return _perceptron((100, 100), num_classes, in_channels, image_size)


@validated
def mlp_2x400(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 1, image_size: PositiveInt = 28
) -> Perceptron:
    """784-400-400-10: 478,410 parameters and 477,600 MACs for MNIST. Raises ``UserError``."""
    return _perceptron((400, 400), num_classes, in_channels, image_size)


@validated
def mlp_2x800(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 1, image_size: PositiveInt = 28
) -> Perceptron:
    """784-800-800-10: 1,276,810 parameters and 1,275,200 MACs for MNIST. Raises ``UserError``."""
    return _perceptron((800, 800), num_classes, in_channels, image_size)


@validated
def mlp_2x1200(
    *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 1, image_size: PositiveInt = 28
) -> Perceptron:
    """784-1200-1200-10: 2,395,210 parameters and 2,392,800 MACs for MNIST. Raises ``UserError``."""
    return _perceptron((1200, 1200), num_classes, in_channels, image_size)


@validated
def mlp_3_hidden(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    hidden_units: PositiveInt = 500,
) -> Perceptron:
    """Three hidden layers of ``hidden_units``; with 500: 898,510 parameters, 897,000 MACs. Raises ``UserError``."""
    return _perceptron((hidden_units,) * 3, num_classes, in_channels, image_size)


@validated
def mlp_784_400_400(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    activation: Activation = "silu",
) -> Perceptron:
    """784-400-400-10 as :func:`mlp_2x400`: 478,410 parameters, 477,600 MACs; SiLU unless asked for another.

    Raises ``UserError``.
    """
    return _perceptron((400, 400), num_classes, in_channels, image_size, activation)
