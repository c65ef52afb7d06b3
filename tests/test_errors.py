"""Programs end with one sentence and an exit code, whatever their output can hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

TEXT = "98 ± 1 · 3 × 2 → … “é” −1"


def run(body: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[bytes]:
    code = f"from prunebench.errors import UserError, program\ndef main():\n    {body}\n    return 3\nprogram(main)"
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": encoding}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [("utf-8", TEXT), ("latin-1", "98 ± 1 · 3 × 2 -> ... ?é? -1"), ("ascii", "98 +- 1 - 3 x 2 -> ... ??? -1")],
)
def test_output_is_plain_where_it_must_be(encoding: str, printed: str) -> None:
    done = run(f"print({TEXT!r})", encoding)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.decode(encoding).rstrip() == printed


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("raise UserError('no such thing')", 1, b"error: no such thing\n"),
        ("raise KeyboardInterrupt", 130, b"interrupted\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, b"terminated\n"),
        ("raise BrokenPipeError", 141, b""),
    ],
)
def test_each_end_has_its_code(body: str, code: int, said: bytes) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (code, said)
