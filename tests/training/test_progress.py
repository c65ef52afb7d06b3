"""The bar of a phase in a terminal of 80 columns, and the line on how long a phase will take."""

from __future__ import annotations

import io
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from prunebench.training import callbacks


def test_the_bar_fits_80_columns() -> None:
    console = Console(width=80, force_terminal=True, file=io.StringIO(), color_system=None)
    bar = callbacks.bar(console)
    text = "val/accuracy 98.61 %  val/nll 0.0329  train/ce 0.1234  train/kl 12345.6789  method/gates 0.5000"
    bar.add_task("finetune_block_12", total=123_456, completed=61_728, metrics=text)
    [line] = console.render_lines(bar.get_renderable(), pad=False)
    shown = "".join(segment.text for segment in line)
    assert len(shown) <= 80
    assert "61728/123456" in shown and "val/acc" in shown


@pytest.mark.parametrize(("epochs", "said"), [(200, "3.3 h"), (20, "20 min"), (5, "")])
def test_a_long_phase_says_how_long_it_will_take(
    epochs: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(callbacks, "Lit", SimpleNamespace)
    trainer: Any = SimpleNamespace(is_global_zero=True, current_epoch=0, num_training_batches=100)
    lit: Any = SimpleNamespace(phase=SimpleNamespace(name="finetune", epochs=epochs))
    estimate = callbacks.Estimate()
    with caplog.at_level(logging.INFO, logger="prunebench"):
        logging.getLogger("prunebench").addHandler(caplog.handler)
        for batch in range(50):
            now[0] += 30.0 if batch < 5 else 0.6  # the first ones warm up
            estimate.on_train_batch_end(trainer, lit, None, None, batch)
        logging.getLogger("prunebench").removeHandler(caplog.handler)
    messages = {record.getMessage() for record in caplog.records}
    assert len(messages) == bool(said)
    assert all(f"will take about {said}" in message for message in messages)
