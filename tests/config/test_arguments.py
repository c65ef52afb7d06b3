"""Values against annotations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from prunebench.config.arguments import fit, fitted, validated
from prunebench.config.ranges import (
    Among,
    FiniteFloat,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    Range,
)
from prunebench.errors import UserError


@dataclass(frozen=True)
class Crop:
    """A group of options."""

    size: NonNegativeInt
    flip: bool = False


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
    gate: PositiveFraction = 1.0,
    scope: Annotated[str, Among(("layer", "global"))] = "layer",
    depths: Sequence[PositiveInt] | None = None,
    crop: Crop | None = None,
    free: Any = None,
) -> None:
    """One option of each kind."""


@pytest.mark.parametrize(
    "given",
    [
        {"share": 1},
        {"share": 0.5, "count": 2, "on": False, "name": "b", "limit": 3, "names": ["a", "b"], "free": object()},
        {"share": 0.5, "table": {"conv": 0.5}, "rank": "full", "mode": "warn"},
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
        ({"share": 1.0, "table": "x"}, "method.table must be a number or a table of numbers, got 'x'"),
        ({"share": 1.0, "table": {"conv": "x"}}, "method.table.conv must be a number, got 'x'"),
        ({"share": 1.0, "limit": []}, "method.limit must be a number or null"),
        ({"share": 1.0, "part": "x"}, r"method.part must be a Part \(a group with _target_\) or null"),
        ({"share": 1.0, "gate": 0}, r"method.gate must be a number in \(0, 1\], got 0"),
        (
            {"share": 1.0, "scope": "gobal"},
            "method.scope must be one of layer, global, got 'gobal'; did you mean global",
        ),
        (
            {"share": 1.0, "depths": [1, 0]},
            r"depths must be a list of whole numbers of at least 1 or null, got \[1, 0\]",
        ),
        ({"share": 1.0, "depths": 10}, "depths must be a list of whole numbers of at least 1 or null, got 10"),
        ({"share": 1.0, "crop": {"size": 0.5}}, "method.crop.size must be a whole number of at least 0, got 0.5"),
        ({"share": 1.0, "crop": {}}, "method.crop.size must be given"),
        ({"share": 1.0, "crop": {"size": 1, "flp": 1}}, "method.crop.flp is unknown; .* did you mean flip"),
        ({"share": 1.0, "nam": "x"}, "method.nam is unknown; .* did you mean name"),
    ],
)
def test_what_does_not_fit_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fitted(target, given, where="method")


@pytest.mark.parametrize(
    ("hint", "inside", "outside", "allowed"),
    [
        (PositiveInt, [1, 10**9, 2**63 - 1], [0, -1, 1.0, True, None], "a whole number of at least 1"),
        (NonNegativeInt, [0, 7], [-1, 0.0], "a whole number of at least 0"),
        (FiniteFloat, [-1e300, 0, 1.5], [math.inf, -math.inf, math.nan], "a number"),
        (PositiveFloat, [1e-300, 1], [0, -0.0, math.inf], "a number above 0"),
        (NonNegativeFloat, [0, -0.0], [-1e-300, math.inf], "a number of at least 0"),
        (Fraction, [0, 1], [-0.1, 1.1, math.nan], "a number in [0, 1]"),
        (FractionBelowOne, [0, 0.999], [1, -1], "a number in [0, 1)"),
        (PositiveFraction, [1, 0.1], [0, 2], "a number in (0, 1]"),
        (OpenFraction, [0.5], [0, 1], "a number in (0, 1)"),
        (Annotated[int, Range(low=10, high=20)], [10, 20], [9, 21], "a whole number in [10, 20]"),
        (Annotated[float, Range(high=3, meaning="nats")], [-9, 3], [3.1], "a number of at most 3 (nats)"),
        (Annotated[float, Range(below=3)], [-9, 2.9], [3], "a number below 3"),
        (Annotated[int, Among((1, 2))], [1, 2], [0, 3, True, "1"], "one of 1, 2"),
    ],
)
def test_a_range_and_its_words(hint: Any, inside: list[Any], outside: list[Any], allowed: str) -> None:
    for value in inside:
        assert fit(value, hint, "key") is value
    for value in outside:
        with pytest.raises(UserError) as refused:
            fit(value, hint, "key")
        assert str(refused.value) == f"key must be {allowed}, got {value!r}"


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(UserError, match=r"^key must be a number, got 10{199}…; whole numbers have 64 bits$"):
        fit(10**400, FiniteFloat, "key")


@pytest.mark.parametrize("hint", [int, float, PositiveInt, FiniteFloat], ids=str)
def test_whole_numbers_are_those_of_torch(hint: Any) -> None:
    assert fit(2**63 - 1, hint, "key") == 2**63 - 1
    for value in (2**63, -(2**63) - 1):
        with pytest.raises(UserError, match=f"got {value}; whole numbers have 64 bits"):
            fit(value, hint, "key")


def test_a_table_becomes_the_dataclass_it_stands_for() -> None:
    assert fitted(target, {"share": 1.0, "crop": {"size": 4}}, where="dataset")["crop"] == Crop(4)
    assert fitted(target, {"share": 1.0, "crop": Crop(4)}, where="dataset")["crop"] == Crop(4)


class Parent:
    def __init__(self, *, width: PositiveInt, depth: PositiveInt = 1) -> None:
        self.size = (width, depth)


class Child(Parent):
    def __init__(self, *, name: str, **rest: Any) -> None:
        super().__init__(width=3, **rest)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "a", "depth": 0}, "model.depth must be a whole number of at least 1, got 0"),
        ({"name": "a", "deph": 1}, "model.deph is unknown; it can be name, width, depth; did you mean depth"),
        ({}, "model.name must be given"),  # and nothing about the width, which the class itself gives
    ],
)
def test_a_constructor_passes_the_rest_on_to_its_parent(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        fitted(Child, given, where="model")
    assert Child(**fitted(Child, {"name": "a", "depth": 2}, where="model")).size == (3, 2)


if TYPE_CHECKING:
    from prunebench.config.ranges import Nothing as Thing  # type: ignore[attr-defined]


def foreign(*, thing: Thing, width: int) -> None:
    """A function with a name that only type checkers import."""


def test_annotations_that_cannot_be_evaluated_are_not_checked() -> None:
    given = {"thing": 1, "width": "wide"}
    assert fitted(foreign, given, where="model") == given


@validated
@dataclass(frozen=True)
class Checked:
    share: Fraction = 0.0
    num: int = 1


@validated
def shared(share: Fraction, *rest: float, num: PositiveInt = 1, **more: Any) -> tuple[Any, ...]:
    """A function."""
    return share, rest, num, more


@pytest.mark.parametrize("call", [Checked, shared])
def test_direct_calls_are_checked_too(call: Callable[..., Any]) -> None:
    for arguments, named in (((2,), {}), ((), {"share": 2})):
        with pytest.raises(UserError, match=r"^share must be a number in \[0, 1\], got 2$"):
            call(*arguments, **named)


def test_what_is_checked_is_called_as_before() -> None:
    assert Checked(0.5) == Checked(share=0.5, num=1)
    assert shared(0.5, 7.0, num=2, free="x") == (0.5, (7.0,), 2, {"free": "x"})
    assert (shared.__name__, shared.__doc__) == ("shared", "A function.")
