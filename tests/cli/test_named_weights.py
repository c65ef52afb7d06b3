"""``model.pretrained=akamaster``: what the name brings along, how the file is fetched, and what is refused."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from prunebench import rows
from prunebench.cli.resolve import resolve
from prunebench.config.groups import conf_folder
from prunebench.config.identity import run_folder
from prunebench.errors import UserError
from prunebench.nets.checkpoints import load_foreign
from prunebench.nets.dense_net import make_net
from prunebench.run import assemble
from prunebench.run.assemble import fetch_weights
from tests.kit import configure

CONTENT = b"no real weights, but bytes with a checksum"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NAMED = ("dataset=cifar10", "model=resnet20", "model.pretrained=akamaster")
ENTRIES = {
    f"{file.stem}-{name}": (file.stem, name, entry)
    for file in sorted((conf_folder() / "model").glob("*.yaml"))
    for name, entry in (OmegaConf.select(OmegaConf.load(file), "checkpoints") or {}).items()
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Serves ``CONTENT`` as ``net.th``; its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "net.th").write_bytes(CONTENT)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("PRUNEBENCH_MIRROR", raising=False)
    handler = partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/net.th", asked
        running.shutdown()
        thread.join()


def named(data: Path, url: str, *overrides: str, sha256: str = SHA256) -> dict[str, Any]:
    """The configuration of ``NAMED`` with another file behind the name, which is fetched."""
    entry = "model.checkpoints.akamaster"
    changes = (f"paths.data={data}", f"{entry}.url='{url}'", f"{entry}.sha256='{sha256}'")
    config = configure(data / "outputs", *NAMED, *changes, *overrides)[0]
    fetch_weights(config)
    return config


@pytest.mark.parametrize("key", ENTRIES)
def test_entries(key: str) -> None:
    model, _, entry = ENTRIES[key]
    assert set(entry) == {"url", "sha256", "needs", "sets"}
    file = entry.url.rpartition("/")[2]
    assert entry.url.startswith("https://") and file.startswith(model)
    assert len(entry.sha256) in (8, 64) and int(entry.sha256, 16) and f"-{entry.sha256[:8]}." in file


def test_five_nets_have_them() -> None:
    assert {model for model, name, _ in ENTRIES.values() if name == "akamaster"} == {
        f"resnet{depth}" for depth in (20, 32, 44, 56, 110)
    }


@pytest.mark.parametrize("depth", [20, 56])
def test_the_real_file(data_root: Path, depth: int) -> None:
    """It loads, and the run is the one that the file's path, mean and deviation make."""
    common = ("dataset=cifar10", f"model=resnet{depth}", f"paths.data={data_root}", "ood=noise")
    if not any((data_root / "weights").glob(f"resnet{depth}-*")):
        pytest.skip("the weights are not there")
    config, text = configure(Path("unused"), *common, "model.pretrained=akamaster")
    path = Path(config["model"]["pretrained"])
    assert path.parent == data_root / "weights" and path.name.startswith(f"resnet{depth}-")
    assert (config["dataset"]["mean"], config["dataset"]["std"]) == (MEAN, STD)
    assert (config["ood"]["mean"], config["ood"]["std"]) == (MEAN, STD), "foreign pictures are normalised alike"
    assert (
        list(config["model"]["checkpoints"]) == ["akamaster"]
        and OmegaConf.to_container(OmegaConf.create(text)) == config
    )
    by_hand = (f"model.pretrained={path}", f"dataset.mean={MEAN}", f"dataset.std={STD}")
    plain = configure(Path("unused"), *common, *by_hand)[0]
    assert run_folder(config) == run_folder(plain) and "checkpoints" not in plain["model"]
    fetch_weights(config)
    digest = config["model"]["pretrained_sha256"]
    found = load_foreign(make_net(config["model"]), str(path), sha256=digest, cache=Path("unused"))
    assert found.sha256 == digest


def test_nothing_is_downloaded_unasked(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    place = tmp_path / "data" / "weights" / "net.th"
    with pytest.raises(UserError, match=f"set paths.download=true, or put {url} at {place}$"):
        named(tmp_path / "data", url)
    assert asked == [] and not place.parent.exists()


@pytest.mark.parametrize("digits", [8, 64])
def test_download(server: tuple[str, list[str]], tmp_path: Path, digits: int) -> None:
    url, asked = server
    for _ in range(2):
        config = named(tmp_path, url, "paths.download=true", sha256=SHA256[:digits])
        assert config["model"]["pretrained"] == str(tmp_path / "weights" / "net.th")
        assert config["model"]["pretrained_sha256"] == SHA256[:digits]
    assert (tmp_path / "weights" / "net.th").read_bytes() == CONTENT
    assert len(asked) == 1, "what is there is not asked for again"
    named(tmp_path, url, sha256=SHA256[:digits])


def test_another_file(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(UserError, match="has another checksum than sha256:12345678"):
        named(tmp_path, url, "paths.download=true", sha256="12345678")
    assert not (tmp_path / "weights" / "net.th").exists()
    (tmp_path / "weights" / "net.th").write_bytes(b"other bytes")
    with pytest.raises(UserError, match=r"net\.th is not the official file \(sha256:"):
        named(tmp_path, url)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.shortcut=A_average", "are for model.shortcut=A, got A_average; use model.shortcut=A or other weights"),
        ("dataset=cifar100", "are for dataset.name=cifar10, got cifar100; use dataset=cifar10 or other weights"),
        ("model.pretrained=akamastr", "it knows akamaster; did you mean akamaster"),
        ("model=vgg16", "model.pretrained=akamaster is no file and no name of weights for model=vgg16; it knows none"),
    ],
)
def test_refused(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        configure(tmp_path, *NAMED, f"paths.data={tmp_path}", override)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_another_mean_is_refused_where_it_was_asked_for() -> None:
    config = rows.compose(rows.find("fpgm-t1_resnet56_only40_pretrained"), ["model.pretrained=akamaster"])
    config["dataset"]["mean"] = [0.5, 0.5, 0.5]
    with pytest.raises(UserError, match=r"dataset.mean=\[0.5, 0.5, 0.5\] does not fit the weights akamaster, .* leave"):
        resolve(OmegaConf.create(config), ["dataset.mean=[0.5,0.5,0.5]"])
    # a row's own value gives way, and the run says that it is another than its row
    resolved = resolve(OmegaConf.create(config))[0]
    assert resolved["dataset"]["mean"] == MEAN
    assert f"dataset.mean={MEAN}" in resolved["row"]["changed"]
    assert config["dataset"]["mean"] == [0.5, 0.5, 0.5]


def test_a_run_says_what_is_missing(tmp_path: Path) -> None:
    """Before that it has an id, as every run whose files are missing."""
    config = configure(tmp_path, *NAMED, f"paths.data={tmp_path}")[0]
    assert assemble.identified(config) == config
    assert run_folder(config).parent.parent.name == "fpgm-resnet20-cifar10"
