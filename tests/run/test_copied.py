"""A folder that was copied into another run's place is not what was asked for there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prunebench.core.result import is_complete
from tests.kit import SHORT, run
from tests.run.test_content import folders

OWN = (*SHORT, "dataset=digits", "model=mlp_2x100", "method=l1norm")
CHANGED = {
    "pretrain": "schedule.phases.pretrain.lr=1e-5",
    "finetune": "schedule.phases.finetune.lr=1e-6",
    "share": "method.prune_ratio=0.7",
}


@pytest.mark.parametrize("changed", CHANGED)
def test_what_lies_in_a_copied_folder_is_made_anew(
    changed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = (*OWN, CHANGED[changed])
    right, _ = run(tmp_path / "right", *other)
    mixed = tmp_path / "mixed"
    run(mixed, *OWN)
    for made, asked in zip(folders(mixed, *OWN), folders(mixed, *other), strict=True):
        if made != asked:
            shutil.copytree(made, asked)

    asked, _ = folders(mixed, *other)
    assert not is_complete(asked)
    assert "the folder was copied" in caplog.text
    found, folder = run(mixed, *other)
    assert folder == asked
    assert (found["metrics"], found["net_sha256"]) == (right["metrics"], right["net_sha256"])
    assert is_complete(folder)
