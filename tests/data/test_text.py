"""Text in streams and windows: every symbol is predicted once, from the symbol before it."""

from __future__ import annotations

import hashlib
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunebench.data.files import MissingData
from prunebench.data.wikipedia import Enwik8
from prunebench.errors import UserError

Build = Callable[..., Any]


def text_of(tmp_path: Path, content: bytes, build: Build, **changes: Any) -> Any:
    """``dataset=bytes`` over one file with ``content``."""
    (tmp_path / "text").write_bytes(content)
    data = build("bytes", **{"files": ["text"], "max_bytes": None, **changes})
    data.setup(tmp_path, download=False)
    return data


def joined(batches: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all windows side by side, ``[streams, steps]``."""
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs], 1), torch.cat([y for _, y in pairs], 1)


def test_windows_of_streams_by_hand(tmp_path: Path, build: Build) -> None:
    # 100 bytes 0..99: 90 train, so 89 predictions: 4 streams of 22 symbols, one is left over
    data = text_of(tmp_path, bytes(range(100)), build, batch_size=4, window=10)
    assert (data.num_train, data.num_val, data.num_test) == (88, 4, 4)
    batches = data.train(epoch=0, seed=0)
    assert len(batches) == 3
    shapes = [tuple(x.shape) for x, _ in batches]
    assert shapes == [(4, 10), (4, 10), (4, 2)]
    inputs, targets = joined(batches)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs, torch.arange(88).view(4, 22))
    # the last target of a stream is the first symbol of the next one
    assert torch.equal(targets, torch.arange(1, 89).view(4, 22))


def test_an_epoch_is_the_same_whatever_epoch_and_seed(tmp_path: Path, build: Build) -> None:
    data = text_of(tmp_path, bytes(range(200)), build, batch_size=2, window=7)
    first, again = (joined(data.train(epoch=epoch, seed=seed)) for epoch, seed in ((0, 0), (3, 1)))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_evaluation_in_one_stream_leaves_nothing_out(tmp_path: Path, build: Build) -> None:
    data = text_of(tmp_path, bytes(i % 251 for i in range(2000)), build, batch_size=4, eval_window=16)
    inputs, targets = joined(data.test())
    assert inputs.shape == (1, 99) and data.num_test == 99
    assert torch.equal(inputs[0, 1:], targets[0, :-1])
    assert inputs[0, 0] == 1900 % 251 and targets[0, -1] == 1999 % 251
    assert joined(data.train_eval(50))[0].shape == (1, 50)
    assert joined(data.train_eval())[0].shape == (1, 1799)


def test_ranks_share_the_streams(tmp_path: Path, build: Build) -> None:
    data = text_of(tmp_path, bytes(i % 256 for i in range(1000)), build, batch_size=2, window=8)
    parts = [joined(data.train(epoch=0, seed=0, rank=rank, world_size=2))[0] for rank in (0, 1)]
    whole, _ = joined(data.train(epoch=0, seed=0, batch_size=4))
    assert torch.equal(torch.cat(parts), whole)


def test_a_small_vocabulary_numbers_the_distinct_bytes(tmp_path: Path, build: Build) -> None:
    data = text_of(tmp_path, b"cab " * 50, build, num_symbols=5, batch_size=1)
    inputs, _ = joined(data.train(epoch=0, seed=0))
    assert inputs[0, :4].tolist() == [3, 1, 2, 0]  # " abc" in rising order
    assert data.fingerprint()["num_symbols_seen"] == 4
    with pytest.raises(UserError, match=r"dataset.num_symbols=3 is too small: .* has 4 distinct bytes"):
        text_of(tmp_path, b"cab " * 50, build, num_symbols=3)


def test_the_same_text_has_the_same_fingerprint(tmp_path: Path, build: Build) -> None:
    one = text_of(tmp_path, bytes(range(200)), build).fingerprint()
    assert one["test_sha256"] == hashlib.sha256(bytes(range(190, 200))).hexdigest()
    assert one == text_of(tmp_path, bytes(range(200)), build).fingerprint()
    assert one != text_of(tmp_path, bytes(range(1, 201)), build).fingerprint()


def test_files_are_joined_in_the_given_order_and_cut(tmp_path: Path, build: Build) -> None:
    (tmp_path / "a").write_bytes(b"a" * 150)
    (tmp_path / "b").write_bytes(b"b" * 150)
    data = build("bytes", files=["b", "a"], max_bytes=200)
    data.setup(tmp_path, download=False)
    inputs, _ = joined(data.train(epoch=0, seed=0, batch_size=1))
    assert bytes(inputs[0].tolist()) == b"b" * 150 + b"a" * 29
    with pytest.raises(MissingData, match=r"bytes is not in the data folder .*nowhere of dataset.files .*\(No"):
        build("bytes", files=["nowhere"]).setup(tmp_path, download=False)
    for path in (".", "/dev/null", "/dev/zero"):
        with pytest.raises(MissingData, match=f"{path} of dataset.files cannot be read .it is no file"):
            build("bytes", files=[path]).setup(tmp_path, download=False)


def test_too_many_streams_are_refused(tmp_path: Path, build: Build) -> None:
    with pytest.raises(UserError, match="cannot be cut into 100 streams"):
        text_of(tmp_path, bytes(range(100)), build, batch_size=100)


def test_the_standard_library_is_a_text(build: Build) -> None:
    data = build("bytes", max_bytes=50_000)
    data.setup(Path("nowhere"), download=False)
    inputs, _ = joined(data.train(epoch=0, seed=0, batch_size=1))
    assert b"import" in bytes(inputs[0].tolist())
    assert data.fingerprint()["num_bytes_test"] == 2_500
    assert data.input_facts() == {"example_shape": (1, 128), "example_dtype": torch.int64}


# ---------------------------------------------------------------------------------------------------------- enwik8


def test_a_short_split_is_declared(tmp_path: Path, build: Build) -> None:
    content = bytes(i % 200 for i in range(2000))
    (tmp_path / "enwik8").mkdir()
    (tmp_path / "enwik8" / "first").write_bytes(content)
    data = build("enwik8_4mb", num_bytes=2000, file="enwik8/first")
    data.setup(tmp_path, download=False)
    found = data.fingerprint()
    assert (found["num_bytes_train"], found["num_bytes_validation"], found["num_bytes_test"]) == (1800, 100, 100)
    assert found["official_split"] is False
    assert found["split"] == "90 %, 5 %, 5 % of the first 2,000 bytes"
    with pytest.raises(UserError, match=r"has 2,000 bytes, the official file 1,999; give its size in"):
        build("enwik8_4mb", num_bytes=1999, file="enwik8/first").setup(tmp_path, download=False)
    with pytest.raises(UserError, match=r"dataset.num_bytes=2000 is not the official enwik8"):
        build("enwik8", num_bytes=2000)


def test_official_files_are_checked(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(i % 150 for i in range(2000))  # a newline at 10, 160, 310, ...
    monkeypatch.setattr("prunebench.data.wikipedia.NUM_BYTES", 2000)
    monkeypatch.setattr(Enwik8, "md5", hashlib.md5(content).hexdigest())
    (tmp_path / "enwik8").mkdir()
    with zipfile.ZipFile(tmp_path / "enwik8" / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", content)
    packed = (tmp_path / "enwik8" / "enwik8.zip").read_bytes()
    monkeypatch.setattr(Enwik8, "zip_sha256", hashlib.sha256(packed).hexdigest())
    data = build("enwik8", num_bytes=2000)
    data.setup(tmp_path, download=False)
    assert data.fingerprint()["official_split"] is True
    # the beginning of the official file serves a short split too
    short = build("enwik8_4mb", num_bytes=1500)
    short.setup(tmp_path, download=False)
    assert short.fingerprint()["num_bytes_train"] == 1350
    # Transformer-XL's pipeline: the newlines go after the split
    without = build("enwik8", num_bytes=2000, drop_newlines=True)
    without.setup(tmp_path, download=False)
    found = without.fingerprint()
    assert [found[f"num_bytes_{part}"] for part in ("train", "validation", "test")] == [1788, 99, 99]
    assert found["num_symbols_seen"] == 149

    (tmp_path / "enwik8" / "enwik8").write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="is not the official file: its md5 is"):
        build("enwik8", num_bytes=2000).setup(tmp_path, download=False)


def sentence(data: Any, root: Path) -> str:
    """Why ``data`` cannot be read; empty if it can."""
    try:
        data.setup(root, download=False)
    except UserError as error:
        return str(error)
    return ""


def test_a_damaged_zip_is_one_sentence(tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the official checksum of the archive (one sentence each) and with that of the damaged one (the reader's)."""
    path = tmp_path / "enwik8" / "enwik8.zip"
    path.parent.mkdir()
    content = bytes(random.Random(0).choices(range(97, 123), k=2000))
    monkeypatch.setattr("prunebench.data.wikipedia.NUM_BYTES", 2000)
    monkeypatch.setattr(Enwik8, "md5", hashlib.md5(content).hexdigest())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", content)
    whole, read = path.read_bytes(), 0
    official = hashlib.sha256(whole).hexdigest()
    for bit in random.Random(1).sample(range(8 * len(whole)), 150):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        monkeypatch.setattr(Enwik8, "zip_sha256", official)
        with pytest.raises(UserError, match=r"enwik8\.zip is not the official file: its sha256 is .* remove"):
            build("enwik8", num_bytes=2000).setup(tmp_path, download=False)
        monkeypatch.setattr(Enwik8, "zip_sha256", hashlib.sha256(changed).hexdigest())
        said = sentence(build("enwik8", num_bytes=2000), tmp_path)
        assert not said or re.search(r"remove .*enwik8\.zip and run", said)
        read += not said  # a date, say: the content has its own checksum
    assert read < 40


def test_missing_files_say_what_to_do(tmp_path: Path, build: Build) -> None:
    with pytest.raises(MissingData, match=r"text8 is not in the data folder .* put text8 \(or text8.zip\) into"):
        build("text8").setup(tmp_path, download=False)


def test_the_real_beginning_of_enwik8(data_root: Path, build: Build) -> None:
    if not (data_root / "enwik8" / "enwik8_first_4MB").is_file():
        pytest.skip("enwik8_first_4MB is not there")
    data = build("enwik8_4mb")
    data.setup(data_root, download=False)
    assert data.num_test == 199_999 and data.fingerprint()["num_symbols_seen"] <= 205
    inputs, _ = joined(data.train_eval(300))
    assert data.fingerprint()["train_sha256"].startswith("81fda0858f6d")
    assert inputs.shape == (1, 300)
