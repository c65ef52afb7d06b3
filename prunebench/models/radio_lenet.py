"""The convolutional net for radio galaxies of Mohan et al. 2022: LeNet-5 with two more convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size

WIDTHS = (6, 16, 26, 32)
SMALLEST_AS_PUBLISHED = 46  # below that, nothing would be left of the maps with one pixel of padding


class RadioLeNet(nn.Module):
    """Four 5x5 convolutions, each with ReLU and 2x2 max pooling, and three linear layers (official models.py:94-138).

    Args:
        num_classes, in_channels: of the data.
        image_size: side of the square pictures.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        padding = 1 if image_size >= SMALLEST_AS_PUBLISHED else 2
        sizes = (in_channels, *WIDTHS)
        convs = [nn.Conv2d(sizes[i], sizes[i + 1], kernel_size=5, padding=padding) for i in range(4)]
        self.conv1, self.conv2, self.conv3, self.conv4 = convs
        self.pool = nn.MaxPool2d(2)
        side = image_size
        for _ in WIDTHS:
            side = (side + 2 * padding - 4) // 2
        self.fc1 = nn.Linear(WIDTHS[-1] * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = self.pool(F.relu(self.conv3(x)))
        x = self.pool(F.relu(self.conv4(x)))
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


@validated
def conv_bbb(
    *, num_classes: PositiveInt = 2, in_channels: PositiveInt = 1, image_size: PositiveInt = 150
) -> RadioLeNet:
    """232,444 parameters and 32,628,008 MACs for pictures of 150x150 pixels; at least 16x16.

    Pictures below 46x46 pixels are padded by two pixels in each convolution instead of one. Raises ``UserError``.
    """
    check_image_size("conv_bbb", image_size, smallest=16, why="four poolings")
    return RadioLeNet(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
