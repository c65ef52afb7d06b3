"""Plain perceptrons for MNIST: the nets of Bayes by backprop and of variational dropout.

Blundell et al., ICML 2015: two hidden layers of 400, 800 or 1200 units. Kingma et al., NIPS 2015, figure 1a: three of
100 to 1250. A small one of our own is for the 8x8 digits. Linear layers with biases, a ReLU after each hidden one, no
norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt


class Perceptron(nn.Module):
    """Hidden linear layers with ReLU and a linear classifier.

    Args:
        in_features, num_classes: sizes of the first and the last layer.
        hidden: widths of the hidden layers.
    """

    def __init__(self, *, in_features: int, hidden: Sequence[int], num_classes: int) -> None:
        super().__init__()
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(num_in, num_out) for num_in, num_out in zip(sizes, hidden, strict=False))
        self.out = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return cast(Tensor, self.out(x))


def _perceptron(hidden: Sequence[int], num_classes: int, in_channels: int, image_size: int) -> Perceptron:
    return Perceptron(in_features=in_channels * image_size**2, hidden=hidden, num_classes=num_classes)


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
