"""Two made-up regression sets whose truth is known, for methods that select nodes: always the same for a seed.

After the simulations of Jantre, Bhattacharya, Maiti 2023; their exact weights and sizes could not be read, those here
are ours.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunebench.config.arguments import validated
from prunebench.config.ranges import NonNegativeInt, PositiveInt
from prunebench.data.splits import stream
from prunebench.data.tabular import Rows, TableData
from prunebench.errors import UserError

HIDDEN = ((6.0, -4.0), (-3.0, -5.0))
"""Teacher: weights of its two sigmoid units."""
HIDDEN_BIAS = (1.0, -0.5)
OUT, OUT_BIAS = (4.0, -3.0), 0.5
RELEVANT = 5
"""The second simulation reads so many of its inputs, the first ones."""


@validated
class Simulation(TableData):
    """Inputs uniform in [-1, 1], a known function, normal noise of deviation ``noise_std``.

    Args:
        num_rows, num_test: rows for training (and validation), and for the test.
        data_seed: of inputs and noise.
        **common: the arguments of :class:`~prunebench.data.tabular.TableData`.
    """

    def __init__(
        self, *, num_rows: PositiveInt, num_test: PositiveInt, data_seed: NonNegativeInt, **common: Any
    ) -> None:
        super().__init__(**common)
        if self.num_outputs != 1:
            raise UserError(f"dataset.num_outputs of a simulation must be 1, got {self.num_outputs}")
        self.num_rows, self.num_rows_test, self.data_seed = num_rows, num_test, data_seed

    @abstractmethod
    def function(self, inputs: Tensor) -> Tensor:
        """The noiseless target, ``[N, num_inputs]`` to ``[N]``."""

    def read(self, root: Path) -> tuple[Rows, Rows]:
        return self._draw("train", self.num_rows), self._draw("test", self.num_rows_test)

    def _draw(self, part: str, num: int) -> Rows:
        random = stream(self.name, part, self.data_seed)
        inputs = 2 * torch.rand(num, self.num_inputs, generator=random, dtype=torch.float64) - 1
        noise = self.noise_std * torch.randn(num, generator=random, dtype=torch.float64)
        return Rows(inputs.float(), (self.function(inputs) + noise)[:, None].float())


class TeacherNet(Simulation):
    """Simulation I: a 2-2-1 net with sigmoid units; two nodes are the truth.

    Args:
        **common: the arguments of :class:`Simulation`.
    """

    def function(self, inputs: Tensor) -> Tensor:
        weight, bias, out = (torch.tensor(values, dtype=inputs.dtype) for values in (HIDDEN, HIDDEN_BIAS, OUT))
        found: Tensor = torch.sigmoid(inputs @ weight.T + bias) @ out + OUT_BIAS
        return found

    def truth(self) -> dict[str, int]:
        return {"nodes": len(OUT), "inputs": len(HIDDEN[0])}


class SparseFunction(Simulation):
    """Simulation II: y = 7 x2 / (1 + x1^2) + 5 sin(x3 x4) + 2 x5; the other inputs mean nothing.

    Args:
        **common: the arguments of :class:`Simulation`.
    """

    def function(self, inputs: Tensor) -> Tensor:
        one, two, three, four, five = inputs[:, :RELEVANT].T
        targets: Tensor = 7 * two / (1 + one.square()) + 5 * torch.sin(three * four) + 2 * five
        return targets

    def truth(self) -> dict[str, int]:
        return {"inputs": RELEVANT}
