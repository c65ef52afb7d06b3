"""A newcomer's net: two convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt


class NewcomerNet(nn.Module):
    """Two convolutions with a batch norm in between, a mean over the pixels, a classifier."""

    def __init__(self, *, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(2 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = F.relu(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@validated
def newcomer_net(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 1,
    image_size: PositiveInt = 8,
    width: PositiveInt = 8,
) -> NewcomerNet:
    """The net for images of any size."""
    return NewcomerNet(num_classes=num_classes, in_channels=in_channels, width=width)
