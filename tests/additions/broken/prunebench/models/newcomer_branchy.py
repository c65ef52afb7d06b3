"""Broken on purpose: its path depends on the batch, so that its channels cannot be followed."""

from __future__ import annotations

from torch import Tensor

from prunebench.models.newcomer_net import NewcomerNet


class Branchy(NewcomerNet):
    """Another computation for single images."""

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, classes]``."""
        if len(x) > 1:
            x = -x
        return super().forward(x)


def newcomer_branchy(*, num_classes: int = 10, in_channels: int = 1, image_size: int = 8) -> Branchy:
    """The net for images of any size."""
    return Branchy(num_classes=num_classes, in_channels=in_channels, width=8)


def newcomer_hidden(*, num_classes: int = 10, in_channels: int = 1, image_size: int = 8) -> Branchy:
    """A net that no configuration names."""
    return Branchy(num_classes=num_classes, in_channels=in_channels, width=4)
