"""Layers that stand in the place of another one and hold it."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn


class Around(nn.Module):
    """Computes with ``layer``, whatever that is: a convolution of the model, or one that a cut has left.

    A saved net builds it from its own settings and puts it around the layer that it finds in its place
    (:mod:`prunebench.surgery.rebuild`).
    """

    layer: nn.Module

    def around(self, layer: nn.Module) -> Self:
        """This layer, holding ``layer``."""
        self.layer = layer
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``layer`` alone."""
        found: Tensor = self.layer(x)
        return found
