"""VGG-11 of 96 to 768 channels with batch norm, the net of the official code of Bayesian nested networks.

Cui et al. 2021; ``models.py:15-18`` of ralphc1212/variational_nested_dropout: one and a half times as wide as VGG-11, a
2x2 max pooling after each of the five groups, a bias in the first convolution only, and a classifier of two linear
layers with a batch norm between them. Weights are drawn as in :mod:`prunebench.models.vgg_cifar`.
"""

from __future__ import annotations

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size
from prunebench.models.vgg_cifar import GROUPS, MULTIPLES


class WideVGG(nn.Module):
    """See the module's text.

    Args:
        num_classes, in_channels: sizes of the last and the first layer.
        image_size: side of the square images, at least 32 pixels.
        width: channels of the first group; the others have 2, 4, 8 and 8 times as many.
        hidden: features between the two linear layers.
    """

    def __init__(self, *, num_classes: int, in_channels: int, image_size: int, width: int, hidden: int) -> None:
        super().__init__()
        self.features = _features(in_channels, width)
        last = MULTIPLES[-1] * width * (image_size // 2 ** len(MULTIPLES)) ** 2
        self.classifier = nn.Sequential(
            nn.Linear(last, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
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
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _features(in_channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for count, multiple in zip(GROUPS[11], MULTIPLES, strict=True):
        for _ in range(count):
            channels = multiple * width
            layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=not layers))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@validated
def vgg11_wide(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    width: PositiveInt = 96,
    hidden: PositiveInt = 256,
) -> WideVGG:
    """VGG-11, 1.5 times as wide: 20,946,890 parameters, 342,592,000 MACs. Raises ``UserError``."""
    check_image_size("vgg11_wide", image_size, smallest=32, why="five poolings")
    return WideVGG(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width, hidden=hidden)
