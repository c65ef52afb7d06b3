"""Parameter groups of optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from prunebench.config.phase import Phase


def split_decay(params: Iterable[nn.Parameter], phase: Phase) -> list[dict[str, Any]]:
    """One group, or with ``phase.decay_norm=false`` a second one without weight decay for 1-d parameters.

    Only biases and the affine parts of norm layers are one-dimensional.
    """
    params = list(params)
    if phase.decay_norm:
        return [{"params": params}]
    return [
        {"params": [p for p in params if p.ndim > 1]},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]


def apart(groups: Iterable[Mapping[str, Any]], params: Iterable[nn.Parameter], **settings: Any) -> list[dict[str, Any]]:
    """``groups`` with ``params`` in a group of their own, which has ``settings`` and comes last.

    Groups that are left empty go, and so does the new one if there is no such parameter.
    """
    own = list(params)
    held = {id(p) for p in own}
    rest = [{**group, "params": [p for p in group["params"] if id(p) not in held]} for group in groups]
    return [group for group in [*rest, {"params": own, **settings}] if group["params"]]


def parted(
    groups: Iterable[Mapping[str, Any]], params: Iterable[nn.Parameter]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The other groups, and those of ``params``; each group is wholly one or the other, as after :func:`apart`."""
    held = {id(p) for p in params}
    rest: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    for group in groups:
        (own if id(group["params"][0]) in held else rest).append({**group})
    return rest, own
