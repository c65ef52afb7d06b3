"""DCFF's example of four filters, its limits, its temperature."""

from __future__ import annotations

import pytest
import torch

from prunebench.criteria import proxies
from prunebench.criteria.filters import geometric_median

FILTERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def test_four_filters_at_temperature_one() -> None:
    gaps = proxies.distances(FILTERS)
    assert gaps.sum(1).tolist() == pytest.approx([8, 7.708204, 7.841619, 13.077687], abs=1e-6)
    logs = proxies.log_proxies(gaps, 1.0)
    found = logs.exp()
    assert found[0].tolist() == pytest.approx([0.662272, 0.243636, 0.089629, 0.004462], abs=1e-6)
    assert found[3].tolist() == pytest.approx([0.006446, 0.010928, 0.025994, 0.956633], abs=1e-6)
    scores = proxies.importance(logs)
    assert scores.tolist() == pytest.approx([5.599391, 5.566768, 6.181662, 13.064705], abs=1e-6)
    chosen = proxies.strongest(scores, 2)
    assert sorted(chosen.tolist()) == [2, 3]
    averages = found[chosen.sort().values] @ FILTERS
    assert averages.flatten().tolist() == pytest.approx([0.148415, 1.661189, 2.880826, 3.878519], abs=1e-6)


def test_the_official_score_is_the_mean_and_nearly_the_same() -> None:
    scores = proxies.official_importance(proxies.distances(FILTERS), 1.0)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx([1.399848, 1.391692, 1.545416, 3.266176], abs=1e-3)


def test_each_pair_s_divergence_is_summed() -> None:
    logs = proxies.log_proxies(proxies.distances(torch.randn(7, 3, 2, 2)), 2.0)
    found = logs.exp()
    expected = (found[:, None] * (logs[:, None] - logs[None])).sum((1, 2))  # sum_k sum_i P_ji (L_ji - L_ki)
    assert torch.allclose(proxies.importance(logs), expected)


def test_for_large_temperatures_the_score_is_fpgm_s() -> None:
    gaps = proxies.distances(FILTERS)
    for temperature in (100.0, 1e4):
        scores = proxies.importance(proxies.log_proxies(gaps, temperature)) / temperature
        assert scores.tolist() == pytest.approx([8.0, 7.708204, 7.841619, 13.077687], abs=1e-6)
        assert torch.allclose(scores, geometric_median(FILTERS))
        chosen = proxies.strongest(scores, 2)
        assert sorted(chosen.tolist()) == [0, 3]  # {2, 3} at T = 1
        averages = proxies.log_proxies(gaps, temperature)[chosen].exp() @ FILTERS
        assert torch.allclose(averages, FILTERS[chosen], rtol=0, atol=1e-12)
        assert bool(proxies.official_importance(gaps, temperature).isnan().all())


def test_equal_filters_have_uniform_proxies_and_no_score() -> None:
    logs = proxies.log_proxies(proxies.distances(torch.ones(5, 3)), 1.0)
    assert torch.allclose(logs.exp(), torch.full((5, 5), 0.2, dtype=torch.float64))
    assert proxies.importance(logs).abs().max() < 1e-12
    assert proxies.strongest(proxies.importance(logs).round(decimals=9), 3).tolist() == [0, 1, 2]


def test_the_temperature_rises_as_published() -> None:
    def at(epoch: int, k: float = 1.0) -> float:
        return proxies.inverse_temperature(epoch, 300, k=k, start=1.0, end=1e4)

    found = [at(epoch) for epoch in (0, 1, 2, 3, 5, 10, 300)]
    assert found == pytest.approx([1, 4621.7095, 7616.1800, 9051.5774, 9866.1564, 9999.0921, 10_000], rel=1e-8)
    every = [at(epoch) for epoch in range(301)]
    assert every == sorted(every)
    assert [at(epoch, 0.05) for epoch in (1, 10, 100)] == pytest.approx([250.9, 2449.9, 9866.2], abs=0.05)
    # the paper's form
    a = 2 * (1e4 - 1) * (1 + 2.718281828459045**-15) / (1 - 2.718281828459045**-15)
    assert at(7, 0.05) == pytest.approx(a / (1 + 2.718281828459045**-0.35) + 1 - a / 2)


def test_who_stays_keeps_its_slot() -> None:
    none = torch.full((3,), -1)
    first = proxies.stable_slots(none, torch.tensor([7, 2, 5]))
    assert first.tolist() == [2, 5, 7]
    assert proxies.stable_slots(first, torch.tensor([9, 7, 1])).tolist() == [1, 9, 7]
    assert proxies.stable_slots(first, torch.tensor([5, 7, 2])).tolist() == [2, 5, 7]
