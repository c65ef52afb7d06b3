"""What a ``result.json`` must look like before a report computes with it: somebody else may have written it.

A result that is not so is listed with the reason, so that the rest of the report need not doubt what it reads.
"""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from prunebench.config.arguments import fit
from prunebench.config.ranges import FiniteFloat, Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, Range
from prunebench.errors import UserError
from prunebench.report.untrusted import short

MAX_BYTES = 1 << 26
"""Of one file; a result with the cost of each layer of ResNet-152 has 200,000."""
MAX_DEPTH = 40
"""Objects and lists inside each other."""
MAX_NAME = 100
"""Letters of a name or a key: file names, columns and labels are made of them."""
MAX_NUMBER = 1e18
"""More than any count: what is larger could be no axis and no sum."""

NAMES = ("run.id", "method.name", "model.name", "dataset.name", "schedule.name", "row")
_Table = Mapping[str, Any]
_Epochs = Annotated[int, Range(low=0, high=100_000)]
_Signed = Annotated[float, Range(low=-1, high=1)]
_Size = NonNegativeFloat

NEEDED: Mapping[str, Any] = {
    "run": _Table,
    "run.seed": int,
    **dict.fromkeys(("method", "model", "dataset", "schedule"), _Table),
    **dict.fromkeys(NAMES[:-1], str),
}
MEASURED: Mapping[str, Any] = {
    **{f"cost.{stage}": _Table for stage in ("dense", "final")},
    **{f"cost.dense.{size}": PositiveFloat for size in ("macs", "params")},
    **{f"cost.final.{size}": _Size for size in ("macs", "params")},
}
"""Of every run that ended with numbers."""
OPTIONAL: Mapping[str, Any] = {
    **dict.fromkeys(("error", "traceback", "row", "run.command", "run.started", "run.finished"), str),
    **dict.fromkeys(("run.git", "run.versions", "run.hardware", "teacher", "trainer"), _Table),
    **dict.fromkeys(("expected", "budget", "data"), _Table),
    **dict.fromkeys(("metrics", "cost", "latency", "latency.speedup", "equivalence", "guarantee"), _Table),
    **{f"{group}.settings": _Table for group in ("method", "model", "dataset", "schedule")},
    "run.seconds": _Size,
    "run.sessions": NonNegativeInt,
    "equivalence.max_abs_diff": _Size,
    "model.pretrained": _Table,
    "model.pretrained.sha256": str,
    "expected.changed": Sequence[str],
    "expected.source": str,
    "expected.reported": _Table,
    **{f"budget.{size}": PositiveFloat for size in ("weights", "weights_live", "gated_params", "gated_units")},
    "budget.kept_params": _Size,
    "budget.kept_units": _Size,
    "data.name": str,
    **{f"data.{count}": NonNegativeInt for count in ("num_train", "num_val", "num_test", "num_classes")},
    "data.test_labels_sha256": str,
    "latency.device": str,
    "latency.device_name": str,
    "latency.threads": NonNegativeInt,
    "guarantee.accuracy_interval_95": Sequence[Fraction],
    "guarantee.test_evaluations": Annotated[int, Range(low=1, high=MAX_NUMBER)],
    **{f"guarantee.{text}": str for text in ("selection", "objective", "level")},
    "guarantee.missing": Sequence[str],
    "guarantee.num_seeds": NonNegativeInt,
    "guarantee.against": _Table,
    **dict.fromkeys(("cost.final.per_sample", "cost.final.per_sample.histogram"), _Table),
    **{f"cost.final.per_sample.{size}": _Size for size in ("mean", "sd", "min", "max", "num_samples")},
    **{f"cost.final.per_sample.histogram.{part}": Sequence[NonNegativeFloat] for part in ("edges", "counts")},
    "cost.per_layer": Sequence[_Table],
    **{f"cost.per_layer[].{text}": str for text in ("layer", "kind")},
    **{f"cost.per_layer[].{size}": NonNegativeInt for size in ("in_channels", "out_channels", "dense_out_channels")},
    **{f"cost.per_layer[].{size}": _Size for size in ("macs", "params")},
    "not_pruned": Sequence[_Table],
    **{f"not_pruned[].{text}": str for text in ("layer", "reason")},
    "phases": Sequence[_Table],
    "phases[].name": str,
    **{f"phases[].{epoch}": _Epochs for epoch in ("epochs", "best_epoch", "selected_epoch")},
    **{f"phases[].{size}": _Size for size in ("seconds", "train_macs")},
    "phases[].settings": _Table,
    "phases[].settings.epochs": _Epochs,
    "phases[].lr": Sequence[FiniteFloat],
}
"""Of every run, where it is there and not null."""
AGAINST: Mapping[str, Any] = {
    **dict.fromkeys(("b", "c"), NonNegativeInt),
    "p": Fraction,
    "difference": _Signed,
    "interval_95": Sequence[FiniteFloat],
    "noninferior": bool,
}
"""Of ``guarantee.against``."""
_PAIRS = ("guarantee.accuracy_interval_95", "guarantee.against.interval_95")


def check(result: Mapping[str, Any]) -> None:
    """Raise what is wrong with ``result`` (schema 1, status checked).

    Raises:
        UserError: a value is no plain text or number, a field is missing, or it is not what it should be.
    """
    if not _is_plain(result, MAX_DEPTH):
        _check_plain(result, "", MAX_DEPTH)
    _check_fields(result, _tree(), "")
    for path in (*NEEDED, *(MEASURED if result["status"] != "failed" else ())):
        _check_there(result, path)
    if (result.get("guarantee") or {}).get("against") is not None:
        for name in AGAINST:
            _check_there(result, f"guarantee.against.{name}")
    for path in NAMES:
        for value in found(result, path):
            _check_name(path, value)
    for path in _PAIRS:
        for value in found(result, path):
            if len(value) != 2 or value[0] > value[1]:
                raise UserError(f"{path} is {short(value)}, not [low, high]")


def found(result: Any, path: str) -> Iterator[Any]:
    """The values at ``path`` that are there: of ``a[].b`` one for each item of ``a``; null is absent."""
    head, _, rest = path.partition(".")
    inner = result.get(head.removesuffix("[]"))
    for value in (inner or ()) if head.endswith("[]") else (inner,):
        if value is None:
            continue
        if not rest:
            yield value
        elif isinstance(value, Mapping):
            yield from found(value, rest)


def _check_there(result: Mapping[str, Any], path: str) -> None:
    if next(found(result, path), None) is None:
        raise UserError(f"{path} is missing")


class _Field(NamedTuple):
    """What a value must be, a quick test of it, and the fields inside of it, or (``many``) of each of its items."""

    hint: Any
    fits: Callable[[Any], bool]
    inside: dict[str, _Field]
    many: bool


_ANY = _Field(Any, lambda value: True, {}, False)


@functools.cache
def _tree() -> dict[str, _Field]:
    """All fields by the words of their paths, so that a result is walked through once."""
    tree: dict[str, _Field] = {}
    against = {f"guarantee.against.{name}": hint for name, hint in AGAINST.items()}
    hints = {**NEEDED, **MEASURED, **OPTIONAL, **against}
    for path, hint in hints.items():
        *above, last = path.split(".")
        level = tree
        for word in above:
            key = word.removesuffix("[]")
            level[key] = level.get(key, _ANY._replace(inside={}))._replace(many=word.endswith("[]"))
            level = level[key].inside
        level[last] = level.get(last, _ANY._replace(inside={}))._replace(hint=hint, fits=_quick(hint))
    return tree


def _check_fields(values: Mapping[str, Any], fields: Mapping[str, _Field], above: str) -> None:
    for key, (hint, fits, inside, many) in fields.items():
        value = values.get(key)
        if value is None:
            continue
        if not fits(value):
            _refuse(value, hint, f"{above}{key}")
        if inside:
            inner = f"{above}{key}{'[]' if many else ''}."
            for item in value if many else (value,):
                if isinstance(item, dict):
                    _check_fields(item, inside, inner)


def _refuse(value: Any, hint: Any, path: str) -> None:
    """Say what is wrong with ``value``, if something is."""
    fit(value, hint, path)
    if hint is str and not isinstance(value, str):
        raise UserError(f"{path} must be text, got {short(value)}")


def _quick(hint: Any) -> Callable[[Any], bool]:
    """A test that no wrong value passes; whether one that fails it is wrong says :func:`_refuse`, which is slower."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (str, bool):
        return lambda value: type(value) is hint
    if hint == _Table:
        return lambda value: type(value) is dict
    if hint is int:
        return lambda value: type(value) is int
    if origin is Annotated and inner[0] in (int, float):
        kinds, limit = (int,) if inner[0] is int else (int, float), inner[1]
        low, high = max(limit.low, -MAX_NUMBER), min(limit.high, MAX_NUMBER)
        if limit.above == -limit.below == -math.inf:
            return lambda value: type(value) in kinds and low <= value <= high
        return lambda value: type(value) in kinds and value in limit
    if origin is Sequence:
        item = _quick(inner[0])
        return lambda value: type(value) is list and all(map(item, value))
    return lambda value: False


def _check_name(path: str, value: str) -> None:
    if not (value and len(value) <= MAX_NAME and value.isprintable()):
        raise UserError(f"{path} is {short(value)}, not a name of at most {MAX_NAME} printed letters")


def _is_plain(value: Any, depth: int) -> bool:
    """A test that only what :func:`_check_plain` accepts passes, in a third of its time: a result has 1,000 values."""
    kind = type(value)
    if kind is dict:
        if not all(key.isascii() and len(key) <= MAX_NAME for key in value):
            return False
        value = value.values()
    elif kind is not list:
        return kind is bool or value is None
    if not depth:
        return False
    for item in value:
        kind = type(item)
        if kind is str:
            if not item.isascii():
                return False
        elif kind is float or kind is int:
            if not -MAX_NUMBER <= item <= MAX_NUMBER:
                return False
        elif not _is_plain(item, depth - 1):
            return False
    return True


def _check_plain(value: Any, path: str, depth: int) -> None:
    """Numbers that are finite and no larger than :data:`MAX_NUMBER`, texts that can be written, not too deep."""
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:  # true of NaN
        raise UserError(f"{path} is {_shown(value)}, not a number up to {MAX_NUMBER:g}")
    elif isinstance(value, Mapping | list) and not depth:
        raise UserError(f"{path} lies in more than {MAX_DEPTH} objects and lists")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_text(key, path)
            if len(key) > MAX_NAME and not path.endswith("settings"):
                raise UserError(f"{path} has a key of {len(key)} letters, more than {MAX_NAME}")
            _check_plain(item, f"{path}.{key}" if path else key, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, path, depth - 1)


def _check_text(value: str, path: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{path or 'a key'} holds {ascii(value)[:60]}, half of a character") from None


def _shown(value: float) -> str:
    """Without the digits of a number that has thousands of them."""
    return f"{value}" if isinstance(value, float) or abs(value) < 1e300 else f"a number of {_digits(value)} digits"


def _digits(value: int) -> int:
    return math.ceil(abs(value).bit_length() * math.log10(2))
