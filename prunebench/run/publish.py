"""Put a run into the open store, ``outputs/published``: what others may believe without running it themselves.

A published run was made by a commit of this repository, was measured again from its folder with the same numbers, and
names no place of the machine that it ran on. See :func:`publish`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.config.identity import run_place
from prunebench.core.result import FILE, read_result, sealed
from prunebench.disk import correct
from prunebench.disk.artifacts import load_predictions
from prunebench.disk.atomic import write_text
from prunebench.errors import UserError
from prunebench.nets.package import FOLDER, PLAN
from prunebench.run import runtime
from prunebench.run.anywhere import Places
from prunebench.run.reevaluate import Again, read_config, reevaluate

MAX_BYTES = 200_000  # a run with 37 operating points, each with all measures, has 142,000
"""So much may one run have in the store, all files together."""
PACKAGE = Path(__file__).parents[1]


def publish(
    folder: Path, store: Path, *, data: Path | None = None, declared: str = "", package: Path = PACKAGE
) -> tuple[Path, bool]:
    """Copy what is worth keeping of the run in ``folder`` into ``store``: ``result.json``, ``config.yaml``, the bits.

    Args:
        folder: of a run that ended with numbers. ``store``: usually ``outputs/published``.
        data: the data folder; None = the one of the run.
        declared: in what a run is shorter than its paper's or than its data; it is stored in the result.
        package: the code whose checkout must be clean and hold the commit of the run.

    Returns:
        The folder in the store, and whether it is new: a run that is there already is left alone.

    Raises:
        UserError: the run is not fit to be published; nothing is written then.
    """
    result = read_result(folder)
    _check_whole(result, declared)
    head = _check_code(result, package)
    place = place_of(result)
    target = store / place
    if target.exists():
        _check_same(result, target)
        return target, False
    bits = _bits(folder, result)
    measured = reevaluate(folder, data=data)
    if wrong := [item for item in measured if not item.same]:
        raise UserError(f"measured again it has other numbers: {', '.join(map(_difference, wrong))}")
    places = Places(folder, read_config(folder)["paths"], f"outputs/published/{place.as_posix()}")
    result["published"] = _record(measured, head, declared)
    texts = {
        FILE: json.dumps(sealed(places.result(result), files={}), indent=1, ensure_ascii=False) + "\n",
        "config.yaml": places.text((folder / "config.yaml").read_text(encoding="utf-8")),
    }
    plan = folder / FOLDER / PLAN
    if result.get("row") and plan.exists():  # some papers' counts follow from what was kept alone
        texts[PLAN] = plan.read_text(encoding="utf-8")
    places.check(texts)
    _write(target, texts, bits, result["data"].get("test_labels_sha256"))
    return target, True


def place_of(result: Mapping[str, Any]) -> Path:
    """Where the run lies below the store."""
    names = [result[group]["name"] for group in ("method", "model", "dataset")]
    return run_place(names, result.get("row"), result["run"]["id"], result["run"]["seed"])


def shortened(result: Mapping[str, Any]) -> str | None:
    """In what the run is not the whole one, in words: another than its row, or phases over a part of the data."""
    if changed := (result.get("expected") or {}).get("changed"):
        return f"it has other settings than its row: {', '.join(map(str, changed))}"
    parts = [
        f"{phase['name']} {share:g}"
        for phase in result.get("phases") or []
        if (share := phase.get("settings", {}).get("epoch_share") or 1) < 1
    ]
    return f"its epochs go over a part of the training set: {', '.join(parts)}" if parts else None


def _check_whole(result: Mapping[str, Any], declared: str) -> None:
    if result["status"] == "failed":
        raise UserError("the run failed and has no numbers; only runs that ended with numbers are published")
    if (short := shortened(result)) and not declared:
        raise UserError(f"{short}; run it whole, or say so with --declared '...', which is stored in the result")


def _check_code(result: Mapping[str, Any], package: Path) -> str:
    """The commit of the checkout, after the run's own has been found in its history."""
    here, there = runtime.git_state(package), result["run"].get("git")
    if here is None:
        raise UserError(f"{package.parent} is no git checkout; runs are published from a clone of the repository")
    if here["dirty"]:
        raise UserError(f"{package.parent} has uncommitted changes; commit them, so that it is known what measures")
    if not there:
        raise UserError("the result names no commit: the run was not made from a checkout; make it again from one")
    if there["dirty"]:
        raise UserError("the run was made with uncommitted changes; commit them and make it again")
    if not runtime.in_history(there["commit"], package):
        raise UserError(f"the run was made by commit {there['commit']}, which is not in the history of this checkout")
    return str(here["commit"])


def _check_same(result: Mapping[str, Any], target: Path) -> None:
    if read_result(target)["run"]["started"] != result["run"]["started"]:
        raise UserError(f"{target} holds another execution of this run; remove it first to replace it")


def _bits(folder: Path, result: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Per-example correctness ``[n]``; None for a task that has none.

    Raises:
        UserError: predictions are missing, or are not those of the result.
    """
    final, path = result["metrics"]["final"], folder / "predictions.npz"
    if "correct" not in final:
        return None
    if not path.exists():
        raise UserError(f"{path} is missing; give the whole folder of the run")
    labels, right = load_predictions(path)
    same = correct.labels_sha256(labels) == result["data"]["test_labels_sha256"]
    if not same or len(right) != final["num_samples"] or right.sum() != final["correct"]:
        raise UserError(f"{path} does not belong to the result beside it")
    return right


def _record(measured: list[Again], head: str, declared: str) -> dict[str, Any]:
    again = {item.name: item.now for item in measured}
    return {"commit": head, "measured_again": again, **({"declared": declared} if declared else {})}


def _difference(item: Again) -> str:
    return f"{item.name} {item.now:.9g} instead of {item.stored:.9g}"


def _write(target: Path, texts: dict[str, str], bits: NDArray[np.bool_] | None, labels: str | None) -> None:
    """All files or none: they are written beside ``target``, which appears whole."""
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        if bits is not None:
            correct.write_bits(temporary / correct.FILE, bits, str(labels))
        for name, text in texts.items():
            write_text(temporary / name, text)
        if _size(temporary) > MAX_BYTES:  # deep nets: without the spaces
            compact = json.dumps(json.loads(texts[FILE]), separators=(",", ":"), ensure_ascii=False)
            write_text(temporary / FILE, compact + "\n")
        if (size := _size(temporary)) > MAX_BYTES:
            raise UserError(f"the run has {size:,} bytes; at most {MAX_BYTES:,} may be published")
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
