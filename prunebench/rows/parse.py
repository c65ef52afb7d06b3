"""Rows from the plain content of their file: every key checked, recipes unfolded, links followed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from prunebench.config.arguments import fit
from prunebench.config.ranges import Range
from prunebench.errors import UserError
from prunebench.measure.metrics import METRICS
from prunebench.measure.stages import STAGES
from prunebench.rows import fields
from prunebench.rows.conventions import CONVENTIONS
from prunebench.rows.fields import FIELDS
from prunebench.rows.row import Paper, Row

PAPER_KEYS = (
    "title", "authors", "venue", "arxiv", "code", "convention", "tolerance", "provenance", "selection", "pending",
    "deviations", "phases", "recipes", "rows",
)  # fmt: skip
PROVENANCE = ("source", "confidence", "url", "file", "verified", "digitised")
COMMON_KEYS = ("reported", "printed", "misprints", "overrides", "deviations", "macs_note", "pending", "note")
ARM_KEYS = (*PROVENANCE, *COMMON_KEYS)
ROW_KEYS = (
    "id", "table", "dataset", "model", "setting", "kind", "convention", "tolerance", "recomputed", "baseline",
    "same_as", "at", "measured", "hyperparameters", "config", "selection", "arms", *ARM_KEYS,
)  # fmt: skip
DEVIATIONS = ("paper", "official_code", "ours")
# a row names a folder of runs, see identity.slug
MAX_NAME = 60

Recipes = Callable[[str], Mapping[str, Any] | None]
"""Name of a recipe, of the same file or ``<paper>/<recipe>`` -> its overrides; None if there is none."""


def build_paper(name: str, content: Any, recipes: Recipes) -> Paper:
    """A paper from the plain content of its file.

    Args:
        name: of the file, without suffix.
        content: what the file says.
        recipes: finds the overrides that rows may name.

    Raises:
        UserError: names the file, the row and what is wrong.
    """
    found = fields.mapping(content, name)
    needed = ("title", "authors", "venue", "convention", "tolerance", "deviations", "rows")
    fields.known_keys(found, PAPER_KEYS, name, needed=needed)
    fields.text(found["convention"], f"{name}.convention", allowed=CONVENTIONS)
    _tolerance(found["tolerance"], name)
    deviations = _deviations(found["deviations"], name)
    if not isinstance(found["rows"], list) or not found["rows"]:
        raise UserError(f"{name}.rows must be a list of rows")
    rows = [_row(item, name, found, recipes) for item in found["rows"]]
    by_id = {row.id: row for row in rows}
    if len(by_id) < len(rows):
        twice = sorted({row.id for row in rows if sum(other.id == row.id for other in rows) > 1})
        raise UserError(f"{name}: the id {twice[0]} names two rows")
    return Paper(
        name=name,
        title=fields.text(found["title"], f"{name}.title"),
        authors=fields.text(found["authors"], f"{name}.authors"),
        venue=fields.text(found["venue"], f"{name}.venue"),
        arxiv=found.get("arxiv"),
        code=found.get("code"),
        convention=found["convention"],
        tolerance=found["tolerance"],
        deviations=deviations,
        rows=tuple(_linked(row, by_id) for row in rows),
    )


def _row(item: Any, paper: str, head: Mapping[str, Any], recipes: Recipes) -> Row:
    found = fields.mapping(item, f"{paper}.rows")
    where = f"{paper}-{found.get('id', '?')}"
    fields.known_keys(found, ROW_KEYS, where, needed=("id", "table", "kind"))
    if not re.fullmatch(r"[a-z0-9_]+", fields.text(found["id"], f"{where}.id")):
        raise UserError(f"{where}.id must be of lower-case letters, digits and _, since it names files")
    fields.text(found["kind"], f"{where}.kind", allowed=fields.KINDS)
    row = Row(
        paper=paper,
        id=found["id"],
        table=fields.text(found["table"], f"{where}.table"),
        kind=found["kind"],
        convention=fields.text(found.get("convention", head["convention"]), f"{where}.convention", allowed=CONVENTIONS),
        tolerance=_tolerance(found.get("tolerance", head["tolerance"]), where),
        dataset=_names(found.get("dataset"), f"{where}.dataset"),
        model=_names(found.get("model"), f"{where}.model"),
        setting=found.get("setting", ""),
        recomputed=fields.values(found.get("recomputed"), f"{where}.recomputed"),
        at=fields.mapping(found.get("at"), f"{where}.at"),
        hyperparameters=fields.mapping(found.get("hyperparameters"), f"{where}.hyperparameters"),
        config=found.get("config"),
        baseline=found.get("baseline"),
        same_as=found.get("same_as"),
        measured=_measured(found.get("measured"), where),
        selection=_selection(found.get("selection", head.get("selection")), where),
        **_provenance(found, head, where),
        **_run(found, where, head, recipes, deviations=_deviations(head["deviations"], paper)),
    )
    arms = fields.mapping(found.get("arms"), f"{where}.arms")
    return replace(row, arms=tuple(_arm(row, name, arm, head, recipes) for name, arm in arms.items()))


def _provenance(found: Mapping[str, Any], head: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Where the values are from: the row's own words, or else those of its file."""
    own = {key: found[key] for key in PROVENANCE if key in found}
    result = own if "source" in own else {**fields.mapping(head.get("provenance"), f"{where}.provenance"), **own}
    fields.text(result.get("source"), f"{where}.source", allowed=fields.SOURCES)
    if (result["source"] == "recall") != ("confidence" in result):
        raise UserError(
            f"{where}: source=recall goes with a confidence ({', '.join(fields.CONFIDENCES)}), others without"
        )
    if "confidence" in result:
        fields.text(result["confidence"], f"{where}.confidence", allowed=fields.CONFIDENCES)
    return result


def _arm(row: Row, name: str, item: Any, head: Mapping[str, Any], recipes: Recipes) -> Row:
    """An arm: the row with the arm's own values and overrides on top."""
    where = f"{row.name}-{name}"
    found = fields.mapping(item, where)
    fields.known_keys(found, ARM_KEYS, where)
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise UserError(f"{where}: an arm's name must be of lower-case letters, digits and _, since it names files")
    own = _run(found, where, head, recipes, deviations=row.deviations)
    if own["overrides"] is not None or row.overrides is not None:
        own["overrides"] = _merge([row.overrides or {}, own["overrides"] or {}])
        own["pending"] = None
    if "pending" in found or ("overrides" not in found and row.pending):
        own["overrides"], own["pending"] = None, found.get("pending", row.pending)
    for key in ("macs_note", "note"):
        own[key] = own[key] or getattr(row, key)
    for key in ("reported", "printed", "misprints"):
        own[key] = {**getattr(row, key), **own[key]}
    if "source" in found:  # an arm's own provenance replaces the line's as a whole
        nothing = {"confidence": None, "url": None, "file": None, "verified": None, "digitised": False}
        own |= nothing | _provenance(found, head, where)
    return replace(row, arm=name, **own)


def _run(
    found: Mapping[str, Any], where: str, head: Mapping[str, Any], recipes: Recipes, *, deviations: Any
) -> dict[str, Any]:
    """The fields that a row and an arm have in common."""
    overrides, pending = None, found.get("pending")
    if found.get("overrides") is not None:
        given = dict(fields.mapping(found["overrides"], f"{where}.overrides"))
        used = given.pop("use", [])
        names = [used] if isinstance(used, str) else used
        overrides = _merge([*(_recipe(name, recipes, where) for name in names), given])
        if pending is not None:
            raise UserError(f"{where} has overrides and pending; leave out one of them")
    elif found.get("kind") == "quoted":
        pending = pending or "it is another method's number, quoted in the paper"
    elif "kind" in found:
        pending = pending or head.get("pending")
        if pending is None:
            raise UserError(f"{where} has neither overrides nor a reason in pending")
    return {
        "reported": fields.values(found.get("reported"), f"{where}.reported"),
        "printed": fields.values(found.get("printed"), f"{where}.printed"),
        "misprints": _texts(found.get("misprints"), f"{where}.misprints", known=FIELDS),
        "overrides": overrides,
        "pending": pending,
        "deviations": {**deviations, **_deviations(found.get("deviations"), where)},
        "macs_note": found.get("macs_note"),
        "note": found.get("note"),
    }


def _linked(row: Row, by_id: Mapping[str, Row]) -> Row:
    """``row`` with the values of its dense net, its data set and net among the overrides, and its name checked."""
    if row.baseline is not None and row.baseline not in by_id:
        raise UserError(f"{row.name}: there is no row {row.baseline} for its baseline")
    dense = by_id[row.baseline].reported if row.baseline else {}
    for part in (row, *row.arms):
        if len(part.name) > MAX_NAME:
            raise UserError(f"{part.name} is longer than {MAX_NAME} characters, too long for a folder")
    ready = [replace(part, dense=dense, overrides=_with_groups(part)) for part in (row, *row.arms)]
    return replace(ready[0], arms=tuple(ready[1:]))


def _with_groups(row: Row) -> Mapping[str, Any] | None:
    if row.overrides is None or (row.arms and "schedule" not in row.overrides):
        return None
    if not isinstance(row.dataset, str) or not isinstance(row.model, str):
        raise UserError(f"{row.name} has overrides, so it needs one dataset and one model")
    for group in ("method", "schedule"):
        fields.text(row.overrides.get(group), f"{row.name}.overrides.{group}")
    return {"dataset": row.dataset, "model": row.model, **row.overrides}


def _recipe(name: str, recipes: Recipes, where: str) -> dict[str, Any]:
    found = recipes(name)
    if found is None:
        raise UserError(f"{where} uses the recipe {name}, which does not exist")
    return fields.mapping(found, f"{where}: recipe {name}")


def _merge(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Later overrides win; mappings under the same key are joined."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            result[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _names(found: Any, where: str) -> str | tuple[str, ...] | None:
    if isinstance(found, list):
        return tuple(fields.text(name, where) for name in found)
    return None if found is None else fields.text(found, where)


def _deviations(found: Any, where: str) -> dict[str, str]:
    return _texts(found, f"{where}.deviations", known=DEVIATIONS)


def _texts(found: Any, where: str, *, known: Collection[str]) -> dict[str, str]:
    result = fields.mapping(found, where)
    fields.known_keys(result, known, where)
    return {key: fields.text(value, f"{where}.{key}") for key, value in result.items()}


def _selection(found: Any, where: str) -> str | None:
    return None if found is None else fields.text(found, f"{where}.selection", allowed=fields.SELECTIONS)


def _measured(found: Any, where: str) -> dict[str, str]:
    values = _texts(found or {}, f"{where}.measured", known=[metric.key for metric in METRICS.values()])
    for name, value in values.items():
        stage, _, key = value.partition(".")
        if stage not in STAGES or not key:
            allowed = ", ".join(STAGES)
            raise UserError(f"{where}.measured.{name} must be <stage>.<value>, a stage of {allowed}; got {value}")
    return values


def _tolerance(found: Any, where: str) -> float:
    allowed = Annotated[float, Range(above=0, below=0.1, meaning="an accuracy difference")]
    return float(fit(found, allowed, f"{where}.tolerance"))
