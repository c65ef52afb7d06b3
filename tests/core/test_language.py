"""Language modelling: what is carried from window to window, and what is measured."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.core.language import LanguageModelling
from prunebench.core.task import Batch
from prunebench.errors import UserError
from prunebench.models.sru import sru

CONTEXT = {"window": 4, "stride": 4, "streams": 1}


def task(num_symbols: int = 5, **settings: Any) -> LanguageModelling:
    return LanguageModelling(num_symbols=num_symbols, context=CONTEXT, **settings)


class Counting(nn.Module):
    """Its state counts the symbols that it has read; the logits of symbol 0 are that count."""

    memory = "a count"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, symbols: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        before = torch.zeros(len(symbols)) if state is None else state
        counts = before[:, None] + torch.arange(1.0, symbols.shape[1] + 1)
        logits = torch.zeros(*symbols.shape, 5)
        logits[:, :, 0] = counts * self.scale
        return logits, counts[:, -1] * self.scale


def window(streams: int = 2, time: int = 3) -> tuple[Tensor, Tensor]:
    return torch.zeros(streams, time, dtype=torch.long), torch.zeros(streams, time, dtype=torch.long)


def first_count(found: Tensor) -> float:
    """The count behind the first symbol, back from its probability."""
    p = float(found[0, 0].detach())
    return math.log(4 * p / (1 - p))


def test_the_state_is_carried_detached_and_reset() -> None:
    net, lm = Counting(), task()
    assert first_count(lm.probabilities(net, window())) == pytest.approx(1, abs=1e-4)
    assert first_count(lm.probabilities(net, window())) == pytest.approx(4, abs=1e-4)
    assert lm._after is not None and not lm._after.requires_grad
    lm.reset()
    assert first_count(lm.probabilities(net, window())) == pytest.approx(1, abs=1e-4)
    assert first_count(lm.smoothed(0.1).probabilities(net, window())) == pytest.approx(1, abs=1e-4)


def test_passes_over_the_same_batch_start_from_the_same_state() -> None:
    net, lm = Counting(), task()
    lm.probabilities(net, window())
    batch = window()
    again = [first_count(lm.probabilities(net, batch)) for _ in range(3)]
    assert again == pytest.approx([4, 4, 4], abs=1e-4)
    assert first_count(lm.probabilities(net, window())) == pytest.approx(7, abs=1e-3)


def test_the_loss_is_the_mean_over_the_symbols_in_nats() -> None:
    net, lm = Counting(), task()
    symbols = torch.zeros(1, 2, dtype=torch.long)
    loss = lm.losses(net, (symbols, torch.tensor([[0, 1]])))["ce"]
    # logits (1, 0, 0, 0, 0) with target 0 and (2, 0, 0, 0, 0) with target 1
    expected = (math.log(math.e + 4) - 1 + math.log(math.e**2 + 4)) / 2
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    smoothed = task(label_smoothing=0.5).losses(net, (symbols, torch.tensor([[0, 1]])))["ce"]
    assert float(smoothed.detach()) != pytest.approx(expected, abs=1e-3)


def test_a_uniform_predictor_has_log2_of_the_vocabulary() -> None:
    batches = [(torch.zeros(2, t, dtype=torch.long), torch.randint(0, 205, (2, t))) for t in (7, 7, 3)]
    for size, expected in ((205, 7.679480), (204, 7.672425)):

        def uniform(batch: Batch, size: int = size) -> Tensor:
            return torch.full((1, batch[1].numel(), size), 1 / size)

        metrics, kept = task(size).evaluate(uniform, [(x, y % size) for x, y in batches])
        assert kept is None
        assert metrics["num_samples"] == 34
        assert metrics["bpc"] == pytest.approx(expected, abs=1e-5)
        assert metrics["nll"] == pytest.approx(math.log(size), abs=1e-5)


def test_a_certain_predictor_has_no_bits() -> None:
    def oracle(batch: tuple[Tensor, Tensor]) -> Tensor:
        return torch.nn.functional.one_hot(batch[1].flatten(), 5).float()[None]

    batch = (torch.zeros(1, 9, dtype=torch.long), torch.randint(0, 5, (1, 9)))
    metrics, _ = task().evaluate(oracle, [batch])
    assert metrics["bpc"] == 0 and metrics["next_symbol_accuracy"] == 1
    assert task().headline(metrics) == "0.0000 bits per character"


def test_evaluation_begins_anew_and_says_its_context() -> None:
    net, lm = Counting(), task()
    lm.probabilities(net, window(streams=3))  # of a training epoch, with another number of streams
    batch = (torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    metrics, _ = lm.evaluate(lambda b: lm.probabilities(net, b)[None], [batch])
    expected = sum(math.log(math.exp(n) + 4) - n for n in range(1, 5)) / 4
    assert metrics["nll"] == pytest.approx(expected, abs=1e-5)
    assert metrics["context"] == {**CONTEXT, "memory": "a count"}


def test_misuse_is_refused() -> None:
    batch = (torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(UserError, match="the net predicts 4 symbols, the data set has 5"):
        task().evaluate(lambda _: torch.full((1, 4, 4), 0.25), [batch])
    with pytest.raises(UserError, match="no symbol to predict"):
        task().evaluate(lambda _: torch.ones(1), [])


def test_windows_do_not_change_the_measured_bits() -> None:
    # an SRU's state holds all that it knows of the past, so the window of evaluation is no setting of the result
    net = sru(num_symbols=7, layers=2, width=8, rank=4, dropout=0.5).eval()
    text = torch.randint(0, 7, (1, 41))
    found = []
    for size in (40, 7, 1):
        lm = task(7)

        def predict(batch: Batch, lm: LanguageModelling = lm) -> Tensor:
            return lm.probabilities(net, batch)[None]

        batches = [(text[:, i : i + size][:, : 40 - i], text[:, i + 1 : i + 1 + size]) for i in range(0, 40, size)]
        metrics, _ = lm.evaluate(predict, batches)
        assert metrics["num_samples"] == 40
        found.append(metrics["bpc"])
    assert found == pytest.approx([found[0]] * 3, abs=1e-5)
