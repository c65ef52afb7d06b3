"""Random nets under random plans: zeroed equals shrunk, counts, gradients, files, or the layer is listed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.surgery.properties import check, check_tokens

FIRST = 1_000_000  # of the seeds of the long test: others than those of the short one


def try_nets(seconds: float, first: int, folder: Path, check: Callable[[int, Path], bool] = check) -> int:
    """Try nets for a while; how many."""
    end, seed = time.monotonic() + seconds, first
    while time.monotonic() < end:
        try:
            check(seed, folder)
        except Exception as error:
            raise AssertionError(f"counter-example: seed {seed}") from error
        seed += 1
    return seed - first


def test_random_nets(tmp_path: Path) -> None:
    assert try_nets(20, 0, tmp_path) > 0


def test_random_token_nets(tmp_path: Path) -> None:
    assert try_nets(8, 0, tmp_path, check_tokens) > 0


@pytest.mark.slow
def test_many_random_token_nets(tmp_path: Path) -> None:
    assert try_nets(150, FIRST, tmp_path, check_tokens) > 0


@pytest.mark.slow
def test_many_random_nets(tmp_path: Path) -> None:
    assert try_nets(300, FIRST, tmp_path) > 0
