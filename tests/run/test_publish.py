"""The open store takes what can be believed, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunebench.core.result import read_result, write_result
from prunebench.disk.correct import read_bits
from prunebench.errors import UserError
from prunebench.run import publish as module
from prunebench.run.anywhere import Places
from prunebench.run.publish import MAX_BYTES, publish
from prunebench.run.runtime import git_state, in_history
from tests.kit import SHORT, run

ROOT = Path(__file__).resolve().parents[2]
NET = (*SHORT, "model=lenet300_100", "dataset.epochs.train=1", "dataset.epochs.finetune=1", "method.prune_ratio=0.5")


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package in a clean checkout with two commits."""
    package = tmp_path / "checkout" / "prunebench"
    package.mkdir(parents=True)
    git(package.parent, "init", "-q")
    for number in range(2):
        (package / "x.py").write_text(f"x = {number}\n")
        git(package.parent, "add", ".")
        git(package.parent, "commit", "-qm", str(number))
    return package


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"), *NET)[1]


Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def made(finished: Path, tmp_path: Path, code: Path) -> Callable[..., Path]:
    """A copy of the run, made by the checkout's first commit; its result may be edited."""

    def make(edit: Edit = lambda result: None, name: str = "copy") -> Path:
        folder = shutil.copytree(finished, tmp_path / name, ignore=shutil.ignore_patterns("phases", "stored"))
        result = read_result(folder)
        result["run"]["git"] = {"commit": git(code, "rev-parse", "HEAD~1"), "dirty": False}
        edit(result)
        write_result(folder, result)
        return Path(folder)

    return make


def test_a_run_is_published_with_its_numbers_and_bits(made: Callable[..., Path], tmp_path: Path, code: Path) -> None:
    folder, store = made(), tmp_path / "store"
    target, new = publish(folder, store, package=code)
    assert new and publish(folder, store, package=code) == (target, False)
    result, before = read_result(target), read_result(folder)
    assert target == store / "fpgm-lenet300_100-digits" / before["run"]["id"] / "seed_0"
    for part in ("metrics", "cost", "data", "guarantee", "method", "phases"):
        assert result[part] == before[part]
    assert result["published"]["commit"] == git(code, "rev-parse", "HEAD")
    assert result["published"]["measured_again"]["accuracy"] == before["metrics"]["final"]["accuracy"]
    assert sorted(path.name for path in target.iterdir()) == ["config.yaml", "correct.npz", "result.json"]
    correct, labels = read_bits(target / "correct.npz")
    with np.load(folder / "predictions.npz") as arrays:
        assert np.array_equal(correct, arrays["correct"])
    assert labels == before["data"]["test_labels_sha256"]
    assert sum(path.stat().st_size for path in target.iterdir()) < MAX_BYTES


def test_it_names_no_place_of_this_machine(made: Callable[..., Path], tmp_path: Path, code: Path) -> None:
    def edit(result: dict[str, Any]) -> None:
        command = "python -m prunebench paths.outputs=/home/jane/out model.pretrained=/home/jane/nets/a.th seed=0"
        result["run"]["command"] = command
        result["warnings"] = [f"see {tmp_path}/notes/a.txt and https://example.org/a/b, 1/2 and/or 3/4/5"]

    target, _ = publish(made(edit), tmp_path / "store", package=code)
    result = read_result(target)
    assert result["run"]["command"] == "python -m prunebench model.pretrained=a.th seed=0"
    assert result["warnings"] == ["see a.txt and https://example.org/a/b, 1/2 and/or 3/4/5"]
    assert result["run"]["folder"] == f"outputs/published/{target.relative_to(tmp_path / 'store').as_posix()}"
    for name in ("result.json", "config.yaml"):
        text = (target / name).read_text()
        for place in (str(tmp_path.parents[1]), str(ROOT), str(Path.home()), "/home/jane"):
            assert place not in text


def test_a_place_that_is_left_is_refused(tmp_path: Path) -> None:
    places = Places(tmp_path / "run", {"outputs": str(tmp_path / "my out"), "data": str(tmp_path / "data")}, "here")
    assert places.text(f"{tmp_path}/my out/x and {tmp_path}/data2/y") == "outputs/x and y"
    with pytest.raises(UserError, match=r"config\.yaml still names .*, a place of this machine"):
        places.check({"result.json": "{}", "config.yaml": f"x: file://{Path.home()}/y"})


def no_commit(result: dict[str, Any]) -> None:
    result["run"]["git"] = None


def shorter(result: dict[str, Any]) -> None:
    result["phases"][0]["settings"]["epoch_share"] = 0.1


REFUSED: dict[str, tuple[Edit, str]] = {
    "failed": (lambda r: r.update(status="failed"), "the run failed and has no numbers"),
    "dirty": (lambda r: r["run"]["git"].update(dirty=True), "made with uncommitted changes"),
    "unknown commit": (lambda r: r["run"]["git"].update(commit="0" * 40), "not in the history of this checkout"),
    "no hash": (lambda r: r["run"]["git"].update(commit="--all"), "not in the history of this checkout"),
    "no commit": (no_commit, "the result names no commit"),
    "accuracy": (lambda r: r["metrics"]["final"].update(accuracy=0.999), "other numbers: accuracy .* instead of 0.999"),
    "parameters": (lambda r: r["cost"]["final"].update(params=7), "other numbers: params .* instead of 7"),
    "short": (shorter, r"go over a part of the training set: \w+ 0.1; .*--declared"),
    "changed": (lambda r: r.update(expected={"changed": ["seed=1"]}), "other settings than its row: seed=1"),
    "predictions": (lambda r: r["metrics"]["final"].update(correct=1), "does not belong to the result"),
    "labels": (lambda r: r["data"].update(test_labels_sha256="0" * 64), "does not belong to the result"),
    "size": (lambda r: r.update(notes="x" * MAX_BYTES), "bytes; at most 200,000 may be published"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_fit_is_refused_and_nothing_written(
    case: str, made: Callable[..., Path], tmp_path: Path, code: Path
) -> None:
    edit, reason = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        publish(made(edit), tmp_path / "store", package=code)
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_a_checkout_with_changes_publishes_nothing(made: Callable[..., Path], tmp_path: Path, code: Path) -> None:
    (code.parent / "outputs" / "published").mkdir(parents=True)
    (code.parent / "outputs" / "published" / "result.json").write_text("{}")
    publish(made(), tmp_path / "store", package=code)  # results are no code
    (code / "x.py").write_text("x = 3\n")
    with pytest.raises(UserError, match="has uncommitted changes"):
        publish(made(name="second"), tmp_path / "other", package=code)
    with pytest.raises(UserError, match="is no git checkout"):
        publish(made(name="third"), tmp_path / "other", package=tmp_path)
    assert not (tmp_path / "other").exists()


def test_what_is_declared_is_kept(made: Callable[..., Path], tmp_path: Path, code: Path) -> None:
    target, _ = publish(made(shorter), tmp_path / "store", declared="a tenth of the data", package=code)
    assert read_result(target)["published"]["declared"] == "a tenth of the data"


def test_another_execution_does_not_replace_a_published_one(
    made: Callable[..., Path], tmp_path: Path, code: Path
) -> None:
    publish(made(), tmp_path / "store", package=code)
    with pytest.raises(UserError, match="another execution of this run; remove it first"):
        publish(made(lambda r: r["run"].update(started="later"), name="second"), tmp_path / "store", package=code)


def test_a_large_result_loses_its_spaces_first(
    made: Callable[..., Path], tmp_path: Path, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, _ = publish(made(), tmp_path / "first", package=code)
    size = sum(path.stat().st_size for path in target.iterdir())
    monkeypatch.setattr(module, "MAX_BYTES", size - 1)
    smaller, _ = publish(made(name="second"), tmp_path / "second", package=code)
    assert (smaller / "result.json").read_text().count("\n") == 1
    assert read_result(smaller) == read_result(target)


def test_the_history_of_a_checkout(code: Path, tmp_path: Path) -> None:
    state = git_state(code)
    assert state is not None and not state["dirty"]
    assert in_history(state["commit"], code) and in_history(git(code, "rev-parse", "HEAD~1"), code)
    git(code.parent, "checkout", "-q", "HEAD~1")
    assert not in_history(state["commit"], code)


def test_the_store_of_this_repository() -> None:
    """Each file that is published is small, names no place from the root, and lies where its result says."""
    found = sorted((ROOT / "outputs" / "published").rglob("result.json"))
    assert found
    for path in found:
        folder, result = path.parent, read_result(path.parent)
        assert result["run"]["folder"] == folder.relative_to(ROOT).as_posix()
        assert not result["run"]["git"]["dirty"]
        assert {file.name for file in folder.iterdir()} <= {"result.json", "config.yaml", "correct.npz", "plan.json"}
        assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES
        for name in ("result.json", "config.yaml"):
            text = (folder / name).read_text(encoding="utf-8")
            assert re.findall(r"(?:(?<=[\s'\"=\[(])|^)/\w[^\s'\"]*", text) == []
        if "correct" not in result["metrics"]["final"]:  # of a language model
            assert "bpc" in result["metrics"]["final"] and not (folder / "correct.npz").exists()
            continue
        correct, labels = read_bits(folder / "correct.npz")
        assert correct.sum() == result["metrics"]["final"]["correct"]
        assert labels == result["data"]["test_labels_sha256"]
