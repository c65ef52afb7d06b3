"""CIFAR's files, against published facts; small versions made by hand for the other formats."""

from __future__ import annotations

import hashlib
import importlib.util
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunebench.data.cifar import CIFAR10, CIFAR100, Version
from prunebench.data.memory import Augment
from prunebench.errors import UserError

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def real(build: Make, data_root: Path) -> Any:
    if not any((data_root / version.folder).is_dir() for version in CIFAR10.versions):
        pytest.skip("no CIFAR-10 folder in PRUNEBENCH_DATA")
    data = build("cifar10")
    data.setup(data_root, download=False)
    return data


def test_published_counts(real: Any) -> None:
    assert (real.num_train, real.num_val, real.num_test) == (45_000, 5_000, 10_000)
    train, test = real._train_store.labels, torch.cat([y for _, y in real.test()])
    assert torch.bincount(train).tolist() == [5000] * 10
    assert torch.bincount(test).tolist() == [1000] * 10
    held = torch.cat([y for _, y in real.validation()])
    assert torch.bincount(held).tolist() == [500] * 10
    # the first pictures are a frog, two trucks, ... and a cat, two ships, an airplane
    assert train[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test[:4].tolist() == [3, 8, 8, 0]
    assert real.class_names[int(test[0])] == "cat"


def test_published_mean_and_std(real: Any) -> None:
    pixels = real._train_store.pixels[:, :, 4:-4, 4:-4]
    counts = torch.stack([torch.bincount(pixels[:, c].flatten(), minlength=256) for c in range(3)]).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum(1) / counts.sum(1)
    std = ((counts * values**2).sum(1) / counts.sum(1) - mean**2).sqrt()
    assert [round(float(value), 4) for value in mean] == [0.4914, 0.4822, 0.4465]
    assert [round(float(value), 4) for value in std] == [0.2470, 0.2435, 0.2616]


def test_same_seed_and_epoch_same_batches(real: Any) -> None:
    first = [next(iter(real.train(epoch=epoch, seed=seed))) for epoch, seed in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert first[0][0].shape == (128, 3, 32, 32)
    assert torch.equal(first[0][0], first[1][0])
    assert torch.equal(first[0][1], first[1][1])
    assert not torch.equal(first[0][0], first[2][0])
    assert not torch.equal(first[0][0], first[3][0])
    assert len(real.train(epoch=0, seed=0)) == 352  # 351 batches of 128 and one of 72


# -- small versions: the same records, 4 and 2 per file, with their own checksums

NUM = {"train": 20, "test": 10}


def records(name: str, num_classes: int) -> tuple[Any, Any]:
    """Pixels ``[N, 3072]`` and balanced labels ``[N]`` of a file."""
    num = NUM["test" if "test" in name else "train"]
    draw = np.random.default_rng(len(name))
    return draw.integers(0, 256, (num, 3072), dtype=np.uint8), np.arange(num, dtype=np.uint8) % num_classes


def content(name: str, version: Version) -> bytes:
    pixels, labels = records(name.removesuffix(".bin"), 10)
    if version.label_key:
        return python2_batch(pixels, version.label_key.decode(), labels.tolist())
    coarse = [np.full((len(labels), 1), 99, np.uint8)] * (version.label_bytes - 1)
    return np.concatenate([*coarse, labels[:, None], pixels], 1).tobytes()


def python2_batch(*arguments: Any) -> bytes:
    path = Path(__file__).with_name("test_pickles.py")
    spec = importlib.util.spec_from_file_location("pickles_for_cifar", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: bytes = module.python2_batch(*arguments)
    return made


def write(root: Path, version: Version, *, packed: bool) -> Version:
    """Write the files of ``version`` and return it with their checksums."""
    folder = root / version.folder
    folder.mkdir()
    sums = {}
    for name in (*version.train, *version.test):
        (folder / name).write_bytes(content(name, version))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    archive_md5 = ""
    if packed:
        with tarfile.open(root / version.archive, "w:gz") as tar:
            tar.add(folder, version.folder)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        archive_md5 = hashlib.md5((root / version.archive).read_bytes()).hexdigest()
    return Version(
        archive=version.archive,
        archive_md5=archive_md5,
        folder=version.folder,
        train={name: sums[name] if known else None for name, known in version.train.items()},
        test={name: sums[name] if known else None for name, known in version.test.items()},
        per_file=NUM["train"],
        label_key=version.label_key,
        label_bytes=version.label_bytes,
    )


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
@pytest.mark.parametrize("cls", [CIFAR10, CIFAR100])
def test_versions(
    cls: type[CIFAR10], python: bool, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = write(tmp_path, cls.versions[int(python)], packed=packed)
    kinds = (cls.versions[0], version) if python else (version, cls.versions[1])
    monkeypatch.setattr(cls, "versions", kinds)
    monkeypatch.setattr(cls, "num_test_pictures", NUM["test"])
    monkeypatch.setattr(cls, "shape", (10, 3, 32))
    data = cls(
        name="c", num_classes=10, in_channels=3, size=32, batch_size=8, eval_batch_size=8, mean=[0.0] * 3,
        std=[1.0] * 3, validation=10, split_seed=0, augment=Augment(crop=4, flip=True),
    )  # fmt: skip
    data.setup(tmp_path, download=False)
    x = torch.cat([x for x, _ in data.test()])
    y = torch.cat([y for _, y in data.test()])
    pixels, labels = records("test", 10) if cls is CIFAR100 else records("test_batch", 10)
    assert torch.equal((x * 255).round().flatten(1), torch.from_numpy(pixels).float())
    assert y.tolist() == labels.tolist()
    assert data.num_train + data.num_val == NUM["train"] * len(version.train)
    last, _ = records(list(version.train)[-1].removesuffix(".bin"), 10)
    assert torch.equal(data._train_store.pixels[-1, :, 4:-4, 4:-4].flatten(), torch.from_numpy(last[-1]))
    data.fetch(tmp_path)  # unpacks an archive, downloads nothing
    assert (tmp_path / version.folder).is_dir()
    if packed:  # a byte of what came out, where no official checksum is known
        path = tmp_path / version.folder / next(iter(version.test))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(UserError, match=f"{path.name} has changed or is gone; remove"):
            data.read(tmp_path)


# -- what goes wrong


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_missing_set_says_what_to_do(build: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name).setup(tmp_path, download=False)
    text = str(caught.value)
    assert "\n" not in text
    assert f"python scripts/data.py get {name}" in text
    assert f"{name.replace('cifar', 'cifar-')}-binary.tar.gz" in text
    assert str(tmp_path) in text


def test_truncated_and_foreign_files(build: Make, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    data = build("cifar10")
    with pytest.raises(UserError, match=r"data_batch_1.bin is missing; remove .*cifar-10-batches-bin and run"):
        data.setup(tmp_path, download=False)
    (folder / "data_batch_1.bin").write_bytes(bytes(1000))
    with pytest.raises(UserError, match="it has 1,000 bytes, the official file 30,730,000; remove"):
        data.setup(tmp_path, download=False)
    (folder / "data_batch_1.bin").write_bytes(bytes(30_730_000))
    with pytest.raises(UserError, match="is not the official file: its md5 is"):
        data.setup(tmp_path, download=False)


def test_labels_without_a_checksum_are_counted(build: Make, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name, num in (("train.bin", 50_000), ("test.bin", 10_000)):
        (folder / name).write_bytes(bytes(num * 3074))  # all of class 0
    with pytest.raises(UserError, match="training labels of cifar100 are not the official ones: from 0 to 50000"):
        build("cifar100").setup(tmp_path, download=False)


def test_a_changed_archive_is_noticed(build: Make, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz is not the official file.*remove"):
        build("cifar10").setup(tmp_path, download=False)


def test_the_size_is_no_choice(build: Make) -> None:
    with pytest.raises(UserError, match="must be 10, 3 and 32; got 10, 3 and 64"):
        build("cifar10", size=64)


def test_class_names() -> None:
    assert len(CIFAR10.class_names) == 10
    assert len(set(CIFAR100.class_names)) == 100
    assert CIFAR100.class_names == sorted(CIFAR100.class_names)
