"""The smallest plan around a given one in which additions meet equal sets."""

from __future__ import annotations

from prunebench.surgery.behind import is_sum
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import Bits, full, to_bits, to_indices


def align(graph: ChannelGraph, plan: Plan) -> Plan:
    """Let each layer keep what its partners in additions keep, so that no addition has to scatter.

    Equal sets for each of ``graph.groups()`` are not enough where a shortcut pads channels (option A): the channels of
    the stage before arrive in the middle of the next stage's, and all blocks of that stage have to write them too.
    The addition at such a shortcut scatters in any case, as it pads in the dense net. Removed layers stay removed.

    Args:
        graph: of the dense net.
        plan: what stays at least.

    Raises:
        UserError: the plan cannot be carried out.
    """
    keep: dict[str, Bits] = {name: to_bits(kept) for name, kept in plan.keep.items()}
    changed = True
    while changed:  # sets only grow, so this ends
        changed = False
        live, _ = graph.live(Plan({name: tuple(to_indices(bits)) for name, bits in keep.items()}, plan.inputs))
        for step in graph.steps:
            if not is_sum(step):
                continue
            for name in {name for source in step.inputs if live[source] for name in graph.writers[source]}:
                kept = keep.get(name, full(step.width))
                if graph.is_bound(name):  # as it keeps equally many of some sets, it may not take any others
                    continue
                if kept and kept | live[step.index] != kept:
                    keep[name] = kept | live[step.index]
                    changed = True
    return Plan({name: tuple(to_indices(bits)) for name, bits in keep.items()}, plan.inputs)
