from __future__ import annotations

import pytest
import torch

from prunebench.criteria.snr import filter_signal_to_noise, live_weights, lowest, signal_to_noise


def test_ratio_of_single_weights() -> None:
    # mean (3, 3); SWAG's variances 6.25 and 2.75, the diagonal ones 3.5 and 1.5
    mean = torch.tensor([3.0, 3.0])
    swag = signal_to_noise(mean, torch.tensor([6.25, 2.75]).sqrt())
    assert swag.tolist() == pytest.approx([1.2, 1.809068], abs=1e-6)
    diagonal = signal_to_noise(-mean, torch.tensor([3.5, 1.5]).sqrt())
    assert diagonal.tolist() == pytest.approx([1.603567, 2.449490], abs=1e-6)
    assert lowest(swag, 1).tolist() == lowest(diagonal, 1).tolist() == [True, False]


def test_ratio_of_filters() -> None:
    mean = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    std = torch.tensor([[6.0, 8.0], [0.3, 0.4]]).view(2, 2, 1, 1)
    assert filter_signal_to_noise(mean, std).tolist() == pytest.approx([0.5, 2.0])


def test_a_constant_weight_has_a_finite_ratio() -> None:
    assert signal_to_noise(torch.tensor([1.0, 0.0]), torch.zeros(2)).tolist() == pytest.approx([1e12, 0.0])


def test_ties_go_by_index() -> None:
    assert lowest(torch.tensor([1.0, 0.0, 0.0, 0.0]), 2).tolist() == [False, True, True, False]
    assert lowest(torch.tensor([1.0, 0.0]), 0).tolist() == [False, False]


def test_one_list_for_all_layers_or_one_for_each() -> None:
    scores = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.5, 5.0])}
    together = live_weights(scores, 3)
    assert {name: mask.tolist() for name, mask in together.items()} == {
        "a": [[False, False], [True, True]],
        "b": [False, True],
    }
    each = live_weights(scores, {"a": 3, "b": 0})
    assert each["a"].tolist() == [[False, False], [False, True]]
    assert each["b"].all()
