from __future__ import annotations

import torch
from torch import nn

from prunebench import criteria
from tests.criteria.kit import close, smallest


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
