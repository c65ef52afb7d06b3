"""Every script that can be started says what it does, and does nothing else."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = [
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "scripts").glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_printed(
    script: Path, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), flag])
    monkeypatch.syspath_prepend(str(script.parent))  # as Python itself does
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    said, errors = capsys.readouterr()
    assert end.value.code == 0 and script.name in said and not errors
    assert not list(tmp_path.iterdir())
