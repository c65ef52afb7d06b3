"""VGG-16 without batch norm and with dropout, the "VGG16" of the SWA and SWAG papers.

Izmailov et al. 2018, Maddox et al. 2019; ``swag/models/vgg.py:76-100`` of the official code: thirteen 3x3 convolutions
with bias, a 2x2 max pooling after each of the five groups, and three linear layers with dropout before the first two.
Its weights are drawn as there: convolutions N(0, 2 / (k^2 out)) with bias 0, linear layers by PyTorch's default.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import FractionBelowOne, PositiveInt
from prunebench.models import check_image_size

GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions of each group and their width."""
HIDDEN = 512


class DropoutVGG(nn.Module):
    """See the module's text.

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
            nn.Linear(GROUPS[-1][1] * (image_size // 2 ** len(GROUPS)) ** 2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, num_classes),
        )
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits

    def initialise(self, net: nn.Module) -> None:
        """Draw the convolutions of ``net``: this net, or a smaller one made from it."""
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _features(in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for count, width in GROUPS:
        for _ in range(count):
            layers += [nn.Conv2d(in_channels, width, kernel_size=3, padding=1), nn.ReLU()]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


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
