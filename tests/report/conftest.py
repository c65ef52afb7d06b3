"""A report on a small synthetic benchmark, made once for all tests of the folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from prunebench.report import Report, build
from prunebench.rows import load_papers
from tests.report.factory import populate


@dataclass(frozen=True)
class Built:
    runs: Path
    out: Path
    report: Report


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("report")
    populate(root / "runs")
    papers = load_papers(papers=["fpgm", "l1norm", "rethinking", "bbb"])
    return Built(root / "runs", root / "out", build(root / "runs", root / "out", rows=papers))
