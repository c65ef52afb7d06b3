"""A moving average for each training sample, kept through the epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from prunebench.data.base import Data
from prunebench.errors import UserError


class SampleMemory(nn.Module):
    """Knows which samples a batch holds, because an epoch's order is a function of (seed, epoch).

    It serves one device: under several, each would know a part of the samples.

    Args:
        data: whose training batches say which samples they hold (``chunks``).
        seed, batch_size: of the phase that trains on them.
        share: of the old value in the average, in (0, 1); a sample's first value counts as it is.

    Attributes:
        values: ``[samples]``; -1 = not met yet.

    Raises:
        UserError: the data set does not say.
    """

    values: Tensor

    def __init__(self, data: Data, *, seed: int, batch_size: int | None, share: float) -> None:
        super().__init__()
        self._data, self._seed, self._batch_size, self._share = data, seed, batch_size, share
        self._chunks: Iterator[Tensor] = iter(())
        self._order(0)
        self.register_buffer("values", torch.full((data.num_train + data.num_val,), -1.0))

    def start_epoch(self, epoch: int) -> None:
        """The first batch of ``epoch`` comes next."""
        self._chunks = iter(self._order(epoch))

    @torch.no_grad()
    def update(self, values: Tensor) -> Tensor:
        """The averages after the next batch has had these ``values`` (at least 0), ``[batch]`` to ``[batch]``."""
        index = next(self._chunks)
        assert len(index) == len(values), "several devices, or batches that the memory does not know"
        index = index.to(self.values.device)
        before = self.values[index]
        after = torch.where(before < 0, values, self._share * before + (1 - self._share) * values)
        self.values[index] = after
        return after

    def _order(self, epoch: int) -> Sequence[Tensor]:
        batches = self._data.train(epoch=epoch, seed=self._seed, batch_size=self._batch_size)
        chunks: Sequence[Tensor] | None = getattr(batches, "chunks", None)
        if chunks is None:
            raise UserError(
                f"dataset={self._data.name} does not say which samples a batch holds, so nothing can be remembered of "
                "a sample; set method.memory=0"
            )
        return chunks
