"""Every option of every configuration file that exists: what is no number of the right kind ends in one sentence."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from omegaconf import OmegaConf

from prunebench.config import named
from prunebench.config.groups import NOT_ARGUMENTS, conf_folder
from prunebench.config.phase import build_phases
from prunebench.config.settings import trainer_settings
from prunebench.errors import UserError
from tests.kit import configure

Keys = tuple[str | int, ...]

FACTS = {"num_classes": 10, "in_channels": 3, "size": 32, "num_symbols": 205, "mean": [0.5] * 3, "std": [0.5] * 3,
         "num_inputs": 2, "num_outputs": 1, "noise_std": 0.1, "target_std": 1.0, "batch_size": 16,
         "eval_batch_size": 16}  # fmt: skip
"""Of a data set, for what other groups take from it, and for what only its user knows."""


def files(group: str) -> list[Path]:
    return sorted((conf_folder() / group).glob("*.yaml"))


def alone(file: Path) -> dict[str, Any]:
    """A file that needs nothing but a data set; the one that it names for those who choose none is left out."""
    own: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    given = {key: FACTS.get(key, value) if value == "???" else value for key, value in own.items() if key != "defaults"}
    whole = OmegaConf.create({"dataset": FACTS, "own": given})
    resolved: Any = OmegaConf.to_container(whole, resolve=True)
    return dict(resolved["own"])


def composed(group: str) -> Callable[[Path], dict[str, Any]]:
    return lambda file: configure(Path("unused"), f"{group}={file.stem}")[0][group]


def foreign(file: Path) -> dict[str, Any]:
    """Pictures that are normalised like the run's own, of their own shape."""
    settings = composed("ood")(file)
    return {**settings, "mean": [0.5] * settings["in_channels"], "std": [0.5] * settings["in_channels"]}


def teaching(file: Path) -> dict[str, Any]:
    """A teacher; where one is a saved net, some folder."""
    given = ["teacher.folder=somewhere"] if "folder: ???" in file.read_text(encoding="utf-8") else []
    settings = configure(Path("unused"), f"teacher={file.stem}", *given)[0]["teacher"]
    return dict(settings)


def build(group: str, settings: dict[str, Any]) -> None:
    with torch.device("meta"):
        named.build(group, settings)


def attack(settings: dict[str, Any]) -> None:
    """Options are checked whether the package of an attack is installed or not."""
    with patch.dict(sys.modules, {"pyautoattack": ModuleType("pyautoattack")}):
        named.build("attack", settings)


GROUPS: dict[str, tuple[Callable[[Path], dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {
    "method": (composed("method"), lambda settings: build("method", settings)),
    "model": (alone, lambda settings: build("model", settings)),
    "dataset": (alone, lambda settings: build("dataset", settings)),
    "ood": (foreign, lambda settings: build("ood", settings)),
    "quantize": (composed("quantize"), lambda settings: build("quantize", settings)),
    "attack": (composed("attack"), attack),
    "teacher": (teaching, lambda settings: build("teacher", settings)),
    "schedule": (composed("schedule"), lambda settings: build_phases(settings["phases"])),
    "trainer": (composed("trainer"), trainer_settings),
}
"""Group -> the settings of a file, and what makes objects of them."""

EVERY_FILE = [
    pytest.param(group, file, id=f"{group}-{file.stem}")
    for group in GROUPS
    for file in files(group)
    if not OmegaConf.is_missing(OmegaConf.load(file), "_target_")  # the user's own net
]


def leaves(settings: dict[str, Any], group: str, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Each option and each first item of a list, with its value."""
    for key, value in settings.items():
        if key in ("_target_", "name") or (not above and key in NOT_ARGUMENTS.get(group, ())):
            continue
        if isinstance(value, dict):
            yield from leaves(value, group, (*above, key))
        elif isinstance(value, list) and value:
            yield (*above, key), None
            yield (*above, key, 0), value[0]
        else:
            yield (*above, key), value


def changed(settings: dict[str, Any], keys: Keys, value: Any) -> dict[str, Any]:
    settings = copy.deepcopy(settings)
    inner: Any = settings
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return settings


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def refusal(make: Callable[[dict[str, Any]], Any], settings: dict[str, Any]) -> str | None:
    try:
        make(settings)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("group", "file"), EVERY_FILE)
def test_no_option_takes_what_it_cannot_use(group: str, file: Path) -> None:
    read, make = GROUPS[group]
    settings = read(file)
    assert refusal(make, settings) is None
    for keys, own in leaves(settings, group):
        place = ".".join(key for key in (group, *keys) if isinstance(key, str))
        for value in ("much", math.nan, -1e30, -(10**12)):
            sentence = refusal(make, changed(settings, keys, value))
            if sentence is not None:
                assert place in sentence and "\n" not in sentence, f"{place}={value!r} is refused by: {sentence}"
            if is_number(own):
                legal = not isinstance(value, str) and math.isfinite(value)
                assert legal or sentence is not None, f"{place}={value!r} is taken"
                assert sentence is None or repr(value) in sentence, f"{place}={value!r} is refused by: {sentence}"


def test_there_are_numbers_to_try() -> None:
    options = {
        (case.id, keys): own
        for case in EVERY_FILE
        for group, file in [(str(case.values[0]), Path(str(case.values[1])))]
        for keys, own in leaves(GROUPS[group][0](file), group)
    }
    for group in GROUPS:
        assert sum(is_number(own) for (name, _), own in options.items() if name.startswith(group)) > 0
