"""Diagonal Fisher information of single weights, from the gradient of each example's log-likelihood.

The square of a mean gradient over a batch is smaller by about the batch size, so each example needs its own. They are
computed from what a layer reads and from the gradient at what it writes, in one pass for a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_ELEMENTS = 1 << 25
"""Gradients of single examples that are held at once: 128 MiB in float32."""

LogLikelihoods = Callable[[Tensor], Tensor]
"""Outputs of a net for a batch -> ln p of each example, ``[B]``."""


def squared_gradients(
    net: nn.Module, layers: Sequence[nn.Linear | nn.Conv2d], inputs: Tensor, log_likelihoods: LogLikelihoods
) -> Tensor:
    """Sum over the examples of the squared gradient of ln p by each weight of ``layers``, one after the other, ``[n]``.

    Args:
        net: in evaluation mode: no example may depend on another one.
        layers: of ``net``; one that is called several times gets the gradient through all of its calls.
        inputs: ``[B, ...]``.
    """
    with torch.enable_grad(), _calls(layers) as calls:
        total = log_likelihoods(net(inputs)).sum()
    order = [(layer, x, output) for layer in layers for x, output in calls[layer]]
    slopes = torch.autograd.grad(total, [output for _, _, output in order], allow_unused=True)
    found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    for (layer, x, _), slope in zip(order, slopes, strict=True):
        if slope is not None:
            found[layer].append((x, slope))
    return torch.cat([_of_layer(layer, found[layer]).flatten() for layer in layers])


@contextmanager
def _calls(layers: Sequence[nn.Module]) -> Iterator[Mapping[nn.Module, list[tuple[Tensor, Tensor]]]]:
    """What each layer reads and writes in the passes inside."""
    found: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def keep(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output if output.requires_grad else output.detach().requires_grad_()
        found[layer].append((args[0].detach(), output))
        return output.clone()  # an activation may work in place

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of_layer(layer: nn.Linear | nn.Conv2d, calls: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    if not calls:
        return torch.zeros_like(layer.weight)
    if isinstance(layer, nn.Linear) and len(calls) == 1 and calls[0][0].dim() == 2:
        x, slope = calls[0]  # the gradient of an example is the outer product of both
        return slope.square().T @ x.square()
    total = torch.zeros_like(layer.weight)
    size = max(1, MAX_ELEMENTS // layer.weight.numel())
    parts = [list(zip(x.split(size), slope.split(size), strict=True)) for x, slope in calls]
    for chunk in zip(*parts, strict=True):
        total += torch.stack([_gradients(layer, x, slope) for x, slope in chunk]).sum(0).square().sum(0)
    return total


def _gradients(layer: nn.Linear | nn.Conv2d, x: Tensor, slope: Tensor) -> Tensor:
    """Gradient of each example by the weight, ``[B, *weight]``."""
    if isinstance(layer, nn.Linear):
        return (
            torch.einsum("bpo,bpi->boi", slope.flatten(1, -2), x.flatten(1, -2))
            if x.dim() > 2
            else (slope[:, :, None] * x[:, None, :])
        )
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    size: Any = layer.kernel_size
    patches = F.unfold(padded, size, dilation=layer.dilation, stride=layer.stride)
    patches = patches.unflatten(1, (layer.groups, -1))  # [B, groups, in / groups * kernel, positions]
    slopes = slope.flatten(2).unflatten(1, (layer.groups, -1))
    return torch.einsum("bgop,bgkp->bgok", slopes, patches).reshape(len(x), *layer.weight.shape)
