"""The registry against what the tasks compute: nothing is measured without a name, and no name is of nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prunebench.core.language import LanguageModelling
from prunebench.core.regression import Regression
from prunebench.core.task import Classification
from prunebench.measure import evaluate, recovery, temperature, uncertainty
from prunebench.measure.metrics import ACCURACY, BPC, HEADLINES, METRICS, NLL, RMSE, in_order, metric_of, own_of
from prunebench.measure.stages import STAGES
from prunebench.measure.vulnerability import Distances
from prunebench.run import robustness

PACKAGE = Path(__file__).resolve().parents[2] / "prunebench"
SETTINGS = (
    *("context", "interval", "per_class_accuracy", "ece_norm", "dataset", "nodes_per_layer"),
    *("attack", "features", "vulnerability_per_layer"),
)
"""In the metrics of a stage, but no single number that says how good a net is."""


def softmax(batch: tuple[Tensor, Tensor]) -> Tensor:
    """Two predictions, ``[2, batch, classes]``."""
    return torch.softmax(torch.stack([batch[0], 2 * batch[0]]), dim=-1)


def batches(classes: int, count: int = 64) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(count, classes), torch.randint(0, classes, (count,)))]


def classified() -> dict[str, Any]:
    """All that a classification can report: 100 classes, several predictions, foreign samples beside them."""
    task = Classification(num_classes=100)
    metrics, own = task.evaluate(softmax, batches(100))
    _, foreign = task.evaluate(softmax, batches(100, count=32))
    assert own is not None and foreign is not None
    # as run.measurement stores it
    known = (own.probs, own.labels)
    return metrics | {
        "ood": {"num_samples": 32, **uncertainty.compare(own.scores(), foreign.scores())},
        "validation": evaluate.held_out(own),
        "temperature": temperature.summarise(known, known),
        "robust": robustness.summarise(20, 32, 0.1, Distances(torch.nn.Identity(), torch.zeros(1)), {"name": "pgd"}),
    }


def read() -> dict[str, Any]:
    task = LanguageModelling(num_symbols=5, context={"window": 3, "stride": 3, "streams": 2})
    targets = [(torch.zeros(2, 3, dtype=torch.long), torch.randint(0, 5, (2, 3)))]
    return task.evaluate(lambda batch: torch.full((1, batch[1].numel(), 5), 0.2), targets)[0]


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if key in SETTINGS:
            continue
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def regressed() -> dict[str, Any]:
    """All that a regression can report: several predictions, and a truth that is known."""
    task = Regression(num_outputs=1)
    metrics, _ = task.evaluate(lambda batch: torch.ones(2, len(batch[1]), 2), [(torch.zeros(4, 2), torch.zeros(4, 1))])
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    return metrics | {"recovery": recovery.of(net, {"nodes": 1, "inputs": 1})}


def test_the_registry_is_what_the_tasks_compute() -> None:
    computed = {*numbers(classified()), *numbers(read()), *numbers(regressed())}
    assert computed == {key for key, metric in METRICS.items() if metric.place == "metrics"}


def test_all_tasks_watch_their_headline() -> None:
    images, symbols = Classification(num_classes=3), LanguageModelling(num_symbols=3, context={})
    assert (images.monitor, images.mode) == ("val/accuracy", "max")
    assert (symbols.monitor, symbols.mode) == ("val/bpc", "min")
    rows = Regression(num_outputs=1)
    assert (rows.monitor, rows.mode) == ("val/rmse", "min")
    assert HEADLINES == (ACCURACY, BPC, RMSE)
    probabilities, batch = torch.eye(3), (torch.zeros(3), torch.arange(3))
    for task in (images, symbols):
        found = task.validation(probabilities, batch)
        assert task.monitor in found and NLL.logged in found
        assert all(METRICS[name.removeprefix("val/")].logged == name for name in found)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("accuracy", 0.93394, "93.39"),
        ("accuracy", -0.0123, "−1.23"),
        ("accuracy", None, "–"),
        ("nll", 0.28, "0.2800"),
        ("macs", 125_485_696, "125,485,696"),
        ("macs", 2.5e6, "2,500,000"),
        ("macs_removed", 0.5264, "52.6"),
        ("file_bytes", 493_136, "493,136"),
        ("batch_1_ms", 1234.567, "1234.57"),
        ("batch_64_ms", 4.14, "4.1"),
        ("method.uce", 0.0123456, "0.01235"),
        ("method.width", 12, "12"),
        ("method.large", 1_234_567, "1.235e+06"),
        ("method.small", -0.00001234, "−1.234e-05"),
    ],
)
def test_a_number_looks_the_same_everywhere(key: str, value: float | None, text: str) -> None:
    assert metric_of(key).show(value) == text


def test_a_number_is_found_where_it_lies() -> None:
    result = {
        "metrics": {"final": {"accuracy": 0.5, "uncertainty": {"entropy": 1.5}, "ood": 3, "method": {"uce": 0.1}}},
        "cost": {"final": {"macs": 7}},
        "latency": None,
    }
    found = {
        key: metric_of(key).of(result, "final")
        for key in ("accuracy", "nll", "uncertainty.entropy", "ood.entropy", "method.uce", "macs", "batch_1_ms")
    }
    assert {key: value for key, value in found.items() if value is not None} == {
        "accuracy": 0.5,
        "uncertainty.entropy": 1.5,
        "method.uce": 0.1,
        "macs": 7,
    }
    assert ACCURACY.of(result, "dense") is None


def test_what_a_method_reports_needs_no_entry() -> None:
    reported = own_of({"method": {"uce": 0.25, "kept": [1, 2], "note": "a word", "on": True, "gap": None}})
    assert reported == ["method.uce"]
    assert own_of({}) == own_of({"method": "text"}) == []
    keys = [metric.key for metric in in_order(reported, "summary")]
    assert keys.index("ood.auroc_entropy") < keys.index("method.uce") < keys.index("macs")
    uce = metric_of("method.uce")
    assert (uce.heading, uce.title or uce.label, uce.better) == ("uce", "uce", None)


def test_one_stage_is_always_there() -> None:
    assert [stage.name for stage in STAGES.values() if not stage.optional] == ["final"]
    prefixes = [stage.prefix for stage in STAGES.values() if stage.prefix is not None]
    assert len(set(prefixes)) == len(prefixes)


def test_the_registry_is_the_only_place_that_names_them() -> None:
    """Beside it the tasks do, which compute them."""
    names = {"ece", "nll", "bpc", "brier", "top5"}
    allowed = {PACKAGE / "core" / name for name in ("task.py", "language.py", "regression.py")}
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".js", ".j2") and path.parent != PACKAGE / "measure" and path not in allowed:
            words = set("".join(c if c.isalnum() or c == "_" else " " for c in path.read_text("utf-8")).split())
            assert not names & words, path


def test_the_registry_is_read_without_torch() -> None:
    program = "import sys, prunebench.measure.metrics, prunebench.measure.stages; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
