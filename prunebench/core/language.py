"""Language modelling: predict the next symbol of a running text, with a memory that is carried from window to window.

A net for it is called as ``net(symbols, state)`` with int64 ``[streams, time]`` and the state that the last call gave
(None at the start of a text); it answers ``(logits [streams, time, symbols], state)``, the state one tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunebench.data.base import Data
from prunebench.data.text import TextData
from prunebench.errors import UserError
from prunebench.measure.evaluate import Evaluation
from prunebench.measure.metrics import BPC, NLL

Batch = tuple[Tensor, Tensor]


class LanguageModelling:
    """One target per symbol: the symbol behind it.

    The state lives here and in no net or method, so that there is one place to reset it: at the start of an epoch, a
    validation and a test. It is detached between windows (truncated back-propagation), and no checkpoint needs it,
    since checkpoints are written between epochs. Several passes over the same batch (samples of weights, two losses)
    all start from the state before the batch; the last pass decides what is carried on.

    Args:
        num_symbols: size of the vocabulary.
        context: how an evaluation presents the text, see ``TextData.context``; stored beside the metrics.
        label_smoothing: mass moved from the target to the uniform distribution, in training only.
    """

    monitor = BPC.logged
    mode = BPC.mode

    def __init__(self, *, num_symbols: int, context: Mapping[str, Any], label_smoothing: float = 0.0) -> None:
        self.num_symbols = num_symbols
        self.context = dict(context)
        self.label_smoothing = label_smoothing
        self.reset()

    @classmethod
    def of(cls, data: Data) -> LanguageModelling:
        """The task that ``data`` is for."""
        assert isinstance(data, TextData)
        return cls(num_symbols=data.num_classes, context=data.context())

    def smoothed(self, label_smoothing: float) -> LanguageModelling:
        """The same task with this label smoothing, and nothing carried."""
        return LanguageModelling(num_symbols=self.num_symbols, context=self.context, label_smoothing=label_smoothing)

    def reset(self) -> None:
        """Forget the carried state."""
        self._memory = ""
        self._before: Tensor | None = None  # state before the batch in hand
        self._after: Tensor | None = None  # state behind it
        self._symbols: Tensor | None = None  # inputs of the batch in hand

    def losses(self, net: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy in nats per symbol, mean over the batch."""
        logits = self._run(net, batch[0])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[1].flatten(), label_smoothing=self.label_smoothing)
        return {"ce": loss}

    def refuses(self, found: Any) -> str | None:
        """Anything but ``(logits [1, time, symbols], state)``."""
        if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, Tensor) for part in found)):
            return f"a language model gives two tensors, (logits, state), and this net gives a {type(found).__name__}"
        logits: Tensor = found[0]
        if logits.ndim != 3 or logits.shape[-1] != self.num_symbols:
            return f"its logits have the shape {list(logits.shape)}, [1, time, {self.num_symbols}] is needed"
        return None

    def outputs(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Logits ``[streams, time, symbols]``."""
        logits: Tensor = net(inputs, None)[0]
        return logits

    def probabilities(self, net: nn.Module, batch: Batch) -> Tensor:
        """Softmax in float32, ``[streams * time, symbols]``."""
        return torch.softmax(self._run(net, batch[0]).flatten(0, 1).float(), dim=1)

    def validation(self, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """NLL (nats per symbol) and bits per character of ``[streams * time, symbols]``, means over the batch."""
        nll = _nll(probabilities, batch[1]).mean()
        return {NLL.logged: nll, BPC.logged: nll / math.log(2)}

    def evaluate(
        self, predict: Callable[[Batch], Tensor], batches: Iterable[Batch]
    ) -> tuple[dict[str, Any], Evaluation | None]:
        """Bits per character over a whole split, and no predictions: there are millions.

        Returns:
            ``num_samples`` (predicted symbols), ``nll`` (nats per symbol), ``bpc`` (= nll / ln 2),
            ``next_symbol_accuracy`` (fraction) and ``context``.

        Raises:
            UserError: there is no batch, or a prediction has another number of symbols.
        """
        self.reset()
        total, hits, count = 0.0, 0, 0
        with torch.no_grad():
            for batch in batches:
                mean = predict(batch).float().mean(0)
                if mean.shape[1] != self.num_symbols:
                    raise UserError(
                        f"evaluate: the net predicts {mean.shape[1]} symbols, the data set has {self.num_symbols}"
                    )
                total += float(_nll(mean, batch[1]).double().sum())
                hits += int((mean.argmax(1) == batch[1].flatten()).sum())
                count += batch[1].numel()
        if not count:
            raise UserError("evaluate: the text has no symbol to predict; choose a longer one")
        context = {**self.context, "memory": self._memory}
        self.reset()
        nll = total / count
        metrics = {"num_samples": count, "nll": nll, "bpc": nll / math.log(2), "next_symbol_accuracy": hits / count}
        return metrics | {"context": context}, None

    def headline(self, metrics: Mapping[str, Any]) -> str:
        """The bits per character, for the log."""
        return f"{BPC.show(BPC.within(metrics))} {BPC.label}"

    def _run(self, net: nn.Module, symbols: Tensor) -> Tensor:
        """Logits ``[streams, time, symbols]``; the state moves on to the next batch."""
        if symbols is not self._symbols:
            self._before, self._symbols = self._after, symbols
        logits, state = net(symbols, self._before)
        self._after = state.detach()
        self._memory = str(getattr(net, "memory", "the net's own"))
        return logits  # type: ignore[no-any-return]


def _nll(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, ``[targets]``."""
    picked = probabilities.gather(1, targets.flatten()[:, None])[:, 0]
    return -picked.clamp_min(torch.finfo(torch.float32).tiny).log()
