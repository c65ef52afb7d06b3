"""Trained weights from elsewhere: read a file or a URL of another project into one of our nets.

Nothing in the file is executed: torch files are read with ``weights_only=True``, ``.safetensors`` files hold
tensors only. The net is changed after every name, shape and value has been checked, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor, nn

from prunebench.disk.paths import local, user_path
from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError, first_line, nearest
from prunebench.nets.opened import own_state, written_state
from prunebench.nets.stored import is_float, kind
from prunebench.nets.weights_file import read
from prunebench.nets.wrappers import some, unwrap


@dataclass(frozen=True)
class ForeignWeights:
    """Where a net's weights came from.

    Attributes:
        source: path or URL as it was given.
        sha256: checksum of the file, 64 hex digits.
        unwrapped: how they were found, e.g. ``"in state_dict, without the prefix module."``; may be empty.
    """

    source: str
    sha256: str
    unwrapped: str


def load_foreign(net: nn.Module, source: str, *, sha256: str | None, cache: Path) -> ForeignWeights:
    """Copy the weights in ``source`` into ``net``, strictly: every name and shape must fit.

    Tolerated differences: the wrappers of :mod:`prunebench.nets.wrappers`, another floating-point type, missing
    ``num_batches_tracked`` counters (files from before torch 0.4.1).

    Args:
        net: changed in place; untouched when an error is raised.
        source: a path, or a ``file://``, ``http://`` or ``https://`` URL.
        sha256: expected checksum of the file, 64 hex digits or the first 8 or more; ``None`` = not checked.
        cache: folder for downloads; a URL that is in it is not downloaded again.

    Raises:
        UserError: no such file, failed download, wrong checksum, a file that is damaged or needs pickled
            classes, names or shapes that don't fit, values that are not finite.
    """
    path = _locate(source, sha256=_checked_digest(sha256), cache=cache)
    digest = file_sha256(path)
    content = read(path)
    try:
        state, unwrapped = _own_weights(net, content, path)
    except UserError:
        raise
    except Exception as error:  # types and layouts for which torch has no such operation
        raise UserError(
            f"{path} holds tensors with which torch cannot compute ({first_line(error)}); "
            "save plain floating-point ones where the file was made"
        ) from error
    net.load_state_dict(state, strict=True)
    return ForeignWeights(source=source, sha256=digest, unwrapped=unwrapped)


def _own_weights(net: nn.Module, content: object, path: Path) -> tuple[dict[str, Tensor], str]:
    """A complete state dict of ``net`` from what a file holds, and how it was found."""
    own, written = dict(net.state_dict()), written_state(net)
    shapes = {name: tensor.shape for name, tensor in (own | written).items()}
    tensors, unwrapped = unwrap(content, written, shapes, path)
    if tensors.keys() & (own.keys() - written.keys()):  # of a net that was built here
        return _fit(own, tensors, path), unwrapped
    return own_state(net, _fit(written, tensors, path)), unwrapped


def _checked_digest(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    # a configuration has no types: digits alone arrive as an integer
    if not re.fullmatch(r"[0-9a-f]{8,64}", digest := str(sha256).lower()):
        raise UserError(
            f"a SHA-256 has 64 hex digits, of which the first 8 or more are enough, got {sha256!r}; "
            "use null to leave the file unchecked"
        )
    return digest


def _locate(source: str, *, sha256: str | None, cache: Path) -> Path:
    """A local file with the wanted checksum."""
    place = local(source)
    if place.startswith(("http://", "https://")):
        return _download(source, sha256=sha256, cache=cache)
    if "://" in place:
        raise UserError(f"weights must be a path or a file, http or https URL, got {source}")
    path = user_path(place)
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; give the file with the weights inside it, or the folder of a finished run "
            "(.../seed_<n>), whose saved net is taken"
        )
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe; give a file with weights")
    if not path.is_file():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"there is no file {path.absolute()} with weights{nearest(path.name, beside)}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user; change its permissions")
    _check_digest(path, sha256, source)
    return path


def _check_digest(path: Path, expected: str | None, source: str, advice: str = "") -> None:
    if expected is not None and not (found := file_sha256(path)).startswith(expected):
        raise UserError(f"wrong checksum of {source}: expected SHA-256 {expected}, found {found}{advice}")


def _download(url: str, *, sha256: str | None, cache: Path) -> Path:
    """The file behind ``url``; in the cache it is complete and checked, or not there at all."""
    # the hash keeps files apart that have one name on two servers
    name = Path(unquote(urlsplit(url).path)).name or "weights"
    target = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    if target.is_file():
        _check_digest(target, sha256, str(target), "; delete the file to download it again")
        return target
    import pooch  # only a URL needs it

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder, ExitStack() as stack:
            part = Path(folder, name)

            def close_later(answer: Any, **_: object) -> None:
                stack.callback(answer.close)

            # pooch leaves the connection open when the server answers with an error
            download = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, hooks={"response": close_later})
            download(url, str(part), None)
            _check_digest(part, sha256, url)
            part.replace(target)
    except OSError as error:  # the exceptions of requests are OSErrors
        reason = f"could not download {url} ({error})"
        raise UserError(f"{reason}; download it elsewhere and give its path") from error
    return target


CUT = (
    "it is the net of a run, which has cut it: the whole net that the run began with lies in "
    "outputs/dense/<net>-<data>/<id>/seed_<n>, a folder that model.pretrained takes too"
)


def _fit(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A complete state dict as ``wanted``; raises ``UserError`` if names, shapes, types or values are wrong."""
    lists = {
        "missing in the file": [
            name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")
        ],
        "unknown to the net": [name for name in tensors if name not in wanted],
        "different": [
            f"{name}: file {kind(tensor)}, net {kind(wanted[name])}"
            for name, tensor in tensors.items()
            if name in wanted and not _compatible(tensor, wanted[name])
        ],
    }
    problems = [f"{label}: {some(items)}" for label, items in lists.items() if items]
    if problems:
        advice = CUT if (path.parent / "plan.json").is_file() else _advice(lists, tensors, wanted)
        raise UserError(f"{path} does not fit the net; {'; '.join(problems)}; {advice}")
    # a counter that old files lack keeps the net's value
    fitted = {name: tensors.get(name, own).to(own.dtype) for name, own in wanted.items()}
    broken = {
        "values that are not finite": [name for name, tensor in fitted.items() if not torch.isfinite(tensor).all()],
        "variances below zero": [
            name for name, tensor in fitted.items() if name.endswith("running_var") and (tensor < 0).any()
        ],
    }
    for what, where in broken.items():
        if where:
            raise UserError(f"{path} can't be used: it holds {what}, in {some(where)}")
    return fitted


def _advice(lists: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What is the matter, as far as names and shapes tell."""
    names = " ".join(tensors)
    if "_packed_params" in names or "zero_point" in names or any(tensor.is_quantized for tensor in tensors.values()):
        return "these weights are quantised; give those from before"
    if any(tensor.is_meta for tensor in tensors.values()):
        return "the file has their shapes only; save them where they have values"
    if "lora_A" in names or "lora_B" in names:
        return "low-rank additions (LoRA) are not merged into them; merge them where they were trained"
    if lists["unknown to the net"] and [*map(kind, tensors.values())] == [*map(kind, wanted.values())]:
        return "the shapes are the net's, in its order: only the names differ, so rename them"
    if len(lists["missing in the file"]) > len(wanted) // 2:
        return "the names are those of another architecture, or of a wrapper that is not known here"
    return "choose the model options and the number of classes that the weights were trained with"


def _compatible(given: Tensor, wanted: Tensor) -> bool:
    same_type = given.dtype == wanted.dtype or (is_float(given) and is_float(wanted))
    return given.shape == wanted.shape and same_type and not given.is_meta
