"""Is a comparison fair? The labels of Wang et al. (2023), "Why is the state of neural network pruning so confusing?".

A gain must come from the pruning (ratio, criterion or schedule), not from the pretraining or the fine-tuning around it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunebench.config.phase import Phase, lr_factor

LADDER: Mapping[str, str] = {
    "S1": "same data, net and rate",
    "S2": "and the same base model",
    "S3.1": "and the same number of fine-tuning epochs",
    "S3.2": "and the same fine-tuning learning rates",
    "S4.1": "and the same number of pruning epochs",
    "S4.2": "and the same pruning learning rates",
}
"""Each label includes those before it."""
TOTALS: Mapping[str, str] = {
    "SX-A": "same data, net and rate, other base models, the same number of epochs in all",
    "SX-B": "same data, net and rate, other base models, the same training compute in all",
}
GATE = "S3.2"
"""A difference below this label says little about the method (Wang et al., p. 12)."""

SAME_RATE = 0.01
"""Shares of MACs that stay and differ by no more than this are the same rate."""
OPERATIONAL = ("epochs", "batch_size", "eval_batch_size", "num_workers", "download", "folder", "name", "_target_")
"""Keys of a data set that change no picture; the batch size of training is part of the phases."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a comparison has to hold equal; see :func:`setup_of`."""

    data: Mapping[str, Any]
    net: Mapping[str, Any]
    macs_kept: float | None
    recipe: str
    seed: int
    weights: str | None
    finetune: Sequence[Phase]
    pruning: Sequence[Phase]
    epochs: int
    train_macs: float
    trainer: Mapping[str, Any]
    teacher: Mapping[str, Any]

    def same_base(self, other: Setup) -> bool:
        """Both start from the same weights: one checkpoint, or one recipe and seed."""
        if self.weights or other.weights:
            return self.weights == other.weights
        return self.recipe == other.recipe and self.seed == other.seed


@dataclass(frozen=True)
class Fairness:
    """How fair a comparison is.

    Attributes:
        label: the strictest one that holds, None if not even the data, net and rate agree.
        holds: all that hold.
        differences: settings outside the method that differ.
    """

    label: str | None
    holds: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def fair(self) -> bool:
        """``S3.2`` or stricter."""
        return GATE in self.holds


def setup_of(result: Mapping[str, Any]) -> Setup:
    """The setup of a result (content of ``result.json``)."""
    records = [record for record in result.get("phases") or [] if "settings" in record]
    phases = [Phase(**_given(record["settings"])) for record in records]
    cost = result.get("cost") or {}
    removed = cost.get("macs_removed")
    known = result["model"].get("pretrained")
    return Setup(
        data=_data(result["dataset"]["settings"]),
        net=_net(result["model"]["settings"]),
        macs_kept=None if removed is None else 1 - removed,
        weights=known["sha256"] if known else None,
        seed=result["run"]["seed"],
        train_macs=sum(float(record["train_macs"]) for record in records),
        trainer=result.get("trainer") or {},
        teacher=result.get("teacher") or {},
        **_split(phases, result["dataset"]["settings"]),
    )


def judge(a: Setup, b: Setup) -> Fairness:
    """The strictest label that holds between two setups, and what differs outside the method."""
    differences = _differences(a, b)
    if a.data != b.data or a.net != b.net or not _same_rate(a, b):
        return Fairness(None, (), (*differences, *([] if _same_rate(a, b) else ["rate"])))
    steps = {
        "S1": True,
        "S2": a.same_base(b),
        "S3.1": _epochs(a.finetune) == _epochs(b.finetune),
        # to learn from a teacher is another training
        "S3.2": _training(a.finetune) == _training(b.finetune) and a.teacher == b.teacher,
        "S4.1": _epochs(a.pruning) == _epochs(b.pruning),
        "S4.2": _training(a.pruning) == _training(b.pruning),
    }
    holds: list[str] = []
    for label, true in steps.items():
        if not true:
            break
        holds.append(label)
    label = holds[-1]
    if not steps["S2"]:
        if a.epochs == b.epochs:
            holds.append("SX-A")
        if a.train_macs and b.train_macs and abs(a.train_macs / b.train_macs - 1) <= SAME_RATE:
            holds.append("SX-B")
        label = holds[-1]
    return Fairness(label, tuple(holds), differences)


def _data(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": settings["name"], **{key: value for key, value in settings.items() if key not in OPERATIONAL}}


def _net(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not key.startswith("pretrained")}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the values that mean a default: JSON has no word for an infinite ``max_stretch``."""
    return {key: value for key, value in values.items() if value is not None or key in ("clip_norm", "batch_size")}


def _split(phases: Sequence[Phase], data: Mapping[str, Any]) -> dict[str, Any]:
    """Phases before the last cut (but the pretraining) prune, those from the last cut on fine-tune."""
    phases = [replace(phase, batch_size=phase.batch_size or data.get("batch_size")) for phase in phases]
    cuts = [index for index, phase in enumerate(phases) if phase.prune]
    first = cuts[-1] if cuts else len(phases)
    pretraining = [phase for phase in phases if phase.pretrain]
    return {
        "recipe": json.dumps([[phase.epochs, phase.active, *_training([phase])] for phase in pretraining], default=str),
        "finetune": [phase for phase in phases[first:] if phase.epochs],
        "pruning": [phase for phase in phases[:first] if not phase.pretrain],
        "epochs": _epochs(phases),
    }


def _epochs(phases: Iterable[Phase]) -> int:
    return sum(phase.epochs for phase in phases)


def _training(phases: Iterable[Phase]) -> list[tuple[Any, ...]]:
    """What training a phase means: its learning rate at each epoch, and what goes with it."""
    return [
        (
            [round(phase.lr * lr_factor(phase, 10 * epoch, 10), 12) for epoch in range(phase.epochs)],
            phase.optimizer,
            phase.momentum,
            phase.nesterov,
            phase.weight_decay,
            phase.batch_size,
            phase.label_smoothing,
            phase.epoch_share,
        )
        for phase in phases
    ]


def _same_rate(a: Setup, b: Setup) -> bool:
    return a.macs_kept is not None and b.macs_kept is not None and abs(a.macs_kept - b.macs_kept) <= SAME_RATE


def _differences(a: Setup, b: Setup) -> tuple[str, ...]:
    found = []
    for group in ("data", "net", "trainer"):
        one, other = getattr(a, group), getattr(b, group)
        if one and other:
            keys = sorted({*one, *other})
            found += [f"{group}.{key}" for key in keys if one.get(key) != other.get(key)]
    if not a.same_base(b):
        found.append("base model")
    if a.teacher != b.teacher:
        found.append("teacher")
    for name in ("finetune", "pruning"):
        if _training(getattr(a, name)) != _training(getattr(b, name)):
            found.append(f"{name} training")
    return tuple(found)
