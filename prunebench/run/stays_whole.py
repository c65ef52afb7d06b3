"""Which layers a cut has left whole, and why: what the method says, and layers that nobody can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from prunebench.run.bare import BareRun


def stays_whole(run: BareRun, wanted: Sequence[str]) -> list[Mapping[str, str]]:
    """``{"layer", "reason"}`` for each layer that stays whole, as far as the method was to cut it.

    Layers that are no operation of the graph (inside a module that is taken as one operation, with weights that are
    computed) are known to no method; they are added where it has followed channels and something was to go.

    Args:
        run: after the cut.
        wanted: see :attr:`prunebench.core.method.Method.layers`.
    """
    told, graph = list(run.not_pruned), run.base.made_graph
    if graph is None or not (told or run.plan.keep or run.plan.inputs):
        return told
    known = {row["layer"] for row in told}
    return told + [
        {"layer": name, "reason": reason}
        for name, reason in graph.unfollowed.items()
        if name not in known and (isinstance(wanted, str) or any(fnmatchcase(name, p) for p in wanted))
    ]
