"""A row for tests."""

from __future__ import annotations

from typing import Any

from prunebench.rows import Row


def row_of(**values: Any) -> Row:
    given = {"table": "T", "kind": "own", "convention": "conv_linear", "tolerance": 0.005, "source": "official-repo"}
    return Row(paper="paper", id="one", **{**given, **values})
