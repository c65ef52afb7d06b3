from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["newcomer_dots", "newcomer_asks"])
def test_a_dot_is_where_its_label_says(build: Callable[..., Any], name: str) -> None:
    data = build(name, darkest=50, mean=[0.0], std=[1.0])
    data.setup(Path("unused"), download=False)
    images, labels = next(iter(data.test()))
    corners = images[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).amax((3, 4)).flatten(1)  # [pictures, corners]
    assert corners.argmax(1).tolist() == labels.tolist()


def test_the_script_asks_for_the_value(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main = runpy.run_path(str(ROOT / "scripts" / "data.py"))["main"]
    assert main(["check", "--data", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "needs" in lines["newcomer_asks"] and "dataset.darkest=..." in lines["newcomer_asks"]
    assert "ok" in lines["newcomer_dots"]
    assert main(["get", "newcomer_asks", "dataset.darkest=7", "--data", str(tmp_path)]) == 0
