"""Running statistics of batch norms for weights that were never trained: averages, samples."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def refreshed(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> nn.Module:
    """A copy of the net whose batch norms have the mean statistics of ``batches``, in the mode of ``net``.

    One pass in training mode without gradients: each batch counts by its size (swa_gaussian utils.py:196-233; torch's
    ``swa_utils.update_bn`` gives each batch the same weight). A net without running statistics is only copied.

    Args:
        net: stays as it is.
        batches: ``(inputs [B, ...], labels)`` on the device of the net.
        seed: for layers that draw in training mode, such as dropout; the global random stream is left alone.
    """
    net = copy.deepcopy(net)
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return net
    modes, momenta = {module: module.training for module in net.modules()}, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    net.train()
    device = next(net.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        num_seen = 0
        for inputs, _ in batches:
            num_seen += len(inputs)
            for norm in norms:
                norm.momentum = len(inputs) / num_seen
            net(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
    return net
