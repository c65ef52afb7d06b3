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
def test_probabilities_and_mean(log_alpha: float, expected: tuple[float, float, float]) -> None:
    at = torch.tensor(log_alpha)
    found = (hc.prob_nonzero(at), hc.prob_one(at), hc.expected_gate(at))
    assert [float(value) for value in found] == pytest.approx(list(expected), abs=1e-6)


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
    assert float((z == 1).float().mean()) == pytest.approx(float(hc.prob_one(location[0], **options)), abs=2e-3)


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


def test_the_mean_is_smooth_where_its_closed_form_is_not() -> None:
    near = hc.expected_gate(torch.tensor([-2e-4, -5e-5, 0.0, 5e-5, 2e-4], dtype=torch.float64))
    assert torch.all((near - 0.5).abs() < 1e-4)


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


def test_soft_values_are_close_to_the_mean_and_louizos_gate_is_not() -> None:
    at = torch.tensor([-4, -3, -1, 0, 1, 2, 2.944])
    assert float((torch.sigmoid(0.8 * at) - hc.expected_gate(at)).abs().max()) < 0.008
    assert float(hc.deterministic_gate(torch.tensor(2.0))) == pytest.approx(0.956956, abs=1e-6)
    assert hc.deterministic_gate(torch.tensor([-3.0, 3.0])).tolist() == [0.0, 1.0]
