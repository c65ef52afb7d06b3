"""Archives that reach outside their folder are refused whole."""

from __future__ import annotations

import hashlib
import io
import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from prunebench.data import archives
from prunebench.data.archives import check_unpacked
from prunebench.errors import UserError


def unpack(archive: Path, root: Path, member: str) -> Path:
    """With the checksum that the archive has."""
    return archives.unpack(archive, root, member, md5=hashlib.md5(archive.read_bytes()).hexdigest())


def make_tar(path: Path, *entries: tuple[str, str, str]) -> Path:
    """A tar.gz of a good file and ``entries`` (kind, name, content or target of the link)."""
    kinds = {"file": tarfile.REGTYPE, "symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(path, "w:gz") as tar:
        for kind, name, text in (("file", "set/good", "good"), *entries):
            item = tarfile.TarInfo(name)
            item.type = kinds[kind]
            if kind == "file":
                item.size = len(text)
            else:
                item.linkname = text
            tar.addfile(item, io.BytesIO(text.encode()))
    return path


def test_unpack_a_tar(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", ("file", "set/deep/er", "x"), ("file", "beside", "y"))
    assert unpack(archive, tmp_path, "set") == tmp_path / "set"
    assert (tmp_path / "set" / "good").read_text() == "good"
    assert (tmp_path / "set" / "deep" / "er").read_text() == "x"
    assert not (tmp_path / "beside").exists()
    (tmp_path / "set" / "good").write_text("mine")
    unpack(archive, tmp_path, "set")
    assert (tmp_path / "set" / "good").read_text() == "mine", "what is there stays"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("file", "../evil", "x"), "unsafe path '../evil'"),
        (("file", "set/../../evil", "x"), "unsafe path"),
        (("file", "/evil", "x"), "unsafe path '/evil'"),
        (("symlink", "set/evil", "/etc/passwd"), "link or a device"),
        (("symlink", "set/evil", "../.."), "link or a device"),
        (("link", "set/evil", "/etc/passwd"), "link or a device"),
        (("pipe", "set/evil", ""), "link or a device"),
    ],
)
def test_a_malicious_tar_is_refused(tmp_path: Path, entry: tuple[str, str, str], message: str) -> None:
    root = tmp_path / "deep" / "root"
    root.mkdir(parents=True)
    archive = make_tar(tmp_path / "a.tar.gz", entry)
    with pytest.raises(UserError, match=message):
        unpack(archive, root, "set")
    assert not (root / "set").exists()
    assert not list(tmp_path.rglob("evil"))
    assert not list(root.glob(".unpack-*"))


def test_unpack_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("enwik8", "text")
    assert unpack(tmp_path / "a.zip", tmp_path, "enwik8").read_text() == "text"


@pytest.mark.parametrize("name", ["../evil", "/evil", "C:\\evil", "set\\..\\evil"])
def test_a_malicious_zip_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        bundle.writestr("set/good", "good")
        bundle.writestr(name, "evil")
    with pytest.raises(UserError, match="unsafe path"):
        unpack(tmp_path / "a.zip", tmp_path, "set")
    assert not (tmp_path / "set").exists()


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        item = zipfile.ZipInfo("set/link")
        item.create_system = 3  # Unix
        item.external_attr = (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(item, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        unpack(tmp_path / "a.zip", tmp_path, "set")


def test_damaged_and_other_archives(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match="does not contain other"):
        unpack(archive, tmp_path, "other")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, tmp_path, "set")
    assert not (tmp_path / "set").exists()


def made(archive: Path) -> Path:
    """A tar or a zip, as its name says, of some thousand bytes."""
    if archive.suffix == ".tar":
        return make_tar(archive, ("file", "set/other", "x" * 3000))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("set/good", "good" * 1000)
    return archive


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_one_changed_byte_is_noticed(tmp_path: Path, kind: str) -> None:
    """Wherever it lies: in the data, in a header, behind the end."""
    archive = made(tmp_path / f"a.{kind}")
    whole = archive.read_bytes()
    md5 = hashlib.md5(whole).hexdigest()
    for place in [*random.Random(0).sample(range(len(whole)), 60), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        archive.write_bytes(bytes(changed))
        with pytest.raises(UserError, match=r"is not the official file: its md5 is .* remove it and download it again"):
            archives.unpack(archive, tmp_path, "set", md5=md5)
        assert not (tmp_path / "set").exists()
        assert not archives._record(tmp_path / "set").exists()
    archive.write_bytes(whole)
    assert archives.unpack(archive, tmp_path, "set", md5=md5).is_dir()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_damage_that_has_the_checksum_is_one_sentence(tmp_path: Path, kind: str) -> None:
    """What the readers make of damaged archives, whatever they raise."""
    archive = made(tmp_path / f"a.{kind}")
    whole, draw, refused = archive.read_bytes(), random.Random(0), 0
    for number in range(150):
        changed = bytearray(whole)
        for _ in range(1 + number % 3):
            changed[draw.randrange(len(whole))] = draw.randrange(256)
        archive.write_bytes(bytes(changed[: draw.randrange(len(whole))] if number % 5 == 0 else changed))
        root = tmp_path / str(number)
        root.mkdir()
        try:
            unpack(archive, root, "set")
        except UserError:
            refused += 1
            assert [path.name for path in root.iterdir()] == [".set.lock"]
    assert refused > 50


def test_what_came_out_is_noticed_when_it_changes(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", ("file", "set/deep/er", "x"))
    place = unpack(archive, tmp_path, "set")
    check_unpacked(place, "get it again")
    (place / "more").write_text("of the user's own")
    check_unpacked(place, "get it again")
    (place / "good").write_text("gooe")
    with pytest.raises(UserError, match=r"set is not what was unpacked: good has changed or is gone; get it again"):
        check_unpacked(place, "get it again")
    (place / "good").write_text("good")
    (place / "deep" / "er").unlink()
    with pytest.raises(UserError, match="deep/er has changed or is gone"):
        check_unpacked(place, "get it again")
    archives._record(place).write_text("[]")
    with pytest.raises(UserError, match="no list of checksums"):
        check_unpacked(place, "get it again")
    archives._record(place).unlink()
    check_unpacked(place, "get it again")  # put there by hand: what is known of its files is checked elsewhere
