"""The simulations: functions by hand, noise and deviations as their files say, splits that are disjoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.errors import UserError

Make = Callable[..., Any]


def ready(build: Make, name: str, **changes: Any) -> Any:
    data = build(name, **changes)
    data.setup(Path("unused"), download=False)
    return data


def joined(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_functions(build: Make) -> None:
    def unit(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    x = torch.tensor([[0.2, -0.5]])
    teacher = 4 * unit(6 * 0.2 + 4 * 0.5 + 1) - 3 * unit(-3 * 0.2 + 5 * 0.5 - 0.5) + 0.5
    assert build("simulation_one").function(x).item() == pytest.approx(teacher, rel=1e-6)
    x = torch.zeros(1, 20)
    x[0, :6] = torch.tensor([0.5, -0.4, 0.3, 0.8, 0.1, 0.9])
    expected = 7 * -0.4 / 1.25 + 5 * math.sin(0.24) + 0.2
    assert build("simulation_two").function(x).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["simulation_one", "simulation_two"])
def test_deviations_of_the_file(build: Make, name: str) -> None:
    data = ready(build, name, num_rows=40_000)
    x, y = joined(data.train_eval())
    noise = y[:, 0] - data.function(x)
    assert noise.std().item() == pytest.approx(data.noise_std, rel=0.02)
    assert y.std().item() == pytest.approx(data.target_std, rel=0.05)
    assert -1 <= x.min() < -0.99 and 0.99 < x.max() <= 1


def test_splits_hold_each_row_once_and_follow_from_the_seeds(build: Make) -> None:
    data = ready(build, "simulation_one")
    assert (data.num_train, data.num_val, data.num_test) == (900, 100, 100)
    whole = torch.cat([joined(data.train(epoch=3, seed=1))[1], joined(data.validation())[1]])
    assert len(whole.unique()) == 1000
    again, other = ready(build, "simulation_one"), ready(build, "simulation_one", data_seed=1)
    assert again.fingerprint() == data.fingerprint()
    assert other.fingerprint()["train_sha256"] != data.fingerprint()["train_sha256"]
    first, second = (joined(data.train(epoch=epoch, seed=1))[1] for epoch in (0, 1))
    assert not torch.equal(first, second) and torch.equal(first.sort(0).values, second.sort(0).values)
    assert data.truth() == {"nodes": 2, "inputs": 2}


def test_sizes_are_checked(build: Make) -> None:
    with pytest.raises(UserError, match=r"dataset.validation=1000 leaves no training row of the 1000"):
        ready(build, "simulation_one", validation=1000)
    with pytest.raises(UserError, match=r"dataset\.num_outputs of a simulation must be 1, got 2"):
        build("simulation_one", num_outputs=2)
    with pytest.raises(UserError, match="data_seed must be a whole number of at least 0"):
        build("simulation_one", data_seed=-1)
