from __future__ import annotations

import pytest
import torch
from scipy import integrate, stats

from prunebench.criteria import activation_moments
from tests.criteria.kit import close

BETA_GAMMA = [(0.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (-1.0, 0.5), (0.5, -0.3), (-3.0, 1.0), (2.0, 0.1)]
BETA = torch.tensor([pair[0] for pair in BETA_GAMMA])
GAMMA = torch.tensor([pair[1] for pair in BETA_GAMMA])


def numeric(beta: float, gamma: float, function, power: int = 1) -> float:
    """E[f(X)^power] by quadrature, split where f has its kinks."""
    scale = abs(gamma)
    low, high = beta - 12 * scale, beta + 12 * scale
    kinks = [kink for kink in (0.0, 6.0) if low < kink < high]

    def integrand(x: float) -> float:
        return float(function(x) ** power * stats.norm.pdf(x, beta, scale))

    return float(integrate.quad(integrand, low, high, points=kinks or None, limit=200)[0])


FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "leaky_relu": lambda x: x if x > 0 else 0.1 * x,
    None: lambda x: x,
}


class TestGaussian:
    def test_published_table(self) -> None:
        close(
            activation_moments.mean(BETA, GAMMA),
            [0.398942, 1.083315, 0.083315, 0.004245, 0.505948, 0.000382, 2.0],
            1e-6,
        )
        close(
            activation_moments.second_moment(BETA, GAMMA),
            [0.5, 1.92466, 0.07534, 0.001442, 0.338673, 0.000203, 4.01],
            1e-6,
        )
        close(
            activation_moments.variance(BETA, GAMMA),
            [0.340845, 0.751088, 0.068398, 0.001424, 0.08269, 0.000203, 0.01],
            1e-6,
        )
        close(
            activation_moments.prob_active(BETA, GAMMA), [0.5, 0.841345, 0.158655, 0.02275, 0.95221, 0.00135, 1.0], 1e-6
        )
        torch.testing.assert_close(
            activation_moments.std(BETA, GAMMA).square(), activation_moments.variance(BETA, GAMMA)
        )

    @pytest.mark.parametrize("activation", FUNCTIONS)
    def test_every_activation_against_quadrature(self, activation: str | None) -> None:
        beta = torch.cat([BETA, torch.tensor([5.5, 7.0])])
        gamma = torch.cat([GAMMA, torch.tensor([2.0, 0.5])])
        pairs = list(zip(beta.tolist(), gamma.tolist(), strict=True))
        function = FUNCTIONS[activation]
        mean = [numeric(b, g, function) for b, g in pairs]
        square = [numeric(b, g, function, 2) for b, g in pairs]
        size = [numeric(b, g, lambda x: abs(function(x))) for b, g in pairs]
        close(activation_moments.mean(beta, gamma, activation=activation, slope=0.1), mean)
        close(activation_moments.magnitude(beta, gamma, activation=activation, slope=0.1), size)
        close(activation_moments.second_moment(beta, gamma, activation=activation, slope=0.1), square, 1e-5)
        spread = [second - first**2 for first, second in zip(mean, square, strict=True)]
        close(activation_moments.variance(beta, gamma, activation=activation, slope=0.1), spread, 1e-5)

    def test_published_values_of_other_activations(self) -> None:
        one = torch.ones(1)
        close(activation_moments.mean(torch.tensor([5.5]), 2 * one, activation="relu6"), [4.929109])
        close(activation_moments.mean(-one, one, activation="leaky_relu", slope=0.1), [-0.025016])
        close(activation_moments.mean(one, one, activation="leaky_relu", slope=0.1), [1.074984])
        close(activation_moments.magnitude(0 * one, one, activation=None), [0.797885])

    def test_identities(self) -> None:
        beta, gamma = torch.linspace(-4, 4, 41), torch.linspace(0.1, 3, 41)
        mean, square = activation_moments.mean, activation_moments.second_moment
        torch.testing.assert_close(mean(beta, gamma) - mean(-beta, gamma), beta.double())
        both = beta.double().square() + gamma.double().square()
        torch.testing.assert_close(square(beta, gamma) + square(-beta, gamma), both)
        torch.testing.assert_close(mean(4 * beta, 4 * gamma), 4 * mean(beta, gamma))
        torch.testing.assert_close(mean(beta, -gamma), mean(beta, gamma))

    def test_extremes(self) -> None:
        beta = torch.linspace(-40, 40, 801)
        assert (activation_moments.mean(beta, torch.ones(801)) >= 0).all()
        assert (activation_moments.variance(beta, torch.ones(801)) >= 0).all()
        constant = torch.tensor([-2.0, 0.0, 3.0])
        for name, expected in (("mean", [0.0, 0, 3]), ("second_moment", [0.0, 0, 9]), ("variance", [0.0, 0, 0])):
            assert getattr(activation_moments, name)(constant, torch.zeros(3)).tolist() == expected
        assert activation_moments.prob_active(constant, torch.zeros(3)).tolist() == [0, 0, 1]

    def test_no_closed_form(self) -> None:
        with pytest.raises(ValueError, match="no closed form for the activation 'silu'; there is one for relu"):
            activation_moments.mean(BETA, GAMMA, activation="silu")
