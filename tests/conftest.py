"""Fixtures of all tests."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor


def pytest_configure(config: pytest.Config) -> None:
    # beside other workers a second thread only takes their core; OMP_NUM_THREADS is the user's own choice
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))
    # no test talks to a server
    os.environ.setdefault("WANDB_MODE", "offline")
    if "CI" in os.environ and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(_AtOnce(config))


class _AtOnce:
    """Shows a failure when it happens: a run that is ended by CI's limit of time would never show it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.getplugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\nFAILED {report.nodeid} ({report.when}, {report.duration:.0f} s)")
            terminal.write_line(report.longreprtext)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers for each test, whatever ran before; torch's defaults are put back afterwards."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test draw from the global generator
    torch.manual_seed(0)
    threads, deterministic = torch.get_num_threads(), _deterministic()
    yield
    torch.set_num_threads(threads)
    if _deterministic() != deterministic:  # setting it, even to what it is, imports a compiler for seconds
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.fixture(autouse=True)
def logged_as_before() -> Iterator[None]:
    """A command that a test carries out in this process sets the logging up for itself, and Hydra does for all."""
    log = logging.getLogger("prunebench")
    levels = [(logger, logger.level) for logger in (logging.root, log)]
    before = (log.propagate, log.disabled, log.handlers[:])
    yield
    for logger, level in levels:
        logger.setLevel(level)
    log.propagate, log.disabled, log.handlers = before


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; a test that needs them is skipped where there is none."""
    given = os.environ.get("PRUNEBENCH_DATA")
    if not given:
        pytest.skip("PRUNEBENCH_DATA is not set: it names the folder of the data sets")
    root = Path(given).expanduser().resolve()
    if not root.is_dir():
        pytest.skip(f"PRUNEBENCH_DATA={given} is not a folder")
    return root


@pytest.fixture
def example() -> Tensor:
    """One CIFAR-sized input, ``[1, 3, 32, 32]``."""
    return torch.randn(1, 3, 32, 32)


@pytest.fixture
def examples() -> Tensor:
    """A small batch of CIFAR-sized inputs, ``[4, 3, 32, 32]``."""
    return torch.randn(4, 3, 32, 32)
