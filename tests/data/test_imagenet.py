"""Class folders: layout, class order and cutting; with the real sample where there is one."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunebench.data import imagenet
from prunebench.data.imagenet import official_classes
from prunebench.data.pictures import CentreCut, RandomCut, random_box
from prunebench.errors import UserError

Make = Callable[..., Any]
SMALL = {"size": 16, "resize": 20, "num_workers": 0, "batch_size": 4, "eval_batch_size": 3}


def picture(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    shape = (24, 40, 3) if mode == "RGB" else (24, 40)
    Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three ImageNet classes with 5 training and 2 validation pictures each, one of them grey."""
    for position, name in enumerate(("n01440764", "n02123045", "n15075141")):
        for number in range(7):
            part = "train" if number < 5 else "val"
            mode = "L" if position == number == 1 else "RGB"
            picture(tmp_path / "imagenet" / part / name / f"{number}.png", 10 * position + number, mode)
    return tmp_path


def partial(build: Make, root: Path, **changes: Any) -> Any:
    data = build("imagenet", **{"allow_incomplete": True, "validation": 0, **SMALL, **changes})
    data.setup(root, download=False)
    return data


def labels(batches: Any) -> list[int]:
    return [label for _, y in batches for label in y.tolist()]


def test_official_order() -> None:
    classes = official_classes()
    assert len(classes) == 1000
    assert list(classes) == sorted(set(classes))
    # tench, goldfinch, golden retriever, tabby, toilet tissue in every published list of labels
    known = {0: "n01440764", 11: "n01531178", 207: "n02099601", 281: "n02123045", 999: "n15075141"}
    assert {position: classes[position] for position in known} == known


def test_a_partial_copy_keeps_the_official_labels(build: Make, tree: Path) -> None:
    data = partial(build, tree)
    assert (data.num_train, data.num_val, data.num_test) == (15, 0, 6)
    assert labels(data.test()) == [0, 0, 281, 281, 999, 999]
    assert data.fingerprint()["class_order"] == "official"
    assert len(data.class_names) == 1000


def test_other_class_names_are_sorted(build: Make, tree: Path) -> None:
    for part in ("train", "val"):
        for new, old in zip(("zebra", "ant", "mole"), official_names(tree, part), strict=True):
            old.rename(old.with_name(new))
    data = partial(build, tree, num_classes=3)
    assert data.class_names == ["ant", "mole", "zebra"]
    assert data.fingerprint()["class_order"] == "sorted folder names"
    with pytest.raises(UserError, match=r"num_classes=1000, but .* has 3 classes"):
        partial(build, tree)


def official_names(tree: Path, part: str) -> list[Path]:
    return sorted((tree / "imagenet" / part).iterdir())


def test_validation_takes_the_same_number_of_each_class(build: Make, tree: Path) -> None:
    data = partial(build, tree, validation=2000)  # two of each
    assert sorted(labels(data.validation())) == [0, 0, 281, 281, 999, 999]
    assert data.num_train == 9
    with pytest.raises(UserError, match="takes 5 pictures of each class of imagenet, but one has 5"):
        partial(build, tree, validation=5000)
    with pytest.raises(UserError, match="must be a multiple of the 1000 classes"):
        partial(build, tree, validation=1500)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_batches_are_a_function_of_seed_and_epoch(build: Make, tree: Path, num_workers: int) -> None:
    data = partial(build, tree, num_workers=num_workers)
    alone = partial(build, tree)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    once = list(data.train(epoch=2, seed=0))
    assert torch.equal(torch.rand(2), expected), "the global generator was used"
    again = list(alone.train(epoch=2, seed=0))
    assert [len(y) for _, y in once] == [4, 4, 4, 3]
    for (x, y), (other_x, other_y) in zip(once, again, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)
    assert not torch.equal(once[0][0], next(iter(alone.train(epoch=3, seed=0)))[0])
    assert not torch.equal(once[0][0], next(iter(alone.train(epoch=2, seed=1)))[0])


def test_a_picture_is_cut_alike_on_every_rank(build: Make, tree: Path) -> None:
    data = partial(build, tree)
    alone = torch.cat([x for x, _ in data.train(epoch=0, seed=0)])
    shared = torch.cat([x for rank in (0, 1) for x, _ in data.train(epoch=0, seed=0, rank=rank, world_size=2)])
    assert sorted(alone.flatten(1).tolist()) == sorted(shared.flatten(1).tolist())


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_normalised(build: Make, tree: Path, channels_last: bool) -> None:
    data = partial(build, tree)
    data.channels_last = channels_last
    x, _ = next(iter(data.test()))
    assert x.shape == (3, 3, 16, 16)
    assert x.dtype == torch.float32
    kind = torch.channels_last if channels_last else torch.contiguous_format
    assert x.is_contiguous(memory_format=kind)
    with Image.open(tree / "imagenet" / "val" / "n01440764" / "5.png") as image:
        pixels = np.asarray(CentreCut(size=16, resize=20)(image, 0)) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_centre_cut_by_hand() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8), (20, 40))
    cut = np.asarray(CentreCut(size=16, resize=20)(Image.fromarray(ramp.copy()), 0))
    assert cut.shape == (16, 16)
    assert cut[0].tolist() == list(range(12, 28))  # (40 - 16) / 2 = 12; the shorter side already has 20
    portrait = Image.new("RGB", (500, 375 * 2))
    assert CentreCut(size=224, resize=256)(portrait, 0).size == (224, 224)


def test_random_boxes_have_the_allowed_area_and_shape() -> None:
    draw = random.Random(0)
    shares = []
    for _ in range(2000):
        left, top, right, bottom = random_box(400, 300, min_area=0.08, draw=draw)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 300
        wide, high = right - left, bottom - top
        shares.append(wide * high / 120_000)
        assert 3 / 4 - 0.02 <= wide / high <= 4 / 3 + 0.02
    assert 0.07 < min(shares) < 0.1
    assert max(shares) > 0.9


def test_a_picture_of_impossible_shape_is_cut_in_the_middle() -> None:
    # 1000 x 10: no window of a tenth of the area fits; the largest allowed one has ratio 4/3
    assert random_box(1000, 10, min_area=0.5, draw=random.Random(0)) == (493, 0, 506, 10)
    assert random_box(10, 1000, min_area=0.5, draw=random.Random(0)) == (0, 493, 10, 506)


def test_mirroring_happens_in_half_of_the_cases() -> None:
    ramp = Image.fromarray(np.broadcast_to(np.arange(64, dtype=np.uint8), (64, 64)).copy())
    cut = RandomCut(size=8, min_area=1.0, flip=True, seed=0, epoch=0)
    mirrored = [np.asarray(cut(ramp, index))[0, 0] > np.asarray(cut(ramp, index))[0, -1] for index in range(400)]
    assert abs(sum(mirrored) - 200) < 4.5 * math.sqrt(100)
    plain = RandomCut(size=8, min_area=1.0, flip=False, seed=0, epoch=0)
    assert all(np.asarray(plain(ramp, index))[0, 0] < 32 for index in range(50))


# -- layout


def test_complete_means_complete(build: Make, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has 3 of 1000 classes; complete it or set dataset.allow_incomplete"):
        partial(build, tree, allow_incomplete=False)
    monkeypatch.setattr(imagenet, "official_classes", lambda: ("n01440764", "n02123045", "n15075141"))
    with pytest.raises(UserError, match=r"train has 15 pictures, ImageNet 1,281,167"):
        partial(build, tree, allow_incomplete=False, num_classes=3)


def test_loose_validation_pictures(build: Make, tree: Path) -> None:
    picture(tree / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(UserError, match="1 pictures outside of class folders, for one ILSVRC2012_val_00000001"):
        partial(build, tree)


def test_different_classes_in_train_and_val(build: Make, tree: Path) -> None:
    (tree / "imagenet" / "val" / "n02123045").rename(tree / "imagenet" / "val" / "n02099601")
    with pytest.raises(UserError, match="must have the same classes; 2 are in one only: n02099601"):
        partial(build, tree)


def test_a_stray_folder(build: Make, tree: Path) -> None:
    for part in ("train", "val"):
        picture(tree / "imagenet" / part / "n00000000" / "a.png", 0)
    with pytest.raises(UserError, match="1 folders that are no ImageNet class, for one n00000000"):
        partial(build, tree)


def test_an_empty_class_folder(build: Make, tree: Path) -> None:
    for path in (tree / "imagenet" / "val" / "n02123045").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="n02123045 has no pictures"):
        partial(build, tree)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_picture_is_named(build: Make, tree: Path, num_workers: int) -> None:
    (tree / "imagenet" / "val" / "n02123045" / "5.png").write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        list(partial(build, tree, num_workers=num_workers).test())
    assert "n02123045/5.png cannot be read as a picture" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_val_alone_can_be_tested_only(build: Make, tree: Path) -> None:
    (tree / "imagenet" / "train").rename(tree / "elsewhere")
    with pytest.raises(UserError, match=r"has no folder train; set dataset\.allow_incomplete=true"):
        partial(build, tree, allow_incomplete=False)
    data = partial(build, tree, validation=50_000)
    assert (data.num_train, data.num_val, data.num_test) == (0, 0, 6)
    assert len(labels(data.test())) == 6
    for use in (
        lambda: data.train(epoch=0, seed=0),
        lambda: data.train_eval(5),
        lambda: data.validation(),
    ):
        with pytest.raises(UserError, match="no folder train: it can be tested only"):
            use()


@pytest.mark.parametrize("download", [False, True])
def test_missing_imagenet_says_where_to_get_it(build: Make, tmp_path: Path, download: bool) -> None:
    with pytest.raises(UserError) as caught:
        build("imagenet").setup(tmp_path, download=download)
    assert "image-net.org" in str(caught.value)
    assert str(tmp_path / "imagenet") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 100}, "dataset.resize must be at least dataset.size=224, got 100"),
        (
            {"augment": {"min_area": 0.0, "flip": True}},
            r"dataset.augment.min_area must be a number in \(0, 1\], got 0.0",
        ),
        ({"augment": {"crop": 4}}, "dataset.augment.crop is unknown"),
        ({"allow_incomplete": "yes"}, "dataset.allow_incomplete must be true or false"),
        ({"num_workers": -1}, "dataset.num_workers must be a whole number"),
        ({"in_channels": 1, "mean": [0.5], "std": [0.5]}, "dataset.in_channels must be 3"),
    ],
)
def test_values_out_of_range(build: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("imagenet", **change)


def test_the_real_sample(build: Make, data_root: Path) -> None:
    if not (data_root / "imagenet-sample").is_dir():
        pytest.skip("no imagenet-sample folder in PRUNEBENCH_DATA")
    data = build("imagenet", folder="imagenet-sample", allow_incomplete=True, num_workers=0, eval_batch_size=50)
    data.setup(data_root, download=False)
    assert data.num_test == 200
    found = []
    for x, y in data.test():
        assert x.shape == (50, 3, 224, 224)
        found += y.tolist()
    assert found == sorted(set(found))
    assert found[0] == 0  # n01440764, the tench


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("change", ["another picture", "another size", "another name", "one more", "one less"])
def test_another_folder_has_another_fingerprint(change: str, part: str, build: Make, tree: Path) -> None:
    first = partial(build, tree).fingerprint()
    assert partial(build, tree).fingerprint() == first
    folder = tree / "imagenet" / part / "n02123045"
    file = sorted(folder.iterdir())[1]
    if change == "another picture":
        content = bytearray(file.read_bytes())
        content[-20] ^= 1  # of the same size
        file.write_bytes(content)
    elif change == "another size":
        file.write_bytes(file.read_bytes() + b"0")
    elif change == "another name":
        file.rename(folder / "0_.png")
    elif change == "one more":
        picture(folder / "9.png", 99)
    else:
        file.unlink()
    assert partial(build, tree).fingerprint() != first
