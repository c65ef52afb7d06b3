"""How far a trained net can be pruned: errors over the share of its weights that goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Spread(NamedTuple):
    """Error of single stochastic passes at one pruned share, as fractions: mean and standard deviation."""

    mean: float
    sd: float


def safe_ratio(curve: Iterable[tuple[float, Spread]]) -> float:
    """The largest share on a grid up to which no mean error exceeds that of share 0 by more than its deviation there.

    Args:
        curve: share -> error, by rising share from 0 on; read no further than to the first that exceeds it.
    """
    points = iter(curve)
    first, whole = next(points)
    assert first == 0, f"the curve begins at {first}"
    safe = first
    for ratio, error in points:
        if error.mean > whole.mean + whole.sd:
            break
        safe = ratio
    return safe
