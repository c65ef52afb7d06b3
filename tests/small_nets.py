"""Small nets for tests, built through the command line like a user's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.shaped_blocks import Layout
from prunebench.models.shaped_resnet import ShapedResNet


def small_resnet(*, num_classes: int, in_channels: int, width: int = 8) -> nn.Module:
    """One block a stage, option-A shortcuts, 8 to 32 channels: everything that ResNet-20 has, three times faster."""
    return CifarResNet(blocks=1, num_classes=num_classes, in_channels=in_channels, shortcut="A", width=width)


def without_norms(*, num_classes: int, in_channels: int) -> nn.Module:
    """For 8x8 pictures: a hidden layer and nothing that mixes the samples of a batch."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, 20), nn.ReLU(), nn.Linear(20, num_classes))


def small_shaped_resnet(
    *, num_classes: int, in_channels: int, widths: Sequence[int] | None = None, blocks: Sequence[int] | None = None
) -> nn.Module:
    """Two blocks a stage and 6 to 24 channels, of any shape."""
    layout = Layout("small_shaped_resnet", 6, (2, 2, 2))
    return ShapedResNet(layout, blocks=blocks, widths=widths, num_classes=num_classes, in_channels=in_channels)


class _Bessel(nn.Module):
    """A function that torch can compute and ONNX cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0e(x)


def unwritable(*, num_classes: int, in_channels: int) -> nn.Module:
    """A layer to cut in a net that runs in torch alone."""
    convs = [nn.Conv2d(in_channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*convs, _Bessel(), nn.Linear(8, num_classes))


def parametrised_resnet(*, num_classes: int, in_channels: int, width: int = 8) -> nn.Module:
    """Two blocks a stage; the weights of the two layers of one block are computed."""
    net = CifarResNet(blocks=2, num_classes=num_classes, in_channels=in_channels, shortcut="B", width=width)
    parametrizations.spectral_norm(net.get_submodule(COMPUTED[0]))
    parametrizations.weight_norm(net.get_submodule(COMPUTED[1]))
    return net


COMPUTED = ("layer1.1.conv1", "layer1.1.conv2")
"""Their paths."""
