"""``${recipe:train,lr,0.1}`` in a configuration: what a recipe says, else the value at the end.

A recipe is the training that a paper prescribes. The first of these that is given counts:
``method.recipe.<data set>.<train | finetune>.<key>``, ``method.recipe.any.…`` for every data set,
``model.recipe.<data set>.<train | finetune>.<key>`` of the net, ``model.recipe.<train | finetune>.<key>`` for every
data set, and ``dataset.recipe.<train | finetune>.<key>`` of the data set. The schedules' phases ask for each of their
settings.

Papers train differently, so a difference between two methods may be one of their recipes: ``recipe=common`` leaves out
those of the methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf

from prunebench.config.arguments import fit
from prunebench.config.ranges import Among
from prunebench.errors import UserError

NAME = "recipe"
COMMON = "common"
OVERRULED = {
    "dataset.batch_size": ("train,batch_size", "finetune,batch_size"),
    "dataset.epochs.train": ("train,epochs",),
    "dataset.epochs.finetune": ("finetune,epochs",),
}
"""Keys of the data set -> settings of recipes that win over them."""
_ABSENT = object()


def register() -> None:
    """Make the expression known to OmegaConf, once a process."""
    if not OmegaConf.has_resolver(NAME):
        OmegaConf.register_new_resolver(NAME, _from_recipe)


def _from_recipe(kind: str, key: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    data = _root_.dataset.name
    places = [f"method.recipe.{data}", "method.recipe.any", f"model.recipe.{data}", "model.recipe", "dataset.recipe"]
    if OmegaConf.select(_root_, NAME) == COMMON:
        places = places[2:]
    for place in places:
        found = OmegaConf.select(_root_, f"{place}.{kind}.{key}", default=_ABSENT)
        if found is not _ABSENT:
            return found
    # resolving a whole configuration in place takes containers of OmegaConf's own only
    return OmegaConf.create(otherwise) if isinstance(otherwise, list | dict) else otherwise


def check(cfg: DictConfig) -> None:
    """Refuse an unknown choice of recipes.

    Raises:
        UserError: neither null nor ``common``.
    """
    fit(OmegaConf.select(cfg, NAME), Annotated[str, Among((COMMON,))] | None, NAME)


def refuse_overruled(cfg: DictConfig, given: Iterable[str]) -> None:
    """Refuse keys of the data set that a recipe would silently win over.

    Args:
        cfg: the configuration, its expressions not yet resolved.
        given: what the user asked for, ``key=value``.

    Raises:
        UserError: such a key was given, and a phase takes another value from a recipe.
    """
    phases = OmegaConf.select(cfg, "schedule.phases")
    raw: Any = {} if phases is None else OmegaConf.to_container(phases, resolve=False)
    for key in [key for key in (item.lstrip("+").partition("=")[0] for item in given) if key in OVERRULED]:
        asked = OmegaConf.select(cfg, key)
        for name, phase in raw.items():
            found = _overruling(cfg, name, phase, OVERRULED[key])
            if found not in (None, asked):
                setting = OVERRULED[key][0].partition(",")[2]
                raise UserError(
                    f"{key}={asked} has no effect on the phase {name}: the recipe of method={cfg.method.name} "
                    f"(or of the net) says {found}; use schedule.phases.{name}.{setting}={asked}, "
                    f"or {NAME}={COMMON} to leave out the methods' recipes"
                )


def _overruling(cfg: DictConfig, name: str, phase: Mapping[str, Any], settings: Iterable[str]) -> Any:
    """What a recipe says about one of ``settings`` of a phase; the phase's value if none does."""
    for setting in settings:
        key = setting.partition(",")[2]
        if str(phase.get(key)).startswith(f"${{{NAME}:{setting},"):
            return OmegaConf.select(cfg, f"schedule.phases.{name}.{key}")
    return None
