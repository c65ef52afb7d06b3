"""One measurement of a run: what a net predicts on the test set, and how far two nets are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunebench.core.method import Method
from prunebench.measure import evaluate, uncertainty

if TYPE_CHECKING:
    from prunebench.core.task import Batch
    from prunebench.run.job import Job


def on_test_set(net: nn.Module, method: Method, job: Job) -> tuple[dict[str, Any], evaluate.Evaluation | None]:
    """Metrics of ``net`` under ``method``, and its predictions if the task keeps them.

    With foreign pictures (``job.ood``) the metrics say how well the predictions tell them from the test set's.
    """
    net.to(job.device)
    job.data.to(job.device)
    measured = method.before_measure(net.eval(), job).eval()

    def predict(batch: Batch) -> Tensor:
        return method.predict(measured, batch, job.task)

    metrics, found = job.task.evaluate(predict, job.data.test())
    if further := method.metrics(measured, job):
        metrics["method"] = dict(further)
    if found is not None and job.ood is not None:
        metrics["ood"] = _compare_with_foreign(found, predict, job)
    net.to("cpu")
    return metrics, found


def on_validation_split(net: nn.Module, job: Job) -> dict[str, Any]:
    """Metrics of ``net`` as the method of the run predicts with it."""
    net.to(job.device)
    job.data.to(job.device)
    net.eval()
    metrics, _ = job.task.evaluate(lambda batch: job.method.predict(net, batch, job.task), job.data.validation())
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


def _compare_with_foreign(own: evaluate.Evaluation, predict: Callable[[Batch], Tensor], job: Job) -> dict[str, Any]:
    assert job.ood is not None
    job.ood.to(job.device)
    foreign = evaluate.probabilities(predict, job.ood.test())
    return {
        "dataset": job.ood.name,
        "num_samples": job.ood.num_test,
        **uncertainty.compare(own.scores(), foreign.scores()),
    }


def difference(one: nn.Module, other: nn.Module, job: Job) -> tuple[float, float]:
    """Largest absolute difference of two nets' outputs, and the largest output of the first: test data, float32."""
    first, second = outputs(one, job), outputs(other, job)
    return float((first - second).abs().max()), float(first.abs().max())


@torch.no_grad()
def outputs(net: nn.Module, job: Job) -> Tensor:
    """What ``net`` gives in evaluation mode for the first test batch, at most 256 inputs of it."""
    inputs = next(iter(job.data.test()))[0][:256]
    return job.task.outputs(net.cpu().eval(), inputs.cpu())
