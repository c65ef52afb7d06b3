"""Gates and gradual pruning on a recurrent language model, from the command line to the saved net."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.layers.convert import candidates
from prunebench.layers.factorised import FactorisedLinear
from prunebench.layers.selected import SelectedLinear
from prunebench.methods.bases import component_gates
from prunebench.models.sru import sru
from tests.kit import SHORT as SHORT_RUN
from tests.kit import configure, run

TEXT = (
    "dataset=bytes",
    "dataset.max_bytes=12000",
    "dataset.batch_size=8",
    "dataset.window=32",
    "dataset.eval_batch_size=4",
    "dataset.epochs.train=1",
    "model=sru_small",
    "model.layers=3",
    "model.width=24",
    "model.rank=8",
    "model.embedding=16",
    "schedule=finetune",
)
SETTINGS = {
    "flop_l0": ("method.plain=inputs", "method.gate_lr=0.2"),
    "agp": ("method.every=0.1", "method.target_sparsity=0.75"),
    "agp_structured": ("method.every=0.1", "method.layers=[layers.1.project,layers.2.project]", "method.merge=false"),
}
SHORT = tuple(word for word in SHORT_RUN if not word.startswith(("dataset.validation", "dataset.epochs.train")))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")  # the dense net is trained once


@pytest.mark.parametrize("method", SETTINGS)
def test_a_run(method: str, outputs: Path) -> None:
    result, folder = run(outputs, *SHORT, *TEXT, f"method={method}", *SETTINGS[method])
    final, budget = result["metrics"]["final"], result["budget"]
    assert final["bpc"] == pytest.approx(final["nll"] / math.log(2))
    net = prunebench.load(folder, trust=True)
    assert bpc(net, outputs) == pytest.approx(final["bpc"], abs=1e-4)
    dense, pruned = result["cost"]["dense"], result["cost"]["final"]
    if method == "agp":
        # 16 * 96 of the first layer, two pairs of 8 * (24 + 72)
        assert budget["weights"] == 1536 + 2 * 768
        assert pruned["nonzero_params"] < dense["nonzero_params"] and pruned["params"] == dense["params"]
        assert budget["reached"] == pytest.approx(0.75, abs=1e-3)
        return
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    assert dense["params"] - pruned["params"] == budget["gated_params"] - budget["kept_params"]
    # one symbol multiplies with every weight once
    assert dense["macs"] - pruned["macs"] == budget["gated_params"] - budget["kept_params"]
    if method == "flop_l0":
        assert budget["gated_params"] == 1536 + 2 * 768
        kinds = [type(net.get_submodule(f"layers.{i}.project")) for i in range(3)]
        assert kinds == [SelectedLinear, FactorisedLinear, FactorisedLinear]
    else:
        assert budget["kept_components"] == {"layers.1.project": [3, 8], "layers.2.project": [3, 8]}


def bpc(net: nn.Module, outputs: Path) -> float:
    from prunebench.config import named

    config, _ = configure(outputs, *TEXT)
    data: Any = named.build("dataset", config["dataset"])
    data.setup(Path("unused"), download=False)
    state, total, count = None, 0.0, 0
    with torch.inference_mode():
        for symbols, targets in data.test():
            logits, state = net(symbols, state)
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
            count += targets.numel()
    return total / count / math.log(2)


def test_prunable_parameters_of_the_papers_model() -> None:
    with torch.device("meta"):
        net = sru()  # 6 layers of 3056, rank 512, 205 symbols
    assert sum(p.numel() for p in net.parameters()) == 34_541_414
    layers = candidates(net)
    chosen = [name for name in layers if name != "output"]
    sizes = [sum(p.numel() for p in layers[name].parameters()) for name in chosen]
    assert sum(sizes) == 33_799_360
    # what is left of the whole at the paper's sparsities
    for sparsity, params in ((0.7, 10_881_862), (0.8, 7_501_926), (0.9, 4_121_990)):
        assert round(34_541_414 - sparsity * sum(sizes)) == params


def test_the_output_layer_of_a_language_model_is_found() -> None:
    net = sru(num_symbols=20, layers=2, width=12, rank=4, embedding=6)
    chosen = component_gates.choose_layers(net, torch.zeros(1, 5, dtype=torch.long), layers=["*"], skip=None)
    assert chosen == ["layers.0.project", "layers.1.project"]
