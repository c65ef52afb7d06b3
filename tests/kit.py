"""Compose, build and run configurations inside a test, without a new process."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from prunebench.cli.resolve import resolve
from prunebench.config.groups import conf_folder
from prunebench.config.identity import run_folder
from prunebench.run import assemble, runner

SHORT = (
    "latency=false",
    "trainer.progress=false",
    "trainer.num_threads=1",
    "dataset.epochs.train=2",
    "dataset.epochs.finetune=2",
    "dataset.validation=1000",
)
"""Two epochs a phase on 437 digits, no timing."""


def configure(outputs: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    """The resolved configuration of a command line, and its YAML."""
    cfg = copy.deepcopy(_composed(overrides))
    cfg.paths.outputs = str(outputs)
    return resolve(cfg)


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def run(outputs: Path, *overrides: str) -> tuple[dict[str, Any], Path]:
    """Run a configuration; its result and its folder."""
    config, text = configure(outputs, *overrides)
    config = assemble.identified(config)
    folder = run_folder(config)
    return runner.execute(config, text, folder), folder


def accuracy(net: nn.Module, pictures: tuple[Tensor, Tensor], count: int | None = None) -> float:
    """Percent of the first ``count`` pictures, None = all, that the net gets right."""
    images, labels = (part[:count] for part in pictures)
    with torch.inference_mode():
        right = [net.eval()(x).argmax(1) == y for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return 100 * float(torch.cat(right).float().mean())
