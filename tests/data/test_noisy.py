"""Noise around image sets: its deviation, its seed, the same picture wherever it is, and labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunebench.config.arguments import fitted
from prunebench.data.noisy import Noisy, normal_of, wrong_labels
from prunebench.errors import UserError
from tests.data.conftest import Small

NOISE = {"input_noise": 0.5, "label_noise": 0.25, "noise_seed": 3}
Make = Callable[..., Any]


class NoisySmall(Noisy, Small):
    """Any set becomes noisy in one line."""


def noisy(**changes: Any) -> NoisySmall:
    settings: dict[str, Any] = {
        "name": "small", "num_classes": 3, "in_channels": 2, "size": 6, "batch_size": 16,
        "eval_batch_size": 10, "mean": [0.5, 0.25], "std": [0.2, 0.5], "validation": 20, "split_seed": 0,
        "augment": {"crop": 0, "flip": False}, **NOISE,
    }  # fmt: skip
    data = NoisySmall(**fitted(NoisySmall, {**settings, **changes}, where="dataset"))
    data.setup(Path("nowhere"), download=False)
    return data


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    pairs = list(batches)
    assert len(pairs) == len(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


@pytest.mark.parametrize("split", ["train_eval", "validation", "test"])
def test_the_pixels_have_normal_noise_before_they_are_normalised(small: Make, split: str) -> None:
    plain = {"augment": {"crop": 0, "flip": False}, "validation": 20}
    # the same labels, so the same pictures are held out
    difference = (
        joined(getattr(noisy(label_noise=0.0), split)())[0] - joined(getattr(small(**plain), split)())[0]
    ) * torch.tensor([0.2, 0.5]).view(-1, 1, 1)
    assert difference.std().item() == pytest.approx(0.5, rel=4 / (2 * difference.numel()) ** 0.5)
    assert difference.mean().item() == pytest.approx(0, abs=4 * 0.5 / difference.numel() ** 0.5)
    for channel in difference.unbind(1):
        assert channel.std().item() == pytest.approx(0.5, rel=5 / (2 * channel.numel()) ** 0.5)
    assert len({*difference[:, 0, 0, 0].tolist()}) == len(difference)  # each picture has its own


def test_a_picture_has_the_same_noise_in_every_epoch_and_batch() -> None:
    data = noisy()
    one, two, other = (
        sorted(joined(data.train(epoch=epoch, seed=seed, batch_size=size))[0].flatten(1).tolist())
        for epoch, seed, size in ((0, 0, 16), (5, 1, 7), (0, 2, 83))
    )
    assert one == two == other == sorted(joined(data.train_eval())[0].flatten(1).tolist())
    ranks = [joined(data.test(batch_size=4, rank=rank, world_size=2))[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), joined(data.test())[0])


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    first, labels = joined(noisy().test())
    torch.manual_seed(2)
    again, same = joined(noisy().test())
    assert torch.equal(first, again) and torch.equal(labels, same)
    assert not torch.equal(first, joined(noisy(noise_seed=4).test())[0])
    test, train = joined(noisy(input_noise=1.0).test())[0], joined(noisy(input_noise=1.0, validation=0).train_eval())[0]
    assert not torch.equal(test[:10], train[:10])


def test_labels_of_training_pictures_are_wrong_and_those_of_the_test_set_right(small: Make) -> None:
    clean, bad = small(validation=0), noisy(validation=0)
    right, found = joined(clean.train_eval())[1], joined(bad.train_eval())[1]
    assert int((right != found).sum()) == round(0.25 * 103)
    assert torch.equal(joined(bad.train_eval())[1], found)
    assert torch.equal(joined(clean.test())[1], joined(bad.test())[1])
    assert (bad.num_train, noisy().num_train, noisy().num_val) == (103, 83, 20)


def test_wrong_labels_are_uniform_among_the_other_classes() -> None:
    labels = torch.arange(5).repeat(2000)
    found = wrong_labels(labels, 0.5, num_classes=5, seed=0)
    steps = (found - labels) % 5
    assert torch.bincount(steps)[0] == 5000
    assert torch.bincount(steps)[1:].tolist() == pytest.approx([1250] * 4, abs=150)  # five deviations
    assert torch.equal(wrong_labels(labels, 0.0, num_classes=5, seed=0), labels)
    assert not (wrong_labels(labels, 1.0, num_classes=5, seed=0) == labels).any()


def test_noise_is_a_function_of_the_number() -> None:
    index = torch.tensor([7, 0, 7, 12])
    found = normal_of(index, (2, 3, 3), first_seed=2**32 - 5)
    assert torch.equal(found[0], found[2])
    assert torch.equal(normal_of(index[3:], (2, 3, 3), first_seed=2**32 - 5)[0], found[3])
    assert not torch.equal(found[0], found[1])
    many = normal_of(torch.arange(2000), (1, 8, 8), first_seed=0).flatten(1)
    assert many.std().item() == pytest.approx(1, abs=0.01)
    # pictures with consecutive seeds do not resemble each other
    assert torch.corrcoef(many[:200]).fill_diagonal_(0).abs().max() < 6 / 8
    assert torch.corrcoef(torch.stack([many[:-1].flatten(), many[1:].flatten()]))[0, 1].abs() < 5 / 128_000**0.5


def test_the_fingerprint_knows_the_noise(small: Make) -> None:
    prints = [noisy(**changes).fingerprint() for changes in ({}, {}, {"noise_seed": 4}, {"input_noise": 0.4})]
    assert prints[0] == prints[1]
    assert len({item["test_inputs_sha256"] for item in prints}) == 3
    assert len({item["train_labels_sha256"] for item in prints}) == 2  # those of the seeds 3 and 4
    without = noisy(input_noise=0.0, label_noise=0.0).fingerprint()
    assert without == small().fingerprint()  # no noise is the set itself


def test_no_noise_is_the_set_itself(build: Make) -> None:
    pairs = []
    for name, changes in (("digits", {}), ("noisy_digits", {"input_noise": 0.0})):
        data = build(name, **changes)
        data.setup(Path("unused"), download=False)
        pairs.append(joined(data.train(epoch=1, seed=0)))
    torch.testing.assert_close(pairs[0], pairs[1], rtol=0, atol=0)


def test_it_follows_the_device_and_the_memory_format() -> None:
    data = noisy()
    data.use_channels_last(True)
    assert next(iter(data.test()))[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_noise": -0.1}, r"input_noise must be a number of at least 0, got -0.1"),
        ({"label_noise": 1.5}, r"label_noise must be a number in \[0, 1\], got 1.5"),
        ({"noise_seed": -1}, "noise_seed must be a whole number of at least 0, got -1"),
        ({"num_classes": 4}, "must be 3, 2 and 6; got 4, 2 and 6"),
    ],
)
def test_values_out_of_range(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        noisy(**change)
