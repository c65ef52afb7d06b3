"""CAP's example of three samples and four channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunebench.criteria.complexity import complexity, instance_weights, polarisation, widest_gap

MASKS = torch.tensor([[0.9, 0.8, 0.2, 0.1], [0.6, 0.9, 0.4, 0.1], [0.2, 0.95, 0.9, 0.05]])
LABELS = torch.tensor([0, 1, 1])


def logits(probabilities: list[float]) -> Tensor:
    """Two classes; the label has the given probability."""
    p = torch.tensor(probabilities)
    both = torch.stack([p, 1 - p], 1).log()
    return torch.where(LABELS[: len(p), None] == 0, both, both.flip(1))


HARD = logits([0.9, 0.5, 0.2])


@pytest.mark.parametrize(
    ("kind", "power", "weights", "importances", "ranking"),
    [
        ("focal", 1, [0.071429, 0.357143, 0.571429], [0.392857, 0.921429, 0.671429, 0.071429], [1, 2, 0, 3]),
        ("focal", 2, [0.011111, 0.277778, 0.711111], [0.318889, 0.934444, 0.753333, 0.064444], [1, 2, 0, 3]),
        ("ce", 1, [0.043755, 0.287858, 0.668386], [0.345772, 0.929044, 0.725442, 0.066581], [1, 2, 0, 3]),
        ("uniform", 1, [1 / 3] * 3, [0.566667, 0.883333, 0.5, 0.083333], [1, 0, 2, 3]),
    ],
)
def test_hard_samples_decide(
    kind: str, power: float, weights: list[float], importances: list[float], ranking: list[int]
) -> None:
    found = instance_weights(complexity(HARD, LABELS, kind=kind, power=power))
    assert found.tolist() == pytest.approx(weights, abs=1e-6)
    shares = found @ MASKS
    assert shares.tolist() == pytest.approx(importances, abs=1e-6)
    assert shares.argsort(descending=True).tolist() == ranking
    if kind == "uniform":
        assert torch.allclose(shares, MASKS.mean(0))


@pytest.mark.parametrize("kind", ["focal", "ce", "uniform"])
def test_weights_sum_to_one_carry_no_gradient_and_fall_with_certainty(kind: str) -> None:
    given = logits([0.1, 0.4, 0.7]).requires_grad_()
    weights = instance_weights(complexity(given, LABELS, kind=kind))
    assert float(weights.sum()) == pytest.approx(1)
    assert not weights.requires_grad
    assert weights.tolist() == sorted(weights.tolist(), reverse=True)


def test_without_any_complexity_all_count_alike() -> None:
    sure = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [0.0, 1000.0]])
    for kind in ("focal", "ce"):
        assert instance_weights(complexity(sure, LABELS, kind=kind)).tolist() == pytest.approx([1 / 3] * 3)


def test_regularisers() -> None:
    focal, uniform = (instance_weights(complexity(HARD, LABELS, kind=kind)) @ MASKS for kind in ("focal", "uniform"))
    halves, parted = torch.full((4,), 0.5), torch.tensor([0.0, 1.0, 1.0, 0.0])
    for values, bernoulli, variance in (
        (focal, 0.149464, 0.100332),
        (uniform, 0.168750, 0.081181),
        (halves, 0.25, 0.0),
        (parted, 0.0, 0.25),
    ):
        assert float(polarisation([values], "bernoulli")) == pytest.approx(bernoulli, abs=1e-6)
        assert float(polarisation([values], "variance")) == pytest.approx(-variance, abs=1e-6)
    for given, expected in ((halves, 2.0), (parted, 0.0), (torch.tensor([0.9, 0.8, 0.2, 0.1]), 0.6)):
        assert float(polarisation([given], "zhuang")) == pytest.approx(expected, abs=1e-6)


def test_the_variance_is_that_within_a_layer() -> None:
    layers = [torch.full((2,), 0.1), torch.full((6,), 0.9)]
    assert float(polarisation(layers, "variance")) == pytest.approx(0, abs=1e-12)
    assert float(polarisation(layers, "zhuang")) < 2 * 0.1 + 6 * 0.9 - 1  # over all channels they are apart


def test_the_widest_gap_is_between_the_percentiles() -> None:
    low, high = torch.linspace(0.55, 0.65, 10), torch.linspace(0.75, 0.8, 9)
    values = torch.cat([torch.zeros(1), low, high, torch.ones(1)])
    assert widest_gap([values[:7], values[7:]]) == pytest.approx((0.65 + 0.75) / 2)  # 0 and 1 are outliers
