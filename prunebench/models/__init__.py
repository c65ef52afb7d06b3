"""Nets, one family a file, named like their papers: plain ``torch.nn`` modules that know nothing of pruning.

Every function takes ``num_classes``, ``in_channels`` and ``image_size`` (the side of the square images), so
that a net that can't work on the chosen data says so in one sentence before anything is trained.
"""

from __future__ import annotations

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
            f"use dataset.size={smallest}"
        )
