"""Perceptrons with batch norm: the MNIST net of network slimming.

Liu et al., ICCV 2017, table 3: 784-500-300-10. Each hidden layer has a batch norm, whose scale ranks the neurons; a
bias before it would have no effect.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveFloat, PositiveInt


class NormedMLP(nn.Module):
    """Two hidden layers, each a linear layer without bias, batch norm and ReLU, and a linear classifier.

    Args:
        in_features, num_classes: sizes of the first and the last layer.
        hidden: widths of the two hidden layers.
        norm_weight: initial scale of the norms.
    """

    def __init__(self, *, in_features: int, hidden: tuple[int, int], num_classes: int, norm_weight: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden[0], bias=False)
        self.bn1 = nn.BatchNorm1d(hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1], bias=False)
        self.bn2 = nn.BatchNorm1d(hidden[1])
        self.fc3 = nn.Linear(hidden[1], num_classes)
        self.norm_weight = norm_weight
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = F.relu(self.bn1(self.fc1(x.flatten(1))))
        x = F.relu(self.bn2(self.fc2(x)))
        logits: Tensor = self.fc3(x)
        return logits

    def initialise(self, net: nn.Module) -> None:
        """The norms' scales; the linear layers as PyTorch does. ``net`` is this net, or a smaller one made from it."""
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d):
                nn.init.constant_(module.weight, self.norm_weight)


@validated
def mlp_784_500_300(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 28,
    norm_weight: PositiveFloat = 0.5,
) -> NormedMLP:
    """784-500-300-10 with batch norm: 546,610 parameters, 545,000 MACs for MNIST. Raises ``UserError``.

    The first layer has ``in_channels * image_size ** 2`` inputs, 784 for MNIST.
    """
    in_features = in_channels * image_size**2
    return NormedMLP(in_features=in_features, hidden=(500, 300), num_classes=num_classes, norm_weight=norm_weight)
