"""A file that is no table is refused in one sentence, whatever it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunebench.disk.yaml_files import read_yaml
from prunebench.errors import UserError


@pytest.mark.parametrize("text", ["", "# a comment", "0", "text", "null", "- a", "[]", "1.5e3", "~", "---"])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml is damaged \([^\n]*\); write it again$"):
        read_yaml(tmp_path / "x.yaml")


def test_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1\nb: {c: [2, '${a}']}\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": 1, "b": {"c": [2, "${a}"]}}
