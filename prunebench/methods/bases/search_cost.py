"""What a phase of a run has cost, beside what training the dense net costs."""

from __future__ import annotations

import logging
from typing import Any

from prunebench.core.context import Run

log = logging.getLogger("prunebench")


def beside_pretraining(run: Run, name: str) -> dict[str, Any]:
    """Compute of the finished phase ``name`` and of a pretraining of the dense net, which may not have been run.

    Returns:
        ``seconds`` and ``train_macs`` of the phase; ``pretraining_epochs``, ``pretraining_train_macs`` (epochs x
        samples x 3 x the dense net's MACs) and ``pretraining_seconds`` (measured; None if this run has none) of the
        schedule's pretraining, or else of the dense net under the settings of the phase that begins with the cut;
        ``share_of_pretraining``: the quotient of the two ``train_macs``.
    """
    own = next(record for record in run.phase_records if record["name"] == name)
    trained = next((record for record in run.phase_records if record["settings"]["pretrain"]), None)
    phase = next(phase for phase in run.phases if phase.pretrain or phase.prune)
    macs = round(3 * run.dense.cost.macs * run.data.num_train * phase.epochs * (phase.epoch_share or 1))
    seconds = trained["seconds"] if trained else None
    log.info(
        "%s: %.0f s, %.3g MACs of training; a pretraining of %d epochs: %s, %.3g MACs",
        name,
        own["seconds"],
        own["train_macs"],
        phase.epochs,
        "not run" if seconds is None else f"{seconds:.0f} s",
        macs,
    )
    return {
        "seconds": own["seconds"],
        "train_macs": own["train_macs"],
        "pretraining_epochs": phase.epochs,
        "pretraining_seconds": seconds,
        "pretraining_train_macs": macs,
        "share_of_pretraining": own["train_macs"] / macs if macs else None,
    }
