"""What holds for every data set that has a configuration, on any machine: with its files or without them."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from prunebench.config import named
from prunebench.config.groups import conf_folder
from prunebench.core.task import TASKS
from prunebench.data.base import Data
from prunebench.data.files import MissingData

FILES = sorted((conf_folder() / "dataset").glob("*.yaml"))
COMPLETE = [file for file in FILES if not OmegaConf.missing_keys(OmegaConf.load(file))]
"""Those that leave no value to their user."""


def build(file: Path) -> Data:
    found: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    data: Data = named.build("dataset", found)
    return data


def needs_files(file: Path) -> bool:
    try:
        build(file).setup(Path("nowhere"), download=False)
    except MissingData:
        return True
    return False


FROM_FILES = [file for file in COMPLETE if needs_files(file)]


def over(files: list[Path]) -> Any:
    return pytest.mark.parametrize("file", files, ids=lambda file: file.stem)


@over(FILES)
def test_its_file_names_a_class_and_lengths(file: Path) -> None:
    config = OmegaConf.load(file)
    assert config.name == file.stem
    assert config.epochs.keys() == {"train", "finetune"}
    module, _, name = config._target_.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), Data)


@over(COMPLETE)
def test_it_is_built_as_its_file_says(file: Path) -> None:
    config: Any = OmegaConf.load(file)
    data: Any = build(file)
    assert (data.name, data.batch_size) == (config.name, config.batch_size)
    example = data.example()
    assert data.task in TASKS and data.sample
    if data.task == "classification":
        assert (data.num_classes, data.mean, data.std) == (config.num_classes, config.mean, config.std)
        assert example.shape == (1, config.in_channels, config.size, config.size)
        assert data.class_names is None or len(data.class_names) == data.num_classes
    elif data.task == "regression":
        assert (data.num_inputs, data.num_outputs) == (config.num_inputs, config.num_outputs)
        assert (data.noise_std, data.target_std) == (config.noise_std, config.target_std)
        assert example.shape == (1, config.num_inputs) and data.num_classes == 0
    else:
        assert (data.num_classes, data.samples_per_example) == (config.num_symbols, config.window)
        assert example.shape == (1, config.window) and example.dtype == torch.long


@over(FROM_FILES)
def test_without_its_files_it_says_in_one_sentence_where_they_belong(file: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=f"^{file.stem} is not in [^\n]*$") as error:
        build(file).setup(tmp_path, download=False)
    assert str(tmp_path) in str(error.value)


@over([file for file in COMPLETE if file not in FROM_FILES])
def test_its_batches_hold_its_samples(file: Path) -> None:
    data = build(file)
    data.setup(Path("nowhere"), download=False)
    for num, batches in (
        (data.num_train, partial(data.train, epoch=1, seed=0)),
        (data.num_val, data.validation),
        (data.num_test, data.test),
    ):
        inputs, targets = joined(batches())
        assert len(targets) == num > 0
        if data.task == "regression":
            assert bool(targets.isfinite().all()) and targets.is_floating_point()
        else:
            assert int(targets.min()) >= 0 and int(targets.max()) < data.num_classes
        again, same = joined(batches())  # an epoch is a function of (seed, epoch)
        assert torch.equal(again, inputs) and torch.equal(same, targets)
    facts = {"name": file.stem, "num_train": data.num_train, "num_val": data.num_val, "num_test": data.num_test}
    assert facts.items() <= data.fingerprint().items()


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    """All samples of a split, one after the other; of a text symbol by symbol, of rows target by target."""
    pairs = list(batches)
    assert len(pairs) == len(batches)
    dims = [y.ndim - 1 - y.is_floating_point() for _, y in pairs]
    return torch.cat([x.flatten(0, dim) for (x, _), dim in zip(pairs, dims, strict=True)]), torch.cat(
        [y.flatten() for _, y in pairs]
    )
