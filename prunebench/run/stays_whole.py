"""Which layers a cut has left whole, and why: what the method says, and layers that nobody can follow."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from prunebench.run.job import Job


def stays_whole(job: Job) -> list[Mapping[str, str]]:
    """``{"layer", "reason"}`` for each layer that stays whole, as far as the method was to cut it.

    Layers that are no operation of the graph (inside a module that is taken as one operation, with weights that are
    computed) are known to no method; they are added where channels were to go.
    """
    told = list(job.not_pruned)
    if not (told or job.plan.keep or job.plan.inputs):
        return told
    wanted, known = job.method.layers, {row["layer"] for row in told}
    return told + [
        {"layer": name, "reason": reason}
        for name, reason in job.graph.unfollowed.items()
        if name not in known and (isinstance(wanted, str) or any(fnmatchcase(name, p) for p in wanted))
    ]
