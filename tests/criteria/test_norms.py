from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench import criteria
from prunebench.criteria import activation_moments
from tests.criteria.kit import close, smallest


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
