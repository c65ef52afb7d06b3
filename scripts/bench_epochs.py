"""Sections 1 and 2 of bench.py: epochs of training in the Trainer beside epochs of loops written by hand."""

from __future__ import annotations

import itertools
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from prunebench.config.phase import Phase
from prunebench.config.settings import TrainerSettings
from prunebench.core.clock import Clock
from prunebench.core.method import Method
from prunebench.core.task import Classification
from prunebench.data.cifar import CIFAR10
from prunebench.data.memory import Augment, Raw
from prunebench.errors import UserError
from prunebench.layers.memory_format import to_memory_format
from prunebench.models.resnet_cifar import resnet20
from prunebench.nets.dense_net import DenseNet
from prunebench.run.job import Job

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Part(CIFAR10):
    """The first ``num`` training pictures of CIFAR-10, or random ones where the files are absent."""

    def __init__(self, num: int) -> None:
        super().__init__(
            name="cifar10",
            num_classes=10,
            in_channels=3,
            size=32,
            batch_size=BATCH,
            eval_batch_size=1000,
            mean=MEAN,
            std=STD,
            validation=0,
            split_seed=0,
            augment=Augment(crop=4, flip=True),
        )
        self.num = num
        self.channels_last = True
        self.setup(Path(os.environ.get("PRUNEBENCH_DATA", "data")), download=False)

    def read(self, root: Path) -> Raw:
        try:
            raw = super().read(root)
        except UserError as error:
            print(f"Random pictures take the place of CIFAR-10: {error}")
            images, labels = torch.randint(0, 256, (self.num, 3, 32, 32), dtype=torch.uint8), torch.arange(self.num)
            raw = Raw(images, labels % 10, images[:10], labels[:10])
        self.raw = Raw(raw.train_images[: self.num], raw.train_labels[: self.num], raw.test_images, raw.test_labels)
        return self.raw


class Beside(Method):
    """Runs the other loop's epoch where an epoch of the Trainer starts, and times both."""

    def __init__(self, other: Callable[[], None]) -> None:
        super().__init__()
        self.other = other
        self.ours: list[float] = []
        self.others: list[float] = []
        self.started = 0.0

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        start = time.perf_counter()
        if clock.epoch:
            self.ours.append(start - self.started)
        self.other()
        self.started = time.perf_counter()
        self.others.append(self.started - start)


def measure(other: Callable[[], None], data: Part, *, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of ``rounds`` epochs of a phase (job, LightningModule, Trainer) and of ``other``, in turn.

    An epoch ends where the next one starts, so that its checkpoint and the next one's batches belong to it. The first
    epoch of each only warms up; the last one of the Trainer has no successor and is not counted.
    """
    settings = TrainerSettings(
        precision="32-true",
        channels_last=True,
        deterministic="warn",
        accelerator="cpu",
        devices=1,
        strategy="auto",
        num_threads=None,
        progress=False,
    )
    phase = Phase(name="bench", epochs=rounds + 2, lr=0.1, active=True)
    method = Beside(other)
    with tempfile.TemporaryDirectory() as folder:
        dense = DenseNet({}, make=lambda *_: resnet20(), example=torch.zeros(1, 3, 32, 32))
        job = Job(
            dense=dense,
            method=method,
            data=data,
            task=Classification(num_classes=10),
            schedule="scratch",
            phases=(phase,),
            seed=0,
            folder=Path(folder),
            settings=settings,
            dense_folder=lambda _: Path(folder) / "dense",
        )
        job.fit(dense.fresh("init"), phase)
    return method.ours[1:], method.others[1:-1]


def plain_loop(data: Part) -> Callable[[], None]:
    """An epoch of the smallest loop in PyTorch over the same tensors with the same augmentation."""
    return _epoch_over(lambda epoch: data.train(epoch=epoch, seed=0))


def usual_loop(data: Part) -> Callable[[], None]:
    """An epoch of the usual loop: picture by picture through PIL, in two workers that live through all epochs."""
    loader = DataLoader(PerImage(data.raw), batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    return _epoch_over(lambda _: loader)


class PerImage(Dataset[tuple[Tensor, int]]):
    """Pad, crop, flip, to float, normalise: one picture at a time."""

    def __init__(self, raw: Raw) -> None:
        self.pictures = raw.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = raw.train_labels.tolist()
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self.pictures[index]), border=4)
        left, top = random.randint(0, 8), random.randint(0, 8)
        picture = picture.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            picture = ImageOps.mirror(picture)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
        return (image - self.mean) / self.std, self.labels[index]


def _epoch_over(batches: Callable[[int], Iterable[Any]]) -> Callable[[], None]:
    net = to_memory_format(resnet20().train(), torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    numbers = itertools.count()

    def epoch() -> None:
        for images, labels in batches(next(numbers)):
            optimizer.zero_grad()
            F.cross_entropy(net(images.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()

    return epoch
