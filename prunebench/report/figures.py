"""Static pictures for papers: accuracy against MACs, parameters and measured latency, one per data set and model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prunebench.disk.paths import make_folder
from prunebench.measure.metrics import ACCURACY, METRICS
from prunebench.report.configurations import Group

MAX_FIGURES = 24
"""So many pictures are drawn, data sets and models with the most configurations first."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Okabe and Ito's palette; the light ones are seen by their outline."""
INK = "#18202a"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Axis(NamedTuple):
    """What lies on the horizontal axis: the measured value, its label, the factor to the label's unit."""

    name: str
    label: str
    scale: float


AXES = tuple(Axis(f"final.{key}", *METRICS[key].axis) for key in ("macs", "params", "batch_1_ms"))


def subjects(groups: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """Groups with an accuracy by (data set, model), those with the most groups first."""
    found: dict[tuple[str, str], list[Group]] = {}
    for item in groups:
        if "final.accuracy" in item.first.numbers:
            found.setdefault((item.first.dataset, item.first.model), []).append(item)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, accuracy) that no other point beats in both, by rising cost."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def write_figures(
    groups: Sequence[Group], folder: Path, advance: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Path], int]:
    """Draw PNG (150 dpi) and PDF files into ``folder``.

    Returns:
        The files, and the number of (data set, model) pairs without a picture because there are too many.
    """
    found, methods = subjects(groups), sorted({item.first.method for item in groups})
    drawn = list(found.items())[:MAX_FIGURES]
    make_folder(folder)
    paths: list[Path] = []
    for done, ((dataset, model), members) in enumerate(drawn, 1):
        figure = draw(f"{model} on {dataset}", members, methods)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{dataset}-{model}").strip("._")
        if any(path.stem == stem for path in paths):
            stem += f"-{done}"  # two names that differ only in what a file name can't hold
        for suffix in (".png", ".pdf"):
            paths.append(folder / f"{stem}{suffix}")
            figure.set_layout_engine("none" if suffix == ".pdf" else "constrained")  # found once: it takes seconds
            # a fixed date keeps the file the same when nothing has changed
            metadata = {"CreationDate": None} if suffix == ".pdf" else None
            figure.savefig(paths[-1], dpi=150, metadata=metadata)
        advance(done, len(drawn))
    return paths, len(found) - len(drawn)


def draw(title: str, groups: Sequence[Group], methods: Sequence[str]) -> Figure:
    """Three panels with a common accuracy axis; whiskers are the sample standard deviation over seeds.

    Args:
        methods: all methods of the report in order, so that each has the same look in every picture.
    """
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for panel, axis in zip(panels, AXES, strict=True):
        _panel(panel, axis, groups, methods)
    panels[0].set_ylabel(ACCURACY.heading)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.suptitle(_plain(title), fontsize=11, x=0.01, ha="left")
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


def machine(groups: Sequence[Group]) -> str:
    """The machine on which most of the groups were timed; times of others are not comparable."""
    timed = Counter(item.first.machine for item in groups if item.first.machine)
    return max(timed, key=lambda name: (timed[name], name)) if timed else ""


def look(index: int) -> tuple[str, str]:
    """Colour and marker of the method with this index."""
    return COLOURS[index % len(COLOURS)], MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def _panel(panel: Axes, axis: Axis, groups: Sequence[Group], methods: Sequence[str]) -> None:
    timed = machine(groups) if "batch_" in axis.name else None
    lines: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for item in groups:
        cost, accuracy = item.estimate(axis.name), item.estimate("final.accuracy")
        if cost and accuracy and timed in (None, item.first.machine):
            point = (cost.mean * axis.scale, 100 * accuracy.mean, 100 * (accuracy.sd or 0.0))
            lines.setdefault((item.first.method, item.first.schedule), []).append(point)
    labelled: set[str] = set()
    for (method, _), points in sorted(lines.items()):
        index = methods.index(method)
        colour, marker = look(index)
        x, y, sd = zip(*sorted(points), strict=True)
        panel.plot(x, y, color=colour, linewidth=0.7, alpha=0.45, zorder=1)
        drawn = panel.errorbar(x, y, yerr=sd, color=colour, fmt=marker, markersize=5, capsize=2, markeredgecolor=INK)
        drawn.set_label("" if method in labelled else _plain(method))
        labelled.add(method)
    _further(panel, axis, groups, methods)
    _references(panel, groups, [(x, y) for points in lines.values() for x, y, _ in points])
    panel.set_xlabel(f"{axis.label}\n{_plain(timed)}" if timed else axis.label)
    panel.grid(color="#e3e6ea", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _further(panel: Axes, axis: Axis, groups: Sequence[Group], methods: Sequence[str]) -> None:
    """Hollow marks where the trained nets lie at their further operating points."""
    key = axis.name.removeprefix("final.")
    for item in groups:
        numbers = [point.numbers for record in item.records for point in record.points]
        found = [(n[key] * axis.scale, 100 * n["accuracy"]) for n in numbers if key in n and "accuracy" in n]
        if found:
            x, y = zip(*found, strict=True)
            colour, marker = look(methods.index(item.first.method))
            panel.plot(x, y, marker, markersize=4, markerfacecolor="none", markeredgecolor=colour, zorder=1)


def _references(panel: Axes, groups: Sequence[Group], points: Sequence[tuple[float, float]]) -> None:
    """The dense net's accuracy and the front of what no other configuration beats."""
    dense = [item.first.numbers.get("dense.accuracy") for item in groups]
    known = [100 * value for value in dense if value is not None]
    if known:
        panel.axhline(
            sum(known) / len(known), color="#4d5866", linewidth=0.8, linestyle=":", zorder=0, label="dense net"
        )
    line = front(points)
    if len(line) > 1:
        x, y = zip(*line, strict=True)
        panel.step(x, y, where="post", color="#8a939e", linewidth=0.8, linestyle="--", zorder=0)


def _plain(text: str) -> str:
    # a dollar sign would start a formula
    return text.replace("$", r"\$")
