"""What each width of each layer is worth and costs: the results of ``scripts/sensitivity.py``, drawn for the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunebench.errors import UserError
from prunebench.report.collect import LeftOut
from prunebench.report.schema import MAX_BYTES
from prunebench.report.untrusted import number, objects, short

FILE = "sensitivity.json"
WIDTH, HEIGHT = 120.0, 60.0
"""Of a picture, in its own units."""
MAX_LAYERS = 400
"""More of them nobody looks through, and the page would be too large."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One layer, or several that share their channels, cut alone.

    Attributes:
        layer: the first of them; ``num_layers``: how many there are; ``channels``: in the dense net.
        accuracy, time: as ``points`` of an SVG polyline: share of the channels kept against share of the dense net's.
        told: one sentence a width, from the widest down.
        lost, saved: at the width next to one half: points of accuracy, and share of the time.
    """

    layer: str
    num_layers: int
    channels: int
    accuracy: str
    time: str
    told: tuple[str, ...]
    lost: float
    saved: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One net, looked at with one criterion.

    Attributes:
        dense: accuracy of the whole net on the validation split.
    """

    title: str
    dense: float
    curves: tuple[Curve, ...]


def read(folder: Path | None) -> tuple[list[Sensitivity], list[LeftOut]]:
    """All results below ``folder``, usually ``outputs/sensitivity``, by title; what cannot be read is named."""
    found: list[Sensitivity] = []
    left_out: list[LeftOut] = []
    for path in sorted(folder.glob(f"*/{FILE}")) if folder is not None and folder.is_dir() else ():
        try:
            found.append(_sensitivity(_parsed(path)))
        except (UserError, OSError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            place = f"sensitivity/{path.parent.name}/{FILE}".encode(errors="replace").decode()
            left_out.append(LeftOut(place, reason[:300]))
    return sorted(found, key=lambda item: item.title), left_out


def _parsed(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"it is larger than {MAX_BYTES:,} bytes")
    content = json.loads(path.read_bytes())
    if not isinstance(content, Mapping):
        raise UserError(f"it holds {short(content)}, not an object")
    return content


def _sensitivity(content: Mapping[str, Any]) -> Sensitivity:
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for row in objects(content, "widths"):
        layers.setdefault(str(row.get("layer")), []).append(row)
    if not layers:
        raise UserError("widths is empty")
    if len(layers) > MAX_LAYERS:
        raise UserError(f"it has {len(layers)} layers; {MAX_LAYERS} are shown at most")
    whole = [row for rows in layers.values() for row in rows if row.get("kept") == row.get("channels")]
    if not whole:
        raise UserError("widths has no whole net")
    dense = max(number(row.get("accuracy"), "widths.accuracy") for row in whole)
    if not 0 < dense <= 1:
        raise UserError(f"widths.accuracy is {dense:g} for the whole net, not a share")
    curves = tuple(_curve(name, rows, dense) for name, rows in layers.items())
    return Sensitivity(title=str(content.get("title"))[:300], dense=dense, curves=curves)


def _curve(layer: str, rows: Sequence[Mapping[str, Any]], dense: float) -> Curve:
    keys = ("kept", "channels", "num_layers", "accuracy", "macs", "time")
    widths = [{key: number(row.get(key), f"widths.{key}") for key in keys} for row in rows]
    if any(not 0 < width["kept"] <= width["channels"] for width in widths):
        raise UserError(f"widths.kept of {short(layer)} is not between 1 and its channels")
    widths.sort(key=lambda width: -width["kept"])
    half = min(widths, key=lambda width: abs(width["kept"] / width["channels"] - 0.5))
    return Curve(
        layer=layer[:200],
        num_layers=int(widths[0]["num_layers"]),
        channels=int(widths[0]["channels"]),
        accuracy=_points(widths, [width["accuracy"] / dense for width in widths]),
        time=_points(widths, [width["time"] for width in widths]),
        told=tuple(
            f"{width['kept']:.0f} of {width['channels']:.0f} channels: accuracy {100 * width['accuracy']:.2f} %, "
            f"time {100 * width['time']:.1f} %, MACs {100 * width['macs']:.1f} % of the dense net's"
            for width in widths
        ),
        lost=100 * (dense - half["accuracy"]),
        saved=1 - half["time"],
    )


def _points(widths: Sequence[Mapping[str, float]], shares: Sequence[float]) -> str:
    """Coordinates from the left border, no channel, to the right one, all of them; 1 is at the top."""
    pairs = zip(widths, shares, strict=True)
    return " ".join(
        f"{WIDTH * width['kept'] / width['channels']:.1f},{HEIGHT * (1 - min(1.0, max(0.0, share))):.1f}"
        for width, share in pairs
    )
