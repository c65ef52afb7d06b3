"""What a user may ask of :func:`prunebench.budget.choose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunebench.budget.counts import COUNTS, Count, check_ratio
from prunebench.errors import UserError, nearest

SCOPES = ("layer", "global")
COUPLINGS = ("free", "aligned")
NORMALISATIONS = ("none", "l2", "max")


def check_word(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of the allowed ones."""
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{nearest(str(value), allowed)}")


def check_words(*, scope: str, coupling: str, normalise: str) -> None:
    """Refuse unknown choices."""
    check_word("scope", scope, SCOPES)
    check_word("coupling", coupling, COUPLINGS)
    check_word("normalise", normalise, NORMALISATIONS)


def check_count(count: str | Count) -> Count:
    """The counting function of that name, or the function itself."""
    if callable(count):
        return count
    check_word("count", count, tuple(COUNTS))
    return COUNTS[count]


def check_amount(
    *,
    prune_ratio: float | Mapping[str, float] | None,
    target_macs: float | None,
    target_params: float | None,
    scope: str,
    fraction: float,
) -> None:
    """Exactly one of a ratio, a target of MACs, a target of parameters; each in its range."""
    amounts = {"prune_ratio": prune_ratio, "target_macs": target_macs, "target_params": target_params}
    given = [f"{name}={value}" for name, value in amounts.items() if value is not None]
    if len(given) != 1:
        raise UserError(
            "exactly one of prune_ratio, target_macs and target_params says how much to prune, "
            f"got {' and '.join(given) or 'none'}; set the others to null"
        )
    for name, target in (("target_macs", target_macs), ("target_params", target_params)):
        if target is not None and not 0.0 < target <= 1.0:
            raise UserError(f"{name} is the share of the dense net that stays and must be in (0, 1], got {target}")
    if isinstance(prune_ratio, Mapping):
        if scope == "global":
            raise UserError("scope=global draws one threshold for all layers; a table of ratios needs scope=layer")
    elif prune_ratio is not None:
        check_ratio(prune_ratio)
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"fraction is the share of the schedule that is done and must be in (0, 1], got {fraction}")
