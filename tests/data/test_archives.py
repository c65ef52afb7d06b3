"""Archives that reach outside their folder are refused whole."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from prunebench.data.archives import unpack
from prunebench.errors import UserError


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
