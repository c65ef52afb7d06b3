"""Pictures of one's own: labels by folder, splits by folder or by seed, and a run on real pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunebench.data.own_folders import OwnFolders
from prunebench.errors import UserError
from tests.kit import run

CLASSES = ("apple", "bee", "cow")
COMMON: dict[str, Any] = {
    "name": "mine",
    "num_classes": 3,
    "in_channels": 3,
    "size": 8,
    "resize": 8,
    "batch_size": 4,
    "eval_batch_size": 5,
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
    "validation": 0,
    "split_seed": 0,
    "num_workers": 0,
    "augment": {"min_area": 1.0, "flip": False},
    "test_share": 0.2,
}


def paint(folder: Path, numbers: range) -> None:
    """Pictures of one colour each: the class in red, the number in green."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in numbers:
            colour = np.full((8, 8, 3), (100 * label, number, 0), dtype=np.uint8)
            Image.fromarray(colour).save(folder / name / f"{number:03}.png")


def made(folder: Path, root: Path, **changed: Any) -> OwnFolders:
    data = OwnFolders(folder=str(folder), **{**COMMON, **changed})
    data.setup(root, download=False)
    return data


def seen(batches: Any) -> list[tuple[int, int, int]]:
    """(label, red / 100, green) of each picture."""
    found = []
    for x, y in batches:
        colours = (255 * x[:, :, 0, 0]).round().long()
        found += [(int(label), int(c[0]) // 100, int(c[1])) for label, c in zip(y, colours, strict=True)]
    return found


def test_the_test_set_is_a_share_of_each_class_drawn_by_the_seed(tmp_path: Path) -> None:
    paint(tmp_path / "mine", range(10))
    data = made(tmp_path / "mine", tmp_path)
    assert (data.num_train, data.num_test, data.class_names) == (24, 6, list(CLASSES))
    test, train = seen(data.test()), seen(data.train_eval())
    assert [label for label, _, _ in test] == [0, 0, 1, 1, 2, 2]
    assert all(label == red for label, red, _ in test + train)
    assert sorted(test + train) == [(c, c, n) for c in range(3) for n in range(10)]  # each picture once
    assert seen(made(tmp_path / "mine", tmp_path).test()) == test
    assert seen(made(tmp_path / "mine", tmp_path, split_seed=1).test()) != test
    assert seen(made(Path("mine"), tmp_path).test()) == test  # below the data folder


def test_a_relative_path_is_below_the_data_folder_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "here" / "mine", range(4))
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "data").mkdir()
    assert made(Path("mine"), tmp_path / "data").num_train + 3 == 12
    paint(tmp_path / "data" / "mine", range(6))  # the data folder wins: what was run before stays what it was
    assert made(Path("mine"), tmp_path / "data").num_train + 3 == 18


def test_evaluation_sees_the_whole_picture_at_any_size(tmp_path: Path) -> None:
    paint(tmp_path / "mine", range(2))
    sizes = {size: made(tmp_path / "mine", tmp_path, size=size, resize=None).resize for size in (8, 32, 224)}
    assert sizes == {8: 9, 32: 37, 224: 256}
    said = made(tmp_path / "mine", tmp_path, size=32, resize=None).input_facts()["preparation"]
    assert said == "the shorter side resized to 37 pixels (bilinear), then the central 32 x 32"


def test_folders_for_training_and_testing_win(tmp_path: Path) -> None:
    paint(tmp_path / "mine" / "train", range(5))
    paint(tmp_path / "mine" / "val", range(5, 7))
    data = made(tmp_path / "mine", tmp_path, validation=3)
    assert (data.num_train, data.num_val, data.num_test) == (12, 3, 6)
    assert {number for _, _, number in seen(data.test())} == {5, 6}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": 4}, "has 3 class folders, and dataset.num_classes=4; set it to 3"),
        ({"folder": "nowhere"}, "dataset.folder=nowhere is no folder, neither here .* nor below paths.data"),
        ({"test_share": 0.99}, "at least 2 of each are needed"),
    ],
)
def test_mistakes(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    paint(tmp_path / "mine", range(3))
    folder = Path(changed.pop("folder", tmp_path / "mine"))
    with pytest.raises(UserError, match=message):
        made(folder, tmp_path, **changed)


def test_classes_of_one_part_only(tmp_path: Path) -> None:
    paint(tmp_path / "train", range(2))
    paint(tmp_path / "test", range(2))
    (tmp_path / "test" / "cow").rename(tmp_path / "test" / "dog")
    with pytest.raises(UserError, match="same classes; cow is in one only"):
        made(tmp_path, tmp_path)
    for name in ("bee", "cow"):
        for file in (tmp_path / "train" / name).iterdir():
            file.unlink()
        (tmp_path / "train" / name).rmdir()
    with pytest.raises(UserError, match="1 class folder; pictures must lie in one folder for each class"):
        made(tmp_path, tmp_path)


@pytest.mark.skipif("PRUNEBENCH_DATA" not in os.environ, reason="PRUNEBENCH_DATA is not set")
def test_real_pictures_go_through_a_run(tmp_path: Path) -> None:
    source = Path(os.environ["PRUNEBENCH_DATA"]) / "imagenet-sample" / "val"
    if not source.is_dir():
        pytest.skip("no pictures of ImageNet here")
    for folder in sorted(source.iterdir())[:2]:
        (tmp_path / "pictures" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir()):
            target = tmp_path / "pictures" / folder.name
            for copy in range(3):  # a class of the sample has few pictures
                (target / f"{copy}-{file.name}").symlink_to(file)
    settings = ("dataset=folder", f"dataset.folder={tmp_path / 'pictures'}", "dataset.num_classes=2", "dataset.size=32")
    small = ("dataset.resize=36", "dataset.num_workers=0", "dataset.test_share=0.5", "model=resnet20", "method=l1norm")
    quick = ("schedule.phases.pretrain.epochs=1", "schedule.phases.finetune.epochs=1", "latency=false")
    result, folder = run(tmp_path / "out", *settings, *small, *quick, "trainer.progress=false", "trainer.num_threads=1")
    assert result["status"] == "complete"
    assert result["metrics"]["final"]["num_samples"] == result["data"]["num_test"] > 0
    assert torch.isfinite(torch.tensor(result["metrics"]["final"]["nll"]))
    assert "resized to 36 pixels (bilinear), then the central 32 x 32" in (folder / "model" / "README.md").read_text()
