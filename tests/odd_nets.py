"""Nets that are not built as most are: norms without numbers, tokens, series, volumes, groups, shared parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def without_numbers(*, num_classes: int, in_channels: int) -> nn.Module:
    """Two of the three norms have no scale and no shift."""
    one = (_conv(in_channels, 8), nn.BatchNorm2d(8, affine=False), nn.ReLU())
    two = (_conv(8, 12), nn.BatchNorm2d(12), nn.ReLU(), _conv(12, 12), nn.BatchNorm2d(12, affine=False), nn.ReLU())
    return nn.Sequential(*one, *two, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes))


def partly_frozen(*, num_classes: int, in_channels: int) -> nn.Module:
    """The first convolution learns nothing."""
    net = without_numbers(num_classes=num_classes, in_channels=in_channels)
    for parameter in net.get_submodule("0").parameters():
        parameter.requires_grad_(False)
    return net


def frozen(*, num_classes: int, in_channels: int) -> nn.Module:
    """Nothing learns."""
    return without_numbers(num_classes=num_classes, in_channels=in_channels).requires_grad_(False)


def doubled(*, num_classes: int, in_channels: int) -> nn.Module:
    """The first layer computes something else than its class says."""
    net = without_numbers(num_classes=num_classes, in_channels=in_channels)
    layer = net.get_submodule("0")
    original = layer.forward
    layer.forward = lambda x: 2 * original(x)
    return net


class Tokens(nn.Module):
    """Rows of a picture are tokens; a perceptron with a layer norm on a stream."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8 * in_channels, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.transpose(1, 2).flatten(2))
        h = h + self.down(self.up(self.norm(h)).relu())
        return self.head(h.mean(1))


class Series(nn.Module):
    """Convolutions over one dimension, one of them in groups."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv1d(in_channels, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.two, self.norm2 = nn.Conv1d(8, 8, 3, padding=1, groups=2), nn.BatchNorm1d(8)
        self.three, self.norm3 = nn.Conv1d(8, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.one(x.flatten(2))).relu()
        h = self.norm2(self.two(h)).relu()
        return self.head(self.norm3(self.three(h)).relu().mean(2))


class Volume(nn.Module):
    """Convolutions over three dimensions."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.norm1 = nn.Conv3d(in_channels, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.two, self.norm2 = nn.Conv3d(6, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.one(x[:, :, None])).relu()
        return self.head(self.norm2(self.two(h)).relu().mean((2, 3, 4)))


class OtherNorms(nn.Module):
    """Norms over groups and over single pictures, and a depthwise convolution."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.norm1 = _conv(in_channels, 8), nn.GroupNorm(2, 8)
        self.two, self.norm2 = _conv(8, 16), nn.InstanceNorm2d(16, affine=True)
        self.depth, self.three = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.two(self.norm1(self.one(x)).relu())).relu()
        return self.head(self.three(self.depth(h)).relu().mean((2, 3)))


class Shared(nn.Module):
    """A layer that is called twice, and one that never is."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.twice, self.two, self.spare = _conv(in_channels, 8), _conv(8, 8), _conv(8, 12), _conv(8, 8)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x).relu()
        h = h + self.twice(self.twice(h).relu())
        return self.head(self.two(h).relu().mean((2, 3)))


class Hourglass(nn.Module):
    """Down and up again, with a concatenation and a PReLU."""

    def __init__(self, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.one, self.activation, self.two = _conv(in_channels, 8), nn.PReLU(8), _conv(8, 16)
        self.up, self.three = nn.ConvTranspose2d(16, 8, 2, stride=2), _conv(16, 12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation(self.one(x))
        up = functional.interpolate(self.up(functional.max_pool2d(self.two(h), 2).relu()), h.shape[2:])
        return self.head(self.three(torch.cat([h, up], 1)).relu().mean((2, 3)))
