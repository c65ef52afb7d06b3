"""A soft mask for each sample behind a norm layer, made from what the norm puts out, and what it becomes in the end."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.surgery.replace import replace

WEIGHT_STD, BIAS = 0.01, 2.0  # all masks start at sigmoid(2) = 0.88
MIN_HIDDEN, SHRINKAGE = 8, 4


class MaskGenerator(nn.Module):
    """Global average pooling, two linear layers with a ReLU between them, a sigmoid; float32 under autocast too.

    Args:
        channels: of the input and the mask; the hidden layer has a quarter of them, at least 8.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        hidden = max(channels // SHRINKAGE, MIN_HIDDEN)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        nn.init.normal_(self.excite.weight, std=WEIGHT_STD)
        nn.init.constant_(self.excite.bias, BIAS)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to masks ``[batch, channels]`` in (0, 1)."""
        with torch.autocast(x.device.type, enabled=False):
            pooled = x.mean((2, 3), dtype=torch.float32)
            return torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))


class SoftMask(nn.Module):
    """Multiplies each channel of each sample by its mask."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.generator = MaskGenerator(channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` to the same shape and type."""
        masks: Tensor = self.generator(x)
        return x * masks.to(x.dtype)[:, :, None, None]


def add_masks(net: nn.Module, norms: Collection[str]) -> nn.Module:
    """A copy of ``net`` in which each of the batch norms is a pair ``norm``, ``mask`` under the same path."""

    def masked(path: str, module: nn.Module) -> nn.Module | None:
        if path not in norms:
            return None
        assert isinstance(module, nn.BatchNorm2d)
        mask = SoftMask(channels=module.num_features).to(next(net.parameters()).device)
        return nn.Sequential(OrderedDict(norm=module, mask=mask))

    return replace(net, masked)


def masks_of(net: nn.Module) -> dict[str, SoftMask]:
    """The masks of a net by the path of the norm that they follow."""
    found = {path: module for path, module in net.named_modules() if isinstance(module, SoftMask)}
    return {path.rpartition(".")[0]: module for path, module in found.items()}


@contextmanager
def recorded_masks(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Masks ``[batch, channels]`` of the forward passes inside, by the path of the norm, with gradients.

    A later pass overwrites an earlier one.
    """
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found[path] = output

        return hook

    handles = [mask.generator.register_forward_hook(keep(path)) for path, mask in masks_of(net).items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_outputs(net: nn.Module) -> Iterator[list[Tensor]]:
    """What the forward passes of the whole net inside return, one after the other."""
    found: list[Tensor] = []
    handle = net.register_forward_hook(lambda module, args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


@torch.no_grad()
def mean_masks(
    net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], weigh: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The weighted mean of each mask over all samples, path of the norm -> ``[channels]``, float64.

    Args:
        net: with masks.
        batches: pictures and labels.
        weigh: logits ``[batch, classes]`` and labels -> positive weights ``[batch]``.
    """
    sums: dict[str, Tensor] = {}
    total = torch.zeros((), dtype=torch.float64)
    for images, labels in batches:
        with recorded_masks(net) as masks:
            weights = weigh(net(images), labels).double()
        total = total.to(weights) + weights.sum()
        for path, mask in masks.items():
            sums[path] = sums.get(path, torch.zeros_like(mask[0])) + weights @ mask.double()
    return {path: part / total for path, part in sums.items()}


@torch.no_grad()
def folded(net: nn.Module, scales: Mapping[str, Tensor]) -> nn.Module:
    """A copy of ``net`` without masks, whose norms have the same scale for every sample instead.

    Args:
        net: with masks.
        scales: path of the norm -> ``[channels]``; each multiplies scale and shift, so that what follows gets
            ``scale * norm(x)``.
    """
    plain: dict[str, nn.Module] = {}
    for path in masks_of(net):
        norm = copy.deepcopy(net.get_submodule(f"{path}.norm"))
        assert isinstance(norm, nn.BatchNorm2d)
        scale = scales[path].to(norm.weight)
        norm.weight.mul_(scale)
        norm.bias.mul_(scale)
        plain[path] = norm
    return replace(net, plain)
