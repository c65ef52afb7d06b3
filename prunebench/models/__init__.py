"""Nets, one family a file, named like their papers: plain ``torch.nn`` modules that know nothing of pruning.

Every function takes ``num_classes``, ``in_channels`` and ``image_size`` (the side of the square images), so
that a net that can't work on the chosen data says so in one sentence before anything is trained.
"""

from __future__ import annotations

from torch import nn

from prunebench.errors import UserError


def check_image_size(net: str, image_size: int, *, smallest: int, why: str) -> None:
    """Refuse images that are too small for a net.

    Args:
        net: name of the net, for the message.
        image_size: side of the square input images in pixels.
        smallest: smallest side that the net accepts.
        why: what makes the net need it, e.g. ``"five poolings"``.

    Raises:
        UserError: the images are too small.
    """
    if image_size < smallest:
        raise UserError(
            f"{net} needs images of at least {smallest}x{smallest} pixels ({why}), got {image_size}; "
            f"use dataset.size={smallest}, or a data set of larger pictures where the size is fixed"
        )


def draw_convolutions(net: nn.Module, *, norm_scale: float | None = None) -> None:
    """New weights for the convolutions of ``net``, normal with std sqrt(2 / (k^2 out)) (He et al. 2015), biases 0.

    Args:
        net: a net, or a smaller one made from it.
        norm_scale: what all batch norms of pictures begin with, their shifts with 0; None leaves them alone.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and norm_scale is not None:
            nn.init.constant_(module.weight, norm_scale)
            nn.init.zeros_(module.bias)


def draw_linear(net: nn.Module, *, std: float) -> None:
    """New weights N(0, std^2) for the linear layers of ``net``, biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
