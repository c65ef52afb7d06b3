"""From a net with zeros among its weights to the small one without the channels that do nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from prunebench.budget import Choice
from prunebench.core.context import Extracted, Run
from prunebench.surgery.align import align
from prunebench.surgery.dead import unread, without_constants

EXACT = 1e-3
"""Largest difference of outputs that float rounding may make when constants move through the whole net."""


def without_dead_channels(
    sparse: nn.Module,
    run: Run,
    *,
    whole: Sequence[dict[str, str]],
    achieved: Mapping[str, Any],
    constants: bool = True,
) -> Extracted:
    """The compact net of ``sparse`` (dense shapes): channels that nobody reads, and those that are constant, are gone.

    Args:
        whole: layers without a zero, with the reason.
        achieved: facts for the result.
        constants: move constant channels into the biases of their readers; False where weights are drawn when the net
            predicts: then they are not constant, and no layer is made wide, as none that draws has a wide form.
    """
    settled = without_constants(sparse, run.graph, run.example) if constants else sparse
    plan = unread(settled, run.graph)
    found = run.cut(settled, Choice(plan if constants else align(run.graph, plan), list(whole), {}))
    difference = run.max_abs_diff(sparse, found.net)
    assert difference <= EXACT, f"the compact net differs from the sparse one by {difference}"
    return replace(found, achieved={**found.achieved, **achieved})
