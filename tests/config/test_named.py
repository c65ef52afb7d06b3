"""From a dotted path and settings to an object."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from prunebench.config import named
from prunebench.config.groups import FROM_DATA, NOT_ARGUMENTS
from prunebench.errors import UserError

CODE = """
from __future__ import annotations
import torch
from torch import nn

CALLED = []

class Part:
    def __init__(self, *, size: int = 1) -> None:
        CALLED.append(size)
        self.size = size

class Whole:
    def __init__(self, *, part: Part, share: float = 0.5) -> None:
        self.part, self.share = part, share

class Net(nn.Linear):
    def __init__(self, *, width: int, inner: nn.Module | None = None) -> None:
        super().__init__(2, width)
        self.inner = inner

def broken() -> nn.Module:
    raise RuntimeError("no such weights")

def silent() -> nn.Module:
    assert False

def leaves() -> nn.Module:
    raise SystemExit(0)

def no_net(**anything: object) -> int:
    return 5
"""
MODULES = {"raising": "raise RuntimeError('no GPU')", "leaving": "raise SystemExit(0)", "wrong": "def ("}
PART = {"_target_": "some_code.Part", "size": 3}


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "some_code.py"
    path.write_text(CODE)
    for name, source in (
        ("raising", "raise RuntimeError('no GPU')"),
        ("leaving", "raise SystemExit(0)"),
        ("wrong", "def ("),
    ):
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_code", raising=False)
    return path


def test_values_with_a_target_are_built_first() -> None:
    whole = named.build("method", {"_target_": "some_code.Whole", "part": PART, "share": 1})
    assert (whole.part.size, whole.share) == (3, 1)


def test_keys_that_are_no_arguments_stay_out() -> None:
    for group, keys in NOT_ARGUMENTS.items():
        settings = {"_target_": "some_code.no_net", **dict.fromkeys(keys, "x"), "width": 2}
        assert named.arguments(group, settings) == {"width": 2}


def test_facts_of_the_data_set_go_to_nets_that_take_them() -> None:
    facts = dict.fromkeys(FROM_DATA["model"], 3)
    assert named.arguments("model", {"_target_": "some_code.Net", **facts, "width": 2}) == {"width": 2}
    settings = {"_target_": "prunebench.models.lenet.lenet5", **facts}
    assert named.arguments("model", settings) == facts
    assert named.arguments("model", {"_target_": "some_code.no_net", **facts}) == facts  # takes anything
    # a misspelt key is not lost on the way
    with pytest.raises(UserError, match=r"^model\.widht is unknown; it can be width, inner; did you mean width\?$"):
        named.build("model", {"_target_": "some_code.Net", **facts, "widht": 2}, expects=nn.Module)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"share": 1}, r"^method\._target_ must be given$"),
        ({"_target_": "Whole"}, r"^'Whole' is no dotted path like package\.module\.function$"),
        ({"_target_": "some_cod.Whole"}, "^some_cod, which builds method, cannot be imported .*; install it"),
        ({"_target_": "some_code.Whol"}, r"^some_code has no function or class 'Whol'; did you mean Whole\?$"),
        ({"_target_": "some_code.CALLED"}, "^some_code has no function or class 'CALLED'"),
        ({"_target_": "some_code.Whole"}, r"^method\.part must be given$"),
        ({"_target_": "some_code.Whole", "part": 3}, r"^method\.part must be a Part \(a group with _target_\), got 3$"),
        (
            {"_target_": "some_code.Whole", "part": {**PART, "size": "big"}},
            r"^method\.part\.size must be a whole number, got 'big'$",
        ),
        ({"_target_": "some_code.Whole", "part": PART, "share": "x"}, r"^method\.share must be a number, got 'x'$"),
        (
            {"_target_": "some_code.broken", "name": "mine"},
            r"^method=mine cannot be built: no such weights \(.*some_code\.py:\d+\)$",
        ),
        ({"_target_": "some_code.silent"}, r"^method=some_code\.silent cannot be built: AssertionError \(.*\)$"),
        ({"_target_": "some_code.leaves"}, r"^method=some_code\.leaves cannot be built: SystemExit \(.*\)$"),
        (
            {"_target_": "raising.net"},
            r"^raising, which builds method, cannot be imported: no GPU \(.*raising\.py:1\)$",
        ),
        ({"_target_": "leaving.net"}, r"^leaving, which builds method, cannot be imported: SystemExit \(.*:1\)$"),
        ({"_target_": "wrong.net"}, r"^wrong, which builds method, cannot be imported: invalid syntax .*$"),
        ({"_target_": "some_code.silent", "size": 1}, r"^method\.size is unknown; method has no options$"),
        ({"_target_": "some_code.no_net"}, r"^some_code\.no_net gave a int, not a torch\.nn\.Module$"),
    ],
)
def test_each_mistake_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        named.build("method", settings, expects=nn.Module)


def test_without_trust_nothing_is_called_that_is_not_on_the_list() -> None:
    """A module that is not on it is not even imported; what is nested in something that is on it counts too."""
    assert isinstance(
        named.build("model", {"_target_": "torch.nn.Identity"}, expects=nn.Module, trust=False), nn.Module
    )
    for settings in (PART, {"_target_": "some_code.Net", "width": 2}, {"_target_": "torch.nn.Identity", "part": PART}):
        with pytest.raises(UserError, match=r"^some_code\.\w+ is not called for model"):
            named.build("model", settings, expects=nn.Module, trust=False)
    assert "some_code" not in sys.modules
