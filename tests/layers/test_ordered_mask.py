"""Ordered masks against the specification's numbers: chances, draws, divergence, blocks."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from prunebench.layers.ordered_mask import Blocks, OrderedMask, divergence, draw_count, log_counts, stays, to_mask

HAND = torch.tensor([0.9, 0.8, 0.5], dtype=torch.double)


def chain(logit: float, size: int = 30) -> torch.Tensor:
    return torch.full((size,), logit, dtype=torch.double).sigmoid()


def mask(logit: float = 3.0, *, channels: int = 32, **changes: object) -> OrderedMask:
    blocks = Blocks.of(channels, num_blocks=32, frozen_blocks=2)
    options = {"logit": logit, "learned": True, "temperature": 2.0, "gumbel_input": "log_q", **changes}
    return OrderedMask(blocks, **options)  # type: ignore[arg-type]


def test_chances_by_hand() -> None:
    q = log_counts(HAND).exp()
    torch.testing.assert_close(q, torch.tensor([0.1, 0.18, 0.36, 0.36], dtype=torch.double))
    torch.testing.assert_close(stays(HAND), torch.tensor([0.9, 0.72, 0.36], dtype=torch.double))
    expected = float((q * torch.arange(4)).sum())
    assert expected == pytest.approx(1.98) == pytest.approx(float(stays(HAND).sum()))


def test_divergence_by_both_forms() -> None:
    prior = torch.full_like(HAND, 0.95)
    assert float(divergence(HAND, prior)) == pytest.approx(0.744318, abs=1e-6)
    each = HAND * (HAND / prior).log() + (1 - HAND) * ((1 - HAND) / (1 - prior)).log()
    reached = torch.tensor([1.0, 0.9, 0.72], dtype=torch.double)
    assert float((reached * each).sum()) == pytest.approx(0.744318, abs=1e-6)
    assert float(divergence(prior, prior)) == pytest.approx(0, abs=1e-12)


def test_every_count_is_a_mask_of_the_first_blocks() -> None:
    found = [to_mask(one).tolist() for one in torch.eye(4)]
    assert found == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_where_training_starts() -> None:
    keep = chain(3.0)
    assert float(keep[0]) == pytest.approx(0.952574, abs=1e-6)
    q = log_counts(keep).exp()
    assert float(q[0]) == pytest.approx(0.047426, abs=1e-6) and float(q[30]) == pytest.approx(0.232790, abs=1e-6)
    assert float((q * torch.arange(31)).sum()) == pytest.approx(15.4098, abs=1e-4)
    assert float(divergence(keep, torch.full_like(keep, 0.95))) == pytest.approx(0.0011472, abs=1e-7)


@pytest.mark.parametrize(("logit", "expected", "right"), [(3.0, 15.02, 15.41), (5.0, 15.58, 27.08)])
def test_the_official_slip_makes_widths_nearly_uniform(logit: float, expected: float, right: float) -> None:
    q = log_counts(chain(logit)).exp()
    slip = torch.softmax(q, 0)
    counts = torch.arange(31)
    assert float((slip * counts).sum()) == pytest.approx(expected, abs=0.005)
    assert float((q * counts).sum()) == pytest.approx(right, abs=0.005)
    assert logit == 5 or float(slip[30]) == pytest.approx(0.0394, abs=5e-5)


@pytest.mark.parametrize(
    ("gumbel_input", "expected"),
    [("log_q", [0.1, 0.18, 0.36, 0.36]), ("q", [0.2138, 0.2316, 0.2773, 0.2773])],
)
def test_frequencies_of_draws(gumbel_input: str, expected: list[float]) -> None:
    """2e4 masks of the layer itself: 4 blocks, one of them frozen, so that c + 1 channels stay."""
    layer = OrderedMask(Blocks(4, 4, 1), logit=0.0, learned=True, temperature=2.0, gumbel_input=gumbel_input)
    with torch.no_grad():
        layer.logits.copy_((HAND / (1 - HAND)).log())
        torch.manual_seed(0)
        drawn = torch.stack([layer.draw() for _ in range(20_000)])
    assert bool((drawn[:, 0] == 1).all()) and set(drawn.unique().tolist()) == {0.0, 1.0}
    assert bool((drawn.diff(dim=1) <= 0).all())
    found = torch.bincount(drawn.sum(1).long() - 1, minlength=4) / len(drawn)
    assert found.tolist() == pytest.approx(expected, abs=0.01)


def test_the_gradient_is_that_of_the_soft_draw() -> None:
    scores = log_counts(HAND).requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.double)
    torch.manual_seed(4)
    hard = draw_count(scores, 2.0)
    (found,) = torch.autograd.grad((weights * hard).sum(), scores)
    torch.manual_seed(4)
    soft = torch.nn.functional.gumbel_softmax(scores, tau=2.0)
    (expected,) = torch.autograd.grad((weights * soft).sum(), scores)
    torch.testing.assert_close(found, expected)
    assert sorted(hard.tolist()) == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("channels", "num", "frozen"), [(96, 32, 2), (768, 32, 2), (32, 32, 2), (16, 16, 1), (24, 8, 1), (7, 1, 1)]
)
def test_fewer_blocks_where_they_do_not_divide_the_channels(channels: int, num: int, frozen: int) -> None:
    found = Blocks.of(channels, num_blocks=32, frozen_blocks=2)
    assert (found.num, found.frozen, found.size * found.num) == (num, frozen, channels)


def test_the_official_widths() -> None:
    blocks = Blocks.of(96, num_blocks=32, frozen_blocks=2)
    found = [blocks.kept(1 - i / 15) for i in range(16)]
    assert found == [32, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 7, 5, 3, 2]


def test_evaluation_and_a_fixed_width() -> None:
    layer = mask(channels=64).eval()
    x = torch.ones(2, 64, 3, 3)
    chances = torch.cat([torch.ones(2), 0.952574 ** torch.arange(1, 31)]).repeat_interleave(2)
    torch.testing.assert_close(layer(x)[1, :, 2, 0], chances, atol=1e-4, rtol=0)
    assert float(layer.expected_share().detach()) == pytest.approx((2 + 15.4098) / 32, abs=1e-5)
    layer.kept = 17
    assert layer(x)[0, :, 0, 0].tolist() == [1.0] * 34 + [0.0] * 30
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_one_mask_for_the_batch_and_a_new_one_each_pass() -> None:
    layer = mask().train()
    torch.manual_seed(0)
    found = [layer(torch.ones(5, 32)) for _ in range(20)]
    assert all(bool((y == y[0]).all()) for y in found)
    assert len({float(y[0].detach().sum()) for y in found}) > 3


def test_logits_are_clipped_and_the_prior_has_no_parameter() -> None:
    assert mask(40.0).keep()[0].item() == pytest.approx(0.9933, abs=1e-4)
    fixed = mask(math.log(19.0), learned=False)
    assert list(fixed.parameters()) == [] and float(fixed.keep()[3]) == pytest.approx(0.95)
    assert "logits" in copy.deepcopy(fixed).state_dict()
