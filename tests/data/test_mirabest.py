"""MiraBest's archive against published counts and checksums, and the made-up galaxies in its format."""

from __future__ import annotations

import functools
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunebench.data import mirabest
from prunebench.data.mirabest import ARCHIVES, BATCHES, FOLDER, Archive
from prunebench.data.synthetic_radio import batch
from prunebench.errors import UserError

Make = Callable[..., Any]
LABELS = [0, 1, 2, 5, 6, 3, 4, 7, 8, 9]


@pytest.fixture(scope="module")
def real(build: Make, data_root: Path) -> Any:
    if not (data_root / FOLDER / ARCHIVES[0].name).is_file():
        pytest.skip("no MiraBest in PRUNEBENCH_DATA")
    data = build("mirabest")
    data.setup(data_root, download=False)
    return data


@pytest.fixture(scope="module")
def made_up(build: Make) -> Any:
    data = build("synthetic_radio")
    data.setup(Path("nowhere"), download=False)
    return data


def check_counts(data: Any) -> None:
    """729 = 584 + 145 certain pictures to train with, 49 + 55 to test; 49 uncertain ones, 30 hybrids."""
    assert (data.num_train, data.num_val, data.num_test) == (584, 145, 104)
    labels = torch.cat([y for _, y in data.test()])
    assert torch.bincount(labels).tolist() == [49, 55]
    further = {name: torch.cat([y for _, y in batches]) for name, batches in data.further_tests().items()}
    assert {name: len(found) for name, found in further.items()} == {"uncertain": 49, "hybrid": 30}
    assert torch.bincount(further["uncertain"]).tolist() == [25, 24]
    assert torch.bincount(further["hybrid"]).tolist() == [17, 13]
    for _, batches in data.further_tests().items():
        assert all(x.shape[1:] == (1, 150, 150) for x, _ in batches)


def test_published_counts(real: Any) -> None:
    check_counts(real)
    assert torch.bincount(real._train_store.labels).tolist() == [348, 381]


def test_published_mean_and_deviation(real: Any) -> None:
    pixels = real._train_store.pixels.double() / 255
    assert float(pixels.mean()) == pytest.approx(0.0031, abs=2e-4)
    assert float(pixels.std()) == pytest.approx(0.0350, abs=2e-3)
    images, _ = next(iter(real.test()))
    assert float(images.min()) == pytest.approx(-0.0031 / 0.0350, rel=1e-5)


def test_the_reader_agrees_with_pickle_itself(real: Any, data_root: Path) -> None:
    """The file's checksum is the official one, so that its own unpickling is harmless."""
    import pickle
    import warnings

    with tarfile.open(data_root / FOLDER / ARCHIVES[0].name) as tar, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy has renamed what such files name
        file = tar.extractfile(f"{ARCHIVES[0].folder}/test_batch")
        assert file is not None
        content = file.read()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == ARCHIVES[0].sums[-1]
        theirs = pickle.loads(content, encoding="latin1")
    ours, labels = real._parse("test_batch", content)
    assert labels.tolist() == theirs["labels"]
    assert np.array_equal(ours.numpy().reshape(len(labels), -1), np.stack(theirs["data"]).reshape(len(labels), -1))


def test_the_made_up_set_has_the_same_counts_and_is_the_same_each_time(made_up: Any, build: Make) -> None:
    check_counts(made_up)
    again = build("synthetic_radio")
    again.setup(Path("nowhere"), download=False)
    assert again.fingerprint() == made_up.fingerprint()


def test_made_up_classes_differ_in_where_they_are_bright(made_up: Any) -> None:
    """FR I are brightest near the centre, FR II at their ends."""
    pixels, labels = made_up._train_store.pixels.double()[:, 0], made_up._train_store.labels
    rows, columns = torch.meshgrid(torch.arange(150.0), torch.arange(150.0), indexing="ij")
    radius = ((rows - 74.5) ** 2 + (columns - 74.5) ** 2).sqrt()
    light = (pixels - 5).clamp_min(0)
    mean_radius = (light * radius).sum((1, 2)) / light.sum((1, 2))
    assert float(mean_radius[labels == 1].median()) > 1.5 * float(mean_radius[labels == 0].median())


def test_pictures_are_turned_in_training_only(made_up: Any, build: Make) -> None:
    data = build("synthetic_radio", rotate=True)
    data.setup(Path("nowhere"), download=False)
    plain, turned = (next(iter(d.train(epoch=0, seed=0))) for d in (made_up, data))
    assert torch.equal(plain[1], turned[1]) and not torch.equal(plain[0], turned[0])
    other = next(iter(data.train(epoch=1, seed=0)))
    assert not torch.equal(other[0], turned[0])
    for one, two in zip(made_up.test(), data.test(), strict=True):
        assert torch.equal(one[0], two[0])


# -- small archives of the same form


def write(folder: Path, *, change: Callable[[str, bytes], bytes] = lambda name, content: content, **entry: Any) -> Path:
    """An archive whose eight batches hold a picture of each label."""
    (folder / FOLDER).mkdir(exist_ok=True)
    path = folder / FOLDER / ARCHIVES[0].name
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in BATCHES:
            content = change(name, small(name))
            info = tarfile.TarInfo(f"F_batches/{name}")
            info.size = len(content)
            for key, value in entry.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return path


@functools.cache
def small(name: str) -> bytes:
    return batch(name, LABELS, np.random.default_rng(len(name)))


def known(path: Path, **changes: Any) -> Archive:
    """``path`` as if it were official."""
    sums = tuple(_md5(small(name)) for name in BATCHES)
    return Archive(
        **{"name": path.name, "md5": _md5(path.read_bytes()), "folder": "F_batches", "sums": sums, **changes}
    )


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def load(build: Make, root: Path) -> Any:
    data = build("mirabest", validation=0)
    data.setup(root, download=False)
    return data


def test_a_small_archive(build: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    monkeypatch.setattr(mirabest, "ARCHIVES", (known(path),))
    data = load(build, tmp_path)
    assert (data.num_train, data.num_test) == (7 * 5, 5)
    assert torch.cat([y for _, y in data.test()]).tolist() == [0, 0, 0, 1, 1]
    further = {name: torch.cat([y for _, y in batches]).tolist() for name, batches in data.further_tests().items()}
    assert further == {"uncertain": [0, 0, 1], "hybrid": [0, 1] * 7}


def test_another_archive_is_refused(build: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    with pytest.raises(UserError, match=f"{path.name} is not the official file: its md5 is .*; remove .* and run"):
        load(build, tmp_path)
    monkeypatch.setattr(mirabest, "ARCHIVES", (known(path, sums=("0" * 32,) * 8),))
    with pytest.raises(UserError, match="data_batch_1 is not the official file: its md5 is"):
        load(build, tmp_path)


def test_a_damaged_archive_is_one_sentence(build: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    monkeypatch.setattr(mirabest, "ARCHIVES", (known(path),))
    with pytest.raises(UserError, match=r"^[^\n]*MiraBest_F_batches.tar.gz cannot be read \([^\n]*; remove [^\n]*$"):
        load(build, tmp_path)


def test_a_link_in_the_archive_is_refused(build: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, type=tarfile.SYMTYPE, linkname="/etc/passwd")
    monkeypatch.setattr(mirabest, "ARCHIVES", (known(path),))
    with pytest.raises(UserError, match=r"cannot be read .*absolute path"):
        load(build, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"cos\nsystem\n(S'true'\ntR.", b"}."])
def test_what_is_no_batch_is_refused(content: bytes, build: Make) -> None:
    with pytest.raises(UserError, match=r"^data_batch_1 is not a batch of mirabest: "):
        build("mirabest")._parse("data_batch_1", content)
