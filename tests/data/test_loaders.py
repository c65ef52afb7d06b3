"""What a run sees of a data set: every picture once, the same batches for the same seed and epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunebench.errors import UserError

Make = Callable[..., Any]


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    pairs = list(batches)
    assert len(pairs) == len(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def test_counts_and_shapes(small: Make) -> None:
    data = small()
    assert (data.num_train, data.num_val, data.num_test) == (83, 20, 37)
    x, y = next(iter(data.train(epoch=0, seed=0)))
    assert x.shape == (16, 2, 6, 6)
    assert y.shape == (16,)
    assert data.example().shape == (1, 2, 6, 6)


def test_train_and_validation_are_a_partition_of_the_official_training_set(small: Make) -> None:
    data = small(augment={"crop": 0, "flip": False})
    whole = small(validation=0)
    everything, _ = joined(whole.train_eval())
    parts = torch.cat([joined(data.train(epoch=4, seed=2))[0], joined(data.validation())[0]])
    assert parts.flatten(1).tolist() != everything.flatten(1).tolist()
    assert sorted(parts.flatten(1).tolist()) == sorted(everything.flatten(1).tolist())
    assert len(whole.validation()) == 0
    assert list(whole.validation()) == []


@pytest.mark.parametrize("batch_size", [1, 7, 36, 37, 500])
def test_every_test_picture_once_for_any_batch_size(small: Make, batch_size: int) -> None:
    expected, labels = joined(small().test())
    x, y = joined(small().test(batch_size=batch_size))
    assert torch.equal(x, expected)
    assert torch.equal(y, labels)
    halves = [joined(small().test(batch_size=batch_size, rank=rank, world_size=2)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half[0] for half in halves]), expected)


def test_same_seed_and_epoch_same_batches(small: Make) -> None:
    once, again = (joined(small().train(epoch=3, seed=0)) for _ in range(2))
    assert torch.equal(again[0], once[0])
    assert torch.equal(again[1], once[1])
    for epoch, seed in ((2, 0), (3, 1), (0, 3)):
        other = joined(small().train(epoch=epoch, seed=seed))
        assert not torch.equal(other[0], once[0])
    batches = small().train(epoch=3, seed=0)
    assert torch.equal(joined(batches)[0], joined(batches)[0])


def test_batches_do_not_touch_the_global_generator(small: Make) -> None:
    data = small()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    joined(data.train(epoch=0, seed=0))
    joined(data.train_eval(10))
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_does_not_depend_on_the_batches(small: Make) -> None:
    data = small()
    alone, _ = joined(data.train(epoch=1, seed=0, batch_size=16))
    others = [joined(data.train(epoch=1, seed=0, batch_size=5, rank=rank, world_size=3))[0] for rank in range(3)]
    assert sorted(torch.cat(others).flatten(1).tolist()) == sorted(alone.flatten(1).tolist())


def test_channels_last(small: Make) -> None:
    data = small()
    expected, _ = next(iter(data.train(epoch=0, seed=0)))
    data.channels_last = True
    for batches in (data.train(epoch=0, seed=0), data.test(), data.validation(), data.train_eval(5)):
        assert next(iter(batches))[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(next(iter(data.train(epoch=0, seed=0)))[0], expected)


def test_train_eval_gives_a_fixed_random_sample(small: Make) -> None:
    data = small()
    few, _ = joined(data.train_eval(12))
    more, _ = joined(data.train_eval(30, batch_size=4))
    everything, _ = joined(data.train_eval())
    assert torch.equal(few, more[:12])
    assert len(everything) == 83
    assert not torch.equal(few, everything[:12])
    pool = everything.flatten(1).tolist()
    assert all(picture in pool for picture in more.flatten(1).tolist())
    with pytest.raises(UserError, match="small has 83 training pictures, 84 were asked for"):
        data.train_eval(84)


def test_the_split_seed_changes_the_split_and_the_fingerprint(small: Make) -> None:
    prints = [small(split_seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1]
    assert prints[0]["validation_index_sha256"] != prints[2]["validation_index_sha256"]
    assert prints[0]["test_labels_sha256"] == prints[2]["test_labels_sha256"]


def test_setup_twice_is_setup_once(small: Make) -> None:
    data = small()
    store = data._train_store
    data.setup(Path("elsewhere"), download=True)  # would fail: there is nothing to download
    assert data._train_store is store


def test_to_moves_the_whole_set(small: Make) -> None:
    data = small()
    data.to("meta")  # stands for an accelerator: it has no memory, but a device
    assert data._train_store.pixels.device.type == "meta"
    assert data._test_store.scale.device.type == "meta"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "dataset.batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": "64"}, "dataset.batch_size must be a whole number"),
        ({"eval_batch_size": 2.5}, "dataset.eval_batch_size must be a whole number"),
        ({"split_seed": True}, "dataset.split_seed must be a whole number"),
        ({"mean": [0.5]}, r"dataset.mean must have 2 numbers, one per channel, got \[0.5\]"),
        ({"mean": [125.3, 123.0]}, r"fractions of full brightness; divide bytes by 255\), got \[125.3, 123.0\]"),
        ({"std": [0.2, 0.0]}, r"dataset.std must be a list of numbers in \[1e-06, 1\] \(fractions"),
        ({"std": [0.2, float("nan")]}, "dataset.std must be a list of numbers in"),
        ({"validation": 103}, "leaves no training picture of the 103"),
        ({"num_classes": 4}, "must be 3, 2 and 6; got 4, 2 and 6"),
        ({"augment": {"crop": 2, "flp": True}}, "dataset.augment.flp is unknown.*did you mean flip"),
        ({"augment": {"crop": 2}}, "dataset.augment.flip must be given"),
        ({"augment": {"crop": 7, "flip": True}}, "dataset.augment.crop must be at most dataset.size=6, got 7"),
        ({"augment": {"crop": 2, "flip": 1}}, "dataset.augment.flip must be true or false, got 1"),
        ({"augment": None}, "dataset.augment must be a table with crop, flip, got None"),
    ],
)
def test_values_out_of_range(small: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**change)


def test_batch_size_of_a_phase_is_checked(small: Make) -> None:
    with pytest.raises(UserError, match=r"batch_size must be a whole number of at least 1, got 0"):
        small().train(epoch=0, seed=0, batch_size=0)
