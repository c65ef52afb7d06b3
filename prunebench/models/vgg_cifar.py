"""VGG nets with batch norm for CIFAR.

Simonyan, Zisserman: Very deep convolutional networks, ICLR 2015, table 1 (A, B, D, E), with batch norm after
each convolution and a small classifier, as the pruning papers use them. Four max poolings and a final average
over the 2x2 maps that a 32x32 image leaves (Network Slimming's and Rethinking's ``models/vgg.py``).

The papers disagree about two details, so both are options:

- ``classifier``: ``"two_layer"`` is Linear(512, 512), batch norm, ReLU, Linear(512, classes): the 14,987,722
  parameters of VGG-16 in Pruning Filters for Efficient ConvNets; ``"linear"`` is one Linear(512, classes):
  the 20,035,018 parameters of VGG-19 in Network Slimming. Each depth has its paper's as default.
- ``conv_bias``: FSM's and DCFF's convolutions have a bias, which the batch norm cancels (VGG-16: 4,224
  parameters more).
"""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveFloat, PositiveInt
from prunebench.models import check_image_size, draw_convolutions, draw_linear

CLASSIFIERS = ("linear", "two_layer")
Classifier = Annotated[str, Among(CLASSIFIERS)]
# convolutions in each of the five groups; their widths are the same for every depth
GROUPS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
MULTIPLES = (1, 2, 4, 8, 8)  # of the first group's width


class CifarVGG(nn.Module):
    """VGG for images of at least 32x32 pixels.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes, in_channels: sizes of the last and the first layer.
        classifier, conv_bias: see the module's text.
        norm_weight: initial scale of the batch norms after convolutions. 0.5 is Network Slimming's and
            Rethinking's value (``models/vgg.py:70``), 1.0 that of other papers.
        width: channels of the first group; the others have 2, 4, 8 and 8 times as many, hidden linear layers 8.
    """

    def __init__(
        self,
        *,
        depth: int,
        num_classes: int,
        in_channels: int,
        classifier: str,
        conv_bias: bool,
        norm_weight: float,
        width: int,
    ) -> None:
        super().__init__()
        self.features = _features(GROUPS[depth], in_channels=in_channels, conv_bias=conv_bias, width=width)
        last = MULTIPLES[-1] * width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier: nn.Module
        if classifier == "linear":
            self.classifier = nn.Linear(last, num_classes)
        else:
            self.classifier = nn.Sequential(
                nn.Linear(last, last), nn.BatchNorm1d(last), nn.ReLU(), nn.Linear(last, num_classes)
            )
        # of the two-layer classifier what stands in front of its norm is a latent feature too (Madaan et al. 2020)
        self.latent = ("classifier.0",) if classifier == "two_layer" else ()
        self.norm_weight = norm_weight
        self.initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        x = self.pool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(x)
        return logits

    def initialise(self, net: nn.Module) -> None:
        """Kaiming normal by fan-out for convolutions, N(0, 0.01) for linear layers (as in the code above).

        ``net`` is this net, or a smaller one made from it.
        """
        draw_convolutions(net, norm_scale=self.norm_weight)
        draw_linear(net, std=0.01)


def _features(groups: tuple[int, ...], *, in_channels: int, conv_bias: bool, width: int) -> nn.Sequential:
    """Groups of convolution, batch norm and ReLU, with a 2x2 max pooling between two groups."""
    layers: list[nn.Module] = []
    for index, (count, multiple) in enumerate(zip(groups, MULTIPLES, strict=True)):
        if index > 0:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            channels = multiple * width
            layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=conv_bias))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
    return nn.Sequential(*layers)


def _vgg(
    depth: int,
    num_classes: int,
    in_channels: int,
    image_size: int,
    classifier: str,
    conv_bias: bool,
    norm_weight: float,
    width: int,
) -> CifarVGG:
    check_image_size(f"vgg{depth}", image_size, smallest=32, why="five poolings")
    return CifarVGG(
        depth=depth,
        num_classes=num_classes,
        in_channels=in_channels,
        classifier=classifier,
        conv_bias=conv_bias,
        norm_weight=norm_weight,
        width=width,
    )


@validated
def vgg11(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    classifier: Classifier = "linear",
    conv_bias: bool = False,
    norm_weight: PositiveFloat = 0.5,
    width: PositiveInt = 64,
) -> CifarVGG:
    """VGG-11 (A): 9,228,362 parameters, 152,769,536 MACs (linear classifier). Raises ``UserError``."""
    return _vgg(11, num_classes, in_channels, image_size, classifier, conv_bias, norm_weight, width)


@validated
def vgg13(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    classifier: Classifier = "linear",
    conv_bias: bool = False,
    norm_weight: PositiveFloat = 0.5,
    width: PositiveInt = 64,
) -> CifarVGG:
    """VGG-13 (B): 9,413,066 parameters, 228,267,008 MACs (linear classifier). Raises ``UserError``."""
    return _vgg(13, num_classes, in_channels, image_size, classifier, conv_bias, norm_weight, width)


@validated
def vgg16(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    classifier: Classifier = "two_layer",
    conv_bias: bool = False,
    norm_weight: PositiveFloat = 0.5,
    width: PositiveInt = 64,
) -> CifarVGG:
    """VGG-16 (D): 14,987,722 parameters, 313,463,808 MACs (two-layer classifier). Raises ``UserError``."""
    return _vgg(16, num_classes, in_channels, image_size, classifier, conv_bias, norm_weight, width)


@validated
def vgg19(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    classifier: Classifier = "linear",
    conv_bias: bool = False,
    norm_weight: PositiveFloat = 0.5,
    width: PositiveInt = 64,
) -> CifarVGG:
    """VGG-19 (E): 20,035,018 parameters, 398,136,320 MACs (linear classifier). Raises ``UserError``."""
    return _vgg(19, num_classes, in_channels, image_size, classifier, conv_bias, norm_weight, width)
