"""A language model goes the same way as every other net: trained, measured, saved, resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import prunebench
from prunebench.config import named
from prunebench.core.result import read_result, summary
from prunebench.core.task import task_of
from prunebench.measure import cost
from prunebench.training.lit import Lit
from tests.kit import configure, run

COMMAND = (
    "latency=false",
    "trainer.progress=false",
    "trainer.num_threads=1",
    "method=none",
    "schedule=simultaneous",
    "dataset=bytes",
    "dataset.max_bytes=20000",
    "dataset.batch_size=8",
    "dataset.window=32",
    "dataset.epochs.train=2",
    "model=sru_small",
    "model.layers=2",
    "model.width=24",
    "model.rank=8",
    "model.embedding=12",
    "model.dropout=0.2",
)
"""Two epochs of 70 steps on the beginning of the standard library."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return run(tmp_path_factory.mktemp("outputs"), *COMMAND)


def test_it_keeps_its_promises(straight: tuple[dict[str, Any], Path]) -> None:
    result, folder = straight
    assert result == read_result(folder) | {"run": result["run"]}
    assert result["status"] == "complete"
    final, costs = result["metrics"]["final"], result["cost"]
    assert final["split"] == "test" and final["num_samples"] == 999
    assert final["bpc"] == pytest.approx(final["nll"] / 0.6931471805599453)
    assert 1 < final["bpc"] < 8  # it has learnt something: 8 bits are a uniform guess
    assert final["context"]["window"] == 1024 and "state" in final["context"]["memory"]
    assert result["guarantee"]["accuracy_interval_95"] is None
    assert costs["sample"] == "symbol"
    first, other, last = 12 * 4 * 24, 24 * 8 + 8 * 3 * 24, 24 * 256
    assert costs["final"]["macs"] == first + other + last
    (phase,) = result["phases"]
    assert phase["train_macs"] == 2 * 3 * costs["final"]["macs"] * result["data"]["num_train"]
    assert not (folder / "predictions.npz").exists()
    shown = dict(summary(result))
    assert shown["bits per character"][-1] == f"{final['bpc']:.4f}" and "test accuracy %" not in shown


def test_the_saved_net_is_the_measured_net(straight: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    result, folder = straight
    net = prunebench.load(folder)
    window = torch.zeros(1, 32, dtype=torch.long)
    assert cost.count(net, window, samples=32).macs == result["cost"]["final"]["macs"]
    config, _ = configure(tmp_path, *COMMAND)
    data = named.build("dataset", config["dataset"])
    data.setup(Path("unused"), download=False)
    task = task_of(data)
    metrics, _ = task.evaluate(lambda batch: task.probabilities(net, batch)[None], data.test())
    assert metrics == {key: value for key, value in result["metrics"]["final"].items() if key != "split"}


class PowerCut(Exception):
    """Stands for the end of a process in the middle of an epoch."""


def test_an_interrupted_run_ends_with_the_same_numbers(
    straight: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Lit.training_step

    def cut_power(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.current_epoch == 1 and batch_idx == 3:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", cut_power)
    with pytest.raises(PowerCut):
        run(tmp_path, *COMMAND)
    monkeypatch.setattr(Lit, "training_step", original)
    resumed, again = run(tmp_path, *COMMAND)

    result, folder = straight
    assert resumed["metrics"] == result["metrics"]
    left, right = (load_file(path / "model" / "weights.safetensors") for path in (folder, again))
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_first_window_of_an_epoch_starts_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    from prunebench.models.sru import SRULanguageModel

    original = SRULanguageModel.forward

    def watch(self: SRULanguageModel, symbols: torch.Tensor, state: torch.Tensor | None = None) -> Any:
        if self.training:
            starts.append(state is None)
        return original(self, symbols, state)

    monkeypatch.setattr(SRULanguageModel, "forward", watch)
    result, _ = run(tmp_path, *COMMAND, "seed=1")
    steps = -(-(result["data"]["num_train"] // 8) // 32)
    assert [i for i, first in enumerate(starts) if first] == [0, steps]
    assert len(starts) == 2 * steps


def test_a_net_for_images_and_a_text_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"model=resnet20 does not fit dataset=bytes"):
        configure(tmp_path, "dataset=bytes", "model=resnet20")


def test_single_weights_of_its_matrices_are_pruned(tmp_path: Path) -> None:
    command = [word for word in COMMAND if not word.startswith(("method", "schedule"))]
    pruning = ("method=magnitude", "method.kinds=linear", "method.layers=[layers.*]", "method.prune_ratio=0.5")
    result, folder = run(tmp_path, *command, *pruning, "schedule=finetune", "dataset.epochs.finetune=1")
    assert {"dense", "pruned", "final"} <= set(result["metrics"])
    matrices = 12 * 4 * 24 + 24 * 8 + 8 * 3 * 24
    costs = result["cost"]
    gone = costs["dense"]["nonzero_params"] - costs["final"]["nonzero_params"]
    zeros = 24  # of the fresh net's forget biases, and as many of each layer
    assert abs(gone - matrices // 2) <= 2 * zeros + 256 + 1  # the output's bias begins at zero too
    weights = load_file(folder / "model" / "weights.safetensors")
    pruned = [value for name, value in weights.items() if name.startswith("layers") and "project" in name]
    assert sum(int((value == 0).sum()) for value in pruned) == matrices // 2 + 1
    assert result["metrics"]["pruned"]["bpc"] > result["metrics"]["dense"]["bpc"]
