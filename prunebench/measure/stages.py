"""The stages of a run at which its net is measured, once: what they are called and where they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One measurement of a run, ``metrics.<name>`` of ``result.json``.

    Attributes:
        label: its name over a column. ``meaning``: what was measured, in words.
        closing: when it is a column of the closing table.
        optional: a run may end without it.
        costed: its size and its time are measured, too.
        prefix: what rows of papers write before a metric of this stage; None = no paper prints one.
    """

    name: str
    label: str
    meaning: str
    closing: Literal["always", "measured", "never"] = "measured"
    optional: bool = True
    costed: bool = False
    prefix: str | None = None


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="dense",
            label="dense",
            meaning="the whole net, which no method has touched",
            closing="always",
            costed=True,
            prefix="dense_",
        ),
        Stage(
            name="before_cut",
            label="before cut",
            meaning="the whole net, which the method has trained",
            prefix="sparse_",
        ),
        Stage(
            name="pruned",
            label="pruned",
            meaning="right after the last cut, before any training",
            closing="always",
            prefix="pruned_",
        ),
        Stage(
            name="final",
            label="final",
            meaning="the end of the run, after the last epoch",
            closing="always",
            optional=False,
            costed=True,
            prefix="",
        ),
        Stage(
            name="saved_net",
            label="saved net",
            meaning="one prediction of the net that is saved, where the final one is a mean of several",
        ),
        Stage(
            name="dense_quantized",
            label="dense int8",
            meaning="the dense net in integers, as exported",
            costed=True,
        ),
        Stage(
            name="quantized",
            label="int8",
            meaning="the saved net in integers, as exported",
            costed=True,
        ),
        Stage(
            name="test_best_val",
            label="best on validation",
            meaning="the last phase's epoch that was best on the validation split",
            closing="never",
        ),
    )
}
"""By name, in the order of all tables."""
