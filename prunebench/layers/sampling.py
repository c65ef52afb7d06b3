"""Nets with random weights or activations: one pass at the mean, or S passes with new draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_STRIDE = 1_000_003  # between the seeds of two runs, as everywhere


class Stochastic(nn.Module):
    """What a layer that draws random numbers has in common with others of its kind.

    Attributes:
        sampling: in evaluation mode: draw (true) or use the mean (false). In training mode it always draws.
    """

    sampling: bool = False


@contextmanager
def sampling(net: nn.Module) -> Iterator[None]:
    """Inside, the stochastic layers of ``net`` draw in evaluation mode too."""
    layers = [module for module in net.modules() if isinstance(module, Stochastic)]
    for layer in layers:
        layer.sampling = True
    try:
        yield
    finally:
        for layer in layers:
            layer.sampling = False


def is_stochastic(net: nn.Module) -> bool:
    """Whether some layer draws random numbers of its own (dropout of torch does not count: it is off in evaluation)."""
    return any(isinstance(module, Stochastic) for module in net.modules())


class Ensemble(nn.Module):
    """``net`` together with the seeds of S draws: the same S nets whatever the batches are.

    Args:
        net: with stochastic layers that draw weights once a pass.
        num_samples: S.
        seed: of the run.
    """

    def __init__(self, net: nn.Module, *, num_samples: int, seed: int) -> None:
        super().__init__()
        self.net = net
        self.num_samples = num_samples
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        """One pass at the mean."""
        output: Tensor = self.net(x)
        return output

    def each(self, predict: Callable[[nn.Module], Tensor]) -> Tensor:
        """What ``predict`` makes of each draw, stacked: ``[S, ...]``; the caller's random stream does not move."""
        found = []
        with torch.random.fork_rng(), sampling(self.net):
            for sample in range(self.num_samples):
                torch.manual_seed(self.seed * _STRIDE + sample)
                found.append(predict(self.net))
        return torch.stack(found)
