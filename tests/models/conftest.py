from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def count() -> Callable[..., tuple[int, int]]:
    """Builds a net without memory and counts (MACs of one image, parameters) with torch's own counter."""

    def counted(build: Callable[..., nn.Module], *, size: int, channels: int = 3, **options: object) -> tuple[int, int]:
        with torch.device("meta"):
            net = build(image_size=size, in_channels=channels, **options).eval()
            image = torch.empty(1, channels, size, size)
        with FlopCounterMode(display=False) as counter:
            net(image)
        # torch counts two operations per multiply-accumulate, in convolutions and matrix products only
        return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters())

    return counted


@pytest.fixture
def assert_traceable() -> Callable[[nn.Module, torch.Tensor], None]:
    """Checks that torch.fx records the net and that the record computes the same, in both modes."""

    def check(net: nn.Module, images: torch.Tensor) -> None:
        for training in (True, False):
            net.train(training)
            traced = torch.fx.symbolic_trace(net)
            with torch.no_grad():
                assert torch.equal(traced(images), net(images))

    return check
