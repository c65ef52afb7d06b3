"""The configurations: each builds its object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf" / "dataset"
IMAGE_SETS = ("cifar10", "cifar100", "digits", "fashion_mnist", "imagenet", "mnist")
TEXT_SETS = ("bytes", "enwik8", "enwik8_4mb", "text8")


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_it_builds_and_is_named_like_its_file(build: Callable[..., Any], name: str) -> None:
    data = build(name)
    assert data.name == name
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert config.epochs.keys() == {"train", "finetune"}
    assert (data.batch_size, data.mean, data.std) == (config.batch_size, config.mean, config.std)
    assert data.class_names is None or len(data.class_names) == data.num_classes


@pytest.mark.parametrize("name", TEXT_SETS)
def test_a_text_builds_and_is_named_like_its_file(build: Callable[..., Any], name: str) -> None:
    data = build(name)
    assert (data.name, data.task, data.sample) == (name, "language_modelling", "symbol")
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert config.epochs.keys() == {"train", "finetune"}
    assert (data.num_classes, data.batch_size) == (config.num_symbols, config.batch_size)
    assert tuple(data.example().shape) == (1, config.window)


def test_no_set_is_forgotten() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {*IMAGE_SETS, *TEXT_SETS}
