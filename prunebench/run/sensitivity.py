"""What each width of each layer costs and is worth: one layer, or those that share their channels, at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure
from torch import nn

from prunebench.budget.by_cost import allocation, numbers_kept
from prunebench.budget.ranked import Unit
from prunebench.core.context import Run
from prunebench.disk.atomic import write_json, write_rows
from prunebench.errors import UserError
from prunebench.measure.metrics import ACCURACY, NLL
from prunebench.run.job import Job
from prunebench.surgery.computed import Sizes
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero


@runtime_checkable
class RanksChannels(Protocol):
    """A method that can say which channels of a trained net would go first."""

    def units(self, net: nn.Module, run: Run) -> list[Unit]:
        """What shares a keep-set, each with its channels in the order in which they go."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """One net in which one unit is cut.

    Attributes:
        layer: the first of the layers that are cut; ``num_layers``: how many share its channels.
        kept, channels: how many channels stay, of how many.
        accuracy, loss: on the validation split, the loss as negative log-likelihood in nats.
        macs: share of the dense net's multiply-accumulates.
        time: predicted share of the dense net's time.
    """

    layer: str
    num_layers: int
    kept: int
    channels: int
    accuracy: float
    loss: float
    macs: float
    time: float


def measure(
    job: Job, net: nn.Module, *, engine: str, batch: int, advance: Callable[[int, int], None] = lambda done, total: None
) -> list[Width]:
    """Cut each unit of ``net`` to each width, by the method's scores and alone, and look at the validation split.

    Args:
        net: trained, whole.
        engine, batch: what times are of.

    Raises:
        UserError: the method does not rank channels, or there is no validation split.
    """
    method = job.method
    if not isinstance(method, RanksChannels):
        raise UserError("sensitivity needs a method that ranks channels by a criterion, such as method=l1norm")
    units, graph = method.units(net, job), job.graph
    options = [numbers_kept(unit) for unit in units]

    timing = job.timing(engine, batch)

    def sizes(counts: Sequence[int]) -> Sizes:
        cut = {name: kept for u, n in zip(units, counts, strict=True) if n for name, kept in u.kept(n).items()}
        return timing.sizes(Plan(keep=cut))

    found = allocation(units, sizes, timing)
    widest = [len(numbers) - 1 for numbers in options]
    total, widths = sum(map(len, options)), []
    for place, option, unit in _all(units, options):
        kept = options[place][option]
        plan = Plan(keep=unit.kept(unit.size - kept) if kept < unit.size else {})
        metrics = job.validate(zero(net, graph, plan))
        changed = [*widest[:place], option, *widest[place + 1 :]]
        widths.append(
            Width(
                layer=unit.layers[0],
                num_layers=len(unit.layers),
                kept=kept,
                channels=unit.size,
                accuracy=metrics[ACCURACY.key],
                loss=metrics[NLL.key],
                macs=graph.macs(plan) / graph.dense_macs,
                time=found.share(changed),
            )
        )
        advance(len(widths), total)
    return widths


def _all(units: Sequence[Unit], options: Sequence[Sequence[int]]) -> Iterator[tuple[int, int, Unit]]:
    for place, unit in enumerate(units):
        for option in range(len(options[place])):
            yield place, option, unit


def write(widths: Sequence[Width], folder: Path, *, title: str) -> list[Path]:
    """``sensitivity.csv``, ``.json``, ``.png`` and ``.pdf`` in ``folder``."""
    rows = [asdict(width) for width in widths]
    write_rows(folder / "sensitivity.csv", rows)
    write_json(folder / "sensitivity.json", {"title": title, "widths": rows})
    paths = [folder / f"sensitivity.{suffix}" for suffix in ("csv", "json", "png", "pdf")]
    figure = draw(widths, title=title)
    for path in paths[2:]:
        figure.savefig(path, dpi=150, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)
    return paths


def draw(widths: Sequence[Width], *, title: str) -> Figure:
    """Accuracy and time against the share of channels kept, a line for each unit, from the first (dark) to the last."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    layers = list(dict.fromkeys(width.layer for width in widths))
    for number, layer in enumerate(layers):
        own = [width for width in widths if width.layer == layer]
        shade = str(0.75 * number / max(1, len(layers) - 1)) if len(layers) > 8 else f"C{number}"
        kept = [width.kept / width.channels for width in own]
        left.plot(kept, [100 * width.accuracy for width in own], color=shade, linewidth=1.2, label=layer)
        right.plot(kept, [width.time for width in own], color=shade, linewidth=1.2)
    for axes, label in ((left, "validation accuracy %"), (right, "predicted time / dense")):
        axes.set(xlabel="share of the channels kept", ylabel=label, xlim=(0, 1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(layers) <= 8:
        left.legend(fontsize=8, frameon=False)
    else:
        note = f"{len(layers)} layers, the first ones darkest"
        left.text(0.98, 0.03, note, ha="right", fontsize=8, transform=left.transAxes)
    figure.suptitle(title, fontsize=10)
    return figure
