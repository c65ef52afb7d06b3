"""MNIST's files, against published facts; small idx files made by hand for the errors."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prunebench.data import mnist
from prunebench.data.mnist import FILES, MNIST, parse_idx
from prunebench.errors import UserError

Make = Callable[..., Any]
# yann.lecun.com's files, counted in many places
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.fixture(scope="module")
def real(build: Make, data_root: Path) -> Any:
    if not (data_root / "MNIST").is_dir():
        pytest.skip("no MNIST folder in PRUNEBENCH_DATA")
    data = build("mnist")
    data.setup(data_root, download=False)
    return data


def test_published_counts(real: Any) -> None:
    assert (real.num_train, real.num_val, real.num_test) == (55_000, 5_000, 10_000)
    test = torch.cat([y for _, y in real.test()])
    assert test[:5].tolist() == [7, 2, 1, 0, 4]
    assert torch.bincount(test).tolist() == TEST_COUNTS
    train = real._train_store.labels
    assert train[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(train).tolist() == TRAIN_COUNTS


def test_validation_is_stratified(real: Any) -> None:
    held = torch.bincount(torch.cat([y for _, y in real.validation()]))
    exact = torch.tensor(TRAIN_COUNTS) * 5000 / 60_000
    assert float((held - exact).abs().max()) < 1


def test_published_mean_and_std(real: Any) -> None:
    pixels = real._train_store.pixels.double() / 255
    assert round(float(pixels.mean()), 4) == 0.1307
    assert round(float(pixels.std()), 4) == 0.3081


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + data


def test_parse_idx_by_hand() -> None:
    assert parse_idx(idx((2, 3), bytes(range(6))), Path("x")).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parse_idx(idx((0, 3), b""), Path("x")).shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\x1f\x8b\x08\x00", "not an idx file of bytes: it begins with 1f 8b 08 00"),
        (b"\x00\x00\x0d\x01", "not an idx file of bytes"),
        (b"\x00\x00\x08\x03\x00\x00", "truncated: its header needs 16 bytes, it has 6"),
        (idx((2, 3), bytes(5)), r"announces \(2, 3\), it holds 5 bytes"),
    ],
)
def test_damaged_idx(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_idx(content, Path("x"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data folder with an MNIST of 20 + 10 pictures, half of the files gzipped, and its checksums."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    sums = []
    for position, name in enumerate(FILES):
        num = 20 if "train" in name else 10
        images = bytes(byte % 256 for byte in range(num * 784))
        labels = bytes(byte % 10 for byte in range(num))
        content = idx((num, 28, 28), images) if "images" in name else idx((num,), labels)
        sums.append(hashlib.md5(content).hexdigest())
        if position % 2:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    monkeypatch.setattr(MNIST, "md5_plain", tuple(sums))
    return tmp_path


def test_plain_and_gzipped_files(build: Make, tiny: Path) -> None:
    data = build("mnist", validation=10, mean=[0.0], std=[1.0])
    data.setup(tiny, download=True)  # all is there: nothing is asked from the network
    x, y = next(iter(data.test()))
    assert torch.equal((x * 255).round().flatten(), (torch.arange(7840) % 256).float())
    assert y.tolist() == list(range(10))


@pytest.mark.parametrize("name", [FILES[0], f"{FILES[1]}.gz"])
def test_a_changed_file_is_noticed(build: Make, tiny: Path, name: str) -> None:
    path = tiny / "MNIST" / "raw" / name
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(UserError, match=rf"{name} is .*; remove .*{name} and run `python scripts/data.py get mnist`"):
        build("mnist", validation=0).setup(tiny, download=False)
    if not name.endswith(".gz"):
        path.write_bytes(content[:-1] + b"!")
        with pytest.raises(UserError, match="is not the official file: its md5 is"):
            build("mnist", validation=0).setup(tiny, download=False)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_missing_file_says_what_to_do(build: Make, tmp_path: Path, name: str) -> None:
    data = build(name)
    with pytest.raises(UserError) as caught:
        data.setup(tmp_path, download=False)
    text = str(caught.value)
    assert "\n" not in text
    assert f"python scripts/data.py get {name}" in text
    assert "train-images-idx3-ubyte.gz" in text
    assert str(tmp_path / data.folder) in text


def test_fetch_asks_for_the_gzipped_files(build: Make, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(mnist, "fetch", lambda remote, root: asked.append(remote))
    shutil.rmtree(tiny / "MNIST")
    build("mnist").fetch(tiny)
    assert [remote.path for remote in asked] == [f"MNIST/raw/{name}.gz" for name in FILES]
    assert asked[0].checksum == "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"
