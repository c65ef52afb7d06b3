"""Quantisers against numbers computed by hand (Roth et al. 2024 and the papers that it surveys)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from prunebench.layers import quantisers as q

W = torch.tensor([[0.9, -0.4, 0.1, -0.05, 0.6]])  # one filter
X = torch.tensor([-0.3, 0.1, 0.49, 0.5, 0.51, 1.7])


def close(found: Tensor | None, expected: list[float]) -> None:
    assert found is not None
    torch.testing.assert_close(found.detach().flatten(), torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_bwn_has_the_best_scale() -> None:
    close(q.bwn(W), [0.41, -0.41, 0.41, -0.41, 0.41])
    error = float((W - q.bwn(W)).square().sum())
    assert error == pytest.approx(1.3425 - 5 * 0.41**2, abs=1e-6)
    others = [float((W - alpha * q.signs(W)).square().sum()) for alpha in (0.36, 0.40, 0.42, 0.5)]
    assert min(others) > error


def test_twn() -> None:
    alpha = (0.9 + 0.4 + 0.6) / 3  # above 0.7 * 0.41 = 0.287
    close(q.twn(W), [alpha, -alpha, 0, 0, alpha])
    two = q.twn(torch.cat([W, 10 * W]))  # each filter by itself
    torch.testing.assert_close(two[1], 10 * two[0])
    assert not q.twn(torch.zeros(1, 3)).any()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (2, [1, -1 / 3, 1 / 3, -1 / 3, 1]),
        (3, [1, -3 / 7, 1 / 7, -1 / 7, 5 / 7]),
        (4, [1, -7 / 15, 3 / 15, -1 / 15, 11 / 15]),
        (1, [0.41, -0.41, 0.41, -0.41, 0.41]),
    ],
)
def test_dorefa_weights(bits: int, expected: list[float]) -> None:
    close(q.dorefa(W, bits), expected)


@pytest.mark.parametrize(
    ("bits", "step", "integers"),
    [(3, 0.3, [3, -1, 0, 0, 2]), (4, 0.9 / 7, [7, -3, 1, 0, 5]), (8, 0.9 / 127, [127, -56, 14, -7, 85])],
)
def test_symmetric(bits: int, step: float, integers: list[float]) -> None:
    for per_channel in (True, False):
        found = q.symmetric(W, bits, per_channel=per_channel)
        torch.testing.assert_close((found / step)[0], torch.tensor(integers, dtype=torch.float32), atol=1e-4, rtol=0)
        assert float((found - W).abs().max()) <= step / 2 + 1e-7


def test_scales_of_filters_and_of_the_layer() -> None:
    both = torch.cat([W, W / 100])
    assert torch.equal(q.symmetric(both, 3, per_channel=True)[1], q.symmetric(W / 100, 3, per_channel=True)[0])
    assert not q.symmetric(both, 3, per_channel=False)[1].any()  # below half of the layer's step


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (1, [0, 0, 0, 0, 1, 1]),  # 0.5 is rounded to the even 0
        (2, [0, 0, 1 / 3, 2 / 3, 2 / 3, 1]),
        (4, [0, 2 / 15, 7 / 15, 8 / 15, 8 / 15, 1]),
    ],
)
def test_dorefa_activations(bits: int, expected: list[float]) -> None:
    close(q.dorefa_activation(X, bits), expected)
    # PACT that clips at 1 is the same
    close(q.pact(X, torch.tensor(1.0), bits), expected)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    function(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_gradients_go_straight_through() -> None:
    for bits in (1, 2, 4):
        close(gradient(partial(q.dorefa_activation, bits=bits), X), [0, 1, 1, 1, 1, 0])
    signed = torch.tensor([-1.5, -1.0, 0.0, 0.3, 1.0, 1.1])
    assert q.sign_activation(signed).tolist() == [-1, -1, 1, 1, 1, 1]
    close(gradient(q.sign_activation, signed), [0, 1, 1, 1, 1, 0])
    close(gradient(q.binary_connect, signed), [0, 1, 1, 1, 1, 0])
    for scheme in (q.bwn, q.twn, lambda w: q.symmetric(w, 3, per_channel=True)):
        close(gradient(scheme, W), [1, 1, 1, 1, 1])
    # DoReFa differentiates tanh: d/dw tanh w / max |tanh w|
    expected = (1 - torch.tanh(W) ** 2) / torch.tanh(torch.tensor(0.9))
    torch.testing.assert_close(gradient(lambda w: q.dorefa(w, 3), W), expected)


def test_pact_gives_the_clip_the_gradients_of_what_it_clips() -> None:
    clip, x = torch.tensor(0.5, requires_grad=True), X.clone().requires_grad_()
    weights = torch.tensor([1.0, 2, 4, 8, 16, 32])
    (q.pact(x, clip, 2) * weights).sum().backward()
    assert clip.grad == 8 + 16 + 32  # x >= 0.5
    close(x.grad, [0, 2, 4, 0, 0, 0])
    close(q.pact(X, torch.tensor(2.0), 2), [0, 0, 2 / 3, 2 / 3, 2 / 3, 2])


def test_ttq_trains_its_scales() -> None:
    """Threshold 0.05 * 0.9 = 0.045: all five are outside; one more inside is 0."""
    w = torch.tensor([[0.9, -0.4, 0.1, -0.05, 0.6, 0.02]], requires_grad=True)
    up, down = torch.tensor(0.7, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    g = torch.tensor([[1.0, 2, 4, 8, 16, 32]])
    out = q.ttq(w, up, down)
    close(out, [0.7, -0.3, 0.7, -0.3, 0.7, 0])
    (out * g).sum().backward()
    assert up.grad == 1 + 4 + 16 and down.grad == -(2 + 8)
    close(w.grad, [0.7, 0.6, 2.8, 2.4, 11.2, 32])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_what_is_on_the_grid_stays(bits: int) -> None:
    torch.manual_seed(0)
    x, limit = torch.randn(1000), torch.tensor(1.7)
    uniform: list[Callable[[Tensor], Tensor]] = [
        lambda v: q.dorefa_activation(v, bits),
        lambda v: q.pact(v, limit, bits),
    ]
    if bits > 1:
        uniform.append(lambda v: q.symmetric_grid(v, limit, bits))
    for quantise in uniform:
        once = quantise(x)
        torch.testing.assert_close(quantise(once), once, atol=1e-6, rtol=0)
        assert len(once.mul(1e5).round().unique()) == min(2**bits, len(once.unique()))
        assert len(once.unique()) <= 2**bits


def test_more_bits_are_nearer() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 50)
    errors = [float((q.symmetric(w, bits, per_channel=True) - w).square().mean()) for bits in (2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 1000
