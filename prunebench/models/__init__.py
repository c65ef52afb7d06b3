"""Nets, one family a file, named like their papers: plain ``torch.nn`` modules that know nothing of pruning.

Every function takes ``num_classes``, ``in_channels`` and ``image_size`` (the side of the square images), so
that a net that can't work on the chosen data says so in one sentence before anything is trained.
"""

from __future__ import annotations

from prunebench.errors import UserError, nearest


def check_input(net: str, *, num_classes: int, in_channels: int, image_size: int, smallest: int, why: str) -> None:
    """Refuse data that the net ``net`` can't be built for.

    Args:
        net: name of the net, for the message.
        num_classes, in_channels: sizes of the first and the last layer.
        image_size: side of the square input images in pixels.
        smallest: smallest side that the net accepts.
        why: what makes the net need it, e.g. ``"five poolings"``.

    Raises:
        UserError: a number is not a positive integer, or the images are too small.
    """
    check_positive(net, "num_classes", num_classes)
    check_positive(net, "in_channels", in_channels)
    check_positive(net, "image_size", image_size)
    if image_size < smallest:
        raise UserError(
            f"{net} needs images of at least {smallest}x{smallest} pixels ({why}), got {image_size}; "
            f"use dataset.size={smallest}"
        )


def check_positive(net: str, name: str, value: object) -> None:
    """Refuse a count that is not a positive integer (a configuration has no types). Raises ``UserError``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{net}: {name} must be a whole number of at least 1, got {value!r}")


def check_choice(net: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option value that is not in ``allowed``. Raises ``UserError``."""
    if value not in allowed:
        options = ", ".join(allowed)
        hint = nearest(str(value), allowed)
        raise UserError(f"{net}: {name} must be one of {options}, got {value!r}{hint}")
