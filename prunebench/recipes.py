"""``${recipe:train,lr,0.1}`` in a configuration: what a recipe says, else the value at the end.

A recipe is the training that a paper prescribes. The first of these that is given counts:
``method.recipe.<data set>.<train | finetune>.<key>``, ``method.recipe.any.…`` for every data set, and
``model.recipe.<train | finetune>.<key>`` of the net. The schedules' phases ask for each of their settings.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

NAME = "recipe"
_ABSENT = object()


def register() -> None:
    """Make the expression known to OmegaConf, once a process."""
    if not OmegaConf.has_resolver(NAME):
        OmegaConf.register_new_resolver(NAME, _from_recipe)


def _from_recipe(kind: str, key: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    dataset = _root_.dataset.name
    for place in (f"method.recipe.{dataset}", "method.recipe.any", "model.recipe"):
        found = OmegaConf.select(_root_, f"{place}.{kind}.{key}", default=_ABSENT)
        if found is not _ABSENT:
            return found
    # resolving a whole configuration in place takes containers of OmegaConf's own only
    return OmegaConf.create(otherwise) if isinstance(otherwise, list | dict) else otherwise
