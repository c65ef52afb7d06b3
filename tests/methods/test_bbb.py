"""Bayes by backprop: the divergence against Monte Carlo, the ranking against the specification, one run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.gaussian_layers import GaussianLinear
from prunebench.methods.bases.gaussian_nets import gaussian_layers
from prunebench.methods.bbb import BayesByBackprop
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

CONFORMANCE = {"bbb": Conformance(options=("method.num_samples=3",))}


def method(**changes: Any) -> BayesByBackprop:
    settings: dict[str, Any] = {
        "prior": "gaussian", "prior_std": 0.1, "share": 0.5, "log_wide": 0.0, "log_narrow": -6.0, "spread": -3.0,
        "mean_range": None, "bias": True, "estimator": "weight", "prune_ratio": 0.5, "scope": "global", "layers": ["*"],
        "kl_weight": 1.0, "kl_start": 0, "kl_warmup": 0, "num_samples": None,
    }  # fmt: skip
    return BayesByBackprop(**{**settings, **changes})


def net(built: BayesByBackprop) -> nn.Module:
    built.names = ["0"]
    torch.manual_seed(0)
    return built.swap(nn.Sequential(nn.Linear(3, 2)))


def inverse_softplus(std: float) -> float:
    return math.log(math.expm1(std))


@torch.no_grad()
def test_divergence_from_a_gaussian_is_a_sum_over_weights_and_biases() -> None:
    built = method()
    made = net(built)
    layer = made.get_submodule("0")
    layer.weight.fill_(0.1)
    layer.bias.fill_(0.1)
    for spread in (layer.spread, layer.bias_spread):
        spread.fill_(inverse_softplus(0.05))
    assert built.divergence(made).item() == pytest.approx(8 * 0.818147, rel=1e-4)
    without = method(bias=False)
    alone = net(without)
    for name in ("weight", "spread"):
        alone.get_submodule("0").get_parameter(name).copy_(layer.get_parameter(name))
    assert without.divergence(alone).item() == pytest.approx(6 * 0.818147, rel=1e-4)


@torch.no_grad()
def test_divergence_from_a_mixture_is_right_on_average() -> None:
    built = method(prior="mixture")
    made = net(built)
    drawn = torch.stack([built.divergence(made) for _ in range(4000)]).mean()
    layer = made.get_submodule("0")
    assert isinstance(layer, GaussianLinear)
    # quadrature of ln q - ln p for each weight
    grid = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    expected = 0.0
    for mean, std in ((layer.weight, layer.std()), (layer.bias, layer.bias_std())):
        for m, s in zip(mean.flatten().double(), std.flatten().double(), strict=True):
            w = m + s * grid
            log_q = kl.gaussian_log_prob(w, m, s)
            log_p = kl.scale_mixture_log_prob(w, share=0.5, wide=1.0, narrow=math.exp(-6))
            expected += float(torch.trapezoid((log_q.exp()) * (log_q - log_p), w))
    assert drawn.item() == pytest.approx(expected, rel=0.02)


@torch.no_grad()
def test_the_noisiest_half_goes() -> None:
    built = method()
    made = net(built)
    layer = made.get_submodule("0")
    assert isinstance(layer, GaussianLinear)
    layer.weight.copy_(torch.tensor([[0.5, -0.02, 0.3], [0.01, -0.9, 0.05]]))
    stds = torch.tensor([[0.1, 0.1, 0.3], [0.02, 0.3, 0.5]])
    layer.spread.copy_(stds.double().expm1().log().float())
    dead = built._noisiest(gaussian_layers(made))["0"]
    assert dead.flatten().nonzero().flatten().tolist() == [1, 3, 5]


def test_a_run_prunes_and_samples(tmp_path: Path) -> None:
    result, folder = run(
        tmp_path, *SHORT, "model=lenet300_100", "schedule=simultaneous", "method=bbb", "method.num_samples=3"
    )
    weights = 64 * 300 + 300 * 100 + 100 * 10
    assert result["budget"]["weights_live"] == weights - int(0.75 * weights)
    assert {"before_cut", "final", "saved_net"} <= result["metrics"].keys()
    assert result["metrics"]["final"]["uncertainty"]["mutual_information"] > 0
    layers = gaussian_layers(prunebench.load(folder, trust=True))
    for layer in layers.values():
        assert ((layer.weight == 0) == (layer.spread == 0)).all()
        assert (layer.draw()[0][layer.weight == 0] == 0).all()
    assert result["guarantee"]["objective"] == "elbo"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": "mixtures"}, "prior must be one of mixture, gaussian, laplace"),
        ({"share": 1.0}, r"share must be a number in \(0, 1\), got 1.0"),
        ({"log_narrow": 1.0}, "method.log_narrow=1.0 must be below method.log_wide=0.0"),
        ({"prune_ratio": 1.0}, "prune_ratio"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method(**changes)
