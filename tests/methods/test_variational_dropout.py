"""Variational dropout: the number of KL terms, the limit of alpha, and what a run leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.core.clock import Clock
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.methods.bases.gaussian_nets import gaussian_layers
from prunebench.methods.variational_dropout import VariationalDropout
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

CONFORMANCE = {"variational_dropout": Conformance(keeps_all=True)}

NET = ("model=lenet300_100", "schedule=simultaneous", "method=variational_dropout")


def method(**changes: Any) -> VariationalDropout:
    settings: dict[str, Any] = {
        "noise": "A", "shape": "layer", "rate": 0.5, "input_rate": 0.2, "learn": True, "layers": ["*"],
        "kl_weight": 1.0, "kl_start": 0, "kl_warmup": 0, "num_samples": None,
    }  # fmt: skip
    return VariationalDropout(**{**settings, **changes})


def swapped(**changes: Any) -> tuple[VariationalDropout, nn.Module, list[GaussianWeights]]:
    built = method(**changes)
    built.names = ["0", "1", "2"]
    net = built.swap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 5), nn.Linear(5, 2)))
    return built, net, list(gaussian_layers(net).values())


def test_rates_of_the_paper() -> None:
    _, _, layers = swapped()
    # p = 0.2 for the input, 0.5 for hidden units: alpha = p / (1 - p)
    assert [layer.spread.exp().item() for layer in layers] == pytest.approx([0.25, 1.0, 1.0])
    assert {layer.estimator for layer in layers} == {"input"}


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        # one posterior an input unit or channel, whether the rates are shared or not
        ({"noise": "A", "shape": "layer"}, [3, 6, 5]),
        ({"noise": "A", "shape": "unit"}, [3, 6, 5]),
        # one a weight
        ({"noise": "B", "shape": "layer"}, [3 * 4 * 9, 30, 10]),
        ({"noise": "B", "shape": "unit"}, [3 * 4 * 9, 30, 10]),
        ({"noise": "B", "shape": "weight"}, [3 * 4 * 9, 30, 10]),
    ],
)
def test_the_kl_is_summed_over_what_is_random(changes: dict[str, Any], counts: list[int]) -> None:
    built, net, _ = swapped(**changes)
    each = [kl.log_uniform_cubic(torch.tensor(math.log(alpha))).item() for alpha in (0.25, 1.0, 1.0)]
    expected = sum(count * value for count, value in zip(counts, each, strict=True))
    assert built.divergence(net).item() == pytest.approx(expected, rel=1e-5)


def test_alpha_never_exceeds_one() -> None:
    built, net, layers = swapped()
    # the polynomial falls without end above 1: without the limit the divergence would run away
    optimizer = torch.optim.SGD([layer.spread for layer in layers], lr=1.0)
    first = Clock.first(num_epochs=1, steps_per_epoch=20, lr=1.0)
    for step in range(20):
        optimizer.zero_grad()
        built.divergence(net).backward()
        optimizer.step()
        built.after_step(net, first.at(step))
    assert all(layer.spread.max() <= 0 for layer in layers)
    assert built.divergence(net).item() > 0


def test_fixed_rates_are_plain_gaussian_dropout() -> None:
    built, net, layers = swapped(learn=False)
    assert built.divergence(net) == 0
    assert not any(layer.spread.requires_grad for layer in layers)


@pytest.mark.parametrize("noise", ["A", "B"])
def test_a_run_keeps_every_weight(noise: str, tmp_path: Path) -> None:
    samples = ("method.num_samples=4",) if noise == "B" else ()
    result, folder = run(tmp_path, *SHORT, *NET, f"method.noise={noise}", *samples)
    assert result["cost"]["final"]["macs"] == result["cost"]["dense"]["macs"]
    assert {entry["layer"] for entry in result["not_pruned"]} == {"fc1", "fc2", "fc3"}
    assert result["metrics"]["final"]["num_predictions"] == (4 if noise == "B" else 1)
    net = prunebench.load(folder, trust=True)
    assert bool(gaussian_layers(net)) == (noise == "B")
    assert "method/mean_alpha" in (folder / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise": "C"}, "noise must be one of A, B, got 'C'"),
        ({"noise": "A", "shape": "weight"}, "noise=A has one rate an input unit"),
        ({"rate": 0.9}, r"rate must be a number in \(0, 0.5\] \(a dropout rate\), got 0.9"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method(**changes)
