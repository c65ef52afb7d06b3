"""ResNet-18 without batch norm, the net of JS-BNN.

Thiagarajan, Ghosh 2024, resnet_bnns.py:39-53: ResNet-18 (:mod:`prunebench.models.resnet`) with the identity in place of
each batch norm; its convolutions have no bias. The official run draws the pictures up to 224x224 pixels first
(bnn_utils.py:50-63) and starts from the convolutions of a net that was trained on ImageNet with batch norms.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import PositiveInt
from prunebench.models import check_image_size
from prunebench.models.resnet import BasicBlock, ResNet


class PlainResNet(ResNet):
    """A ResNet with the identity in place of each batch norm.

    Args:
        enlarge: the pictures are brought to this side first, bilinearly, in pixels; None = as they are.
        **common: the arguments of :class:`~prunebench.models.resnet.ResNet`.
    """

    def __init__(self, *, enlarge: int | None, **common: Any) -> None:
        super().__init__(**common)
        self.enlarge = enlarge
        for path, module in [*self.named_modules()]:
            if isinstance(module, nn.BatchNorm2d):
                self.set_submodule(path, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        if self.enlarge is not None:
            x = F.interpolate(x, size=(self.enlarge, self.enlarge), mode="bilinear", align_corners=False)
        return super().forward(x)


@validated
def resnet18_no_bn(
    *,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
    image_size: PositiveInt = 32,
    enlarge: PositiveInt | None = None,
) -> PlainResNet:
    """ResNet-18 without batch norm: 11,172,042 parameters, 37,016,576 MACs at 32x32. Raises ``UserError``."""
    side = image_size if enlarge is None else enlarge
    check_image_size("resnet18_no_bn", side, smallest=32, why="it halves the image five times; or model.enlarge=32")
    return PlainResNet(
        enlarge=enlarge,
        block=BasicBlock,
        expansion=1,
        blocks=(2, 2, 2, 2),
        num_classes=num_classes,
        in_channels=in_channels,
    )
