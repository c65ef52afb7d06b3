from __future__ import annotations

from pathlib import Path

import torch

from prunebench import rows
from prunebench.criteria.newcomer_taylor import taylor
from tests.kit import run


def test_scores_by_hand() -> None:
    weight, grad = torch.tensor([[[[1.0, -3.0]]], [[[2.0, 0.0]]]]), torch.tensor([[[[2.0, 1.0]]], [[[2.0, 7.0]]]])
    assert taylor(weight, grad).tolist() == [1.0, 4.0]


def test_its_row_is_a_run(tmp_path: Path) -> None:
    overrides = ("experiment=newcomer-one", "latency=false", "trainer.progress=false")
    rows.register(overrides)
    result, _ = run(tmp_path, *overrides)
    assert result["status"] == "complete"
    assert [result[group]["name"] for group in ("method", "model", "dataset")] == [
        *("newcomer_taylor", "newcomer_net", "newcomer_dots")
    ]
    assert result["row"] == "newcomer-one"
    assert result["cost"]["final"]["macs"] == rows.find("newcomer-one").reported["macs"]
