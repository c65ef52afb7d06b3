"""The digits of scikit-learn, against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from prunebench.errors import UserError

Make = Callable[..., Any]


def ready(build: Make, **changes: Any) -> Any:
    data = build("digits", **changes)
    data.setup(Path("unused"), download=False)
    return data


def test_counts(build: Make) -> None:
    data = ready(build)
    assert (data.num_train, data.num_val, data.num_test) == (1293, 144, 360)


def test_all_pictures_are_there_once(build: Make) -> None:
    data = ready(build, mean=[0.0], std=[1.0], augment={"crop": 0, "flip": False})
    batches = [*data.train(epoch=0, seed=0), *data.validation(), *data.test()]
    ours = torch.cat([x for x, _ in batches])
    labels = torch.cat([y for _, y in batches])
    bunch = load_digits()
    ink = (ours * 16).round().flatten(1)  # back to 0 to 16; loses nothing
    found = sorted([*picture, label] for picture, label in zip(ink.tolist(), labels.tolist(), strict=True))
    expected = sorted(
        [*picture, label] for picture, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)
    )
    assert found == expected


def test_the_test_split_is_stratified_and_always_the_same(build: Make) -> None:
    first, second = ready(build, split_seed=0), ready(build, split_seed=9)
    assert first.fingerprint()["test_labels_sha256"] == second.fingerprint()["test_labels_sha256"]
    assert first.fingerprint()["validation_index_sha256"] != second.fingerprint()["validation_index_sha256"]
    counts = torch.bincount(torch.cat([y for _, y in first.test()]))
    exact = torch.bincount(torch.from_numpy(load_digits().target)) * 360 / 1797
    assert float((counts - exact).abs().max()) < 1


def test_mean_and_std_of_the_configuration(build: Make) -> None:
    data = ready(build)
    x = torch.cat([x for x, _ in data.train_eval()])
    assert abs(float(x.mean())) < 2e-3
    assert abs(float(x.std()) - 1) < 2e-3


@pytest.mark.parametrize("size", [16, 32])
def test_enlarged(build: Make, size: int) -> None:
    data = ready(build, size=size, mean=[0.0], std=[1.0])
    native = ready(build, mean=[0.0], std=[1.0])
    large, _ = next(iter(data.test()))
    plain, _ = next(iter(native.test()))
    assert large.shape[1:] == (1, size, size)
    # Enlarging keeps the mean brightness except at the border, where nothing is outside.
    torch.testing.assert_close(large.mean((1, 2, 3)), plain.mean((1, 2, 3)), atol=0.03, rtol=0)


def test_other_sizes_are_refused(build: Make) -> None:
    with pytest.raises(UserError, match=r"dataset\.size must be one of 8, 16, 32, got 28"):
        build("digits", size=28)
    with pytest.raises(UserError, match=r"dataset\.test must be a whole number in \[10, 1787\], got 0"):
        build("digits", test=0)
