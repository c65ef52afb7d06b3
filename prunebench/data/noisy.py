"""Image sets with noise in their pixels and labels, the same in every run: to see what a method makes of bad data.

Noise is a wrapper around the class of a set: ``class NoisyMine(Noisy, Mine)`` and a configuration are all that another
one needs, with the options of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import Fraction, NonNegativeFloat, NonNegativeInt
from prunebench.data.base import Batches
from prunebench.data.cifar import CIFAR10, CIFAR100
from prunebench.data.digits import Digits
from prunebench.data.loaders import ImageData
from prunebench.data.mnist import MNIST, FashionMNIST
from prunebench.data.splits import stream


@validated
class Noisy(ImageData):
    """Add normal noise to each picture of a set, and give wrong labels to some of its training pictures.

    Each picture of all three splits, the test set too, has noise of its own, which stays the same in every epoch
    (Thiagarajan, Ghosh 2024, get_data.py:33-70); it is not clipped. It is added to what the net gets, behind crop and
    mirror, so with an augmentation it does not move with the picture. Wrong labels are uniform among the other classes;
    validation pictures are held out of the training set and have them too, test labels are the official ones.

    Args:
        input_noise: standard deviation, as a fraction of full brightness (0 to 1 before it is added).
        label_noise: share of the official training set whose labels are wrong, rounded to whole pictures.
        noise_seed: the noise is a function of it and of a picture's place in the official files.
        **common: the arguments of the set's own class.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(
        self, *, input_noise: NonNegativeFloat, label_noise: Fraction, noise_seed: NonNegativeInt, **common: Any
    ) -> None:
        super().__init__(**common)
        self.input_noise, self.label_noise, self.noise_seed = float(input_noise), float(label_noise), noise_seed
        self._labels: dict[str, Tensor] = {}  # of each part, [N]

    def _read(self, root: Path) -> tuple[Tensor, Tensor]:
        train, test = super()._read(root)  # type: ignore[safe-super]  # of the set's own class
        train = wrong_labels(train, self.label_noise, num_classes=self.num_classes, seed=self.noise_seed)
        self._labels = {"train": train, "test": test}
        return train, test

    def _inputs_sha256(self, part: str) -> str:
        clean: str = super()._inputs_sha256(part)  # type: ignore[safe-super]  # of the set's own class
        if not self.input_noise:
            return clean
        return hashlib.sha256(f"{clean}/{self.input_noise}/{self.noise_seed}".encode()).hexdigest()

    def _batches(self, part: str, chunks: Sequence[Tensor], draw: tuple[int, int] | None) -> Batches:
        clean: Batches = super()._batches(part, chunks, draw)  # type: ignore[safe-super]  # of the set's own class
        # one brightness step of a channel is 1 / std of what the net gets
        scale = self.input_noise / torch.tensor(self.std).view(-1, 1, 1)
        first = stream("input noise", self.noise_seed, part).initial_seed()
        return NoisyBatches(clean, chunks, self._labels[part], scale, first_seed=first)


class NoisyBatches:
    """``clean`` with noise, the same for a picture in whichever batch it is. Iterating again gives the same again.

    Args:
        clean: batches of the pictures ``chunks``.
        labels: of all pictures of the part, ``[N]``.
        scale: standard deviation of the noise of each channel, ``[C, 1, 1]``.
        first_seed: that of picture 0; the others have the seeds behind it.
    """

    def __init__(
        self, clean: Batches, chunks: Sequence[Tensor], labels: Tensor, scale: Tensor, *, first_seed: int
    ) -> None:
        self.clean, self.chunks, self.labels, self.scale, self.first_seed = clean, chunks, labels, scale, first_seed

    def __len__(self) -> int:
        return len(self.clean)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, (inputs, targets) in zip(self.chunks, self.clean, strict=True):
            if self.scale.any():
                noise = normal_of(index, tuple(inputs.shape[1:]), first_seed=self.first_seed) * self.scale
                inputs = inputs + noise.to(inputs)
            yield inputs, self.labels[index].to(targets)


def normal_of(index: Tensor, shape: tuple[int, ...], *, first_seed: int) -> Tensor:
    """Standard normal values for each number of ``index [B]``, ``[B, *shape]``, a function of the number alone.

    A picture at a time: seeding takes a few microseconds, and nothing has to be kept, however large the set is.
    """
    generator = torch.Generator()
    noise = torch.empty(len(index), *shape)
    for row, number in zip(noise, index.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed((first_seed + number) % 2**32))  # more bits are not used
    return noise


def wrong_labels(labels: Tensor, share: float, *, num_classes: int, seed: int) -> Tensor:
    """``labels [N]`` with round(share N) of them exchanged for another class, each of the others as likely."""
    num = round(share * len(labels))
    generator = stream("label noise", seed)
    which = torch.randperm(len(labels), generator=generator)[:num]
    steps = torch.randint(1, num_classes, (num,), generator=generator)
    return labels.index_copy(0, which, (labels[which] + steps) % num_classes)


class NoisyDigits(Noisy, Digits):
    """Digits with noise."""


class NoisyMNIST(Noisy, MNIST):
    """MNIST with noise."""


class NoisyFashionMNIST(Noisy, FashionMNIST):
    """Fashion-MNIST with noise."""


class NoisyCIFAR10(Noisy, CIFAR10):
    """CIFAR-10 with noise."""


class NoisyCIFAR100(Noisy, CIFAR100):
    """CIFAR-100 with noise."""
