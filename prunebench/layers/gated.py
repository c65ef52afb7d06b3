"""A layer of components with one gate on each of them, and the two sorts of gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.layers import hard_concrete
from prunebench.layers.components import Components


class Gate(nn.Module):
    """One scale for each of ``size`` components; where it is exactly 0 the component is off."""

    size: int

    def forward(self) -> Tensor:
        """The scales, ``[size]``."""
        raise NotImplementedError


class HardConcreteGate(Gate):
    """Random in training, one draw for each forward pass and the whole batch; in evaluation a fixed soft mask.

    Args:
        size: number of gates.
        drop_rate: where they start, see :func:`prunebench.layers.hard_concrete.initial_log_alpha`.
        std: spread of the start.
    """

    def __init__(self, *, size: int, drop_rate: float = 0.5, std: float = 0.01) -> None:
        super().__init__()
        self.size = size
        self.log_alpha = nn.Parameter(hard_concrete.initial_log_alpha(size, drop_rate=drop_rate, std=std))

    def forward(self) -> Tensor:
        # the mask of evaluation is computed anew each time: one that is kept would be stale after a step
        return hard_concrete.sample(self.log_alpha) if self.training else hard_concrete.evaluation_gate(self.log_alpha)

    def expected_open(self) -> Tensor:
        """Expected number of gates that are not 0, a differentiable scalar."""
        return hard_concrete.expected_l0(self.log_alpha)


class DiagonalGate(Gate):
    """A trained real number for each component, of which some are masked to 0.

    Args:
        size: number of gates.
    """

    live: Tensor

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.size = size
        self.value = nn.Parameter(torch.ones(size))
        self.register_buffer("live", torch.ones(size, dtype=torch.bool))

    def forward(self) -> Tensor:
        return self.value * self.live


class Gated(nn.Module):
    """``layer`` under the scales of ``gate``, in the place of the layer."""

    def __init__(self, layer: Components, gate: Gate) -> None:
        super().__init__()
        self.layer = layer
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """The output of the scaled layer."""
        output: Tensor = self.layer(x, self.gate())
        return output

    @property
    def num_params(self) -> int:
        """Parameters that the gates can remove."""
        return self.layer.num_components * self.layer.params_per_component

    @torch.no_grad()
    def scales(self) -> Tensor:
        """The scales in evaluation, ``[size]``, whatever the mode."""
        mode = self.gate.training
        scales: Tensor = self.gate.eval()()
        self.gate.train(mode)
        return scales

    @torch.no_grad()
    def num_kept_params(self) -> int:
        """Parameters of the components whose scale in evaluation is not 0."""
        return int(torch.count_nonzero(self.scales())) * self.layer.params_per_component

    def extract(self, *, merge: bool) -> nn.Module:
        """The layer without gates and without the components that are off; equal to this one in evaluation."""
        scales = self.scales()
        indices = scales.nonzero().flatten()
        return self.layer.keep(indices, scales[indices], merge=merge)
