"""Pictures of one's own: labels by folder, splits by folder or by seed, and a run on real pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from prunebench.data import checksums
from prunebench.data.own_folders import OwnFolders
from prunebench.data.picture_folders import ENDINGS, list_pictures
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
    assert made(tmp_path / "mine", tmp_path, test_share=0.0).num_test == 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_classes": 4}, "has 3 class folders, and dataset.num_classes=4; set it to 3"),
        ({"folder": "nowhere"}, "dataset.folder=nowhere is no folder, neither here .* nor below paths.data"),
        ({"test_share": 0.99}, "at least 2 of each are needed"),
        (
            {"test_share": 0.0},
            r"dataset.test_share must be a number in \(0, 1\), got 0: .*mine has no folders train and",
        ),
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


# -- which files and folders count


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_picture_of_every_common_ending_counts(tmp_path: Path, ending: str) -> None:
    paint(tmp_path / "mine", range(4))
    for name in ("001.png", "003.png"):
        file = tmp_path / "mine" / "bee" / name
        with Image.open(file) as image:
            grey = image.convert("1") if ending == ".pbm" else image.copy()
        file.unlink()
        grey.save(file.with_suffix(ending))
    data = made(tmp_path / "mine", tmp_path)
    assert data.num_train + data.num_test == 12
    assert len(seen(data.train_eval()) + seen(data.test())) == 12


def test_the_formats_that_pillow_was_built_for_are_read() -> None:
    assert {".jpg", ".png", ".gif", ".tif", ".bmp", ".ppm"} < set(ENDINGS)
    for form in ("webp", "avif"):
        assert (f".{form}" in ENDINGS) == bool(features.check(form))


def test_what_is_not_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "mine", range(4))
    for name in ("a.heic", "b.HEIC", ".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", ".x.heic", "LICENCE"):
        (tmp_path / "mine" / "bee" / name).write_bytes(b"no picture")
    (tmp_path / "mine" / "cow" / "c.heic").write_bytes(b"no picture")
    (tmp_path / "mine" / "cow" / "more").mkdir()
    data = made(tmp_path / "mine", tmp_path)
    assert data.num_train + data.num_test == 12
    (said,) = caplog.messages
    assert f"of {tmp_path / 'mine'}: 3 .heic, 1 folder(s), 1 without an ending; pictures end in" in said


def test_nothing_is_said_where_all_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path / "mine", range(4))
    (tmp_path / "mine" / "bee" / ".DS_Store").touch()
    made(tmp_path / "mine", tmp_path)
    assert not caplog.messages


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__pycache__", "__MACOSX", "lost+found", "@eaDir"])
@pytest.mark.parametrize("place", [".", "train", "test"])
def test_a_folder_of_the_system_is_no_class(tmp_path: Path, name: str, place: str) -> None:
    for part, numbers in {"train": range(4), "test": range(4, 6)}.items() if place != "." else [(".", range(4))]:
        paint(tmp_path / "mine" / part, numbers)
    (tmp_path / "mine" / place / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "mine" / place / name / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "mine" / place / "._a.png")
    assert made(tmp_path / "mine", tmp_path).class_names == list(CLASSES)


def link(path: Path, target: str) -> None:
    path.symlink_to(target)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda mine: (mine / "bee" / "d.png").mkdir(), "bee/d.png is a folder, but named like a picture"),
    "a pipe": (lambda mine: os.mkfifo(mine / "bee" / "p.png"), "bee/p.png is no file, but named like a picture"),
    "a dangling link": (lambda mine: link(mine / "bee" / "x.png", "nowhere"), "bee/x.png cannot be read (No such file"),
    "a circle": (lambda mine: link(mine / "bee" / "x.png", "x.png"), "bee/x.png cannot be read (Too many levels"),
    "a class that dangles": (lambda mine: link(mine / "dog", "nowhere"), "mine/dog cannot be read (No such file"),
    "a class in a circle": (lambda mine: link(mine / "dog", "dog"), "mine/dog cannot be read (Too many levels"),
    "a file that is no text": (
        lambda mine: (mine / "bee" / "000.png").rename(mine / "bee" / os.fsdecode(b"\xff.png")),
        "bee/\\udcff.png is no UTF-8; rename it",
    ),
    "a class that is no text": (
        lambda mine: (mine / "bee").rename(mine / os.fsdecode(b"\xff")),
        "mine/\\udcff is no UTF-8; rename it",
    ),
    "a loose picture that is no text": (
        lambda mine: (mine / "bee" / "000.png").rename(mine / os.fsdecode(b"\xff.png")),
        "for one \\udcff.png; sort them into",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_picture_is_one_sentence(tmp_path: Path, odd: str) -> None:
    paint(tmp_path / "mine", range(4))
    make, expected = ODD[odd]
    make(tmp_path / "mine")
    with pytest.raises(UserError) as caught:
        made(tmp_path / "mine", tmp_path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    str(caught.value).encode()  # as the record of a failed run is written


def test_names_that_are_no_text_do_no_harm_where_nobody_reads_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(tmp_path / "mine", range(4))
    (tmp_path / "mine" / "bee" / os.fsdecode(b"a.\xff")).touch()
    made(tmp_path / "mine", tmp_path)
    assert "1 .\\udcff;" in caplog.messages[0]
    caplog.messages[0].encode()


def test_other_letters_are_text(tmp_path: Path) -> None:
    paint(tmp_path / "mine", range(4))
    (tmp_path / "mine" / "bee" / "000.png").rename(tmp_path / "mine" / "bee" / "Bär ÿ.png")
    (tmp_path / "mine" / "cow").rename(tmp_path / "mine" / "Kühe")
    data = made(tmp_path / "mine", tmp_path)
    assert data.class_names == ["Kühe", "apple", "bee"]
    assert len(seen(data.train_eval()) + seen(data.test())) == 12


# -- all contents count


def many(folder: Path, number: int) -> list[Path]:
    """Class folders of files of one length each that are pictures by name alone."""
    files = [folder / CLASSES[position % 3] / f"{position:04}.png" for position in range(number)]
    for position, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"%08d" % position)
    return files


def sums(folder: Path) -> dict[str, str]:
    found = made(folder, folder.parent).fingerprint()
    return {part: found[f"{part}_inputs_sha256"] for part in ("train", "test")}


@pytest.mark.parametrize("number", [60, 1200])
def test_the_content_of_each_file_counts(tmp_path: Path, number: int) -> None:
    files = many(tmp_path / "mine", number)
    first = sums(tmp_path / "mine")
    assert sums(tmp_path / "mine") == first
    found = {tuple(first.values())}
    for file in files[:: number // 10]:
        file.write_bytes(b"anything")  # as long as before
        changed = sums(tmp_path / "mine")
        assert sum(changed[part] != first[part] for part in first) >= 1
        found.add(tuple(changed.values()))
    assert len(found) == 11


def test_small_folders_keep_their_identity(tmp_path: Path) -> None:
    many(tmp_path / "mine", 511)
    whole = hashlib.sha256()
    names = [(CLASSES[position % 3], position) for position in range(511)]
    for name, position in sorted(names):
        whole.update(f"{name}/{position:04}.png 8;{position:08}".encode())
    listing = list_pictures(tmp_path / "mine", CLASSES, CLASSES)
    assert listing.sha256() == whole.hexdigest()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of kept checksums, which are kept of folders of any size and age here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "MAX_READ", 0)
    monkeypatch.setattr(checksums, "SETTLED_NS", 0)
    return tmp_path / "cache" / "prunebench"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read, as they are read."""
    found: list[str] = []
    content = checksums._content

    def noted(path: Path) -> bytes:
        found.append(path.name)
        return content(path)

    monkeypatch.setattr(checksums, "_content", noted)
    return found


def test_of_large_folders_only_what_is_new_or_changed_is_read_again(
    tmp_path: Path, kept: Path, read: list[str]
) -> None:
    files = many(tmp_path / "mine", 1800)
    first = list_pictures(tmp_path / "mine", CLASSES[:2], CLASSES).sha256()
    other = list_pictures(tmp_path / "mine", CLASSES[1:], CLASSES).sha256()  # does not drop what the first has kept
    assert len(read) == 1800 and len(list(kept.iterdir())) == 1
    read.clear()
    assert list_pictures(tmp_path / "mine", CLASSES[:2], CLASSES).sha256() == first
    assert list_pictures(tmp_path / "mine", CLASSES[1:], CLASSES).sha256() == other
    assert not read
    before = files[0].stat()
    files[0].write_bytes(b"anything")
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and archives do
    files[3].with_name("more.png").write_bytes(b"one more")
    changed = list_pictures(tmp_path / "mine", CLASSES[:2], CLASSES).sha256()
    assert sorted(read) == ["0000.png", "more.png"] and changed != first
    (file,) = kept.iterdir()
    file.write_bytes(b"damaged" + file.read_bytes())
    assert list_pictures(tmp_path / "mine", CLASSES[:2], CLASSES).sha256() == changed


def test_what_was_changed_just_now_is_read_again(
    tmp_path: Path, kept: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "SETTLED_NS", 10**12)
    many(tmp_path / "mine", 600)
    listing = list_pictures(tmp_path / "mine", CLASSES, CLASSES)
    assert listing.sha256() == listing.sha256()
    assert len(read) == 1200 and not kept.exists()


def test_without_a_place_to_keep_them_all_checksums_are_made_again(
    tmp_path: Path, kept: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    many(tmp_path / "mine", 600)
    listing = list_pictures(tmp_path / "mine", CLASSES, CLASSES)
    kept.parent.write_bytes(b"a file where a folder should be")
    assert listing.sha256() == listing.sha256()
    assert len(read) == 1200 and "all pictures are read again next time" in caplog.messages[0]


@pytest.mark.parametrize("number", [3, 600])
def test_a_file_that_is_gone_is_one_sentence(tmp_path: Path, number: int) -> None:
    files = many(tmp_path / "mine", number)
    listing = list_pictures(tmp_path / "mine", CLASSES, CLASSES)
    files[-1].unlink()
    with pytest.raises(UserError, match=rf"{files[-1].name} cannot be read \(No such file or directory\)"):
        listing.sha256()


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
