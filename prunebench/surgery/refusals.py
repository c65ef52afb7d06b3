"""What to say of a plan that cannot be carried out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from prunebench.surgery.heads import Attend
from prunebench.surgery.layer_steps import Grouped, Mix, Uneven
from prunebench.surgery.sets import Bits, full
from prunebench.surgery.steps import Blocked, Choice, Opaque, Output, Step


def operation(step: Step, nodes: Sequence[fx.Node]) -> str:
    """What a step is, in words."""
    if isinstance(step, Output):
        return "the output of the net"
    return step.why if isinstance(step, Opaque | Mix | Grouped | Attend) else f"'{nodes[step.index].name}'"


def explain(
    steps: Sequence[Step], nodes: Sequence[fx.Node], blocked: Blocked, live: Sequence[Bits], choice: Choice
) -> str:
    """Why a plan cannot be carried out, in one sentence.

    Args:
        steps, nodes: of the graph.
        blocked: what came up.
        live: channels of the steps before that.
        choice: the plan.
    """
    if isinstance(blocked, Uneven):
        sizes = ", ".join(map(str, blocked.sizes[:16])) + (", …" if len(blocked.sizes) > 16 else "")
        return (
            f"the groups of {operation(blocked.step, nodes)} must {blocked.what} equally many channels, but under "
            f"the plan they {blocked.what} {sizes}; keep as many in each"
        )
    names = ", ".join(_culprits(steps, blocked.source, live, choice))
    if not live[blocked.source]:
        return (
            f"layer {names} keeps no channel, or reads none, and no addition or concatenation bypasses it; "
            "keep at least one"
        )
    return (
        f"{operation(blocked.step, nodes)} needs all channels of its input, but the plan cuts {names}; "
        "leave that whole or replace the operation"
    )


def _culprits(steps: Sequence[Step], source: int, live: Sequence[Bits], choice: Choice) -> list[str]:
    """The layers that left a step's output without some channels, or without any."""
    found: list[str] = []
    waiting, seen = [source], set[int]()
    while waiting:
        step = steps[waiting.pop()]
        if step.index in seen:
            continue
        seen.add(step.index)
        if not isinstance(step, Mix | Grouped) or (not live[step.index] and not live[step.inputs[0]]):
            waiting += step.inputs
        elif choice.keep.get(step.module, full(step.width)) != full(step.width) or not live[step.index]:
            found.append(step.module)
    return list(reversed(found))
