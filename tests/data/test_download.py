"""Downloads, from a server on this machine."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prunebench.data.download import Remote, fetch
from prunebench.errors import UserError

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves ``files``; closes the connection after ``cut`` bytes as often as ``num_cuts`` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/set/file.bin": CONTENT}
        self.cut = 0
        self.num_cuts = 0
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.num_cuts:
            self.server.num_cuts -= 1
            body = body[: self.server.cut]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Not on the screen of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PRUNEBENCH_MIRROR", raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, *, checksum: str = MD5, bases: tuple[str, ...] = ()) -> Remote:
    return Remote("set/file.bin", (*bases, f"{server.url}/set"), checksum)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_whole(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path / "new")
    assert path == tmp_path / "new" / "set" / "file.bin"
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    fetch(remote(server), tmp_path / "new")
    assert len(server.asked) == 1, "what is there is not asked for again"


def test_what_is_there_needs_no_lock(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(UserError, match=r"no file locks .* set PRUNEBENCH_DATA"):
        fetch(remote(server), tmp_path)
    assert not server.asked
    (tmp_path / "set" / "file.bin").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut, server.num_cuts = 100_000, 2
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_call_goes_on_where_the_first_was_cut(server: Server, tmp_path: Path) -> None:
    server.cut, server.num_cuts = 150_000, 3
    with pytest.raises(UserError, match=r"ended after 450,000 of 512,000 bytes.*run again to go on"):
        fetch(remote(server), tmp_path)
    assert names(tmp_path) == ["file.bin.part"]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=450000-"
    assert names(tmp_path) == ["file.bin"]


def test_a_complete_part_needs_nothing_more(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("more", [1, 100, len(CONTENT)])
def test_a_part_that_is_too_long_is_started_anew(server: Server, tmp_path: Path, more: int) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(CONTENT + bytes(more))
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [f"bytes={len(CONTENT) + more}-", None]
    assert names(tmp_path) == ["file.bin"]


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(b"something else")
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/set/file.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(UserError) as caught:
        fetch(remote(server), tmp_path)
    assert "has another checksum than md5:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_wrong_part_is_not_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(bytes(1000))
    with pytest.raises(UserError, match="another checksum"):
        fetch(remote(server), tmp_path)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    server.files["/bad/file.bin"] = b"not it"
    bases = (f"{server.url}/gone", f"{server.url}/bad")
    assert fetch(remote(server, bases=bases), tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/gone/file.bin", "/bad/file.bin", "/set/file.bin"]


def test_a_mirror_replaces_the_addresses(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = Remote("set/file.bin", ("http://192.0.2.1/never",), MD5)  # an address reserved for examples
    for place, slash in (("a", ""), ("b", "/")):
        monkeypatch.setenv("PRUNEBENCH_MIRROR", server.url + slash)
        assert fetch(official, tmp_path / place).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/set/file.bin"] * 2


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNEBENCH_MIRROR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError) as caught:
        fetch(Remote("file.bin", (f"http://127.0.0.1:{port}",), MD5), tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "file.bin could not be downloaded" in text
    assert "refused" in text
    assert f"put the official file into {tmp_path}" in text


def test_a_foreign_file_in_the_way_is_not_touched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match="is not the official file"):
        fetch(remote(server), tmp_path)
    assert (tmp_path / "set" / "file.bin").read_bytes() == b"mine"


def test_several_at_once_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(4)))
    assert {path.read_bytes() == CONTENT for path in paths} == {True}
    assert len(server.asked) == 1
