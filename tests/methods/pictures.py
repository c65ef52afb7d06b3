"""Made-up pictures of ten classes for methods that look at training pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunebench.data.base import Batches
from prunebench.run.bare import BareRun
from tests.bare import MadeUp, bare_run


class Pictures(MadeUp):
    """``number`` normal pictures in batches of 32, of the classes 0, 1, … 9, 0, 1, …"""

    def __init__(self, example: Tensor, *, number: int = 80) -> None:
        super().__init__(example)
        self.num_train = number
        draws = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(number, *example.shape[1:], generator=draws)

    def train_eval(self, num: int | None = None, **_: Any) -> Batches:
        labels = torch.arange(self.num_train) % 10
        return list(zip(self.inputs[:num].split(32), labels[:num].split(32), strict=True))


def run_on_pictures(net: nn.Module, example: Tensor, *, number: int = 80, **options: Any) -> BareRun:
    """A run of ``net`` whose cut may look at pictures."""
    run = bare_run(net, example, **options)
    run.data = Pictures(example, number=number)
    return run


def trained_norms(net: nn.Module, *, seed: int = 0) -> nn.Module:
    """``net`` with statistics, scales and shifts as training leaves them: no two channels alike."""
    draws = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.running_var, 0.5)):
                tensor.copy_(low + torch.rand(tensor.shape, generator=draws))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=draws))
    return net.eval()
