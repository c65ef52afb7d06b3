"""Every metric once: what it is called, in which unit, with how many digits, which way is better.

The closing table, the loggers, the tables, the page and the rows all read it here; a metric of an evaluation that is
not here fails a test. What a method reports about itself (``metrics.<stage>.method.<name>``) needs no entry: it is
shown under its own name, see :func:`own`. The stages of a run are in :mod:`prunebench.measure.stages`.

Imports nothing that is slow: the report reads it without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

from prunebench.config.ranges import Range

NOTHING = "–"
"""What stands for a number that was not measured."""
Shown = Literal["summary", "detail", "record", "result"]
OWN = "method"
"""The group of a stage's metrics that its method fills itself."""
VALIDATION = "val/"
"""What a metric's key begins with where it watches a training."""


@dataclass(frozen=True)
class Unit:
    """What a number counts.

    Attributes:
        name: as the rows say it.
        scale: factor from the store to what is shown; fractions are shown as percent.
        mark: behind the name of a metric in the unit that is shown; empty where the name says it.
    """

    name: str
    scale: float = 1.0
    mark: str = ""


FRACTION = Unit("fraction", 100.0, " %")
NATS = Unit("nats")
BITS = Unit("bits per character")
COUNT = Unit("count")
BYTES = Unit("bytes", mark=", bytes")
MS = Unit("ms")
RATIO = Unit("ratio")
NUMBER = Unit("number")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measured number of a stage or a run.

    Attributes:
        key: where it lies in its place, ``<name>`` or ``<group>.<name>``.
        label: its name in a list of one run's numbers. ``title``: the shorter one over a column; default: ``label``.
        digits: behind the point; None = four significant ones.
        better: None = neither way.
        place: the object of ``result.json`` that holds it.
        staged: once for each stage, as ``<place>.<stage>.<key>``; else once for a run, as ``<place>.<key>``.
        shown: ``summary`` = in the closing table and in the lists of runs; ``detail`` = where one run is shown in full;
            ``record`` = read by the report, shown in no table of it but the file with all numbers; ``result`` = in
            ``result.json`` alone.
        headline: a net is good or bad by it; each task has one.
        rounding: largest difference that another machine makes (one example in 1,000, 1e-3 nats or bits), for those
            that a net is measured by again; None = it is no such metric.
    """

    key: str
    label: str
    title: str = ""
    unit: Unit = NUMBER
    digits: int | None = None
    better: Literal["higher", "lower"] | None = None
    place: Literal["metrics", "cost", "latency"] = "metrics"
    staged: bool = True
    shown: Shown = "result"
    headline: bool = False
    rounding: float | None = None

    @property
    def heading(self) -> str:
        """``label`` with the unit that is shown."""
        return self.label + self.unit.mark

    @property
    def column(self) -> str:
        """``title`` with the unit that is shown."""
        return (self.title or self.label) + self.unit.mark

    @property
    def axis(self) -> tuple[str, float]:
        """Label of the axis of a chart, and the factor from the store to its unit: sizes are in millions."""
        size = self.place == "cost" and self.unit is COUNT
        return (f"{self.label}, millions", 1e-6) if size else (self.heading, self.unit.scale)

    @property
    def possible(self) -> Range:
        """What it can be at all: a share of something that is counted, a count, a time; others are only finite."""
        if self.unit is FRACTION:
            return Range(low=0, high=1) if self.place == "metrics" else Range(high=1)
        return Range(low=0) if self.unit in (COUNT, BYTES, MS, RATIO) else Range()

    @property
    def nested(self) -> bool:
        """True if it lies in a group of its place."""
        return "." in self.key

    @property
    def logged(self) -> str:
        """Its name where it watches a training."""
        return VALIDATION + self.key

    @property
    def mode(self) -> Literal["max", "min"]:
        """What is best of it, as the checkpoints ask."""
        assert self.better is not None, f"{self.key} has no direction"
        return "max" if self.better == "higher" else "min"

    def show(self, value: float | None) -> str:
        """``value``, in the unit of the store, as text."""
        if value is None:
            return NOTHING
        scaled = value * self.unit.scale
        text = f"{scaled:.4g}" if self.digits is None else f"{scaled:{',' if not self.digits else ''}.{self.digits}f}"
        return text.replace("-", "−", 1) if text.startswith("-") else text

    def within(self, values: Mapping[str, Any] | None) -> float | None:
        """Its value in the ``values`` of one stage, as a run has them or under flat keys; None where there is none."""
        group, _, name = self.key.partition(".")
        values = values or {}
        found = values.get(group)
        if name:
            found = found.get(name) if isinstance(found, Mapping) else values.get(self.key)
        return found if is_number(found) else None

    def of(self, result: Mapping[str, Any], stage: str) -> float | None:
        """Its value at ``stage`` of the run ``result``; None where it was not measured."""
        return self.within((result.get(self.place) or {}).get(stage))


def is_number(value: Any) -> bool:
    """True for what a table can show as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_share = partial(Metric, unit=FRACTION, digits=2)
_count = partial(Metric, unit=COUNT, digits=0)
_cost = partial(_count, place="cost", better="lower")
_time = partial(Metric, unit=MS, place="latency", better="lower")
_auroc = partial(Metric, digits=4, better="higher")


def _task() -> Iterator[Metric]:
    """How well a net predicts: what the tasks compute on a whole split."""
    accuracy = partial(_share, key="accuracy", label="test accuracy", title="Accuracy", better="higher")
    yield accuracy(shown="summary", headline=True, rounding=1e-3)
    yield _share(key="top5", label="top-5", title="Top-5", better="higher", shown="summary")
    bpc = partial(Metric, key="bpc", label=BITS.name, title="BPC", unit=BITS, digits=4, better="lower")
    yield bpc(shown="summary", headline=True, rounding=1e-3)
    rmse = partial(Metric, key="rmse", label="RMSE", digits=4, better="lower")
    yield rmse(shown="summary", headline=True, rounding=1e-3)
    yield Metric(key="noise_std", label="standard deviation of the noise", digits=4, shown="detail")
    yield Metric(key="nll", label="NLL", unit=NATS, digits=4, better="lower", shown="summary", rounding=1e-3)
    yield _share(key="ece", label="ECE", better="lower", shown="summary")
    yield Metric(key="brier", label="Brier", digits=4, better="lower", shown="detail")
    yield _share(key="adaptive_ece", label="adaptive ECE", better="lower")
    yield _share(key="class_wise_ece", label="class-wise ECE", better="lower", shown="detail")
    yield _count(key="ece_bins", label="bins of the ECE")
    yield _share(key="next_symbol_accuracy", label="next symbol right", better="higher", shown="detail")
    yield _count(key="correct", label="right predictions", better="higher")
    yield _count(key="num_samples", label="test samples", shown="record")
    yield _count(key="num_predictions", label="predictions averaged", shown="detail")


def _doubts() -> Iterator[Metric]:
    """What a net says about its own doubt: :mod:`prunebench.measure.uncertainty` computes these."""
    for score in ("confidence", "entropy", "mutual_information"):
        name = score.replace("_", " ")
        shown: Shown = "summary" if score == "entropy" else "result"
        error, foreign = f"error AUROC ({name})", f"OOD AUROC ({name})"
        yield _auroc(key=f"uncertainty.error_auroc_{score}", label=error, title="Error AUROC", shown=shown)
        yield _auroc(key=f"ood.auroc_{score}", label=foreign, title="OOD AUROC", shown=shown)
        yield _auroc(key=f"uncertainty.error_aupr_{score}", label=f"error AUPR ({name})")
        yield _auroc(key=f"uncertainty.aurc_{score}", label=f"AURC ({name})", better="lower")
        missed = partial(_share, better="lower")
        yield missed(key=f"uncertainty.error_fpr95_{score}", label=f"FPR at 95 % of the errors ({name})")
        yield missed(key=f"ood.fpr95_{score}", label=f"FPR at 95 % of foreign samples ({name})")
    nats = partial(Metric, unit=NATS, digits=4)
    for name in ("entropy", "expected_entropy", "mutual_information"):
        yield nats(key=f"uncertainty.{name}", label=name.replace("_", " "))
    for name in ("entropy", "mutual_information"):
        yield nats(key=f"ood.{name}", label=f"{name.replace('_', ' ')} of foreign samples")
    yield _count(key="ood.num_samples", label="foreign samples")


def _attacked() -> Iterator[Metric]:
    """On test pictures that somebody has changed: :mod:`prunebench.run.robustness` computes these."""
    accuracy = partial(_share, label="accuracy under attack", title="Under attack", better="higher", shown="summary")
    yield accuracy(key="robust.accuracy")
    moved = partial(Metric, digits=4, better="lower", shown="summary")
    yield moved(key="robust.vulnerability", label="vulnerability of the features", title="Vulnerability")
    yield _count(key="robust.num_samples", label="attacked samples", shown="detail")
    yield _count(key="robust.correct", label="right predictions under attack", better="higher")
    yield Metric(key="robust.max_distance", label="largest change by the attack", digits=4)


def _held_out() -> Iterator[Metric]:
    """On the validation split: :mod:`prunebench.measure.evaluate` computes these."""
    yield _share(key="validation.accuracy", label="validation accuracy", better="higher", shown="detail")
    yield Metric(key="validation.nll", label="validation NLL", unit=NATS, digits=4, better="lower", shown="detail")
    yield _count(key="validation.num_samples", label="validation samples")


def _scaled() -> Iterator[Metric]:
    """After temperature scaling: :mod:`prunebench.measure.temperature` computes these."""
    scaled = partial(Metric, digits=4, shown="detail")
    yield scaled(key="temperature.value", label="temperature, fitted on validation", title="Temperature")
    yield scaled(key="temperature.nll", label="NLL at that temperature", unit=NATS, better="lower")
    yield _share(key="temperature.ece", label="ECE at that temperature", better="lower", shown="detail")
    yield scaled(key="temperature.brier", label="Brier at that temperature", better="lower", shown="result")
    yield _count(key="temperature.num_samples", label="validation samples of the temperature")


def _recovered() -> Iterator[Metric]:
    """What a net has found of a known truth: :mod:`prunebench.measure.recovery` computes these."""
    count = partial(_count, shown="summary")
    yield count(key="recovery.nodes", label="hidden nodes at work")
    yield count(key="recovery.true_nodes", label="nodes of the net behind the data")
    yield _share(key="recovery.inputs_found", label="meaningful inputs found", better="higher", shown="summary")


def _costs() -> Iterator[Metric]:
    """What a net costs: :mod:`prunebench.measure.cost`, ``.bits`` and ``.latency``."""
    yield _cost(key="macs", label="MACs", shown="summary")
    yield _cost(key="macs_all_predictions", label="MACs, all predictions", shown="summary")
    yield _cost(key="flops", label="FLOPs")
    yield _cost(key="params", label="parameters", title="Params", shown="summary")
    yield _cost(key="nonzero_params", label="non-zero parameters", shown="summary")
    yield Metric(key="file_bytes", label="file", unit=BYTES, digits=0, better="lower", place="cost", shown="detail")
    size = partial(Metric, unit=BYTES, digits=0, better="lower", place="cost")
    yield size(key="float32_file_bytes", label="file in float32", shown="detail")
    yield _count(key="bits_w", label="bits of a weight", place="cost", shown="summary")
    yield _count(key="bits_a", label="bits of an activation", place="cost", shown="summary")
    yield size(key="weight_bytes", label="weights by bits", shown="summary")
    yield size(key="peak_activation_bytes", label="largest activations by bits", shown="detail")
    yield _cost(key="bops", label="BOPs (no speed)", shown="summary")
    yield _cost(key="bops_uniq", label="BOPs with sums (UNIQ)", shown="detail")
    yield _count(key="per_sample.sd", label="sd of the MACs over samples", place="cost", shown="record")
    gone = partial(Metric, unit=FRACTION, digits=1, better="higher", place="cost", staged=False, shown="summary")
    yield gone(key="macs_removed", label="MACs removed")
    yield gone(key="params_removed", label="parameters removed", title="Params removed")
    ratio = partial(Metric, unit=RATIO, digits=2, better="higher", staged=False, title="×")
    yield ratio(key="speedup_macs", label="speed-up by MACs", place="cost", shown="record")
    engines, batches = (("", "torch"), ("onnxruntime_", "ONNX Runtime")), ((1, 2), (64, 1))
    for (prefix, engine), (batch, digits) in product(engines, batches):
        key, where = f"{prefix}batch_{batch}", f"{engine}, batch {batch}"
        yield _time(key=f"{key}_ms", label=f"ms in {where}", title=f"ms, {where}", digits=digits, shown="summary")
        yield _time(key=f"{key}_spread_ms", label=f"spread, ms in {where}", digits=digits, shown="record")
        yield _count(key=f"{key}_repetitions", label=f"repetitions in {where}", place="latency")
        yield ratio(key=f"speedup.{key}", label=f"speed-up in {where}", place="latency", shown="summary")


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in (*_task(), *_attacked(), *_held_out(), *_scaled(), *_doubts(), *_recovered(), *_costs())
}
"""By key, in the order of all tables."""

HEADLINES = tuple(metric for metric in METRICS.values() if metric.headline)
"""A measured net has one of them, the first where it has several."""
ACCURACY, TOP5, BPC, RMSE, NLL = (METRICS[key] for key in ("accuracy", "top5", "bpc", "rmse", "nll"))
CALIBRATION = METRICS["ece"]
"""What the gaps of a reliability diagram add up to."""


def metric_of(key: str) -> Metric:
    """The registered metric, or the one under its own name: four significant digits and no direction."""
    return METRICS.get(key) or Metric(key=key, label=key.removeprefix(f"{OWN}."), shown="summary")


def own_of(values: Mapping[str, Any]) -> list[str]:
    """Keys of what a method has reported of itself among the ``values`` of a stage.

    Only numbers can be shown in a table; lists and texts are for whoever reads the result.
    """
    found = values.get(OWN)
    names = [name for name, value in found.items() if is_number(value)] if isinstance(found, Mapping) else []
    return [f"{OWN}.{name}" for name in names]


def in_order(own_keys: Iterable[str], *shown: Shown) -> list[Metric]:
    """The staged metrics that are ``shown`` so, and those of ``own_keys`` behind the other ones of ``metrics``."""
    staged = [metric for metric in METRICS.values() if metric.staged and metric.shown in shown]
    own_ones = [metric_of(key) for key in dict.fromkeys(own_keys)]
    return sorted([*staged, *own_ones], key=lambda metric: metric.place != "metrics")
