"""log.txt has what was said before training: the dense net, and the layers that the method takes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prunebench.errors import UserError
from prunebench.run.logs import log_file
from tests.kit import SHORT, run

NO_TRAINING = (*SHORT, "schedule=oneshot", "dataset.epochs.train=0")


@pytest.fixture(autouse=True)
def all_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """As on the command line."""
    caplog.set_level(logging.INFO, logger="prunebench")


def first_lines(folder: Path) -> list[str]:
    """What the log says, without times, up to the cut."""
    lines = [line.split(" ", 2)[2] for line in (folder / "log.txt").read_text().splitlines()]
    return lines[: next(i for i, line in enumerate(lines) if line.startswith(("kept", "pruned", "final")))]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            # counted by hand in README's example
            "resnet20",
            "resnet20: 2,516,608 MACs per image, 269,434 parameters; 9 BasicBlock; shortcut A, width 16",
        ),
        # 64 x 300 + 300 x 100 + 100 x 10, and 410 biases
        ("lenet300_100", "lenet300_100: 50,200 MACs per image, 50,610 parameters; width 1"),
    ],
)
def test_the_dense_net_and_the_layers_are_in_the_log(model: str, said: str, tmp_path: Path) -> None:
    _, folder = run(tmp_path, *NO_TRAINING, f"model={model}", "method.prune_ratio=0.5")
    net, layers = sorted(first_lines(folder), key=lambda line: line.startswith("layers"))
    assert net == said
    half = {
        "resnet20": "conv1 to layer1.2.conv2 8/16 (7 layers), layer2.0.conv1 to layer2.2.conv2 16/32 (6 layers)",
        "lenet300_100": "fc1 150/300, fc2 50/100",
    }[model]
    assert layers.startswith("layers to prune, kept/all: ") and half in layers


def test_single_weights_name_their_layers_too(tmp_path: Path) -> None:
    _, folder = run(
        tmp_path,
        *NO_TRAINING,
        "model=lenet300_100",
        "method=magnitude",
        "method.kinds=linear",
        "method.variant=layer_std",
        "method.quality=0.1",
    )
    assert "layers to prune: fc1, fc2, fc3" in first_lines(folder)


def test_a_folder_in_the_place_of_the_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(UserError, match=r"log\.txt cannot be written \(.*\); take away"), log_file(tmp_path):
        raise AssertionError
