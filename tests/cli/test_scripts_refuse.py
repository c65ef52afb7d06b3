"""A script refuses what the command would refuse: in one sentence, before anything is written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from prunebench.errors import program

ROOT = Path(__file__).resolve().parents[2]
ROW = ("paper=fpgm", "table=1", "rows=*resnet20_only30")
MISTAKES = {
    "nope.key=1": "the key nope.key is unknown",
    "model.nope=1": "the key model.nope is unknown",
    "method.prune_ratio=[1": "method.prune_ratio=[1 cannot be read",
    "latency=${latency}": "latency: Recursive interpolation detected",
    "dataset.size=8,16": "dataset.size=8,16 are several values",
    "schedule=nope": "schedule=nope is unknown; it can be",
    f"dataset.size={'9' * 5000}": "dataset.size has a number of 5000 digits",
    "trainer.precision=fp8": "trainer.precision must be one of",
    "method.prune_ratio=nan": "prune_ratio must be",
}
"""Word -> what is said of it; a script that composes a configuration gets it beside words that are right."""
OWN = {
    ("reproduce", *ROW, "seeds=²"): "seeds must be a whole number of at least 1, got ²",
    ("reproduce", *ROW, "hydra.launcher.timeout_min=3"): "hydra.launcher.timeout_min=3 needs a launcher",
    ("reproduce", *ROW, "--foo=1"): "--foo=1 is no key=value",
    ("reproduce", *ROW, "seed=3"): "seed=3: rows=<glob> picks the rows and seeds=<number> their seeds",
    ("reproduce", *ROW, "++experiment=x"): "rows=<glob> picks the rows",
    ("reproduce", *ROW, "launcher=nope", "dataset=digits"): "launcher=nope is unknown; it can be",
    ("reproduce", "paper=fpgm", "tabel=3"): "tabel is no word of reproduce.py and no key of a run; did you mean table?",
    ("reproduce", *ROW, "lr=0.1"): "did you mean schedule.phases.<phase>.lr?",
    ("reproduce", "fpgm"): "fpgm is no key=value; did you mean method=fpgm or paper=fpgm?",
    ("reproduce", *ROW, "quick"): "quick is no key=value; did you mean budget=quick?",
    ("reproduce", *ROW, "budget"): "budget is no key=value; give it a value, budget=",
    ("reproduce", "paper=nosuch"): "there are no rows of the paper nosuch; there are those of anp, bbb, ",
    ("rows", "list", "nosuch"): ", vnd",
    ("rows", "list", "--sample", "3"): "--sample belongs to check; --help",
    ("rows", "check", "--sample", "0"): "--sample must be at least 1, got 0",
    ("rows", "list", "fpmg"): "; did you mean fpgm",
    ("sensitivity", "method=l1norm", "fpmg"): "fpmg is no key=value; did you mean method=fpgm?",
    ("sensitivity", "method=l1norm", "x"): "x is no key=value",
    ("sensitivity", "method=l1norm"): "sensitivity looks at a trained net",
    ("sensitivity", "experiment=nope"): "experiment=nope is no row",
    ("sensitivity", "method=l1norm", "~method"): "method must be a group of options",
    ("sensitivity", "--batch", "0"): "--batch must be at least 1, got 0",
    ("sensitivity", "--batch", "x"): "argument --batch: invalid int value: 'x'; --help shows what there is",
    ("evaluate",): "the following arguments are required: folder; --help",
    ("evaluate", "ä\x1b[31m"): r"ä\x1b[31m holds no result.json",
    ("export", ".", "--to", "onnx"): "holds no saved net",
    ("export", ".", "--to", "nope"): "argument --to: invalid choice: 'nope'",
    ("export", ".", "--to", "onnx", "--batch", "²"): "--batch must be 'dynamic' or a number, got '²'",
    ("publish", "nowhere"): "nowhere holds no result",
    ("report", "--runs", "nowhere"): "nowhere is not a folder",
    ("rows", "list", "--status", "nope"): "argument --status: invalid choice: 'nope'",
    ("data", "make"): "argument command: invalid choice: 'make'",
    ("bench", "99"): "there is no section 99",
    ("bench", "--threads", "0", "7"): "--threads must be at least 1, got 0",
}
LINES = OWN | {
    (script, *words, word): said
    for script, words in {"reproduce": (*ROW, "dataset=digits"), "sensitivity": ("method=l1norm",)}.items()
    for word, said in MISTAKES.items()
}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("line", list(LINES), ids=lambda line: " ".join(line)[:60])
def test_it_is_one_sentence(
    line: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [line[0], *line[1:]])
    monkeypatch.setenv("PRUNEBENCH_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # as where it is started
    monkeypatch.chdir(tmp_path)
    module = script(line[0])
    with pytest.raises(SystemExit) as ended:
        program(lambda: module.main(list(line[1:])))
    errors = capsys.readouterr().err
    assert ended.value.code == 1
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("error: ") and LINES[line] in sentence
    assert not list(tmp_path.iterdir())
