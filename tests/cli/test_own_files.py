"""Files of one's own that cannot be read, sweeps over nothing or too much: a sentence that names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from prunebench.cli import main
from prunebench.cli.sweeps import composable

BROKEN = {
    "unclosed": (b"name: [a\n  b: c: d\n", "unclosed.yaml cannot be read: while parsing a flow sequence in"),
    "binary": (b"\xff\xfe\x00", "binary.yaml cannot be read: 'utf-8' codec can't decode"),
    "itself": (b"a: &a [*a]\n", "itself.yaml cannot be read: it contains itself"),
    "lost": (b"defaults:\n  - nope\n", "'dataset/lost': Could not load 'dataset/nope'."),
    "list": (b"- a\n- b\n", "dataset must be a group of options, got ['a', 'b']"),
    "empty": (b"", "dataset.name must be text, got None"),
}
EMPTY = {
    "method=glob(zz*)": "method=glob(zz*) fits none of agp, ",
    "method=glob([l*,f*],exclude=*)": "fits none of agp, ",
    "seed=range(0,0)": "seed=range(0,0) sweeps over nothing",
    "seed=shuffle(range(3,1))": "sweeps over nothing",
    "seed=range(0,1e400)": "seed=range(0,1e400) has more than 100,000 values",
    "seed=range(0,1000000)": "has more than 100,000 values",
    "seed=range(0,1,1e-300)": "has more than 100,000 values",
    "seed=range(-1e400,1e400)": "has more than 100,000 values",
    "seed=shuffle(range(0,9,1e-9))": "has more than 100,000 values",
}


def refusal(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["prunebench"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    GlobalHydra.instance().clear()
    assert main.main(words) == 1
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert sentence.startswith("error: ")
    return sentence


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_file_of_ones_own_that_cannot_be_used_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "conf" / "dataset"
    folder.mkdir(parents=True)
    (folder / "another.yaml").write_bytes(b"}")
    (folder / f"{name}.yaml").write_bytes(BROKEN[name][0])
    monkeypatch.chdir(tmp_path)
    words = [f"dataset={name}", "--config-dir", str(tmp_path / "conf")]
    assert BROKEN[name][1] in refusal(words, monkeypatch, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


@pytest.mark.parametrize("word", list(EMPTY))
def test_a_sweep_over_nothing_or_without_an_end_is_refused(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra would end with exit code 0 and without a word, or fill the memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNEBENCH_OUTPUTS", str(tmp_path / "outputs"))
    assert EMPTY[word] in refusal(["-m", word], monkeypatch, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["model.pretrained=null,/nowhere.th", "method.layers=[],[fc]", "seed=range(0,2)"])
def test_a_sweep_whose_first_value_is_nothing_is_no_sweep_over_nothing(word: str) -> None:
    assert composable(["-m", word]) == ["-m", word]
