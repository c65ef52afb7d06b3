from __future__ import annotations

import math

import pytest
import torch

from prunebench import criteria
from prunebench.errors import UserError


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
