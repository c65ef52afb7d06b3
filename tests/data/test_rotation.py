"""Turned pictures against numpy's exact quarter turns."""

from __future__ import annotations

import numpy as np
import torch

from prunebench.data.batches import Store, StoreBatches
from prunebench.data.rotation import Rotated, angles, rotate


def test_quarter_turns_are_exact() -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 2, 6, 6)
    turned = rotate(images, torch.arange(4) * torch.pi / 2)
    for number in range(4):
        expected = np.rot90(images[number].numpy(), number, axes=(1, 2))  # counter-clockwise
        np.testing.assert_array_equal(turned[number].numpy(), expected)


def test_a_small_turn_keeps_the_centre_and_leaves_the_corners_empty() -> None:
    turned = rotate(torch.ones(1, 1, 9, 9), torch.tensor([torch.pi / 4]))[0, 0]
    assert turned[4, 4] == 1
    assert [float(turned[row, column]) for row in (0, 8) for column in (0, 8)] == [0.0] * 4


def test_angles_follow_from_seed_and_epoch() -> None:
    first = angles(500, seed=1, epoch=2)
    assert torch.equal(first, angles(500, seed=1, epoch=2))
    assert not torch.equal(first, angles(500, seed=2, epoch=1))
    assert float(first.min()) >= 0 and float(first.max()) < 2 * torch.pi
    assert abs(float(first.mean()) - torch.pi) < 0.25


def test_batches_are_turned_by_their_own_angle_and_black_outside() -> None:
    pixels = torch.full((3, 1, 8, 8), 255, dtype=torch.uint8)
    store = Store(pixels, torch.arange(3), padding=0, mean=[0.2], std=[0.5])
    plain = StoreBatches(store, [torch.tensor([2, 0]), torch.tensor([1])], None, channels_last=False)
    turned = Rotated(plain, torch.tensor([0.0, torch.pi / 4, torch.pi / 4]))
    assert len(turned) == 2
    (first, labels), (second, _) = turned
    assert labels.tolist() == [2, 0]
    black, white = (0 - 0.2) / 0.5, (1 - 0.2) / 0.5
    torch.testing.assert_close(first[1], torch.full((1, 8, 8), white))
    for image in (first[0], second[0]):
        torch.testing.assert_close(image[0, 0, 0], torch.tensor(black))
        torch.testing.assert_close(image[0, 4, 4], torch.tensor(white))
