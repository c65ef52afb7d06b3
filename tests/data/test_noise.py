from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.data.noise import Noise
from prunebench.errors import UserError


def noise(**changes: Any) -> Noise:
    settings: dict[str, Any] = {
        "name": "noise", "num_pictures": 3000, "noise_seed": 0, "num_classes": 10, "in_channels": 2, "size": 5,
        "batch_size": 16, "eval_batch_size": 700, "mean": [0.0, 0.5], "std": [1.0, 0.5], "validation": 0,
        "split_seed": 0,
    }  # fmt: skip
    data = Noise(**{**settings, **changes})
    data.setup(Path("nowhere"), download=False)
    return data


def pictures(data: Noise) -> torch.Tensor:
    return torch.cat([images for images, _ in data.test()])


def test_uniform_pixels_normalised_like_the_run_s_own() -> None:
    images = pictures(noise())
    assert images.shape == (3000, 2, 5, 5)
    # uniform on 0, 1/255, …, 1: mean 1/2, variance (256^2 - 1) / (12 * 255^2); the second channel becomes 2 x - 1
    first, second = images[:, 0], images[:, 1]
    assert first.mean().item() == pytest.approx(0.5, abs=0.005)
    assert first.var().item() == pytest.approx((256**2 - 1) / (12 * 255**2), rel=0.02)
    assert (second.min().item(), second.max().item()) == pytest.approx((-1, 1))
    # independent: no correlation between neighbours
    assert abs(torch.corrcoef(torch.stack([first[..., 0].flatten(), first[..., 1].flatten()]))[0, 1]) < 0.03


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    one = pictures(noise())
    torch.manual_seed(2)
    assert torch.equal(one, pictures(noise(eval_batch_size=100)))
    assert not torch.equal(one, pictures(noise(noise_seed=1)))


def test_nothing_to_train_on() -> None:
    data = noise()
    assert (data.num_train, data.num_val, data.num_test) == (0, 0, 3000)


def test_a_broken_count_is_refused() -> None:
    with pytest.raises(UserError, match=r"num_pictures must be a whole number of at least 1, got 0"):
        noise(num_pictures=0)
