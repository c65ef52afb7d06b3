from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from prunebench.errors import UserError
from prunebench.measure.evaluate import Evaluation, probabilities, summarise
from prunebench.measure.statistics import clopper_pearson

Batch = tuple[Tensor, Tensor]


def dataset(samples: int, classes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, classes, generator=generator), torch.arange(samples) % classes


def in_batches(data: Batch, size: int) -> list[Batch]:
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def softmax(batch: Batch) -> Tensor:
    return torch.softmax(batch[0], dim=1)[None]


def perfect(batch: Batch) -> Tensor:
    return torch.nn.functional.one_hot(batch[1], 10).float()[None]


@pytest.mark.parametrize("size", [1, 7, 64, 97, 128])
def test_perfect_predictor_is_perfect_for_any_batch_size(size: int) -> None:
    metrics = summarise(probabilities(perfect, in_batches(dataset(97, 10), size)), 10)
    assert metrics["num_samples"] == metrics["correct"] == 97
    assert (metrics["accuracy"], metrics["nll"], metrics["ece"], metrics["brier"]) == (1.0, 0.0, 0.0, 0.0)
    assert metrics["per_class_accuracy"] == [1.0] * 10


def test_no_metric_depends_on_the_batches() -> None:
    data = dataset(97, 10)
    whole = summarise(probabilities(softmax, in_batches(data, 97)), 10)
    assert all(summarise(probabilities(softmax, in_batches(data, size)), 10) == whole for size in (1, 10, 96))


def test_samples_are_averaged_in_order() -> None:
    def two(batch: Batch) -> Tensor:
        return torch.stack([torch.softmax(batch[0], dim=1), torch.softmax(-batch[0], dim=1)])

    data = dataset(11, 4)
    evaluation = probabilities(two, in_batches(data, 4))
    assert torch.allclose(evaluation.probs, two(data).double().mean(0), rtol=0, atol=0)
    assert torch.equal(evaluation.labels, data[1])
    assert evaluation.num_predictions == 2


def test_summary_is_plain_json_with_an_exact_interval() -> None:
    metrics = summarise(probabilities(softmax, in_batches(dataset(200, 100), 64)), 100)
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["interval"] == list(clopper_pearson(metrics["correct"], 200))
    assert metrics["accuracy"] <= metrics["top5"] <= 1
    assert "top5" not in summarise(probabilities(softmax, in_batches(dataset(200, 99), 64)), 99)
    assert (metrics["ece_bins"], metrics["ece_norm"]) == (15, "l1")


def test_gradients_are_off() -> None:
    weight = torch.ones(4, requires_grad=True)
    probabilities(lambda batch: torch.softmax(batch[0] * weight, dim=1)[None], in_batches(dataset(8, 4), 4))
    assert weight.grad is None


def test_misuse_is_refused() -> None:
    data = dataset(8, 4)
    with pytest.raises(UserError, match="no batch"):
        probabilities(softmax, [])
    with pytest.raises(UserError, match=r"\[samples, 4, classes\].*got \[4, 4\]"):
        probabilities(lambda batch: softmax(batch)[0], in_batches(data, 4))
    with pytest.raises(UserError, match="predicts 4 classes, the data set has 10"):
        summarise(probabilities(softmax, in_batches(data, 4)), 10)
    with pytest.raises(UserError, match="logits"):
        summarise(Evaluation(*data), 4)
