"""What a row guarantees, after the protocol of Asai (arXiv 2209.04049): ``full``, ``interval_only`` or ``none``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunebench.measure.statistics import discordant, mcnemar, noninferiority_limit, paired_difference

SEEDS = 3
"""A full guarantee needs so many seeds."""
MARGIN = 0.005
"""Non-inferior: with 95 % confidence the accuracy is no more than this below the baseline's."""


def against(baseline: ArrayLike, final: ArrayLike, *, name: str) -> dict[str, Any]:
    """The paired test of a net against its baseline on the same test examples.

    Args:
        baseline, final: per-example correctness ``[n]``.
        name: of the baseline.

    Returns:
        ``baseline``, ``b`` (examples that only the final net gets right), ``c`` (only the baseline), ``p`` (McNemar,
        exact), ``difference`` (final - baseline, a fraction), ``interval_95``, ``margin`` and ``noninferior``.
    """
    b, c = discordant(final, baseline)
    found = {"baseline": name, "b": b, "c": c, "p": mcnemar(b, c).exact}
    return found | drop(b, c, len(np.asarray(final)))


def drop(b: int, c: int, n: int) -> dict[str, Any]:
    """``difference`` to ``noninferior`` of :func:`against`, from its counts of ``n`` test examples."""
    pair = paired_difference(b, c, n)
    safe = noninferiority_limit(b, c, n) > -MARGIN
    return {
        "difference": pair.difference,
        "interval_95": list(pair.interval),
        "margin": MARGIN,
        "noninferior": safe,
    }


def level(facts: Mapping[str, Any], *, num_seeds: int) -> tuple[str, list[str]]:
    """What a row with these facts guarantees, and what is missing for more.

    ``full``: nothing was chosen on the test set, its evaluations are counted, the objective is declared, the net was
    tested against its baseline, and there are three seeds. ``interval_only``: the accuracy has an exact interval.
    ``none``: it has not, or something was chosen on the test set.

    Args:
        facts: ``guarantee`` of a result. ``num_seeds``: of the row.
    """
    if facts.get("selection") in (None, "test"):
        return "none", ["chosen on the test set" if facts.get("selection") else "it is not said how the net was chosen"]
    if not facts.get("accuracy_interval_95"):
        return "none", ["no interval: the test examples are not independent, or there is no accuracy"]
    missing = []
    if not facts.get("test_evaluations"):
        missing.append("test evaluations are not counted")
    if not facts.get("objective"):
        missing.append("the objective is not declared")
    if not facts.get("against"):
        missing.append("no test against a dense net of this run")
    if num_seeds < SEEDS:
        missing.append(f"{num_seeds} of {SEEDS} seeds")
    return ("interval_only", missing) if missing else ("full", [])
