"""Programs end with one sentence and an exit code, whatever their output can hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_a_net_beside_which_a_script_is_started_can_be_imported(tmp_path: Path) -> None:
    """As with ``python -m``; a script's own folder is what Python puts on the path."""
    (tmp_path / "my_nets.py").write_text("WIDTH = 7")
    (tmp_path / "torch.py").write_text("raise SystemExit('shadowed')")  # what is installed wins
    script = tmp_path / "scripts" / "x.py"
    script.parent.mkdir()
    body = "def main():\n    import torch, my_nets\n    return my_nets.WIDTH\n"
    script.write_text(f"from prunebench.errors import program\n{body}program(main)")
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, script], env=environment, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (7, b"")


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
