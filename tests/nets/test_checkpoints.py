from __future__ import annotations

import argparse
import bz2
import functools
import gzip
import hashlib
import lzma
import random
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError
from prunebench.nets.checkpoints import load_foreign


def make_net(*, channels: int = 3, seed: int = 0) -> nn.Sequential:
    """Seven tensors with values, one counter."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    net[1].running_mean.normal_()
    net.get_buffer("1.num_batches_tracked").add_(seed)
    return net


@pytest.fixture
def trained() -> dict[str, Tensor]:
    """Weights other than those of ``make_net()``."""
    return dict(make_net(seed=1).state_dict())


@pytest.fixture
def save(tmp_path) -> Callable[..., str]:
    def write(content: object, name: str = "weights.pt", **options: Any) -> str:
        torch.save(content, tmp_path / name, **options)
        return str(tmp_path / name)

    return write


def assert_equal(net: nn.Module, weights: dict[str, Tensor]) -> None:
    state = net.state_dict()
    assert set(state) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name


def assert_refused(net: nn.Module, source: str, match: str, cache: Path, sha256: str | None = None) -> None:
    """The message fits, is one line, and the net is as it was."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=match) as caught:
        load_foreign(net, source, sha256=sha256, cache=cache)
    assert "\n" not in str(caught.value)
    assert_equal(net, before)


def test_file_sha256(tmp_path):
    file = tmp_path / "abc"
    file.write_bytes(b"abc")  # the first example of FIPS 180-2
    assert file_sha256(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_plain_file(tmp_path, save, trained):
    net, source = make_net(), save(trained)
    found = load_foreign(net, source, sha256=None, cache=tmp_path / "cache")
    assert_equal(net, trained)
    assert (found.source, found.unwrapped) == (source, "")
    assert found.sha256 == hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert not (tmp_path / "cache").exists()


def test_old_file_format(tmp_path, save, trained):
    net = make_net()
    load_foreign(net, save(trained, _use_new_zipfile_serialization=False), sha256=None, cache=tmp_path)
    assert_equal(net, trained)


def test_safetensors(tmp_path, trained):
    save_file(trained, tmp_path / "weights.safetensors")
    net = make_net()
    load_foreign(net, str(tmp_path / "weights.safetensors"), sha256=None, cache=tmp_path)
    assert_equal(net, trained)


def test_file_url(tmp_path, save, trained):
    net = make_net()
    url = Path(save(trained, "a b.pt")).as_uri()
    assert "%20" in url
    load_foreign(net, url, sha256=None, cache=tmp_path)
    assert_equal(net, trained)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "state_dict_ema"])
def test_wrapped(tmp_path, save, trained, key):
    net = make_net()
    found = load_foreign(net, save({"epoch": 3, key: trained, "optimizer": {}}), sha256=None, cache=tmp_path)
    assert_equal(net, trained)
    assert found.unwrapped == f"in {key}"


def test_trained_weights_come_before_averaged_ones(tmp_path, save, trained):
    net = make_net()
    averaged = {name: tensor + 1 for name, tensor in trained.items()}
    load_foreign(net, save({"state_dict_ema": averaged, "state_dict": trained}), sha256=None, cache=tmp_path)
    assert_equal(net, trained)


@pytest.mark.parametrize(
    "first",
    [{}, {"epoch": 3}, {"epoch": torch.tensor(3)}, {"state_dict": {}}, {"model": {"epoch": 3}}, [1], None],
    ids=repr,
)
def test_the_first_wrapper_with_tensors_is_opened(tmp_path, save, trained, first):
    net = make_net()
    found = load_foreign(net, save({"state_dict": first, "model": trained}), sha256=None, cache=tmp_path)
    assert_equal(net, trained)
    assert found.unwrapped.startswith("in model")


def test_wrappers_that_are_left_out_are_named(tmp_path, save, trained):
    net = make_net()
    other = {name: tensor + 1 for name, tensor in trained.items()}
    content = {"params": other, "model": {"params_ema": other, "params": trained}, "ema": {}}
    found = load_foreign(net, save(content), sha256=None, cache=tmp_path)
    assert_equal(net, trained)
    assert found.unwrapped == "in model, others left out (params), in params, others left out (params_ema)"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "net.", "module._orig_mod.model."])
def test_prefixed(tmp_path, save, trained, prefix):
    net = make_net()
    content = {"model": {"state_dict": {prefix + name: tensor for name, tensor in trained.items()}}}
    found = load_foreign(net, save(content), sha256=None, cache=tmp_path)
    assert_equal(net, trained)
    assert found.unwrapped.startswith("in model, in state_dict, without the prefix ")
    assert "".join(part.split()[-1] for part in found.unwrapped.split(", ")[2:]) == prefix


def test_a_prefix_that_the_net_has_too_stays(tmp_path, save):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    source, net = Wrapped(), Wrapped()
    found = load_foreign(net, save(source.state_dict()), sha256=None, cache=tmp_path)
    assert_equal(net, dict(source.state_dict()))
    assert found.unwrapped == ""
    # and one more of them is removed
    doubled = {f"model.{name}": tensor for name, tensor in source.state_dict().items()}
    found = load_foreign(net, save(doubled), sha256=None, cache=tmp_path)
    assert_equal(net, dict(source.state_dict()))
    assert found.unwrapped == "without the prefix model."


def test_a_prefix_of_some_names_stays(tmp_path, save, trained):
    some = {f"module.{name}" if name.startswith("0.") else name: tensor for name, tensor in trained.items()}
    assert_refused(make_net(), save(some), "unknown to the net: module.0.weight, module.0.bias;", tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_cast(tmp_path, save, trained, dtype):
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in trained.items()}
    net = make_net()
    load_foreign(net, save(cast), sha256=None, cache=tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())
    assert_equal(net, {name: tensor.to(trained[name].dtype) for name, tensor in cast.items()})


def test_missing_counters_keep_their_value(tmp_path, save, trained):
    old = {name: tensor for name, tensor in trained.items() if "num_batches" not in name}
    net = make_net(seed=5)
    load_foreign(net, save(old), sha256=None, cache=tmp_path)
    assert_equal(net, {**old, "1.num_batches_tracked": torch.tensor(5)})


def test_counters_alone_are_no_weights(tmp_path, save):
    assert_refused(make_net(), save({"total_ops": torch.zeros(1)}), "missing in the file: 0.weight", tmp_path)


def test_missing_and_unknown_names(tmp_path, save, trained):
    trained["head.weight"], trained["head.bias"] = trained.pop("3.weight"), trained.pop("3.bias")
    match = r"does not fit the net; missing in the file: 3.weight, 3.bias; unknown to the net: head.weight, head.bias;"
    assert_refused(make_net(), save(trained), match, tmp_path)


def test_long_lists_are_cut(tmp_path, save):
    extra = {f"extra.{index}": torch.zeros(1) for index in range(12)}
    match = r"unknown to the net: extra.0, extra.1, extra.2, extra.3, extra.4 and 7 more; choose"
    assert_refused(make_net(), save({**make_net().state_dict(), **extra}), match, tmp_path)


def test_shapes(tmp_path, save, trained):
    match = r"different: 0.weight: file \[4, 3, 3, 3\], net \[4, 1, 3, 3\]; choose"
    assert_refused(make_net(channels=1), save(trained), match, tmp_path)


def test_integers_are_no_weights(tmp_path, save, trained):
    trained["3.bias"] = torch.zeros(2, dtype=torch.int8)
    assert_refused(make_net(), save(trained), r"different: 3.bias: file \[2\] int8, net \[2\];", tmp_path)


@pytest.mark.parametrize(("value", "dtype"), [(float("nan"), torch.float32), (1e300, torch.float64)])
def test_values_that_are_not_finite(tmp_path, save, trained, value, dtype):
    trained["3.bias"] = torch.tensor([0.0, value], dtype=dtype)
    assert_refused(make_net(), save(trained), "values that are not finite, in 3.bias$", tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "lr": 0.1}, "found the keys epoch, lr$"),
        ({"state_dict": {"a.weight": torch.zeros(1), "step": 4}}, r"found step \(int\) beside tensors; take those out"),
        ([torch.zeros(1)], "found list$"),
        ({}, "found dict$"),
        ({"model": {"model": {"model": {"model": {"model": {"w": torch.zeros(1)}}}}}}, "found the keys model$"),
    ],
)
def test_no_weights_inside(tmp_path, save, content, found):
    assert_refused(make_net(), save(content), f"holds no weights: expected tensors by name, or .* {found}", tmp_path)


def test_pickled_classes_are_refused(tmp_path, save, trained):
    match = r"holds pickled Python objects \(argparse.Namespace\) and is not read.* convert it .*weights_only=False"
    assert_refused(make_net(), save({"args": argparse.Namespace(), "state_dict": trained}), match, tmp_path)
    assert_refused(make_net(), save(make_net()), "holds pickled Python objects .* and is not read", tmp_path)


def test_pickles_are_not_executed(tmp_path, save):
    assert_refused(make_net(), save(Harmful(tmp_path / "harm")), "pickled Python objects", tmp_path)
    assert not (tmp_path / "harm").exists()


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*TorchScript:UserWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.script(make_net()).save(str(tmp_path / "net.pt"))
    assert_refused(make_net(), str(tmp_path / "net.pt"), "is a TorchScript program and no file of weights", tmp_path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["half", "empty", "text", "noise"])
def test_damaged_files(tmp_path, trained, name, kind):
    path = tmp_path / name
    if name.endswith("pt"):
        torch.save(trained, path)
    else:
        save_file(trained, path)
    whole = path.read_bytes()
    noise = torch.randint(256, (1000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path.write_bytes(
        {"half": whole[: len(whole) // 2], "empty": b"", "text": b"<html>", "noise": bytes(noise.tolist())}[kind]
    )
    assert_refused(make_net(), str(path), f"{name} is damaged or is neither a torch nor a safetensors", tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "u.SafeTensors", "x.pt", "weights", "x.pt.gz"])
@pytest.mark.parametrize(
    "write", [save_file, torch.save, functools.partial(torch.save, _use_new_zipfile_serialization=False)]
)
def test_what_a_file_holds_counts_and_not_its_name(tmp_path, trained, name, write):
    for path in (tmp_path / name, tmp_path / "x.safetensors"):
        write(trained, path)
        net = make_net()
        load_foreign(net, str(path), sha256=None, cache=tmp_path)
        assert_equal(net, trained)


@pytest.mark.parametrize(("packer", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)])
@pytest.mark.parametrize("name", ["x.pt.packed", "x.pt", "x.safetensors"])
def test_a_packed_file_is_named_as_such(tmp_path, save, trained, packer, pack, name):
    whole = Path(save(trained)).read_bytes()
    (tmp_path / name).write_bytes(pack(whole))
    assert_refused(make_net(), str(tmp_path / name), f"{name} is packed with {packer}; unpack it and give", tmp_path)


def test_an_archive_with_a_file_of_weights_is_named_as_such(tmp_path, save, trained):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(save(trained), "inside.pt")
    assert_refused(make_net(), str(tmp_path / "x.zip"), r"x.zip is a zip archive of inside.pt; unpack it", tmp_path)


def test_a_changed_bit_is_found(tmp_path, trained):
    """torch's own reader takes a file with another number in it."""
    path = tmp_path / "weights.pt"
    torch.save(trained, path)
    whole, draw = path.read_bytes(), random.Random(0)
    with zipfile.ZipFile(path) as archive:
        places = [item.header_offset + 200 for item in archive.infolist() if item.file_size > 400]
    assert places
    for place in places:
        bit = 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert_refused(make_net(), str(path), "weights.pt is damaged or is neither", tmp_path)


def test_a_file_without_checksums_is_read(tmp_path, trained):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(trained, tmp_path / "weights.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    net = make_net()
    load_foreign(net, str(tmp_path / "weights.pt"), sha256=None, cache=tmp_path)
    assert_equal(net, trained)


def test_missing_file(tmp_path, save, trained):
    save(trained, "resnet56.pt")
    match = r"there is no file .*/resnet65.pt with weights; did you mean resnet56.pt\?$"
    assert_refused(make_net(), str(tmp_path / "resnet65.pt"), match, tmp_path)
    assert_refused(
        make_net(), str(tmp_path / "no" / "such.pt"), r"there is no file .*/no/such.pt with weights$", tmp_path
    )
    assert_refused(make_net(), str(tmp_path), "is a folder; give the file", tmp_path)
    assert_refused(make_net(), "/dev/null", "is a device or a pipe; give a file", tmp_path)
    assert_refused(make_net(), "x" * 5000, "is no path of a file or folder .*name too long", tmp_path)
    assert_refused(make_net(), "http://[::1", r"http://\[::1 is no URL \(Invalid IPv6", tmp_path)
    assert_refused(
        make_net(), "s3://bucket/weights.pt", "must be a path or a file, http or https URL, got s3:", tmp_path
    )


def test_checksum(tmp_path, save, trained):
    source = save(trained)
    right, wrong = file_sha256(Path(source)), "0" * 64
    match = f"wrong checksum of {source}: expected SHA-256 {wrong}, found {right}$"
    assert_refused(make_net(), source, match, tmp_path, sha256=wrong)
    assert_refused(make_net(), source, "a SHA-256 has 64 hex digits, .* got '12fca8'", tmp_path, sha256="12fca8")
    assert_refused(make_net(), source, "wrong checksum", tmp_path, sha256=f"{right[:8]}{'0' * 56}")
    assert load_foreign(make_net(), source, sha256=right[:8], cache=tmp_path).sha256 == right
    net = make_net()
    assert load_foreign(net, source, sha256=right.upper(), cache=tmp_path).sha256 == right
    assert_equal(net, trained)


class Server:
    """Serves ``body`` under every address; ``cut`` = number of bytes after which it hangs up."""

    def __init__(self) -> None:
        self.body, self.cut, self.requests = b"", None, 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                if "missing" in self.path:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body[: outer.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def test_download_once(tmp_path, save, trained, server):
    server.body = Path(save(trained)).read_bytes()
    right, cache = hashlib.sha256(server.body).hexdigest(), tmp_path / "new" / "cache"
    for sha256 in (right, None, right):
        net = make_net()
        found = load_foreign(net, f"{server.url}/net.pt?download=1", sha256=sha256, cache=cache)
        assert_equal(net, trained)
        assert found.sha256 == right
        assert found.source == f"{server.url}/net.pt?download=1"
    assert server.requests == 1
    (stored,) = cache.iterdir()
    assert stored.name.endswith("-net.pt")


def test_same_name_elsewhere_is_another_file(tmp_path, save, trained, server):
    for folder, value in (("a", 1.0), ("b", 2.0)):
        trained["3.bias"] = torch.full((2,), value)
        server.body = Path(save(trained)).read_bytes()
        net = make_net()
        load_foreign(net, f"{server.url}/{folder}/net.pt", sha256=None, cache=tmp_path / "cache")
        assert net[3].bias.tolist() == [value, value]


def test_truncated_download(tmp_path, save, trained, server):
    server.body = Path(save(trained)).read_bytes()
    server.cut, cache, url = len(server.body) // 2, tmp_path / "cache", f"{server.url}/net.pt"
    assert_refused(make_net(), url, f"could not download {url} .*; download it elsewhere and give its path$", cache)
    assert list(cache.iterdir()) == []
    server.cut = None  # the next try starts afresh
    net = make_net()
    load_foreign(net, url, sha256=None, cache=cache)
    assert_equal(net, trained)


def test_wrong_download_is_not_kept(tmp_path, server):
    server.body, cache = b"<html>please log in</html>", tmp_path / "cache"
    found = hashlib.sha256(server.body).hexdigest()
    match = f"wrong checksum of {server.url}/net.pt: expected SHA-256 {'0' * 64}, found {found}$"
    assert_refused(make_net(), f"{server.url}/net.pt", match, cache, sha256="0" * 64)
    assert list(cache.iterdir()) == []


def test_changed_file_in_the_cache(tmp_path, save, trained, server):
    server.body = Path(save(trained)).read_bytes()
    right, cache, url = hashlib.sha256(server.body).hexdigest(), tmp_path / "cache", f"{server.url}/net.pt"
    load_foreign(make_net(), url, sha256=right, cache=cache)
    (stored,) = cache.iterdir()
    stored.write_bytes(b"something else")
    match = f"wrong checksum of {stored}: .*; delete the file to download it again$"
    assert_refused(make_net(), url, match, cache, sha256=right)


def test_no_such_address(tmp_path, server):
    cache = tmp_path / "cache"
    assert_refused(make_net(), f"{server.url}/missing.pt", r"could not download .*/missing.pt \(404", cache)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.pt"
        assert_refused(make_net(), url, "could not download .*; download it elsewhere", cache)
    assert list(cache.iterdir()) == []


def test_the_cut_net_of_a_run_is_named_as_such(tmp_path: Path) -> None:
    small = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    save_file(small.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"it is the net of a run, which has cut it: the whole net .* outputs/dense/"):
        load_foreign(
            nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)),
            str(tmp_path / "weights.safetensors"),
            sha256=None,
            cache=tmp_path,
        )
