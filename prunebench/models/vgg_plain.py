"""VGG-16 without batch norm, for ImageNet and for CIFAR.

Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR 2015, table 1 (D):
thirteen 3x3 convolutions with bias in five groups, a 2x2 max pooling after each, and three linear layers.
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, FractionBelowOne, PositiveInt
from prunebench.models import check_image_size, draw_convolutions, draw_linear

GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions of each group and their width."""
HIDDEN, CIFAR_HIDDEN = 4096, 512
HEADS = ("linear", "average")
GRID = 7
"""Side of the maps that the linear layers read, whatever the size of the images."""


class ImageNetVGG(nn.Module):
    """VGG-16 for images of at least 32x32 pixels; the papers use 224x224. torchvision's names, whose weights fit.

    Args:
        num_classes, in_channels: sizes of the last and the first layer.
        head: "linear" = 7x7 maps, 4096, 4096, classes, with dropout; "average" = global average pooling and one linear
            layer (ThiNet's GAP).
        dropout: probability, in front of the last two linear layers of the first head.
    """

    def __init__(self, *, num_classes: int, in_channels: int, head: str, dropout: float) -> None:
        super().__init__()
        self.features = _features(in_channels)
        last = GROUPS[-1][1]
        self.avgpool = nn.AdaptiveAvgPool2d(GRID if head == "linear" else 1)
        self.classifier: nn.Module
        if head == "average":
            self.classifier = nn.Linear(last, num_classes)
        else:
            self.classifier = nn.Sequential(
                nn.Linear(last * GRID**2, HIDDEN),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(HIDDEN, num_classes),
            )
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions (He et al. 2015), N(0, 0.01) for linear layers, as torchvision."""
        draw_convolutions(net)
        draw_linear(net, std=0.01)


class DropoutVGG(nn.Module):
    """The "VGG16" of the SWA and SWAG papers: dropout before the first two linear layers.

    Izmailov et al. 2018, Maddox et al. 2019; ``swag/models/vgg.py:76-100`` of the official code, and its first weights:
    convolutions N(0, 2 / (k^2 out)) with bias 0, linear layers by PyTorch's default.

    Args:
        num_classes, in_channels: sizes of the last and the first layer.
        image_size: side of the square images, at least 32 pixels.
        dropout: probability, before the first two linear layers.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, dropout: float) -> None:
        super().__init__()
        self.features = _features(in_channels)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(GROUPS[-1][1] * (image_size // 2 ** len(GROUPS)) ** 2, CIFAR_HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(CIFAR_HIDDEN, CIFAR_HIDDEN),
            nn.ReLU(),
            nn.Linear(CIFAR_HIDDEN, num_classes),
        )
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Draw the convolutions of ``net``: this net, or a smaller one made from it."""
        draw_convolutions(net)


def _features(in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for count, width in GROUPS:
        for _ in range(count):
            layers += [nn.Conv2d(in_channels, width, kernel_size=3, padding=1), nn.ReLU()]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@validated
def vgg16_imagenet(
    *,
    num_classes: PositiveInt = 1000,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 224,
    head: Annotated[str, Among(HEADS)] = "linear",
    dropout: FractionBelowOne = 0.5,
) -> ImageNetVGG:
    """VGG-16: 138,357,544 parameters, 15,470,264,320 MACs at 224x224 (head "linear"). Raises ``UserError``."""
    check_image_size("vgg16_imagenet", image_size, smallest=32, why="five poolings")
    return ImageNetVGG(num_classes=num_classes, in_channels=in_channels, head=head, dropout=dropout)


@validated
def vgg16_no_bn(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    dropout: FractionBelowOne = 0.5,
) -> DropoutVGG:
    """VGG-16 without batch norm: 15,245,130 parameters, 313,725,952 MACs. Raises ``UserError``."""
    check_image_size("vgg16_no_bn", image_size, smallest=32, why="five poolings")
    return DropoutVGG(num_classes=num_classes, in_channels=in_channels, image_size=image_size, dropout=dropout)
