from __future__ import annotations

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from prunebench import criteria
from prunebench.criteria import activation_moments
from prunebench.errors import UserError


def smallest(scores: Tensor, count: int) -> list[int]:
    return torch.argsort(scores, stable=True)[:count].tolist()


def close(actual: Tensor, expected: list[float], places: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), atol=places, rtol=0)


class TestFilters:
    def test_l1_hand_example(self) -> None:
        weight = torch.tensor([[1.0, -1.0], [0.5, 0.5], [3.0, 0.0], [-2.0, -2.0]])
        assert criteria.l1_norm(weight).tolist() == [2.0, 1.0, 3.0, 4.0]
        close(criteria.l2_norm(weight), [2**0.5, 0.5**0.5, 3.0, 8**0.5])
        assert smallest(criteria.l1_norm(weight), 4) == [1, 0, 2, 3]
        assert smallest(criteria.l2_norm(weight), 4) == [1, 0, 3, 2]  # the two largest change places

    def test_l1_greedy_leaves_removed_inputs_out(self) -> None:
        weight = torch.tensor([[[[5.0]], [[1.0]]], [[[0.0]], [[-2.0]]]])  # [2, 2, 1, 1]
        assert criteria.l1_norm(weight).tolist() == [6.0, 2.0]
        assert criteria.l1_norm(weight, live_inputs=[1]).tolist() == [1.0, 2.0]

    def test_geometric_median_hand_examples(self) -> None:
        first = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [4.0, 3.0]])
        scores = criteria.geometric_median(first)
        close(scores, [10.0, 8.242641, 10.0, 12.242641])
        assert smallest(scores, 2) == [1, 0]  # 0 and 2 tie: the lower index goes first
        line = torch.tensor([0.0, 1.0, 2.0, 10.0]).reshape(4, 1, 1, 1)
        assert criteria.geometric_median(line).tolist() == [13.0, 11.0, 11.0, 27.0]

    def test_geometric_median_is_not_the_norm(self) -> None:
        weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, -2.0]])
        close(criteria.geometric_median(weight), [15.950845, 16.462185, 25.881448, 21.370108])
        assert smallest(criteria.geometric_median(weight), 1) == [0]
        assert smallest(criteria.l2_norm(weight), 1) == [1]

    def test_mixed_hand_example(self) -> None:
        weight = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0], [0.0, -2.0]])
        scores = criteria.mixed(weight, num_by_norm=1)
        close(scores[[3, 0, 2]], [18.370108, 11.708204, 16.661904])  # distances among the three others only
        assert smallest(scores, 2) == [1, 0]
        torch.testing.assert_close(criteria.mixed(weight, num_by_norm=0), criteria.geometric_median(weight))
        assert smallest(criteria.mixed(weight, num_by_norm=4), 4) == [1, 3, 0, 2]  # all by norm

    def test_translation_and_scale(self) -> None:
        torch.manual_seed(0)
        weight = torch.randn(32, 8, 3, 3)
        moved, scaled = weight + 3 * torch.randn(8, 3, 3), 7.0 * weight
        chosen = smallest(criteria.geometric_median(weight), 12)
        assert smallest(criteria.geometric_median(moved), 12) == chosen
        assert smallest(criteria.l2_norm(moved), 12) != smallest(criteria.l2_norm(weight), 12)
        for score in (criteria.l1_norm, criteria.l2_norm, criteria.geometric_median):
            assert smallest(score(scaled), 12) == smallest(score(weight), 12)

    def test_permutation_equivariance(self) -> None:
        torch.manual_seed(0)
        weight, order = torch.randn(16, 4, 3, 3), torch.randperm(16)
        for score in (criteria.l1_norm, criteria.l2_norm, criteria.geometric_median):
            torch.testing.assert_close(score(weight[order]), score(weight)[order])

    def test_dead_filters_stay_the_most_replaceable(self) -> None:
        """At 40 % a zeroed set is chosen again whatever the alive filters do: the mask of the official code freezes."""
        torch.manual_seed(0)
        weight = torch.empty(64, 64, 3, 3)
        nn.init.kaiming_normal_(weight, mode="fan_out")
        dead = sorted(smallest(criteria.geometric_median(weight), 25))
        alive = [i for i in range(64) if i not in dead]
        weight[dead] = 0
        weight[alive] += weight.std() * torch.randn(39, 64, 3, 3)
        unit = nn.functional.normalize(weight[alive].flatten(1), dim=1)
        assert unit.sum(0).norm() <= len(dead)  # sufficient: 0 is then the exact geometric median
        assert sorted(smallest(criteria.geometric_median(weight), 25)) == dead

    def test_random_is_seeded(self) -> None:
        first, again, other = (criteria.random(50, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert bool(((first >= 0) & (first < 1)).all())

    def test_arguments_are_left_alone(self) -> None:
        weight = torch.randn(4, 2, 3, 3, requires_grad=True)
        before = weight.detach().clone()
        assert not criteria.geometric_median(weight).requires_grad
        criteria.mixed(weight, num_by_norm=1)
        assert torch.equal(weight.detach(), before)


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


class TestNorms:
    beta, gamma = torch.tensor([0.2, -1.0, 0.0, -0.5]), torch.tensor([0.5, 0.1, 1.0, -0.8])

    def test_order_of_removal(self) -> None:
        scores = criteria.bn_importance("mean", self.beta, self.gamma)
        close(scores, [0.315219, 0.0, 0.398942, 0.129536], 1e-6)
        assert smallest(scores, 4) == [1, 3, 0, 2]
        assert smallest(criteria.bn_importance("gamma", self.beta, self.gamma), 4) == [1, 0, 3, 2]

    def test_statistics_with_readers_by_hand(self) -> None:
        torch.manual_seed(0)
        readers = [torch.randn(5, 4, 3, 3), torch.randn(2, 4, 1, 1)]
        mean, spread = (
            activation_moments.mean(self.beta, self.gamma),
            activation_moments.variance(self.beta, self.gamma),
        )
        expected: dict[str, list[float]] = {"mean_x_next": [], "shift": [], "var_x_next": []}
        for i in range(4):
            parts = [weight[:, i].double() for weight in readers]
            sums = torch.cat([part.sum(dim=(1, 2)).abs() for part in parts])
            expected["mean_x_next"].append(float(mean[i] * sum(part.abs().sum() for part in parts)))
            expected["shift"].append(float(mean[i] * sums.mean()))
            expected["var_x_next"].append(float(spread[i] * sum(part.square().sum() for part in parts)))
        for statistic, values in expected.items():
            assert criteria.needs_readers(statistic)
            close(criteria.bn_importance(statistic, self.beta, self.gamma, readers=readers), values, 1e-9)

    def test_each_statistic_ranks_a_dead_channel_last(self) -> None:
        beta, gamma = torch.tensor([0.5, -30.0, 0.3]), torch.tensor([1.0, 0.01, 0.8])
        readers = [torch.ones(6, 3, 3, 3)]
        for statistic in criteria.STATISTICS:
            assert smallest(criteria.bn_importance(statistic, beta, gamma, readers=readers), 1) == [1], statistic

    def test_linear_output_scores_the_size_of_the_mean(self) -> None:
        scores = criteria.bn_importance("mean", torch.tensor([-5.0, 0.1]), torch.ones(2) * 0.1, activation=None)
        assert smallest(scores, 1) == [1]

    def test_kernel_sums_of_a_linear_layer_and_a_grouped_one(self) -> None:
        linear = torch.arange(12.0).reshape(1, 12)  # 3 channels of 2x2
        assert criteria.kernel_sums(linear, 3).tolist() == [[6.0, 22.0, 38.0]]
        depthwise = torch.ones(3, 1, 2, 2) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
        assert criteria.kernel_sums(depthwise, 3).tolist() == torch.diag(torch.tensor([4.0, 8, 12])).tolist()
        grouped = nn.Conv2d(6, 4, 3, groups=2, bias=False)
        constant = torch.rand(6)
        output = grouped(constant.reshape(1, 6, 1, 1).expand(1, 6, 3, 3)).flatten().double()
        torch.testing.assert_close(criteria.kernel_sums(grouped.weight, 6) @ constant.double(), output)

    def test_mean_shift_is_exact_for_a_1x1_reader(self) -> None:
        torch.manual_seed(0)
        inputs, reader, removed = torch.rand(16, 6, 5, 5).double() + 1, nn.Conv2d(6, 4, 1).double(), [0, 3, 4]
        means = inputs.mean(dim=(0, 2, 3))
        kept = inputs.clone()
        kept[:, removed] = 0
        lost = criteria.mean_shift(reader.weight, means, removed)
        before, after = (reader(x).mean(dim=(0, 2, 3)) for x in (inputs, kept))
        torch.testing.assert_close(after + lost, before)
        assert criteria.mean_shift(reader.weight, means, []).tolist() == [0, 0, 0, 0]

    def test_errors_name_the_values(self) -> None:
        with pytest.raises(ValueError, match="unknown statistic 'meen'; allowed: mean"):
            criteria.bn_importance("meen", self.beta, self.gamma)
        with pytest.raises(ValueError, match="'shift' needs the weights of the layers that read"):
            criteria.bn_importance("shift", self.beta, self.gamma)
        with pytest.raises(ValueError, match="cannot read 4 channels"):
            criteria.kernel_sums(torch.ones(2, 6), 4)
        with pytest.raises(ValueError, match="cannot read 4 channels"):
            criteria.kernel_sums(torch.ones(2, 8, 1, 1), 4)


class TestThresholds:
    ten = torch.tensor([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0])

    @pytest.mark.parametrize(("ratio", "threshold", "kept"), [(0.3, 0.4, 6), (0.5, 0.6, 4), (0.8, 0.9, 1)])
    def test_strict_threshold(self, ratio: float, threshold: float, kept: int) -> None:
        value = criteria.remaining_threshold([self.ten[:4], self.ten[4:].reshape(2, 3)], ratio)
        assert float(value) == pytest.approx(threshold)
        assert int((self.ten.abs() > value).sum()) == kept

    def test_iterative_threshold_takes_its_share_of_what_is_left(self) -> None:
        weight = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        for step in range(1, 4):
            weight = weight * (weight.abs() > criteria.remaining_threshold([weight], 0.2))
            assert 1000 * 0.8**step - 2 * step <= torch.count_nonzero(weight) <= 1000 * 0.8**step

    def test_layer_std_counts_live_weights(self) -> None:
        weight = torch.tensor([0.0, 1.0, -1.0, 3.0, -3.0, 0.0])
        assert float(criteria.layer_std_threshold(weight, 0.5)) == pytest.approx(0.5 * math.sqrt(20 / 3))

    def test_redraw_std(self) -> None:
        assert criteria.redraw_std(torch.ones(64, 32, 3, 3).bool()) == pytest.approx(math.sqrt(2 / (9 * 64)))
        assert criteria.redraw_std(torch.zeros(2, 2, 1, 1).bool()) > 0

    def test_errors(self) -> None:
        with pytest.raises(UserError, match=r"prune_ratio must be a number in \[0, 1\), got 1.0"):
            criteria.remaining_threshold([self.ten], 1.0)
        with pytest.raises(UserError, match="every weight is zero already"):
            criteria.remaining_threshold([torch.zeros(4)], 0.5)
        with pytest.raises(UserError, match=r"quality must be a number of at least 0, got -1.0"):
            criteria.layer_std_threshold(self.ten, -1.0)
