"""What a user may ask of :func:`prunebench.budget.choose`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from prunebench.config.ranges import Among, Range
from prunebench.errors import UserError

Scope = Annotated[str, Among(("layer", "global"))]
Coupling = Annotated[str, Among(("free", "aligned"))]
Normalisation = Annotated[str, Among(("none", "mean", "max", "l2", "ranks"))]
TargetShare = Annotated[float, Range(above=0, high=1, meaning="the share of the dense net that stays")]


def check_amount(
    *,
    prune_ratio: float | Mapping[str, float] | None,
    targets: Mapping[str, float | None],
    scope: str,
) -> None:
    """Exactly one of a ratio and the ``targets`` (name -> share); a table of ratios is for single layers.

    Raises:
        UserError: none or several of them, or a table with one threshold for all layers.
    """
    amounts = {"prune_ratio": prune_ratio, **targets}
    given = [f"{name}={value}" for name, value in amounts.items() if value is not None]
    if len(given) != 1:
        raise UserError(
            f"exactly one of {', '.join(list(amounts)[:-1])} and {list(amounts)[-1]} says how much to prune, "
            f"got {' and '.join(given) or 'none'}; set the others to null"
        )
    if isinstance(prune_ratio, Mapping) and scope == "global":
        raise UserError("scope=global draws one threshold for all layers; a table of ratios needs scope=layer")
