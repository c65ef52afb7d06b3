"""One measurement of a run: what a net predicts on the test set, or on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from prunebench.core.context import Run
from prunebench.core.method import Method
from prunebench.core.task import Batch
from prunebench.data.base import Data
from prunebench.measure import evaluate, recovery, temperature, uncertainty
from prunebench.run.robustness import Adversary, robustness


def on_test_set(
    net: nn.Module, method: Method, run: Run, *, ood: Data | None = None, adversary: Adversary | None = None
) -> tuple[dict[str, Any], evaluate.Evaluation | None]:
    """Metrics of ``net`` under ``method``, and its predictions if the task keeps them.

    With foreign pictures (``ood``) the metrics say how well the predictions tell them from the test set's; with an
    ``adversary``, how many of the test set's are right after its attack; with a validation split, how good it
    is there, and what a temperature fitted there would do.
    """
    net.to(run.device)
    run.data.to(run.device)
    measured = method.before_measure(net.eval(), run).eval()

    def predict(batch: Batch) -> Tensor:
        return method.predict(measured, batch, run.task)

    metrics, found = run.task.evaluate(predict, run.data.test())
    if further := method.metrics(measured, run):
        metrics["method"] = dict(further)
    if truth := run.data.truth():
        metrics["recovery"] = recovery.of(net, truth)
    if found is not None and ood is not None:
        ood.to(run.device)
        metrics["ood"] = _compare_with_foreign(found, predict, ood)
    if adversary is not None:
        metrics["robust"] = robustness(adversary, measured, predict, run)
    if found is not None and run.data.num_val:
        known = evaluate.probabilities(predict, run.data.validation())
        metrics["validation"] = evaluate.held_out(known)
        metrics["temperature"] = temperature.summarise((known.probs, known.labels), (found.probs, found.labels))
    net.to("cpu")
    return metrics, found


def on_validation_split(net: nn.Module, method: Method, run: Run) -> dict[str, Any]:
    """Metrics of ``net`` as ``method`` predicts with it."""
    net.to(run.device)
    run.data.to(run.device)
    net.eval()
    metrics, _ = run.task.evaluate(lambda batch: method.predict(net, batch, run.task), run.data.validation())
    net.to("cpu")
    return metrics


def chance(metrics: Mapping[str, Any], num_classes: int, validation: float | None) -> str | None:
    """What to say of a net whose accuracy may be that of guessing; None if it is better, or has no interval.

    Args:
        metrics: of the test set, with the 95 % ``interval`` of the accuracy.
        validation: accuracy after the last epoch, if there was one.
    """
    interval = metrics.get("interval")
    if interval is None or interval[0] > 1 / num_classes:
        return None
    seen = "" if validation is None else f", validation {100 * validation:.1f} %"
    low, high = (100 * bound for bound in interval)
    return (
        f"is at chance: test accuracy {100 * metrics['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f} %) of "
        f"{num_classes} classes{seen}; nothing it loses by pruning means anything. Look at the learning rate, and at "
        "dataset.mean, dataset.std and the order of the classes if the weights came from a checkpoint"
    )


def _compare_with_foreign(own: evaluate.Evaluation, predict: Callable[[Batch], Tensor], ood: Data) -> dict[str, Any]:
    foreign = evaluate.probabilities(predict, ood.test())
    return {
        "dataset": ood.name,
        "num_samples": ood.num_test,
        **uncertainty.compare(own.scores(), foreign.scores()),
    }
