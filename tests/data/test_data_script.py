"""``python scripts/data.py``: one line per data set, and an exit code that can be trusted."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Main = Callable[[list[str]], int]


@pytest.fixture
def main() -> Main:
    spec = importlib.util.spec_from_file_location("data_script", ROOT / "scripts" / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Main = module.main
    return made


def test_what_is_there_is_fine(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "--data", str(tmp_path)]) == 0
    line = capsys.readouterr().out
    assert line.startswith("digits         ok ")
    assert "num_train 1,293, num_val 144, num_test 360" in line
    assert line.count("\n") == 1


def test_asked_and_missing_is_an_error(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "mnist", "--data", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["digits", "ok"], ["mnist", "missing"]]


def test_not_asked_and_missing_is_none(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(tmp_path)]) == 0
    assert "cifar10        missing" in capsys.readouterr().out
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert main(["check", "--data", str(tmp_path)]) == 1
    assert "cifar10        broken" in capsys.readouterr().out


def test_an_unknown_name(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "cifr10", "--data", str(tmp_path)]) == 1
    assert "did you mean cifar10" in capsys.readouterr().out


def test_settings(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "dataset.validation=0", "--data", str(tmp_path)]) == 0
    assert "num_train 1,437, num_val 0" in capsys.readouterr().out
    for wrong, sentence in (
        ("dataset.sise=16", "dataset.sise is no setting of digits; it has .*; did you mean size"),
        ("dataset.augment.crap=1", "dataset.augment.crap is no setting of digits"),
        ("dataset.size=big", "dataset.size must be one of 8, 16, 32, got 'big'"),
        ("dataset.mean=[0.3", r"dataset.mean=\[0.3 cannot be read"),
        ("dataset.size=${nowhere}", "cannot be read: Interpolation key 'nowhere' not found"),
    ):
        assert main(["check", "digits", wrong, "--data", str(tmp_path)]) == 1
        assert re.search(sentence, capsys.readouterr().out)


def test_settings_are_for_a_set_and_written_as_for_a_run(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["digits", "size=16"], "settings are written dataset.key=value, as for a run, got size=16"),
        (["dataset.size=16"], "dataset.size=16 needs the name of a data set"),
    ):
        with pytest.raises(SystemExit):
            main(["check", *words])
        assert sentence in capsys.readouterr().err


def test_a_set_with_a_mandatory_value(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration leaves open what only its user knows."""
    text = (ROOT / "conf" / "dataset" / "digits.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(re.sub(r"(?m)^(size|  crop): \d", r"\1: ???", text), encoding="utf-8")
    monkeypatch.setitem(main.__globals__, "CONF", tmp_path)
    data, values = ["--data", str(tmp_path)], ["dataset.size=16", "dataset.augment.crop=0"]
    line = "mine           needs    a value must be given: python scripts/data.py check mine "
    for words, code, missing in (
        (["check"], 0, "dataset.augment.crop=... dataset.size=..."),  # seen, and no fault
        (["check", "mine"], 1, "dataset.augment.crop=... dataset.size=..."),
        (["get", "mine", values[0]], 1, "dataset.augment.crop=..."),
    ):
        assert main([*words, *data]) == code
        assert capsys.readouterr().out == f"{line}{missing}\n"
    for command in ("check", "get"):
        assert main([command, "mine", *values, *data]) == 0
        assert re.match(r"mine +ok +num_train 1,293", capsys.readouterr().out)


def test_get_says_why_it_could_not(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEBENCH_MIRROR", (tmp_path / "empty").as_uri())
    assert main(["get", "cifar10", "--data", str(tmp_path)]) == 1
    line = capsys.readouterr().out
    assert "cifar-10-binary.tar.gz could not be downloaded" in line
    with pytest.raises(SystemExit):
        main(["get"])


def test_real_data(data_root: Path) -> None:
    present = [name for name, folder in (("mnist", "MNIST"), ("digits", ".")) if (data_root / folder).is_dir()]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "data.py"), "check", *present],
        env={**os.environ, "PRUNEBENCH_DATA": str(data_root), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(present)
