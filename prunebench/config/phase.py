"""One training run of a schedule: its settings, and its learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from prunebench.config.arguments import fitted, validated
from prunebench.config.identity import slug
from prunebench.config.ranges import (
    Among,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Range,
)
from prunebench.errors import UserError

OPTIMIZERS = ("sgd", "adam", "adamw")
PLATEAU = "plateau"
LR_SCHEDULES = ("constant", "multistep", "step", "linear", "cosine", "onecycle", "noam", PLATEAU)
PLATEAU_THRESHOLD, PLATEAU_EPS = 1e-4, 1e-8  # torch's: relative gain that counts, smallest change of the rate


@validated
@dataclass(frozen=True, kw_only=True)
class Phase:
    """Settings of one phase; see ``conf/schedule/phase`` for the defaults.

    Attributes:
        name: unique in the schedule; also the folder of the phase.
        epochs: passes over the training set; 0 = cut without training.
        epoch_share: share of the training batches that an epoch passes over, in (0, 1]; null = all.
        pretrain: trains the whole net before the cut. ``model.pretrained`` replaces the phase, unless the method acts
            in it: then the phase starts from those weights.
        prune: the phase begins with a cut.
        active: the method's training hooks act in this phase.
        active_last: with ``rounds``: whether they act in the last one too, after which nothing is cut; null = as
            ``active`` says.
        fresh: train from new random weights (Rethinking's scratch arms), after the cut if there is one.
        equal_compute: stretch the epochs by the MACs that the cut saved (Rethinking's Scratch-B).
        max_stretch: upper limit of that factor (Rethinking caps it at 2 on ImageNet); null = none.
        rounds: repeat cut and training this often, each time closer to the target.
        fraction: share of the target this phase's cut must reach; set when ``rounds`` are unrolled.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: peak learning rate.
        lr_schedule: ``constant``, ``multistep``, ``step``, ``linear``, ``cosine``, ``onecycle``, ``noam`` or
            ``plateau``; ``cosine``, ``onecycle`` and ``noam`` per step.
        milestones: as fractions of the epochs; for ``multistep``: where the rate drops; for ``linear``: the two
            places between which it falls from ``lr`` to ``gamma`` x lr, before and after them it is constant.
        step_epochs: for ``step``: the rate drops each time so many epochs have passed; for ``plateau``: when more
            than so many epochs in a row brought no lower validation NLL.
        gamma: factor of a drop; for ``linear`` of the whole fall.
        warmup_epochs: linear rise from ``warmup_factor`` x lr at the start (not for ``onecycle``); ``noam`` rises from
            zero to ``lr`` in that time and then falls with the inverse square root of the steps made.
        warmup_factor: where the rise starts, as a fraction of ``lr``.
        onecycle_rise: share of the steps that rise, for ``onecycle``.
        momentum, nesterov: of SGD.
        weight_decay: L2 penalty (decoupled for adamw).
        decay_norm: false spares biases and norm layers from weight decay.
        label_smoothing: in [0, 1).
        clip_norm: gradients are scaled down to this global L2 norm; null = off.
        batch_size: training samples per step; null = the data set's.
        accumulate: batches whose gradients make one step.
    """

    name: str
    epochs: NonNegativeInt
    lr: NonNegativeFloat
    pretrain: bool = False
    prune: bool = False
    active: bool = False
    active_last: bool | None = None
    fresh: bool = False
    equal_compute: bool = False
    max_stretch: Annotated[float, Range(low=1)] | None = None
    rounds: PositiveInt = 1
    fraction: PositiveFraction = 1.0
    optimizer: Annotated[str, Among(OPTIMIZERS)] = "sgd"
    lr_schedule: Annotated[str, Among(LR_SCHEDULES)] = "constant"
    milestones: Sequence[Annotated[float, Range(low=0, high=1, meaning="fractions of the epochs")]] = ()
    step_epochs: PositiveInt = 30
    gamma: Fraction = 0.1
    warmup_epochs: NonNegativeFloat = 0.0
    warmup_factor: Fraction = 0.1
    onecycle_rise: Fraction = 0.25
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 1e-4
    decay_norm: bool = True
    label_smoothing: Fraction = 0.0
    clip_norm: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    accumulate: PositiveInt = 1
    epoch_share: PositiveFraction | None = None

    def __post_init__(self) -> None:
        if slug(self.name) != self.name:
            raise UserError(
                f"a phase's name is a folder: at most 60 letters, digits, '.', '_', neither '.' nor '_' at its ends, "
                f"got {self.name!r}"
            )
        where = f"schedule.phases.{self.name}"
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            raise UserError(f"{where}.nesterov=true needs a momentum above 0, got {where}.momentum={self.momentum!r}")
        ends = self.lr_schedule == "linear"  # a fall may take the whole phase, a drop there would never be seen
        inside = ends or all(0 < m < 1 for m in self.milestones)
        if list(self.milestones) != sorted(self.milestones) or not inside:
            allowed = "[0, 1]" if ends else "(0, 1)"
            raise UserError(
                f"{where}.milestones must be rising fractions of the epochs in {allowed}, got {list(self.milestones)}"
            )
        if self.lr_schedule == "linear" and len(set(self.milestones)) != 2:
            raise UserError(
                f"{where}.lr_schedule=linear needs two milestones, where the fall begins and where it ends, "
                f"got {list(self.milestones)}"
            )

    @property
    def shared(self) -> bool:
        """True if all methods would train the same net here, so that runs share the phase's outcome."""
        return self.pretrain and not (self.prune or self.active or self.fresh)

    def stretched(self, dense_macs: float, small_macs: float) -> Phase:
        """The phase with the dense net's training compute: ``floor(epochs * dense / small)`` (Rethinking, sec. 3)."""
        factor = min(dense_macs / small_macs, self.max_stretch or math.inf)
        return replace(self, epochs=int(self.epochs * factor), equal_compute=False)


def build_phases(settings: Mapping[str, Mapping[str, Any]]) -> tuple[Phase, ...]:
    """The ordered phases of a schedule, with ``rounds`` unrolled into ``<name>_1``, ``<name>_2``, …

    Raises:
        UserError: an unknown key or a value outside its range.
    """
    if not isinstance(settings, Mapping):
        raise UserError(f"schedule.phases must be a table of phases, got {settings!r}")
    phases: list[Phase] = []
    for name, values in settings.items():
        if not isinstance(values, Mapping):
            raise UserError(
                f"schedule.phases.{name} must be a table, got {values!r}; ~schedule.phases.{name} removes it"
            )
        phase = Phase(**fitted(Phase, {"name": name, **values}, where=f"schedule.phases.{name}"))
        if phase.rounds == 1:
            phases.append(phase)
        else:
            rounds = range(1, phase.rounds + 1)
            phases += [replace(phase, name=f"{name}_{i}", rounds=1, fraction=i / phase.rounds) for i in rounds]
        if phase.active_last is not None:
            phases[-1] = replace(phases[-1], active=phase.active_last)
    names = [phase.name for phase in phases]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"two phases are called {doubled[0]}; a phase's name is its folder, so give them different ones"
        )
    if not phases:
        raise UserError("schedule.phases is empty; choose a schedule, for example schedule=finetune")
    return tuple(phases)


def lr_factor(phase: Phase, step: int, steps_per_epoch: int) -> float:
    """Learning rate at optimiser step ``step`` (0-based) as a fraction of ``phase.lr``.

    ``multistep``, ``step`` and ``linear`` change at epoch boundaries (milestone fraction m drops at epoch
    ``int(m * epochs)``, as in Rethinking's main_B.py; ``linear`` is SWAG's, run_swag.py:219-228); warm-up, ``cosine``
    and ``onecycle`` move at every step.
    """
    total = max(1, phase.epochs * steps_per_epoch)
    if phase.lr_schedule == "onecycle":
        # linear up, linear to zero: the one-cycle rate with its two simplest pieces
        peak = max(1.0, phase.onecycle_rise * total)
        return (step + 1) / peak if step + 1 <= peak else max(0.0, (total - step) / max(1.0, total - peak + 1))
    warmup = phase.warmup_epochs * steps_per_epoch
    if phase.lr_schedule == "noam":
        # Vaswani et al. 2017, sec. 5.3, as a fraction of the peak, which is at the end of the warm-up
        peak = max(1.0, warmup)
        return min((step + 1) / peak, math.sqrt(peak / (step + 1)))
    if step < warmup:
        return phase.warmup_factor + (1 - phase.warmup_factor) * step / warmup
    epoch = step // steps_per_epoch
    match phase.lr_schedule:
        case "multistep":
            return phase.gamma ** sum(epoch >= int(m * phase.epochs) for m in phase.milestones)
        case "step":
            return phase.gamma ** (epoch // phase.step_epochs)
        case "linear":
            begin, end = (m * phase.epochs for m in phase.milestones)
            return 1.0 - (1.0 - phase.gamma) * min(1.0, max(0.0, (epoch - begin) / (end - begin)))
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))
        case _:
            return 1.0


def plateau_factor(phase: Phase, losses: Sequence[float]) -> float:
    """Rate after epochs with the validation ``losses`` as a fraction of ``phase.lr``, for ``lr_schedule=plateau``.

    The rule of torch's ``ReduceLROnPlateau`` with a patience of ``step_epochs`` and the factor ``gamma``, from the
    whole history, so that a resumed phase has no further state.
    """
    factor, best, bad = 1.0, math.inf, 0
    for loss in losses:
        best, bad = (loss, 0) if loss < best * (1 - PLATEAU_THRESHOLD) else (best, bad + 1)
        if bad > phase.step_epochs:
            bad = 0
            if phase.lr * factor * (1 - phase.gamma) > PLATEAU_EPS:
                factor *= phase.gamma
    return factor
