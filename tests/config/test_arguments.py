"""Values against annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from prunebench.config.arguments import fitted
from prunebench.errors import UserError


class Part:
    """Something that a configuration builds."""


def target(
    *,
    share: float,
    count: int = 1,
    on: bool = True,
    name: str = "a",
    mode: bool | str = True,
    rank: int | str = 1,
    limit: float | None = None,
    names: Sequence[str] = (),
    table: float | Mapping[str, float] = 0.0,
    part: Part | None = None,
    free: Any = None,
) -> None:
    """One option of each kind."""


@pytest.mark.parametrize(
    "given",
    [
        {"share": 1},
        {"share": 0.5, "count": 2, "on": False, "name": "b", "limit": 3, "names": ["a", "b"], "free": object()},
        {"share": 0.5, "table": {"conv": 0.5}, "rank": "full", "mode": "warn", "part": {"_target_": "some.thing"}},
        {"share": 0.5, "part": Part(), "limit": None, "names": ()},
    ],
)
def test_what_fits_is_passed_on(given: dict[str, Any]) -> None:
    assert fitted(target, given, where="method") == given


def test_a_number_becomes_text_where_text_is_wanted() -> None:
    assert fitted(target, {"share": 1.0, "name": 2012, "rank": 3}, where="dataset") == {
        "share": 1.0,
        "name": "2012",
        "rank": 3,
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "method.share must be given"),
        ({"share": "half"}, "method.share must be a number, got 'half'"),
        ({"share": True}, "method.share must be a number, got True"),
        ({"share": float("nan")}, "method.share must be a number, got nan"),
        ({"share": 1.0, "count": 1.5}, "method.count must be a whole number, got 1.5"),
        ({"share": 1.0, "on": 1}, "method.on must be true or false, got 1"),
        ({"share": 1.0, "name": None}, "method.name must be text, got None"),
        ({"share": 1.0, "names": "abc"}, "method.names must be a list of texts, got 'abc'"),
        ({"share": 1.0, "names": [1]}, "method.names must be a list of texts"),
        ({"share": 1.0, "table": {"conv": "x"}}, "method.table must be a number or a table of numbers"),
        ({"share": 1.0, "limit": []}, "method.limit must be a number or null"),
        ({"share": 1.0, "part": "x"}, "method.part must be a group with _target_ or null"),
        ({"share": 1.0, "nam": "x"}, "method.nam is unknown; .* did you mean name"),
    ],
)
def test_what_does_not_fit_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fitted(target, given, where="method")
