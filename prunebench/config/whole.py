"""A whole configuration against what is declared of it, before data are read and objects are built.

What a configuration may be is declared once: by the annotations of what each group is given to
(:mod:`prunebench.config.named` finds it), of the phases and the trainer, and by
:mod:`prunebench.config.plain_values` for what no object sees. Conditions on several options are the objects' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from prunebench.config import named
from prunebench.config.arguments import fit
from prunebench.config.groups import FROM_RUNS, RUN_FOLDERS
from prunebench.config.phase import Phase, build_phases
from prunebench.config.plain_values import check_values
from prunebench.config.ranges import NonNegativeFloat, NonNegativeInt
from prunebench.config.settings import trainer_settings
from prunebench.errors import UserError, nearest

BUILT = ("method", "model", "dataset", "ood", "quantize", "attack", "teacher")
"""Groups that become objects."""
BESIDE: Mapping[str, Any] = {
    "method.acts": Mapping[str, bool],
    "method.control": str,
    **{f"{group}.{RUN_FOLDERS}": Sequence[str] for group in FROM_RUNS},
    **{f"{group}.epochs": Mapping[str, NonNegativeInt] for group in ("dataset", "ood")},
    "attack.usual": Mapping[str, NonNegativeFloat],
}
"""Options that their group's object does not get, and what they may be where they are given."""
OF_PHASES = ("train", "finetune")
"""Kinds of a recipe that are for phases; what stands under others, a method asks for itself."""


def check(config: Mapping[str, Any]) -> None:
    """Refuse the first value that is not what is declared of it; nothing is built.

    Args:
        config: resolved. Whatever it names is imported.

    Raises:
        UserError: an option is unknown, missing, of another type or outside its range.
    """
    check_values(config)
    trainer_settings(config["trainer"])
    build_phases(config["schedule"]["phases"])
    for group in BUILT:
        if (settings := config.get(group)) is not None:
            named.check(group, settings)
    for place, hint in BESIDE.items():
        group, _, key = place.partition(".")
        if (value := (config.get(group) or {}).get(key)) is not None:
            fit(value, hint, place)
    for group in ("model", "dataset"):
        _check_recipe(f"{group}.recipe", config[group].get("recipe"))
    for group in ("method", "model"):
        for name, recipe in _table(f"{group}.recipe", config[group].get("recipe")).items():
            if group == "method" or name not in OF_PHASES:  # of a data set
                _check_recipe(f"{group}.recipe.{name}", recipe)


def _check_recipe(where: str, recipe: Any) -> None:
    """Refuse settings of phases that no phase takes; also those of data sets that are not this run's."""
    hints = inspect.get_annotations(Phase, eval_str=True)
    for kind, settings in _table(where, recipe).items():
        for key, value in _table(f"{where}.{kind}", settings).items():
            if kind not in OF_PHASES:
                continue
            if key not in hints:
                raise UserError(f"{where}.{kind}.{key} is no setting of a phase{nearest(str(key), hints)}")
            fit(value, hints[key], f"{where}.{kind}.{key}")


def _table(where: str, value: Any) -> Mapping[str, Any]:
    """``value``, which may be left out."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{where} must be a table, got {value!r}")
    return value or {}
