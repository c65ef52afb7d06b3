"""``result.json``: the contract between a run and everything that reads it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunebench.disk.atomic import plain, read_json, write_json
from prunebench.disk.seal import Damaged, check_files, file_sha256, value_sha256
from prunebench.errors import UserError
from prunebench.measure.metrics import NOTHING, in_order, own_of
from prunebench.measure.stages import STAGES, Stage

log = logging.getLogger("prunebench")
SCHEMA = 1
STATUSES = ("complete", "failed", "missed_target")
FILE = "result.json"
CHECKSUM = "checksum"
"""Field of ``result.json``: SHA-256 of all others."""
MASKED = 0.01
"""A net is called masked if more than this share of its parameters is exactly zero but still there."""
_SIZES = ("macs", "params")
"""Costs of an operating point that the closing table shows."""


def write_result(folder: Path, result: Mapping[str, Any], *, files: Sequence[str] = ()) -> dict[str, Any]:
    """Write ``result.json``, the last file of a run; returns what is in it.

    Args:
        files: what else belongs to the result, paths below ``folder``; it keeps their checksums.
    """
    whole = sealed(result, files={name: file_sha256(folder / name) for name in files})
    write_json(folder / FILE, whole)
    return whole


def sealed(result: Mapping[str, Any], *, files: Mapping[str, str]) -> dict[str, Any]:
    """``result`` as plain data with the checksums of the ``files`` beside it, and its own."""
    whole: dict[str, Any] = plain({key: value for key, value in result.items() if key != CHECKSUM})
    whole["files"] = dict(files)
    return {**whole, CHECKSUM: value_sha256(whole)}


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a run folder, with its schema checked, and its checksum if it has one.

    Raises:
        UserError: there is none, it is broken or was changed, or it has another schema.
    """
    result = read_json(folder / FILE)
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or result.get("status") not in STATUSES:
        raise UserError(f"{folder / FILE} is not a result of schema {SCHEMA}; delete it to run again")
    if CHECKSUM in result and not _is_as_written(result):
        raise UserError(f"{folder / FILE} was changed after it was written: its {CHECKSUM} does not fit; run again")
    return result


def is_complete(folder: Path) -> bool:
    """True if the run in ``folder`` has ended with numbers, and its files are as it has written them.

    ``failed``, interrupted and damaged runs are run again, from their good steps; what is damaged is said.
    """
    if not (folder / FILE).exists():
        return False
    try:
        result = read_result(folder)
        if result["status"] == "failed":
            return False
        if CHECKSUM not in result:
            raise Damaged(f"{folder / FILE} has no {CHECKSUM}")
        check_files(folder, result["files"])
        if (other := _of_another_run(result.get("run", {}), folder)) is not None:
            raise Damaged(f"{folder / FILE} is of {other}: the folder was copied")
    except (UserError, Damaged) as error:
        log.warning("warning: %s; the run goes on from its good steps", error)
        return False
    return True


def _of_another_run(run: Mapping[str, Any], folder: Path) -> str | None:
    """What the result in a run's folder (``<id>/seed_<n>``) belongs to instead; None if it belongs there."""
    seed, run_id = run.get("seed"), run.get("id")
    if not re.fullmatch(r"seed_\d+", folder.name):
        return None
    if seed is not None and folder.name != f"seed_{seed}":
        return f"seed {seed}"
    if run_id is not None and re.fullmatch(r"[0-9a-f]{12}", folder.parent.name) and folder.parent.name != run_id:
        return f"the run {run_id}"
    return None


def _is_as_written(result: Mapping[str, Any]) -> bool:
    return bool(result[CHECKSUM] == value_sha256({key: value for key, value in result.items() if key != CHECKSUM}))


def masked_share(cost: Mapping[str, Any]) -> float:
    """Share of the parameters of a net (``cost.final``) that are zero but still there; 0 below :data:`MASKED`.

    Such a net has fewer connections, but is neither smaller nor faster than a net without zeros.
    """
    params, nonzero = cost.get("params"), cost.get("nonzero_params")
    if not params or nonzero is None or 1 - nonzero / params <= MASKED:
        return 0.0
    return float(1 - nonzero / params)


def removed(cost: Mapping[str, Any]) -> str:
    """What is gone in one line, and loudly what is only masked."""
    text = f"MACs removed {100 * cost['macs_removed']:.2f} %, parameters removed {100 * cost['params_removed']:.2f} %"
    share = masked_share(cost["final"])
    return f"{text}, MASKED: {100 * share:.2f} % of those that are left are zero but still there" if share else text


def in_sessions(run: Mapping[str, Any]) -> str:
    """What stands behind the duration of an interrupted ``run``: of how many sessions it is the sum."""
    sessions = run.get("sessions") or 1
    return f" in {sessions} sessions" if sessions > 1 else ""


def in_integers(result: Mapping[str, Any]) -> list[str]:
    """A line for each net that was measured in integers: its file and its times beside those in float32."""
    times = (result.get("quantized") or {}).get("latency") or {}
    lines = []
    for name, stage in (("dense", "dense_quantized"), ("final", "quantized")):
        if not (facts := result["cost"].get(stage)):
            continue
        whole, small = facts["float32_file_bytes"], facts["file_bytes"]
        parts = [f"file {small / 1000:,.0f} kB of {whole / 1000:,.0f} kB in float32"]
        floats, integers = (times.get(f"{name}_{engine}") or {} for engine in ("onnxruntime", "int8"))
        for batch in (1, 64):
            key = f"batch_{batch}_ms"
            if key in floats and key in integers:
                parts.append(f"batch {batch} {integers[key]:.3g} ms of {floats[key]:.3g} ms in ONNX Runtime")
        lines.append(f"{name} net in int8: {', '.join(parts)}")
    return lines


def shown_stages(result: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Columns of the closing table."""
    measured = result["metrics"]
    return tuple(
        stage
        for stage in STAGES.values()
        if stage.closing == "always" or (stage.closing == "measured" and stage.name in measured)
    )


def summary(result: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Rows of the closing table: a label and a cell for each of ``shown_stages``; percent only here."""
    stages = shown_stages(result)
    reported = (key for stage in stages for key in own_of(result["metrics"].get(stage.name) or {}))
    rows = [
        (metric.heading, [metric.show(metric.of(result, stage.name)) for stage in stages])
        for metric in in_order(reported, "summary")
    ]
    return [(label, cells) for label, cells in rows if any(cell != NOTHING for cell in cells)]


def points_summary(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the second closing table: the operating points of the trained net, each measured like ``final``.

    Points downwards, main metrics across; settings, doubts and what the method reports stay in ``result.json``.
    """
    points = result.get("points") or []
    rows = []
    for metric in in_order((), "summary"):
        if metric.key in _SIZES or (metric.place == "metrics" and not metric.nested):
            values = [metric.within(point.get(metric.place)) for point in points]
            if any(value is not None for value in values):
                rows.append([metric.heading, *map(metric.show, values)])
    head, *body = zip(*[["", *(str(point["name"]) for point in points)], *rows], strict=True)
    return list(head), [list(line) for line in body]
