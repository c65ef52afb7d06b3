"""What a sweep says, and that a job that is forked ends with the numbers of one that is started anew."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from prunebench.cli import progress
from prunebench.core.result import read_result
from prunebench.errors import UserError
from tests.kit import SHORT
from tests.report.factory import make


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m method=a,b seed=0,1,2", (6, {"method", "seed"})),
        ("-m method=a seed=range(0,4) x.y=[1,2]", (4, {"seed"})),
        ("-m experiment=glob(*)", (None, set())),
        ("-m hydra/sweeper=optuna method=a,b", (None, {"method"})),
        ("-m method=a", (1, set())),
    ],
)
def test_the_jobs_are_counted(line: str, expected: tuple[int | None, set[str]]) -> None:
    count, keys = progress.plan(line.split())
    assert (count, keys) == expected or (expected[0] is None and count is None)


def test_the_time_left_is_that_of_the_jobs_so_far(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    progress.begin(0, 36, ["seed=0"], started=0.0, trained=0)
    progress.begin(6, 36, ["seed=6"], started=856.0, trained=6)  # 24 s each, 30 to go
    progress.begin(6, None, ["seed=6"], started=856.0, trained=6)
    lines = capsys.readouterr().out.split("\n\n")
    assert [line.strip() for line in lines if line.strip()] == [
        "1 of 36: seed=0",
        "7 of 36, 12 min left: seed=6",
        "7: seed=6",
    ]
    assert [progress.spoken(s) for s in (None, 40.2, 720, 12600)] == ["–", "40 s", "12 min", "3.5 h"]


def test_the_closing_table_has_means_over_the_nets_of_all_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with progress.sweep():
        for method in ("random", "fpgm"):
            for seed in (0, 1):
                progress.note(make(tmp_path, method=method, seed=seed))
        progress.note(make(tmp_path, method="l1norm", status="failed"))
        progress.note(tmp_path / "refused before anything was written")
    said = capsys.readouterr().out
    assert "5 runs, 1 failed" in said
    assert re.search(r"^failed: l1norm · resnet20, seed 0: ", said, re.MULTILINE)
    accuracies = {
        method: [
            read_result(p.parent)["metrics"]["final"]["accuracy"] for p in tmp_path.glob(f"{method}-*/*/*/result.json")
        ]
        for method in ("random", "fpgm")
    }
    lines = [line for line in said.splitlines() if "±" in line]
    assert [line.split()[1] for line in lines] == sorted(accuracies, key=lambda name: -sum(accuracies[name]))
    for line in lines:
        one, other = accuracies[line.split()[1]]
        assert f"{50 * (one + other):.2f} ± {100 * abs(one - other) / 2**0.5:.2f}" in line
    assert max(map(len, said.splitlines())) <= 80


def test_the_closing_table_shows_what_is_zero_but_still_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.sweep():
        progress.note(make(tmp_path, method="fpgm"))
    assert "zeros" not in capsys.readouterr().out
    folder = make(tmp_path, method="magnitude")
    result = json.loads((folder / "result.json").read_text())
    final = result["cost"]["final"]
    final["nonzero_params"] = final["params"] // 4
    (folder / "result.json").write_text(json.dumps(result))
    with progress.sweep():
        progress.note(folder)
    said = capsys.readouterr().out
    assert "zeros %" in said and re.search(r"magnitude .*│ +75\.0 │", said)


@pytest.mark.slow
def test_a_forked_job_ends_with_the_numbers_of_a_command(tmp_path: Path) -> None:
    """And says three lines."""
    options = [*SHORT, "model=lenet300_100", "dataset.epochs.train=1", "dataset.epochs.finetune=1", "method=bbb,random"]

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "prunebench", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    said = call("-m", *options, "seed=0,1", f"paths.outputs={tmp_path / 'sweep'}")
    blocks = re.findall(r"^\d of 4.*\n  complete: test accuracy .*\n  /.*\n", said, re.MULTILINE)
    assert len(blocks) == 4
    for method in ("bbb", "random"):
        call(*options[:-1], f"method={method}", "seed=1", f"paths.outputs={tmp_path / 'single'}")
    for path in (tmp_path / "single").rglob("result.json"):
        alone = read_result(path.parent)
        swept = read_result(tmp_path / "sweep" / path.parent.relative_to(tmp_path / "single"))
        assert swept["net_sha256"] == alone["net_sha256"]
        assert swept["metrics"] == alone["metrics"]
        assert swept["run"]["command"].startswith("python -m prunebench ")
    again = call("-m", *options, "seed=0,1", f"paths.outputs={tmp_path / 'sweep'}")
    assert again.count("already complete: ") == 4


@pytest.mark.parametrize(
    "word", ["a=range(0,10)", "a=range(0,1,0.25)", "a=range(5,1,-1)", "a=shuffle(range(1,5))", "a=1,2,3"]
)
def test_the_length_of_a_sweep_is_that_of_hydras_list(word: str) -> None:
    override = OverridesParser.create().parse_override(word)
    assert progress.plan(["-m", word, "b=1,2"]) == (2 * len(list(override.sweep_string_iterator())), {"a", "b"})


@pytest.mark.parametrize("word", ["a=range(0,1e400)", "a=range(0,1e12)", "a=range(0,5,0)", "a=range(1,2,1e-9)"])
def test_a_sweep_that_does_not_end_is_refused_before_it_is_listed(word: str) -> None:
    with pytest.raises(UserError, match="a sweep has at most 100,000 jobs; use a shorter range"):
        progress.plan(["-m", word])
    with pytest.raises(UserError, match="at most"):
        progress.plan(["-m", "a=range(0,1000)", "b=range(0,1000)"])


@pytest.mark.parametrize(
    ("total", "begun", "statuses", "refused", "said"),
    [
        (4, 2, ["complete"], 0, "1 of 4 runs, 1 interrupted, 2 not started"),
        (4, 1, [], 0, "0 of 4 runs, 1 interrupted, 3 not started"),
        (4, 3, ["complete", "failed", "complete"], 0, "3 of 4 runs, 1 failed, 1 not started"),
        (2, 2, ["complete"], 1, "1 of 2 runs, 1 without a result"),
        (4, 4, ["complete"] * 4, 0, "4 runs, 0 failed"),
        (1, 1, ["complete"], 0, "1 run, 0 failed"),
        (None, 3, ["complete", "complete"], 0, "2 runs, 1 interrupted"),
        (None, 3, ["complete", "failed", "complete"], 0, "3 runs, 1 failed"),
        (4, 0, [], 0, None),
        (4, 1, [], 1, None),
    ],
)
def test_what_became_of_the_jobs_that_were_asked_for(
    total: int | None,
    begun: int,
    statuses: list[str],
    refused: int,
    said: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.sweep(total=total):
        for number in range(begun):
            progress.begin(number, total, [], started=0.0, trained=0)
        for seed, status in enumerate(statuses):
            progress.note(make(tmp_path, seed=seed, status=status))
        for number in range(refused):
            progress.note(tmp_path / str(number))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if re.match(r"\d+ (of \d+ )?runs?,", line)] == ([] if said is None else [said])


def test_two_jobs_that_ask_for_the_same_run_are_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.sweep(total=2):
        for number in range(2):
            progress.begin(number, 2, [], started=0.0, trained=0)
            progress.note(make(tmp_path))
    assert "\n1 run, 0 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_with_one_line_and_the_number_of_jobs_left(tmp_path: Path) -> None:
    words = [*SHORT, "model=lenet300_100", "dataset.epochs.train=2000", "seed=0,1,2", f"paths.outputs={tmp_path}"]
    command = [sys.executable, "-m", "prunebench", "-m", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list(tmp_path.rglob("last.ckpt")):  # the first job trains
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate()
    assert "0 of 3 runs, 1 interrupted, 2 not started" in said
    assert errors == "interrupted; the same command goes on from here\n" and process.returncode == 130


def test_a_job_that_outlives_its_command_ends_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster: the command that queued it was stopped, or runs on another machine."""
    with progress.sweep():
        file = Path(os.environ["PRUNEBENCH_SWEEP_JOBS"])
    monkeypatch.setenv("PRUNEBENCH_SWEEP_JOBS", str(file))
    progress.note(tmp_path)
    assert not file.parent.exists()
