"""The one LightningModule: it delegates to the method and the task, and knows neither by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from prunebench.config.phase import Phase, lr_factor
from prunebench.core.method import Method
from prunebench.core.task import Batch, Task
from prunebench.data.base import Data
from prunebench.errors import UserError
from prunebench.training.optimizers import build_optimizer


class Lit(pl.LightningModule):
    """One phase's training of ``net`` under ``method``.

    Attributes:
        net, method: trained and saved together, as ``net.*`` and ``method.*`` of the checkpoint.
    """

    def __init__(self, net: nn.Module, method: Method, task: Task, phase: Phase, data: Data, *, seed: int) -> None:
        super().__init__()
        self.net = net
        self.method = method
        self.task = task.smoothed(phase.label_smoothing)
        self.phase = phase
        self.data = data
        self.seed = seed

    # -- data: a function of (seed, epoch), so that an interrupted run meets the same batches again

    def train_dataloader(self) -> Any:
        self.data.to(self.device)
        return self.data.train(
            epoch=self.current_epoch,
            seed=self.seed,
            batch_size=self.phase.batch_size,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )

    def val_dataloader(self) -> Any:
        if not self.data.num_val:
            return []
        self.data.to(self.device)
        return self.data.validation(rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    # -- training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self.phase, self.method.param_groups(self.net, self.phase))
        steps = max(1, int(self.trainer.estimated_stepping_batches) // max(1, self.phase.epochs))
        rate = LambdaLR(optimizer, lambda step: lr_factor(self.phase, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def setup(self, stage: str) -> None:
        # here and not in on_fit_start: by then DDP has overwritten the weights of all ranks with those of the first
        if self.trainer.world_size > 1:
            _same_everywhere(self.state_dict())

    def on_train_epoch_start(self) -> None:
        # a second source of randomness (dropout, sampled gates) must not depend on how often the run was resumed
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch)
        self.task.reset()
        self.method.start_epoch(self.net, self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.method.losses(self.net, batch, self.task)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss.detach()):
            shown = ", ".join(f"{name}={float(term.detach()):.4g}" for name, term in terms.items())
            raise UserError(
                f"the loss is not finite in phase {self.phase.name}, epoch {self.current_epoch}, "
                f"step {self.global_step} ({shown}); lower schedule.phases.{self.phase.name}.lr "
                f"(now {self.phase.lr:g}) or set its clip_norm. The last good checkpoint stays."
            )
        for name, term in terms.items():
            weight = batch[1].numel()
            self.log(f"train/{name}", term.detach(), on_step=False, on_epoch=True, batch_size=weight, sync_dist=True)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm over all groups but those with ``clip=False`` (multipliers, gates)."""
        if gradient_clip_val:
            clipped = [p for group in optimizer.param_groups if group.get("clip", True) for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(clipped, gradient_clip_val)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.method.before_step(self.net)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.method.after_step(self.net)
        if self.trainer.is_last_batch:
            # here and not in on_train_epoch_end, which runs after validation
            self.method.end_epoch(self.net, self.current_epoch)
            for name, value in self.method.report(self.net).items():
                self.log(f"method/{name}", float(value), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        self.task.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        probabilities = self.method.predict(self.net, batch, self.task).mean(0)
        for name, value in self.task.validation(probabilities, batch).items():
            self.log(name, value, on_epoch=True, batch_size=batch[1].numel(), sync_dist=True)


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
    whole = hashlib.sha256()
    for name, value in state.items():
        whole.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        whole.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return int.from_bytes(whole.digest()[:7], "big")
