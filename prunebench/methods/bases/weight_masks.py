"""Which single weights of a net are dead: they are zero, and stay so while the net trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class WeightMasks(nn.Module):
    """Masks of the weights of some layers.

    Zeroing weights once does not keep them at zero: momentum and weight decay may move what a mask on gradients alone
    leaves. So gradients are zeroed before each step and the weights after it.

    Attributes:
        names: the layers; they follow from configuration and net, so they are no state.
        live: bool, the weights of all layers in one row, True where one lives; None before the first cut.
    """

    live: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.register_buffer("live", None)

    def start(self, net: nn.Module) -> None:
        """Let all weights live, unless some are dead already."""
        if self.live is None:
            self.load([torch.ones_like(weight, dtype=torch.bool) for weight in self.weights(net)])

    def load(self, masks: Sequence[Tensor]) -> None:
        """Take these masks, one for each layer, of its weight's shape."""
        self.live = torch.cat([mask.flatten() for mask in masks])

    def weights(self, net: nn.Module) -> list[nn.Parameter]:
        """The weight of each layer."""
        return [net.get_parameter(f"{name}.weight") for name in self.names]

    def pairs(self, net: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """The weight of each layer with its mask of that shape, a view of ``live``; nothing before the first cut."""
        if self.live is None:
            return
        start = 0
        for weight in self.weights(net):
            yield weight, self.live[start : start + weight.numel()].view(weight.shape)
            start += weight.numel()

    def zero_gradients(self, net: nn.Module) -> None:
        """Zero the gradients of dead weights, before a step."""
        for weight, mask in self.pairs(net):
            if weight.grad is not None:
                weight.grad *= mask

    @torch.no_grad()
    def zero(self, net: nn.Module) -> None:
        """Zero the dead weights, after a step."""
        for weight, mask in self.pairs(net):
            weight.mul_(mask)

    @property
    def num_weights(self) -> int:
        """Of all layers; 0 before the first cut."""
        return 0 if self.live is None else self.live.numel()

    @property
    def num_live(self) -> int:
        """Of all layers; 0 before the first cut."""
        return 0 if self.live is None else int(self.live.sum())

    def shares(self, net: nn.Module) -> dict[str, float]:
        """Layer -> share of its weights that lives."""
        masks = [mask for _, mask in self.pairs(net)]
        return {name: float(mask.float().mean()) for name, mask in zip(self.names, masks, strict=True)}
