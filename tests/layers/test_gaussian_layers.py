"""The layers against hand examples, against each other, and against plain layers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers.gaussian_layers import GaussianConv2d, GaussianLinear, gaussian, plain
from prunebench.layers.gaussian_weights import SCALES, GaussianWeights
from prunebench.layers.sampling import Ensemble, sampling

INDEPENDENT = ("lrt", "weight", "flipout")
"""Estimators of a posterior with independent weights."""


def layer(mean: list[list[float]], std: list[list[float]], **options: Any) -> GaussianLinear:
    """A linear layer whose standard deviations are given."""
    made = GaussianLinear(len(mean[0]), len(mean), scale="std", **options)
    made.weight = nn.Parameter(torch.tensor(mean))
    made.spread = nn.Parameter(torch.tensor(std))
    return made


def moments(layer: GaussianWeights, x: Tensor, num: int = 200_000) -> tuple[Tensor, Tensor]:
    """Mean and variance of the output of ``x`` over many draws; ``lrt`` draws for each row of a batch."""
    if layer.estimator == "lrt":
        drawn = layer.train()(x.expand(num, *x.shape[1:]))
    else:
        drawn = torch.cat([layer.train()(x) for _ in range(num // 50)])
    return drawn.mean(0), drawn.var(0)


BLUNDELL = ([[0.5, -1.0], [0.2, 0.3]], [[0.1, 0.2], [0.3, 0.4]])


@torch.no_grad()
def test_local_reparameterisation_by_hand() -> None:
    made = layer(*BLUNDELL, bias_initial=0.05)
    made.bias.copy_(torch.tensor([0.1, -0.1]))
    torch.manual_seed(0)
    mean, variance = moments(made, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(mean, torch.tensor([-1.4, 0.7]), rtol=0, atol=0.01)
    torch.testing.assert_close(variance, torch.tensor([0.1725, 0.7325]), rtol=0.02, atol=0)


@pytest.mark.parametrize("estimator", INDEPENDENT)
@torch.no_grad()
def test_each_estimator_has_the_same_moments(estimator: str) -> None:
    made = layer(*BLUNDELL, estimator=estimator, bias=False)
    torch.manual_seed(0)
    num = 4000 if estimator != "lrt" else 200_000
    tolerance = 0.08 if estimator != "lrt" else 0.02
    for x, expected, spread in (([1.0, 2.0], [-1.5, 0.8], [0.17, 0.73]), ([-1.0, 0.5], [-1.0, -0.05], [0.02, 0.13])):
        mean, variance = moments(made, torch.tensor([x]), num * (50 if estimator != "lrt" else 1))
        torch.testing.assert_close(mean, torch.tensor(expected), rtol=0, atol=0.05)
        torch.testing.assert_close(variance, torch.tensor(spread), rtol=tolerance, atol=0)


@pytest.mark.parametrize(("estimator", "covariance"), [("lrt", 0.0), ("flipout", 0.0), ("weight", 0.03)])
@torch.no_grad()
def test_only_shared_weights_make_inputs_correlate(estimator: str, covariance: float) -> None:
    # sum_i x_i x'_i s_i^2 = -1 * 0.01 + 1 * 0.04
    made = layer(*BLUNDELL, estimator=estimator, bias=False).train()
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    drawn = torch.stack([made(x)[:, 0] for _ in range(8_000)])
    assert torch.cov(drawn.T)[0, 1].item() == pytest.approx(covariance, abs=0.004)


@pytest.mark.parametrize("estimator", INDEPENDENT)
@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_without_noise_all_are_the_plain_layer(estimator: str, groups: int) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    made = gaussian(conv, scale="exp", estimator=estimator, initial=-1000.0, bias_initial=-1000.0)
    x = torch.randn(5, 4, 9, 9)
    for mode in (True, False):
        torch.testing.assert_close(made.train(mode)(x), conv(x), rtol=1e-4, atol=6e-4)  # noise of sqrt(1e-8)
    with sampling(made.eval()):
        torch.testing.assert_close(made(x), conv(x))


@torch.no_grad()
def test_noise_on_the_input_by_hand() -> None:
    # y = sum_i w_i x_i (1 + sqrt(alpha) eps_i): variance alpha sum_i (w_i x_i)^2, all outputs share the noise
    made = GaussianLinear(2, 2, scale="log_alpha", estimator="input", shape="layer", initial=math.log(0.25))
    made.weight.copy_(torch.tensor([[0.5, -1.0], [1.0, 2.0]]))
    made.bias.copy_(torch.tensor([0.1, -0.1]))
    torch.manual_seed(0)
    x = torch.tensor([[1.0, 2.0]])
    drawn = made.train()(x.expand(200_000, 2))
    torch.testing.assert_close(drawn.mean(0), torch.tensor([-1.4, 4.9]), rtol=0, atol=0.02)
    expected = 0.25 * torch.tensor([[0.25 + 4, 0.5 - 8.0], [0.5 - 8.0, 1 + 16.0]])
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.03, atol=0)
    # a draw of weights has the same covariance
    weights = torch.stack([made.draw()[0] for _ in range(20_000)])
    torch.testing.assert_close(torch.cov((weights @ x[0]).T), expected, rtol=0.06, atol=0)
    assert made.eval()(x).flatten().tolist() == pytest.approx([-1.4, 4.9])


@torch.no_grad()
def test_noise_on_the_channels_of_a_convolution() -> None:
    # a rate for each input channel; positions have noise of their own
    made = GaussianConv2d(2, 1, 1, bias=False, scale="log_alpha", estimator="input", shape="unit")
    made.weight.copy_(torch.tensor([[[[2.0]], [[3.0]]]]))
    made.spread.copy_(torch.tensor([0.25, 0.01]).log().view(1, 2, 1, 1))
    torch.manual_seed(0)
    drawn = made.train()(torch.ones(100_000, 2, 1, 2)).flatten(1)
    expected = torch.eye(2) * (0.25 * 4 + 0.01 * 9)
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.03, atol=0.02)
    assert made.draw()[0].shape == made.weight.shape


@torch.no_grad()
def test_a_convolution_of_one_pixel_is_a_linear_layer() -> None:
    conv, linear = GaussianConv2d(3, 2, 1, scale="std"), GaussianLinear(3, 2, scale="std")
    linear.weight.copy_(conv.weight.flatten(1))
    linear.bias.copy_(conv.bias)
    for made in (conv, linear):
        made.spread.copy_(torch.tensor([[0.1, 0.4, 0.2], [0.5, 0.1, 0.3]]).view_as(made.spread))
    x = torch.randn(1, 3)
    torch.manual_seed(0)
    one, two = moments(linear, x), moments(conv, x[..., None, None])
    torch.testing.assert_close(two[0].flatten(), one[0], rtol=0, atol=0.01)
    torch.testing.assert_close(two[1].flatten(), one[1], rtol=0.02, atol=0)


@torch.no_grad()
def test_the_variance_of_a_convolution_by_hand() -> None:
    # one channel, kernel 2, stride 1 on a line of three pixels; the bias is no part of the variance
    conv = GaussianConv2d(1, 1, (1, 2), scale="std")
    conv.weight.copy_(torch.tensor([[[[1.0, -1.0]]]]))
    conv.spread.copy_(torch.tensor([[[[0.5, 2.0]]]]))
    conv.bias.fill_(3.0)
    torch.manual_seed(0)
    mean, variance = moments(conv, torch.tensor([[[[1.0, 2.0, 3.0]]]]))
    torch.testing.assert_close(mean.flatten(), torch.tensor([2.0, 2.0]), rtol=0, atol=0.06)
    torch.testing.assert_close(variance.flatten(), torch.tensor([0.25 + 16, 1 + 36.0]), rtol=0.02, atol=0)


def molchanov() -> GaussianLinear:
    made = GaussianLinear(2, 1, scale="log_variance", threshold=3.0)
    made.weight = nn.Parameter(torch.tensor([[0.5, -0.1]]))
    made.spread = nn.Parameter(torch.tensor([[-4.0, -1.0]]))
    nn.init.zeros_(made.bias)
    return made


@torch.no_grad()
def test_additive_noise_by_hand() -> None:
    made = molchanov()
    torch.testing.assert_close(made.log_alpha(), torch.tensor([[-2.6137, 3.6052]]), rtol=0, atol=1e-4)
    assert made.live().tolist() == [[True, False]]
    x = torch.tensor([[1.0, 2.0]])
    assert made.eval()(x).item() == pytest.approx(0.5)  # the second weight is dead
    torch.manual_seed(0)
    mean, variance = moments(made, x)
    assert mean.item() == pytest.approx(0.3, abs=0.01)
    assert variance.item() == pytest.approx(1.489834, rel=0.02)
    means, stds = made.posterior()
    assert means.tolist() == [[0.5, 0.0]] and stds[0, 1] == 0 and stds[0, 0] == pytest.approx(math.exp(-2))


def test_the_gradient_of_the_mean_is_free_of_the_noise() -> None:
    made = molchanov()
    made.std().square().sum().backward()
    assert made.weight.grad.tolist() == [[0.0, 0.0]]  # additive: the variance does not know the mean
    made.weight.grad = None
    made.spread = nn.Parameter(torch.tensor([[-14.0, -1.0]]))  # ln alpha would be -12.6 and is clamped to -8
    variance = made.std().square()
    assert variance[0, 0].item() == pytest.approx(math.exp(-8) * 0.25, rel=1e-5)
    variance.sum().backward()
    assert made.weight.grad[0, 0].item() == pytest.approx(2 * 0.5 * math.exp(-8), rel=1e-4)
    assert made.spread.grad[0, 0] == 0


@torch.no_grad()
def test_clipping_while_training_is_the_official_code_s() -> None:
    x = torch.tensor([[1.0, 2.0]])
    linear = molchanov()
    linear.train_clip = True
    torch.manual_seed(0)
    mean, variance = moments(linear, x)
    assert mean.item() == pytest.approx(0.5, abs=0.01)  # the mean is clipped
    assert variance.item() == pytest.approx(1.489834, rel=0.02)  # the noise is not
    conv = GaussianConv2d(2, 1, 1, scale="log_variance", threshold=3.0, train_clip=True)
    for name in ("weight", "spread", "bias"):
        getattr(conv, name).copy_(getattr(linear, name).view_as(getattr(conv, name)))
    _, variance = moments(conv, x[..., None, None])
    assert variance.item() == pytest.approx(math.exp(-4), rel=0.02)  # of the first weight alone


@torch.no_grad()
def test_zero_weights_stay_finite() -> None:
    made = GaussianLinear(3, 2, scale="log_variance", initial=-10.0, threshold=3.0)
    made.weight.zero_()
    assert torch.isfinite(made.log_alpha()).all() and torch.isfinite(made(torch.randn(4, 3))).all()


@torch.no_grad()
def test_dead_weights_are_zero_when_drawn() -> None:
    made = molchanov()
    for _ in range(5):
        assert made.draw()[0][0, 1] == 0
    finished = layer([[0.5, 0.0]], [[0.1, 0.0]])
    assert finished.draw()[0][0, 1] == 0


@pytest.mark.parametrize(("scale", "initial", "std"), [
    ("softplus", -2.2522, 0.1), ("softplus", -3.0, 0.048587), ("softplus", -5.0, 0.006715), ("exp", -3.0, 0.049787),
    ("log_alpha", -2.0, 0.5 * math.exp(-1)), ("std", 0.3, 0.3), ("log_variance", -4.0, math.exp(-2)),
])  # fmt: skip
@torch.no_grad()
def test_scales(scale: str, initial: float, std: float) -> None:
    made = GaussianLinear(1, 1, scale=scale, initial=initial)
    made.weight.fill_(-0.5)
    assert made.std().item() == pytest.approx(std, rel=1e-4)
    assert made.log_alpha().item() == pytest.approx(2 * math.log(std / 0.5), abs=1e-3)


@pytest.mark.parametrize("shape", ["weight", "unit", "layer"])
def test_a_layer_is_rebuilt_from_its_config(shape: str) -> None:
    conv = nn.Conv2d(4, 6, (3, 1), stride=2, padding="valid", dilation=1, groups=2, bias=False)
    for made in (
        gaussian(nn.Linear(3, 2), scale="softplus", shape=shape, bias_initial=-3.0),
        gaussian(conv, scale="log_alpha", shape=shape, threshold=3.0, train_clip=True),
    ):
        again = type(made)(**made.config())
        again.load_state_dict(made.state_dict())
        assert again.config() == made.config()
        x = torch.randn(2, 3) if isinstance(made, nn.Linear) else torch.randn(2, 4, 7, 7)
        torch.testing.assert_close(again.eval()(x), made.eval()(x))
        assert plain(made)(x).equal(made(x))


def test_options_outside_their_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"scale must be one of .*log_variance.* did you mean"):
        GaussianLinear(2, 2, scale="log_varianc")
    with pytest.raises(UserError, match="estimator=input multiplies inputs"):
        GaussianLinear(2, 2, scale="softplus", estimator="input", shape="unit")
    assert set(SCALES) == {"softplus", "exp", "log_variance", "log_alpha", "std"}


@torch.no_grad()
def test_an_ensemble_is_the_same_for_all_batches_and_leaves_the_stream_alone() -> None:
    net = nn.Sequential(gaussian(nn.Linear(4, 8), scale="exp", initial=-1.0), nn.ReLU(), nn.Linear(8, 3)).eval()
    task = Classification(num_classes=3)
    x, y = torch.randn(10, 4), torch.zeros(10, dtype=torch.long)
    ensemble = Ensemble(net, num_samples=7, seed=0)
    torch.manual_seed(3)
    whole = ensemble.each(lambda drawn: task.probabilities(drawn, (x, y)))
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert whole.shape == (7, 10, 3)

    def of_part(part: slice) -> torch.Tensor:
        return ensemble.each(lambda drawn: task.probabilities(drawn, (x[part], y[part])))

    halves = [of_part(slice(0, 4)), of_part(slice(4, 10))]
    torch.testing.assert_close(torch.cat(halves, 1), whole)
    assert not torch.allclose(whole[0], whole[1])  # the draws differ
    assert not torch.allclose(
        whole, Ensemble(net, num_samples=7, seed=1).each(lambda drawn: task.probabilities(drawn, (x, y)))
    )
    torch.testing.assert_close(net(x), ensemble(x))  # and are over: one pass at the mean again
