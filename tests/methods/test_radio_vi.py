"""Variational inference for radio galaxies: priors, cold KL and pruned draws against their oracles, one run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.priors import (
    GaussianMixturePrior,
    GaussianPrior,
    LaplaceMixturePrior,
    LaplacePrior,
    Prior,
)
from prunebench.layers.sampling import sampling
from prunebench.methods.bases.gaussian_nets import DEAD, gaussian_layers, silenced
from prunebench.methods.bases.weight_draws import draw, log_ratio, variance_term
from prunebench.methods.radio_vi import RadioVI
from prunebench.models.radio_lenet import conv_bbb
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

# with draws the saved net holds deviations too, and of a net of convolutions only the last layer loses weights
CONFORMANCE = {"radio_vi": Conformance(options=("method.num_samples=null",))}

GMM = {"share": 0.75, "wide": 1.0, "narrow": 0.0009}
LAPLACES = {"share": 0.75, "wide": 1.0, "narrow": 0.001}
BATCH = (torch.linspace(-1, 1, 15).view(5, 3), torch.tensor([0, 1, 0, 1, 1]))
TASK = Classification(num_classes=2)


def method(**changes: Any) -> RadioVI:
    settings: dict[str, Any] = {
        "prior": "gaussian", "gaussian_std": 0.1, "laplace_scale": 1.0, "gmm": GaussianMixturePrior(**GMM),
        "laplace_mixture": LaplaceMixturePrior(**LAPLACES), "temperature": 0.01, "kl_share": "equal",
        "reduction": "sum", "pac": False, "detached_mean": False, "mean_range": 0.1, "spread_low": -5.0,
        "spread_high": -4.0, "prune_ratio": 0.3, "prune_layers": ["*"], "ranking": "snr", "fisher_share": 0.3,
        "curve_ratios": [], "curve_rankings": ["snr"], "layers": ["*"], "num_samples": None,
    }  # fmt: skip
    return RadioVI(**{**settings, **changes})


def small_net(built: RadioVI, *, hidden: int = 4) -> nn.Module:
    """A perceptron 3-hidden-2 with Gaussian weights."""
    torch.manual_seed(0)
    built.names = built.pruned = ["0", "2"]
    return built.swap(nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2)))


def clock(step: int) -> Clock:
    return Clock(step=step, num_steps=24, epoch=step // 12, num_epochs=2, lr=0.1)


def prior(name: str, scale: float = 1.0) -> Prior:
    priors: dict[str, Prior] = {
        "gaussian": GaussianPrior(std=0.1),
        "gmm": GaussianMixturePrior(**GMM),
        "laplace": LaplacePrior(scale=scale),
        "laplace_mixture": LaplaceMixturePrior(**LAPLACES),
    }
    return priors[name]


@pytest.mark.parametrize(
    ("name", "at_5e2", "at_1e3"),
    [
        ("gaussian", 1.2586466, 1.3835966),
        ("gmm", -1.2078706, 4.0955920),
        ("laplace", -0.7431472, -0.6941472),
        ("laplace_mixture", -1.0308293, 3.8364274),
    ],
)
def test_log_priors(name: str, at_5e2: float, at_1e3: float) -> None:
    found = prior(name).log_prob(torch.tensor([0.05, 0.001, -0.05], dtype=torch.float64))
    assert found.tolist() == pytest.approx([at_5e2, at_1e3, at_5e2], abs=5e-7)


def test_divergence_from_a_laplace_prior_in_closed_form() -> None:
    mean, std = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    assert float(kl.laplace(mean, std, 1.0)) == pytest.approx(1.1953692773, abs=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_the_sampled_ratio_converges_to_the_closed_form(name: str) -> None:
    built = method(prior=name)
    net = small_net(built, hidden=2000)  # the mean over 12,002 weights and biases of each draw
    for layer in gaussian_layers(net).values():
        for mean, spread in ((layer.weight, layer.spread), (layer.bias, layer.bias_spread)):
            mean.fill_(0.3)
            spread.fill_(math.log(0.2))
    found = torch.stack([built.divergence(net) for _ in range(20)]).mean() / 12_002
    one, std = torch.tensor(0.3), torch.tensor(0.2)
    expected = kl.gaussian(one, std, 0.1) if name == "gaussian" else kl.laplace(one, std, 1.0)
    assert float(found) == pytest.approx(float(expected), abs=0.05 if name == "gaussian" else 0.01)


def test_variance_term_of_two_draws() -> None:
    found = variance_term(torch.tensor([0.9, 0.9, 0.5]), torch.tensor([0.9, 0.5, 0.9]))
    assert found.tolist() == pytest.approx([0.0, 0.4444444, -0.2469136], abs=1e-6)


def test_the_loss_is_taken_at_the_weights_of_its_divergence() -> None:
    """Sum of NLL over the batch + T / n_b (ln q(w) - ln p(w)), one draw w."""
    built = method(temperature=0.5)
    net = small_net(built).train()
    built.num_batches = 12
    built.start_epoch(net, clock(0))
    torch.manual_seed(3)
    terms = built.losses(net, BATCH, TASK)
    torch.manual_seed(3)
    (first, second) = (drawn for _, drawn in draw(net))
    hidden = torch.relu(BATCH[0] @ first[0].T + first[1])
    logits = hidden @ second[0].T + second[1]
    nll = nn.functional.cross_entropy(logits, BATCH[1], reduction="sum")
    log_q = log_p = torch.zeros(())
    for layer, (weight, bias) in zip(gaussian_layers(net).values(), (first, second), strict=True):
        for value, mean, spread in ((weight, layer.weight, layer.spread), (bias, layer.bias, layer.bias_spread)):
            log_q = log_q + torch.distributions.Normal(mean, spread.exp()).log_prob(value).sum()
            log_p = log_p + torch.distributions.Normal(0.0, 0.1).log_prob(value).sum()
    assert float(terms["ce"].detach()) == pytest.approx(float(nll.detach()), rel=1e-5)
    assert float(terms["kl"].detach()) == pytest.approx(float((log_q - log_p).detach()) * 0.5 / 12, rel=1e-5)


def test_shares_of_the_divergence() -> None:
    equal, mean = method(temperature=0.3), method(temperature=0.3, reduction="mean")
    blundell = method(kl_share="blundell", temperature=0.3)
    for built in (equal, mean, blundell):
        built.num_batches, built.batch_size = 12, 50
    assert [equal.share_of(batch) for batch in (0, 11)] == [0.3 / 12] * 2
    assert mean.share_of(0) == pytest.approx(0.3 / 600)
    shares = [blundell.share_of(batch) for batch in range(12)]
    assert shares == pytest.approx([2 ** (12 - batch - 1) / (2**12 - 1) for batch in range(12)])
    assert sum(shares) == pytest.approx(1.0)
    blundell.num_batches = 5000
    assert blundell.share_of(4999) == 0.0 and blundell.share_of(0) == 0.5
    blundell.num_batches = 12
    blundell.start_epoch(nn.Module(), clock(0))
    seen = [float(blundell.kl_now)]
    for step in range(12):
        blundell.after_step(nn.Module(), clock(step))
        seen.append(float(blundell.kl_now))
    assert seen == pytest.approx([*shares, shares[0]])


def test_the_density_of_the_posterior_pulls_at_the_deviation_alone() -> None:
    built = method()
    net = small_net(built)
    for detached in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        drawn = draw(net)
        flat = prior("laplace", scale=1e8)  # as good as no prior
        log_ratio(drawn, flat, detached_mean=detached).backward()
        for layer, (weight, _) in drawn:
            assert layer.weight.grad is not None and layer.spread.grad is not None
            noise = ((weight - layer.weight) / layer.std()).detach()
            # d ln q / d mean = 0 along the draw; with a detached mean -noise / std is left, of mean 0
            pull = -noise / layer.std().detach() if detached else torch.zeros_like(noise)
            torch.testing.assert_close(layer.weight.grad, pull, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(layer.spread.grad, torch.full_like(noise, -1.0), rtol=1e-3, atol=2e-3)


def test_weights_and_spreads_start_uniform() -> None:
    built = method()
    net = small_net(built, hidden=2000)
    for layer in gaussian_layers(net).values():
        for values, low, high in ((layer.weight, -0.1, 0.1), (layer.spread, -5.0, -4.0), (layer.bias_spread, -5, -4)):
            assert low <= float(values.detach().min()) and float(values.detach().max()) <= high
        assert float(layer.spread.detach().mean()) == pytest.approx(-4.5, abs=0.05)
        torch.testing.assert_close(layer.std(), layer.spread.exp())


def test_the_misspecification_term_compares_two_draws_and_has_a_gradient() -> None:
    built = method(pac=True, temperature=0.0)
    net = small_net(built).train()
    built.start_epoch(net, clock(0))
    torch.manual_seed(5)
    terms = built.losses(net, BATCH, TASK)
    torch.manual_seed(5)
    likely = []
    for draws in (draw(net), draw(net)):
        (w1, b1), (w2, b2) = (drawn for _, drawn in draws)
        probs = torch.softmax(torch.relu(BATCH[0] @ w1.T + b1) @ w2.T + b2, 1)
        likely.append(probs.gather(1, BATCH[1][:, None])[:, 0].detach())
    largest = torch.maximum(*likely)
    expected = -((likely[0].square() - likely[0] * likely[1]) / largest.square()).sum()
    assert float(terms["pac"].detach()) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)
    terms["pac"].backward()
    assert all(float(layer.weight.grad.abs().max()) > 0 for layer in gaussian_layers(net).values())


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7])
def test_every_draw_has_the_pruned_weights_at_zero(ratio: float) -> None:
    """Of the 198,408 weights of the linear layers floor(p n), the lowest |mean| / std; nothing else is touched."""
    built = method()
    dense = conv_bbb()
    built.names = [name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    built.pruned = ["fc1", "fc2", "fc3"]
    net = built.swap(dense)
    built.register_buffer("fisher", torch.zeros(198_408))
    dead = built.weakest(net, "snr", ratio)
    pruned = gaussian_layers(silenced(net, dead))
    for _ in range(2):
        drawn = {name: layer.draw()[0] for name, layer in pruned.items()}
        assert sum(int((drawn[name] == 0).sum()) for name in built.pruned) == int(ratio * 198_408)
        assert all(bool((drawn[name] != 0).all()) for name in drawn if name.startswith("conv"))
    layers = gaussian_layers(net)
    ratios = torch.cat([(layers[n].weight.abs() / layers[n].std()).flatten() for n in built.pruned])
    gone = torch.cat([dead[n].flatten() for n in built.pruned])
    assert float(ratios[gone].max()) <= float(ratios[~gone].min())


@torch.no_grad()
def test_without_linear_weights_and_other_noise_two_passes_are_identical() -> None:
    built = method()
    dense = conv_bbb(image_size=46)
    built.names = [name for name, module in dense.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    net = built.swap(dense).eval()
    everything = {
        name: torch.ones_like(gaussian_layers(net)[name].weight, dtype=torch.bool) for name in ("fc1", "fc2", "fc3")
    }
    pruned, x = silenced(net, everything), torch.rand(2, 1, 46, 46)
    with sampling(pruned):
        assert not torch.equal(pruned(x), pruned(x))
    for name, layer in gaussian_layers(pruned).items():
        layer.bias_spread.fill_(DEAD)
        if name.startswith("conv"):
            layer.spread.fill_(DEAD)
    with sampling(pruned):
        assert torch.equal(pruned(x), pruned(x))


@torch.no_grad()
def test_scaling_mean_and_deviation_keeps_the_ratio_and_changes_the_magnitude() -> None:
    built = method()
    net = small_net(built)
    built.register_buffer("fisher", torch.zeros(20))
    layer = gaussian_layers(net)["0"]
    before = {kind: built.weakest(net, kind, 0.5) for kind in ("snr", "magnitude")}
    row, column = (before["magnitude"]["0"] & before["snr"]["0"]).nonzero()[0].tolist()
    layer.weight[row, column] *= 1000
    layer.spread[row, column] += math.log(1000)
    after = {kind: built.weakest(net, kind, 0.5) for kind in ("snr", "magnitude")}
    assert all(torch.equal(before["snr"][name], after["snr"][name]) for name in ("0", "2"))
    assert before["magnitude"]["0"][row, column] and not after["magnitude"]["0"][row, column]


def test_fisher_information_is_the_second_moment_of_adam() -> None:
    built = method()
    bare = bare_run(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3))
    assert bare.phase is not None
    bare.phase = replace(bare.phase, batch_size=2)
    net = built.attach(bare.template, bare).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    built.start_epoch(net, clock(0))
    for step in range(3):
        optimizer.zero_grad()
        torch.stack(list(built.losses(net, BATCH, TASK).values())).sum().backward()
        built.before_step(net, clock(step))
        optimizer.step()
    layers = gaussian_layers(net)
    moments = torch.cat([optimizer.state[layer.weight]["exp_avg_sq"].flatten() for layer in layers.values()])
    torch.testing.assert_close(built.fisher, moments)
    assert torch.equal(built.attach(net, bare).get_parameter("0.weight"), layers["0"].weight)
    torch.testing.assert_close(built.fisher, moments)  # attaching again forgets nothing


def test_a_share_for_each_batch_cannot_be_accumulated(tmp_path: Path) -> None:
    words = ("method=radio_vi", "method.kl_share=blundell", "schedule.phases.train.accumulate=2")
    with pytest.raises(UserError, match=r"kl_share=blundell differs from batch to batch, .*accumulate=2 joins them"):
        run(tmp_path, *SHORT, *words)


def test_trained_means_are_not_overwritten(tmp_path: Path) -> None:
    words = ("method=radio_vi", "schedule=simultaneous_pretrained")
    with pytest.raises(UserError, match=r"method.mean_range=0.1 overwrites pretrained means; set it to null"):
        run(tmp_path, *SHORT, *words)


def test_its_recipe_on_galaxies_is_that_of_the_paper() -> None:
    config, _ = configure(Path("unused"), "method=radio_vi", "dataset=mirabest", "model=conv_bbb")
    phase = config["schedule"]["phases"]["train"]
    asked = {"epochs": 500, "batch_size": 50, "optimizer": "adam", "lr": 5e-5, "weight_decay": 0.0}
    assert asked.items() <= phase.items()
    assert (phase["lr_schedule"], phase["gamma"], phase["step_epochs"]) == ("plateau", 0.95, 3)


def test_a_run_prunes_linear_weights_and_draws_curves(tmp_path: Path) -> None:
    result, folder = run(
        tmp_path,
        *SHORT,
        *("model=conv_bbb", "dataset.size=16", "method=radio_vi", "method.num_samples=3"),
        *("method.curve_ratios=[0.5,0.9]", "method.curve_rankings=[snr,magnitude_fisher]"),
    )
    weights = 32 * 120 + 120 * 84 + 84 * 10
    assert result["budget"]["weights"] == weights
    assert result["budget"]["weights_live"] == weights - int(0.3 * weights)
    points = {point["name"]: point for point in result["points"]}
    assert points.keys() == {"snr_50", "snr_90", "magnitude_fisher_50", "magnitude_fisher_90"}
    assert points["snr_90"]["settings"] == {"ranking": "snr", "prune_ratio": 0.9}
    for measured in (result["metrics"]["before_cut"], result["metrics"]["final"], points["snr_90"]["metrics"]):
        own = measured["method"]
        assert 0 <= own["sample_error"] <= 1 and own["sample_error_sd"] >= 0
        assert own["uncertainties"]["mutual_information"] > 0
        mean = measured["uncertainty"]["entropy"] / math.log(10)
        assert own["uncertainties"]["entropy"] == pytest.approx(mean, rel=1e-4)
    assert {entry["layer"] for entry in result["not_pruned"]} >= {"conv1", "conv2", "conv3", "conv4"}
    assert result["guarantee"]["objective"] == "elbo"
    layers = gaussian_layers(prunebench.load(folder, trust=True))
    dead = sum(int((layers[name].draw()[0] == 0).sum()) for name in ("fc1", "fc2", "fc3"))
    assert dead == sum(int((layers[name].spread == 0).sum()) for name in ("fc1", "fc2", "fc3")) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": "normal"}, "prior must be one of gaussian, gmm, laplace, laplace_mixture"),
        (
            {"gmm": GaussianMixturePrior(share=0.5, wide=0.1, narrow=0.2)},
            r"method.gmm.narrow=0.2 must be below method.gmm.wide=0.1",
        ),
        ({"spread_low": -3.0}, r"method.spread_low=-3.0 must not be above method.spread_high=-4.0"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0"),
        ({"curve_ratios": [1.0]}, "curve_ratios"),
        (
            {"ranking": "hessian"},
            "ranking must be one of snr, fisher, magnitude, magnitude_fisher, fisher_mu2, expected",
        ),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method(**changes)
