"""Whole-batch augmentation, against a loop over single pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prunebench.data.batches import Draws, Store, crop, mirror, normalise, scale_and_shift

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def one_by_one(images: Tensor, index: Tensor, draws: Draws, padding: int) -> Tensor:
    """The slow way: pad, cut, flip and normalise each picture on its own."""
    size = images.shape[-1]
    done = []
    for sample in index.tolist():
        padded = np.pad(images[sample].numpy(), ((0, 0), (padding, padding), (padding, padding)))
        top, left = int(draws.top[sample]), int(draws.left[sample])
        window = padded[:, top : top + size, left : left + size]
        if draws.flip[sample]:
            window = window[:, :, ::-1]
        done.append(torch.from_numpy(window.copy()))
    return torch.stack(done)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (4, True)])
def test_batch_equals_a_loop_over_pictures(padding: int, flip: bool, channels_last: bool) -> None:
    images = torch.randint(0, 256, (60, 3, 12, 12), dtype=torch.uint8)
    labels = torch.arange(60)
    store = Store(images, labels, padding=padding, mean=MEAN, std=STD)
    draws = Draws.make(60, padding=padding, flip=flip, seed=3, epoch=5)
    index = torch.randperm(60)[:33]
    x, y = store.batch(index, draws, channels_last=channels_last)
    expected = one_by_one(images, index, draws, padding)
    assert torch.equal(x, normalise(expected, *scale_and_shift(MEAN, STD)))
    assert torch.equal(y, index)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    kind = torch.channels_last if channels_last else torch.contiguous_format
    assert x.is_contiguous(memory_format=kind)


def test_without_draws_the_pictures_come_back_unchanged() -> None:
    images = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8)
    store = Store(images, torch.zeros(9, dtype=torch.long), padding=4, mean=(0.0,) * 3, std=(1.0,) * 3)
    x, _ = store.batch(torch.arange(9), None, channels_last=False)
    assert torch.equal((x * 255).round().to(torch.uint8), images)


def test_normalise_is_the_textbook_formula() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    expected = (images.double() / 255 - mean) / std
    torch.testing.assert_close(normalise(images, *scale_and_shift(MEAN, STD)).double(), expected, atol=5e-7, rtol=0)


def test_crop_and_mirror_by_hand() -> None:
    picture = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
    cut = crop(picture, torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([1, 0]), size=2)
    assert cut.tolist() == [[[[1, 2], [5, 6]]], [[[8, 9], [12, 13]]]]
    assert mirror(cut, torch.tensor([1])).tolist() == [[[[1, 2], [5, 6]]], [[[9, 8], [13, 12]]]]
    assert cut[1].tolist() == [[[8, 9], [12, 13]]], "the input must not change"


def test_draws_are_uniform_and_depend_on_seed_and_epoch() -> None:
    draws = Draws.make(90_000, padding=4, flip=True, seed=0, epoch=0)
    for offsets in (draws.top, draws.left):
        counts = torch.bincount(offsets, minlength=9)
        assert len(counts) == 9
        # 10,000 expected each, standard deviation 94
        assert float((counts - 10_000).abs().max()) < 4.5 * 94
    assert abs(float(draws.flip.float().mean()) - 0.5) < 4.5 * 0.5 / 300
    again = Draws.make(90_000, padding=4, flip=True, seed=0, epoch=0)
    assert torch.equal(draws.top, again.top)
    for seed, epoch in ((0, 1), (1, 0)):
        other = Draws.make(90_000, padding=4, flip=True, seed=seed, epoch=epoch)
        assert not torch.equal(draws.top, other.top)
        assert not torch.equal(draws.flip, other.flip)
    assert not Draws.make(50, padding=4, flip=False, seed=0, epoch=0).flip.any()
