"""A whole configuration is held against what is declared of it, and nothing is built for that."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunebench.config import named, whole
from prunebench.errors import UserError
from tests.kit import configure

RECIPE = {"train": {"lr": 0.1, "milestones": [0.5]}, "finetune": None, "search": {"steps": "any"}}


@pytest.fixture(autouse=True)
def nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*args: Any) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr(named, "_call", called)


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return configure(Path("unused"), "method=l1norm", "teacher=dense", "ood=noise", "attack=pgd", "quantize=int8")[0]


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *path, last = key.split(".")
    place = config
    for part in path:
        place = place[part]
    place[last] = value
    return config


def test_the_configuration_is_what_is_declared(config: dict[str, Any]) -> None:
    whole.check(config)


def scalars(settings: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{above}{key}.")
        elif isinstance(value, int | float):
            yield f"{above}{key}"


def refusal(config: dict[str, Any]) -> str:
    try:
        whole.check(config)
    except UserError as error:
        return str(error)
    return "none"


def test_no_number_may_be_a_table(config: dict[str, Any]) -> None:
    places = [place for place in scalars(config) if not place.startswith("row.")]
    assert {place.partition(".")[0] for place in places} >= {*whole.BUILT, "schedule", "trainer", "paths", "seed"}
    sentences = {place: refusal(changed(config, place, {"a": [1]})) for place in places}
    assert [place for place, sentence in sentences.items() if place not in sentence] == []


def test_recipes_of_other_data_sets_are_checked_too(config: dict[str, Any]) -> None:
    whole.check(changed(config, "method.recipe", {"imagenet": RECIPE, "cifar10": None}))
    wrong = {
        "method.recipe must be a table": 3,
        "method.recipe.imagenet must be a table": {"imagenet": [1]},
        "method.recipe.imagenet.train must be a table": {"imagenet": {"train": "long"}},
        "method.recipe.imagenet.train.lrr is no setting of a phase; did you mean lr": {
            "imagenet": {"train": {"lrr": 1}}
        },
        "method.recipe.imagenet.train.lr must be a number of at least 0": {"imagenet": {"train": {"lr": -1}}},
    }
    for sentence, recipe in wrong.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            whole.check(changed(config, "method.recipe", recipe))
    for group in ("model", "dataset"):
        with pytest.raises(UserError, match=f"{group}.recipe.finetune.nesterov must be true or false"):
            whole.check(changed(config, f"{group}.recipe", {"finetune": {"nesterov": " "}}))


def test_what_is_inside_of_an_option_is_checked(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"method\.criterion\.order must be"):
        whole.check(changed(config, "method.criterion.order", "much"))
    with pytest.raises(UserError, match=r"method\.criterion\.foo is unknown"):
        whole.check(changed(config, "method.criterion.foo", 1))
