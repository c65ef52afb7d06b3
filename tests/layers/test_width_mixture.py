"""The specification's hand-computed numbers, and what the estimator of the gradient promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.layers.width_mixture import MixedConv, candidate_widths, draw_pairs, interpolate_channels, perturbed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1, 2, 3, 4, 5], [1.5, 3.0, 4.5]),
        ([1, 2, 3, 4], [1.5, 3.5]),
        ([1, 2], [1.0, 1.5, 2.0]),
        ([1, 2, 3], [1.0, 1.5, 2.5, 3.0]),
        ([1, 2, 3], [1.0, 2.0, 3.0]),
    ],
)
def test_channels_are_interpolated(given: list[float], expected: list[float]) -> None:
    x = torch.tensor(given, dtype=torch.float32).view(1, -1, 1, 1)
    assert interpolate_channels(x, len(expected)).flatten().tolist() == expected


@pytest.mark.parametrize("channels", [(9, 32), (28, 32), (19, 64), (12, 5), (57, 64)])
def test_interpolation_is_adaptive_pooling_along_channels(channels: tuple[int, int]) -> None:
    given, asked = channels
    x = torch.randn(2, given, 3, 3, dtype=torch.float64, requires_grad=True)
    own, reference = interpolate_channels(x, asked), F.adaptive_avg_pool3d(x, (asked, 3, 3))
    torch.testing.assert_close(own, reference, rtol=1e-6, atol=1e-6)
    weights = torch.randn_like(own)
    grads = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (own, reference)]
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6)


def test_candidates() -> None:
    assert candidate_widths(16) == (4, 6, 8, 9, 11, 12, 14, 16)
    assert candidate_widths(32) == (9, 12, 16, 19, 22, 25, 28, 32)
    assert candidate_widths(64) == (19, 25, 32, 38, 44, 51, 57, 64)
    assert candidate_widths(2) == (1, 2)


def test_two_different_ones_are_drawn_in_shares_that_sum_to_one() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 8)
    for tau in (5.0, 0.1):
        index, shares = draw_pairs(perturbed(logits, tau))
        assert (index[:, 0] != index[:, 1]).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(50))


def test_a_low_temperature_takes_the_larger_one_alone() -> None:
    torch.manual_seed(0)
    found = perturbed(torch.randn(200, 8), 1.0)
    # the same noise at a low temperature
    index, shares = draw_pairs(found / 1e-3)
    larger = found.gather(1, index).argmax(1)
    apart = (found.gather(1, index).diff(dim=1).abs() > 0.02)[:, 0]
    assert apart.sum() > 150
    assert (shares.argmax(1) == larger)[apart].all() and (shares.max(1).values[apart] > 1 - 1e-6).all()


def test_places_that_a_row_lacks_are_never_drawn() -> None:
    torch.manual_seed(0)
    known = torch.tensor([[True] * 8, [True, True, False, *[False] * 5]])
    logits = torch.zeros(2, 8, requires_grad=True)
    for _ in range(50):
        index, shares = draw_pairs(perturbed(logits, 0.1, known), known)
        assert sorted(index[1].tolist()) == [0, 1]
    shares[:, 0].sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and not logits.grad[1, 2:].any()


def test_the_noise_is_gumbel() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(1)
    best = perturbed(logits.expand(20_000, 3), 0.7).argmax(1)
    shares = torch.bincount(best, minlength=3) / 20_000
    # the largest perturbed logit is distributed as the softmax itself; 4 standard errors are 0.014
    torch.testing.assert_close(shares, logits.exp()[0], rtol=0, atol=0.014)


def test_gradients_reach_the_two_that_were_drawn_and_are_opposite() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    mixed, logits = MixedConv(conv, candidate_widths(16)), torch.zeros(1, 8).double().requires_grad_()
    index, shares = draw_pairs(perturbed(logits, 2.0))
    out = mixed(torch.randn(4, 3, 5, 5), index[0].tolist(), shares[0])
    (grad,) = torch.autograd.grad(out.pow(3).sum(), logits)
    drawn = index[0].tolist()
    others = [place for place in range(8) if place not in drawn]
    assert grad[0, others].abs().max() < 1e-12 * grad.abs().max()  # 0 but for rounding
    assert grad[0, drawn[0]] != 0
    torch.testing.assert_close(grad[0, drawn[0]], -grad[0, drawn[1]])


def test_a_mixture_is_that_of_padded_inputs_and_dropped_outputs() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
    mixed = MixedConv(conv, candidate_widths(32)).eval()
    for norm in mixed.norms:
        nn.init.normal_(norm.get_buffer("running_mean"))
        nn.init.normal_(norm.get_parameter("bias"))
    x, shares = torch.randn(2, 9, 8, 8), torch.tensor([0.3, 0.7])
    whole = conv(F.pad(x, (0, 0, 0, 0, 0, 7)))
    narrow, wide = mixed.norms[1](whole[:, :12]), mixed.norms[4](whole[:, :22])
    expected = 0.3 * F.adaptive_avg_pool3d(narrow, (22, 4, 4)) + 0.7 * wide
    torch.testing.assert_close(mixed(x, [1, 4], shares), expected, rtol=1e-4, atol=1e-5)
    assert mixed.macs == 9 * 16 * 9 * 22


def test_each_width_has_statistics_of_its_own() -> None:
    torch.manual_seed(0)
    mixed = MixedConv(nn.Conv2d(3, 16, 1, bias=False), candidate_widths(16)).train()
    mixed(torch.randn(4, 3, 2, 2), [0, 5], torch.tensor([0.5, 0.5]))
    assert [int(norm.get_buffer("num_batches_tracked")) for norm in mixed.norms] == [1, 0, 0, 0, 0, 1, 0, 0]
