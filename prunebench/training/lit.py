"""The one LightningModule: it delegates to the method and the task, and knows neither by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from prunebench.config.phase import PLATEAU, Phase, plateau_factor
from prunebench.core.clock import Clock
from prunebench.core.method import NET, Method
from prunebench.core.task import Batch, Task, total
from prunebench.data.base import Batches, Data
from prunebench.disk.tensors import tensors_sha256
from prunebench.errors import UserError
from prunebench.measure.metrics import NLL
from prunebench.training.optimizers import (
    build_optimizer,
    build_rate,
    clip,
    hold_rates,
    narrow_state,
    parameters,
    scale_rates,
)


class Lit(pl.LightningModule):
    """One phase's training of ``net`` under ``method``.

    Optimisation is manual only for a method with an ``update`` of its own: Lightning then leaves precision and nothing
    else to itself, so that clipping, accumulation and rates are done here, in one place for both ways.

    Attributes:
        net, method: trained and saved together, as ``net.*`` and ``method.*`` of the checkpoint.
    """

    def __init__(
        self,
        net: nn.Module,
        method: Method,
        task: Task,
        phase: Phase,
        data: Data,
        *,
        seed: int,
        streams: Mapping[str, Callable[[int], Batches]] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.method = method
        self.task = task.smoothed(phase.label_smoothing)
        self.phase = phase
        self.data = data
        self.seed = seed
        self.streams = dict(streams or {})
        self.automatic_optimization = not method.alternates
        assert not (self.streams and self.automatic_optimization), "streams need an update of the method"
        self._names: list[str] = []  # of the optimisers
        self._batch = 0  # index of the batch in progress

    # -- data: a function of (seed, epoch), so that an interrupted run meets the same batches again

    def train_dataloader(self) -> Any:
        self.data.to(self.device)
        own = self.data.train(
            epoch=self.current_epoch,
            seed=self.seed,
            batch_size=self.phase.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if not self.streams:
            return own
        return Abreast({NET: own, **{name: batches(self.current_epoch) for name, batches in self.streams.items()}})

    def val_dataloader(self) -> Any:
        if not self.data.num_val:
            return []
        self.data.to(self.device)
        return self.data.validation(rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    # -- where the phase is

    @property
    def num_batches(self) -> int:
        """Of an epoch."""
        return int(self.trainer.num_training_batches)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps, of one optimiser if there are several."""
        return -(-self.num_batches // self.phase.accumulate)

    def clock(self) -> Clock:
        """The step in progress; it follows from the epoch and the batch."""
        step = self.current_epoch * self.steps_per_epoch + self._batch // self.phase.accumulate
        return Clock(
            step=step,
            num_steps=self.phase.epochs * self.steps_per_epoch,
            epoch=self.current_epoch,
            num_epochs=self.phase.epochs,
            lr=float(self.trainer.optimizers[0].param_groups[0]["lr"]),
        )

    @property
    def _steps_now(self) -> bool:
        """Whether the batch in progress is the last one of a step."""
        return (self._batch + 1) % self.phase.accumulate == 0 or self._batch + 1 == self.num_batches

    # -- training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups = self.method.optimizers(self.net, self.phase)
        assert len(groups) == 1 or not self.automatic_optimization, "several optimisers need an update of the method"
        self._names = list(groups)
        built = [build_optimizer(self.phase, own) for own in groups.values()]
        if self.phase.lr_schedule == PLATEAU:
            return hold_rates(built, self.phase, self.data)
        batches = max(1, int(self.trainer.estimated_stepping_batches) // max(1, self.phase.epochs))
        # Lightning counts batches where optimisation is manual, and steps where it accumulates itself
        steps = batches if self.automatic_optimization else -(-batches // self.phase.accumulate)
        rates = [build_rate(self.phase, optimizer, steps) for optimizer in built]
        return built, [{"scheduler": rate, "interval": "step"} for rate in rates]  # type: ignore[return-value]

    def setup(self, stage: str) -> None:
        # here and not in on_fit_start: by then DDP has overwritten the weights of all ranks with those of the first
        if self.trainer.world_size > 1:
            _same_everywhere(self.state_dict())

    def on_train_epoch_start(self) -> None:
        # a second source of randomness (dropout, sampled gates) must not depend on how often the run was resumed
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
        self.task.reset()
        self._batch = 0
        self.method.start_epoch(self.net, self.clock())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        self._batch = batch_idx
        if not self.automatic_optimization:
            batches = batch if self.streams else {NET: batch}
            self._log(self.method.update(self.net, batches, self.task, self._minimise, self.clock()), batches[NET])
            return None
        terms = self.method.losses(self.net, batch, self.task)
        loss = self._total(terms)
        self._log(terms, batch)
        return loss

    def _minimise(self, terms: Mapping[str, Tensor], optimizer: str = NET) -> None:
        """See :class:`prunebench.core.method.Minimise`."""
        place = self._names.index(optimizer)
        found = self.optimizers(use_pl_optimizer=True)
        wrapped = found[place] if isinstance(found, list) else found
        if self._batch % self.phase.accumulate == 0:
            wrapped.zero_grad()
        # into these parameters alone: the terms may depend on those of another optimiser
        inputs = [p for p in parameters(self.trainer.optimizers[place]) if p.requires_grad]
        self.manual_backward(self._total(terms) / self.phase.accumulate, inputs=inputs)
        if self._steps_now:
            wrapped.step()

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The sum of ``terms``.

        Raises:
            UserError: it is not finite.
        """
        loss = total(terms)
        if not torch.isfinite(loss.detach()):
            shown = ", ".join(f"{name}={float(term.detach()):.4g}" for name, term in terms.items())
            step = self.clock().step
            advice = (
                f"lower schedule.phases.{self.phase.name}.lr (now {self.phase.lr:g}) or set its clip_norm"
                if step
                else "nothing was learnt yet, so that the rate is not the reason: look at the net and at its weights"
            )
            raise UserError(
                f"the loss is not finite in phase {self.phase.name}, epoch {self.current_epoch}, step {step} "
                f"({shown}); {advice}. The last good checkpoint stays."
            )
        return loss

    def _log(self, terms: Mapping[str, Tensor], batch: Batch) -> None:
        for name, term in terms.items():
            weight = batch[1].numel()
            self.log(f"train/{name}", term.detach(), on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # precision has unscaled the gradients by now, whoever steps
        self.method.before_step(self.net, self.clock())
        clip(optimizer, self.phase.clip_norm)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        clock = self.clock()
        if self._steps_now:
            for narrowed in self.method.after_step(self.net, clock) or ():
                for optimizer in self.trainer.optimizers:
                    narrow_state(optimizer, narrowed)
            if not self.automatic_optimization:
                for rate in self._rates():
                    rate.step()
        if self.trainer.is_last_batch:
            # here and not in on_train_epoch_end, which runs after validation
            self.method.end_epoch(self.net, clock)
            for name, value in self.method.report(self.net).items():
                self.log(f"method/{name}", float(value), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def follow(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Set the next epoch's rate from the epochs so far, where it depends on them."""
        if self.phase.lr_schedule == PLATEAU:
            scale_rates(self.trainer.optimizers, plateau_factor(self.phase, [row[NLL.logged] for row in history]))

    def _rates(self) -> list[LambdaLR]:
        found = self.lr_schedulers() or []
        rates = found if isinstance(found, list) else [found]
        assert all(isinstance(rate, LambdaLR) for rate in rates)
        return rates  # type: ignore[return-value]

    def on_validation_epoch_start(self) -> None:
        self.task.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        probabilities = self.method.predict(self.net, batch, self.task).mean(0)
        for name, value in self.task.validation(probabilities, batch).items():
            self.log(name, value, on_epoch=True, batch_size=batch[1].numel(), sync_dist=True)


class Abreast:
    """Batches of several streams, by name; the shortest stream ends the epoch."""

    def __init__(self, streams: Mapping[str, Batches]) -> None:
        self._streams = dict(streams)

    def __len__(self) -> int:
        return min(len(batches) for batches in self._streams.values())

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        for together in zip(*self._streams.values(), strict=False):
            yield dict(zip(self._streams, together, strict=True))


def _same_everywhere(state: Mapping[str, Tensor]) -> None:
    """All ranks must begin with the same shapes and values: what was cut, and which channels were kept, is in both."""
    found = digest(state)
    lowest = torch.tensor([found, -found], dtype=torch.int64)
    if torch.distributed.get_backend() == "nccl":
        lowest = lowest.cuda()
    torch.distributed.all_reduce(lowest, op=torch.distributed.ReduceOp.MIN)
    assert int(lowest[0]) == found == -int(lowest[1]), "the ranks hold different nets"


def digest(state: Mapping[str, Tensor]) -> int:
    """56 bits of a hash of the names, shapes, types and values in ``state``."""
    return int(tensors_sha256(state)[:14], 16)
