"""JS-BNN: the divergence of a net against the printed values, the draws that it is taken on, and runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunebench
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers import jensen_shannon, kl
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.layers.priors import GaussianPrior
from prunebench.methods.bases.gaussian_nets import gaussian_layers
from prunebench.methods.js_bnn import JensenShannon
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

CONFORMANCE = {"js_bnn": Conformance(options=("method.num_samples=3",))}
CLOCK = Clock.first(num_epochs=4, steps_per_epoch=5, lr=0.1)


def method(**changes: Any) -> JensenShannon:
    settings: dict[str, Any] = {
        "divergence": "js_g", "alpha": 0.2249, "normalised": None, "prior": "gaussian", "prior_std": 0.1, "share": 0.5,
        "log_wide": -1.0, "log_narrow": -3.0, "sigma_semantics": "std", "prior_draws": "batch", "spread": -3.0,
        "output_std": None, "prune_ratio": 0.5, "scope": "global", "layers": ["*"], "kl_weight": 1.0, "kl_start": 0,
        "kl_warmup": 0, "num_samples": None,
    }  # fmt: skip
    return JensenShannon(**{**settings, **changes})


@torch.no_grad()
def net(built: JensenShannon, *, mean: float | None = 0.05, std: float = 0.02, wide: int = 3) -> nn.Module:
    """One linear layer of ``2 wide`` weights and 2 biases, with equal means (None = as drawn) and deviations."""
    built.names = ["0"]
    torch.manual_seed(0)
    made = built.swap(nn.Sequential(nn.Linear(wide, 2)))
    for layer in gaussian_layers(made).values():
        for parameter, spread in ((layer.weight, layer.spread), (layer.bias, layer.bias_spread)):
            if mean is not None:
                parameter.fill_(mean)
            spread.fill_(math.log(math.expm1(std)))
    return made


def layer_of(made: nn.Module) -> GaussianWeights:
    (layer,) = gaussian_layers(made).values()
    return layer


# -- values


@pytest.mark.parametrize(
    ("changes", "each"),
    [
        # prior_std = 0.1, mean 0.05 and deviation 0.02 are N(0.5, 0.2^2) and N(0, 1) in other units
        ({}, 0.786111),
        ({"alpha": 0.0}, 1.254438),
        ({"alpha": 0.5}, 3.154648),
        ({"alpha": 1.0}, 13.515562),
        ({"divergence": "kl"}, 1.254438),
        ({"sigma_semantics": "official_variance"}, 0.168700),
        ({"normalised": False, "alpha": 0.0}, 1.254438),
    ],
)
def test_it_is_a_sum_over_weights_and_biases(changes: dict[str, Any], each: float) -> None:
    built = method(**changes)
    assert built.divergence(net(built)).item() == pytest.approx(8 * each, rel=2e-5)


def test_without_the_overlap() -> None:
    # 0.5625 * 0.818147 + 0.0625 * 2.806853 for N(1, 0.5^2), N(0, 1)
    built = method(normalised=False, alpha=0.25)
    assert built.divergence(net(built, mean=0.1, std=0.05)).item() == pytest.approx(8 * 0.635636, rel=2e-5)


@torch.no_grad()
@pytest.mark.parametrize(("alpha", "each"), [(0.2249, 0.600197), (0.5, 0.329905)])
def test_the_arithmetic_one_on_average(alpha: float, each: float) -> None:
    built = method(divergence="js_a", alpha=alpha)
    made = net(built, wide=49_999)
    found = torch.stack([built.divergence(made) for _ in range(4)]) / 100_000
    assert found.mean().item() == pytest.approx(each, abs=6e-3)  # 400,000 draws


@torch.no_grad()
@pytest.mark.parametrize("prior", ["laplace", "mixture"])
@pytest.mark.parametrize("normalised", [False, True])
def test_other_priors_on_average(prior: str, normalised: bool) -> None:
    built = method(prior=prior, normalised=normalised, alpha=0.3)
    found = built.divergence(net(built, wide=99_999)).item() / 200_000
    w = torch.linspace(-3, 3, 200_001, dtype=torch.float64)
    log_q, log_p = kl.gaussian_log_prob(w, 0.05, 0.02), built.prior.log_prob(w)
    forward = torch.trapezoid(log_q.exp() * (log_q - log_p), w)
    backward = torch.trapezoid(log_p.exp() * (log_p - log_q), w)
    overlap = torch.trapezoid((0.3 * log_q + 0.7 * log_p).exp(), w).log() if normalised else 0.0
    assert found == pytest.approx(float(0.49 * forward + 0.09 * backward + overlap), rel=0.03)


def test_alpha_0_and_lambda_1_is_the_loss_of_bayes_by_backprop() -> None:
    """In value and gradients; the same weights are drawn for the pictures."""
    batch = (torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]))
    task = Classification(num_classes=2)
    found: list[tuple[Tensor, ...]] = []
    for divergence in ("js_g", "kl", "by hand"):
        built = method(alpha=0.0, divergence="kl" if divergence == "by hand" else divergence)
        made = net(built, mean=None)
        built.num_train = 20
        built.start_epoch(made, CLOCK)
        torch.manual_seed(3)
        losses = built.losses(made, batch, task)
        layer = layer_of(made)
        if divergence == "by hand":
            bias_std = layer.bias_std()
            assert bias_std is not None
            whole = kl.gaussian(layer.weight, layer.std(), 0.1).sum() + kl.gaussian(layer.bias, bias_std, 0.1).sum()
            losses = {**losses, "divergence": whole / 20}
        total = torch.stack([*losses.values()]).sum()
        found.append((total, *torch.autograd.grad(total, [*layer.parameters()])))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-6)


def test_lambda_and_the_number_of_pictures_count_once() -> None:
    built = method(kl_weight=3.0)
    made = net(built)
    built.num_train = 50
    built.start_epoch(made, CLOCK)
    losses = built.losses(made, (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)), Classification(num_classes=2))
    assert losses["divergence"].item() == pytest.approx(3.0 * 8 * 0.786111 / 50, rel=2e-5)
    assert built.report(made)["divergence_nats"] == pytest.approx(8 * 0.786111, rel=2e-5)


# -- draws


def test_the_divergence_is_taken_on_the_draw_of_the_forward_pass() -> None:
    built = method(divergence="js_a", alpha=0.4)
    made = net(built, mean=None)
    built.start_epoch(made, CLOCK)
    seen: list[Tensor] = []

    def look(mean: Tensor, std: Tensor, drawn: Tensor, generator: torch.Generator | None) -> Tensor:
        seen.append(drawn)
        return mean * 0

    built._from_prior = look  # type: ignore[method-assign]
    outputs: list[Tensor] = []
    made.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x = torch.randn(6, 3)
    built.losses(made, (x, torch.zeros(6, dtype=torch.long)), Classification(num_classes=2))
    weight, bias = seen
    torch.testing.assert_close(outputs[0], x @ weight.T + bias)
    assert not torch.equal(weight, layer_of(made).weight)
    assert layer_of(made).held is None
    again = made.train()(x)
    assert not torch.equal(again, outputs[0])


def test_draws_of_the_prior_once_an_epoch_as_in_the_official_code() -> None:
    built = method(divergence="js_a", prior_draws="epoch")
    made = net(built, mean=None)
    built.seed = 5

    def prior_draws(epoch: int) -> Tensor:
        built.start_epoch(made, CLOCK.at(5 * epoch))
        generator = built._same_in_an_epoch()
        return built.prior.draw(layer_of(made).weight, generator)

    first = prior_draws(0)
    torch.rand(3)
    assert torch.equal(first, prior_draws(0))
    assert not torch.equal(first, prior_draws(1))
    assert torch.equal(prior_draws(1), prior_draws(1))
    # and they are what the divergence sees: with the posterior's draws held too, nothing is left to chance
    layers, drawn = gaussian_layers(made), {"0": layer_of(made).draw()}
    assert torch.equal(built._total(layers, drawn), built._total(layers, drawn))
    other = method(divergence="js_a")
    assert not torch.equal(other._total(layers, drawn), other._total(layers, drawn))


def test_the_prior_gets_no_gradient_but_the_posterior_does() -> None:
    built = method(divergence="js_a", alpha=1.0)  # KL(p || q): only through q at the draws of p
    made = net(built)
    torch.autograd.backward(built.divergence(made))
    for name in ("weight", "spread"):
        gradient = layer_of(made).get_parameter(name).grad
        assert gradient is not None and gradient.abs().min() > 0


# -- nets


def test_the_output_layer_may_start_wide() -> None:
    built = method(output_std=10.0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 300), nn.ReLU(), nn.Linear(300, 10))
    around = bare_run(plain, torch.zeros(1, 1, 2, 2), schedule="simultaneous")
    made = built.attach(plain, around)
    layers = gaussian_layers(made)
    assert [*layers] == ["1", "3"] and built.outputs == ["3"]
    assert layers["3"].weight.std().item() == pytest.approx(10.0, rel=0.1)
    assert layers["1"].weight.abs().max() <= 0.5  # PyTorch's own
    assert all(layer.bias_spread is not None for layer in layers.values())


def test_the_official_spread() -> None:
    built = method(spread=-10.0)
    built.names = ["0"]
    made = built.swap(nn.Sequential(nn.Linear(3, 2)))
    assert layer_of(made).std().mean().item() == pytest.approx(4.54e-5, rel=1e-3)
    assert built.divergence(made).isfinite() and isinstance(built.prior, GaussianPrior)


def test_a_net_of_narrow_weights_far_from_the_prior_is_finite_in_float32() -> None:
    for divergence in ("js_a", "js_g", "kl"):
        built = method(divergence=divergence, prior_draws="epoch")
        made = net(built, mean=30.0, std=4.5e-5)
        value = built.divergence(made)
        value.backward()
        gradient = layer_of(made).get_parameter("spread").grad
        assert value.isfinite() and gradient is not None and gradient.isfinite().all()
        if divergence == "js_a":
            assert value.item() == pytest.approx(8 * jensen_shannon.arithmetic_bound(0.2249), rel=1e-4)


@pytest.mark.parametrize("divergence", ["js_g", "js_a"])
def test_a_run_on_noisy_digits_prunes(divergence: str, tmp_path: Path) -> None:
    words = ("model=lenet300_100", "dataset=noisy_digits", "schedule=simultaneous", "method=js_bnn")
    result, folder = run(tmp_path, *SHORT, *words, f"method.divergence={divergence}", "method.num_samples=2")
    weights = 64 * 300 + 300 * 100 + 100 * 10
    assert result["budget"]["weights_live"] == weights - int(0.75 * weights)
    assert {"before_cut", "final", "saved_net"} <= result["metrics"].keys()
    for layer in gaussian_layers(prunebench.load(folder, trust=True)).values():
        assert ((layer.weight == 0) == (layer.spread == 0)).all()
    text = (folder / "metrics.csv").read_text()
    assert "divergence_nats" in text and "nan" not in text
    assert result["guarantee"]["objective"] == "divergence_from_prior"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"divergence": "js"}, "divergence must be one of kl, js_g, js_a, got 'js'"),
        ({"alpha": 1.2}, r"alpha must be a number in \[0, 1\], got 1.2"),
        ({"prior": "mixture", "sigma_semantics": "official_variance"}, "is the official code's for a Gaussian prior"),
        ({"log_narrow": 1.0}, "method.log_narrow=1.0 must be below method.log_wide=-1.0"),
        ({"output_std": 0.0}, "output_std must be a number above 0 or null"),
        ({"prior_draws": "run"}, "prior_draws must be one of batch, epoch"),
        ({"prune_ratio": 1.0}, "prune_ratio"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method(**changes)
