"""Nets with gated convolutions for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prunebench.layers.gated_conv import gated_layers
from prunebench.methods.sanp import SelfAdaptive
from tests.bare import bare_run


def gate(net: nn.Module, example: Tensor, *, wild: bool = False, **options: Any) -> tuple[nn.Module, SelfAdaptive]:
    """``net`` with gates, and the method that made them; ``wild`` gates keep about half, differently per sample."""
    method = SelfAdaptive(**{"target_macs": 0.99, **options})
    run = bare_run(net, example)
    method.check(net, run)
    gated = method.attach(net, run)
    if wild:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in gated_layers(gated).values():
                for parameter in layer.gate.parameters():
                    parameter.normal_(0.0, 1.0, generator=generator)
    return gated, method


def all_on(net: nn.Module) -> nn.Module:
    """Saliency 1 and decision 1 for all channels, whatever the gates say."""
    for layer in gated_layers(net).values():
        layer.gate.register_forward_hook(lambda m, args, out: (torch.ones_like(out[0]), torch.ones_like(out[1])))
    return net
