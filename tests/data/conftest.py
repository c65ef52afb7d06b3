"""Data sets as their configuration builds them, and a small one made up for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from prunebench.config import named
from prunebench.config.arguments import fitted
from prunebench.data.memory import MemoryData, Raw

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """``build(name, key=value, ...)``: the object that ``dataset=<name> dataset.key=value`` gives."""

    def make(name: str, **changes: Any) -> Any:
        config: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        return named.build("dataset", {**config, **changes})

    return make


class Small(MemoryData):
    """103 training and 37 test pictures of random bytes, 3 classes of unequal size."""

    shape = (3, 2, 6)

    def fetch(self, root: Path) -> None:
        raise AssertionError("no test asks for this download")

    def read(self, root: Path) -> Raw:
        draw = torch.Generator().manual_seed(7)
        images = torch.randint(0, 256, (140, 2, 6, 6), dtype=torch.uint8, generator=draw)
        labels = (torch.rand(140, generator=draw) ** 2 * 3).long()
        return Raw(images[:103], labels[:103], images[103:], labels[103:])


@pytest.fixture
def small() -> Callable[..., Small]:
    """``small(key=value, ...)``: a data set, already set up."""

    def make(**changes: Any) -> Small:
        settings: dict[str, Any] = {
            "name": "small", "num_classes": 3, "in_channels": 2, "size": 6, "batch_size": 16,
            "eval_batch_size": 10, "mean": [0.5, 0.25], "std": [0.2, 0.5], "validation": 20, "split_seed": 0,
            "augment": {"crop": 2, "flip": True},
        }  # fmt: skip
        data = Small(**fitted(Small, {**settings, **changes}, where="dataset"))
        data.setup(Path("nowhere"), download=False)
        return data

    return make
