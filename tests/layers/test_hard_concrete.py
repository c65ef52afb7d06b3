from __future__ import annotations

import math

import pytest
import torch

from prunebench.errors import UserError
from prunebench.layers import hard_concrete as hc

# log_alpha -> P(z != 0), P(z = 1), E[z] in closed form
CLOSED = {
    0.0: (11 / 12, 1 / 12, 0.5),
    -1.0: (0.801850, 0.032361, 0.315197),
    2.0: (0.987846, 0.401818, 0.831044),
    -3.0: (0.353862, 0.004506, 0.077671),
}


@pytest.mark.parametrize(("log_alpha", "expected"), CLOSED.items())
def test_probability_of_an_open_gate(log_alpha: float, expected: tuple[float, float, float]) -> None:
    assert float(hc.prob_nonzero(torch.tensor(log_alpha))) == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("log_alpha", CLOSED)
def test_samples_have_these_probabilities(log_alpha: float) -> None:
    torch.manual_seed(0)
    z = hc.sample(torch.full((1_000_000,), log_alpha))
    nonzero, one, mean = CLOSED[log_alpha]
    assert float((z > 0).float().mean()) == pytest.approx(nonzero, abs=2e-3)
    assert float((z == 1).float().mean()) == pytest.approx(one, abs=2e-3)
    assert float(z.mean()) == pytest.approx(mean, abs=2e-3)
    assert float(z.min()) >= 0 and float(z.max()) <= 1


def test_other_temperature_and_stretch() -> None:
    torch.manual_seed(0)
    options = {"temperature": 0.66, "low": -0.2, "high": 1.3}
    location = torch.full((1_000_000,), 0.4)
    z = hc.sample(location, **options)
    assert float((z > 0).float().mean()) == pytest.approx(float(hc.prob_nonzero(location[0], **options)), abs=2e-3)
    # in closed form: sigmoid(log_alpha - temperature ln((1 - low) / (high - 1)))
    one = 1 / (1 + math.exp(0.66 * math.log(1.2 / 0.3) - 0.4))
    assert float((z == 1).float().mean()) == pytest.approx(one, abs=2e-3)


def test_a_drop_rate_of_5_percent_leaves_209_of_210_gates_open() -> None:
    at = hc.initial_log_alpha(1, drop_rate=0.05, std=0.0)
    assert float(at) == pytest.approx(math.log(19))
    assert float(hc.prob_nonzero(at)) == pytest.approx(209 / 210)
    assert float(hc.expected_l0(at.expand(210))) == pytest.approx(209.0, abs=1e-3)
    torch.manual_seed(0)
    drawn = hc.initial_log_alpha(100_000, drop_rate=0.5, std=0.01)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=2e-4)
    assert float(drawn.std()) == pytest.approx(0.01, rel=0.02)
    with pytest.raises(UserError, match=r"drop_rate must be a number in \(0, 1\), got 0.0"):
        hc.initial_log_alpha(1, drop_rate=0.0)


def test_gradient_is_zero_exactly_where_the_gate_is_clamped() -> None:
    torch.manual_seed(0)
    location = torch.zeros(10_000, requires_grad=True)
    z = hc.sample(location)
    z.sum().backward()
    inside = (z > 0) & (z < 1)
    assert location.grad is not None
    assert torch.equal(location.grad != 0, inside)
    soft = (z.detach() + 0.1) / 1.2
    torch.testing.assert_close(location.grad[inside], (1.2 * soft * (1 - soft))[inside])


def test_evaluation_gate_of_six() -> None:
    at = torch.tensor([-5.0, -4, -3, 0, 2, 3])
    assert float(hc.expected_l0(at)) == pytest.approx(3.490560, abs=1e-5)  # so 2.509 zeros are expected: 3
    expected = torch.tensor([0, 0, 0, 0.5, 0.832018, 0.916827])
    torch.testing.assert_close(hc.evaluation_gate(at), expected, atol=1e-6, rtol=0)
    shuffled = torch.tensor([5, 0, 4, 1, 3, 2])
    torch.testing.assert_close(hc.evaluation_gate(at[shuffled]), expected[shuffled], atol=1e-6, rtol=0)


def test_of_equal_gates_the_first_go() -> None:
    at = torch.full((4,), -math.log(11))  # P(nonzero) = 1/2 each: two are expected to be open
    assert hc.evaluation_gate(at).gt(0).tolist() == [False, False, True, True]


def test_soft_values_are_close_to_the_mean() -> None:
    at = [-1.0, 0.0, 2.0]  # 2.7 of these three are expected to be open: none is 0
    soft = hc.evaluation_gate(torch.tensor(at))
    assert soft.tolist() == pytest.approx([CLOSED[log_alpha][2] for log_alpha in at], abs=0.008)
