"""Layers with a spike-and-slab posterior: a Gaussian for every weight, and a gate for every node or every weight.

A node is an output unit or a filter: the weights into it and its bias. A gate z is 1 with the probability
sigmoid(location) and multiplies the drawn weights; where it is 0, they are exactly 0. The means are ``weight`` and
``bias``, a standard deviation is ln(1 + e^spread).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveFloat, PositiveInt
from prunebench.layers.concrete_gates import sample
from prunebench.layers.gaussian_layers import GaussianConv2d, GaussianLinear, like
from prunebench.layers.gaussian_weights import EPS, GaussianWeights

Selection = Annotated[str, Among(("node", "edge", "none"))]
"""What has a gate: each output with all its weights and its bias, each weight and bias by itself, nothing."""
SlabEstimator = Annotated[str, Among(("weight", "local_reparam"))]
Stds = tuple[Tensor, Tensor | None]
"""Standard deviations of weights ``[out, in, ...]`` and of biases ``[out]``, where there are biases."""
SETTLED = 1e4
"""Size of ``location`` at which a gate is fixed for good: its probability is exactly 0 or 1 in float32."""


class SpikeSlab(GaussianWeights):
    """What both layers share; see :class:`SpikeSlabLinear` for the arguments.

    Attributes:
        location: logit of each gate's probability, ``[out]`` or ``[out, in, ...]``; None without gates.
        bias_location: the same for the bias, ``[out]``; None where the bias shares the node's gate, or has none.
    """

    location: nn.Parameter | None
    bias_location: nn.Parameter | None

    @validated
    def _add_gates(
        self,
        selection: Selection,
        spread: float,
        inclusion: float,
        temperature: PositiveFloat,
        slab: SlabEstimator,
        min_kept: PositiveInt,
    ) -> None:
        """Parameters and options beside those of the plain layer; spreads and locations are filled with one value."""
        self._add("softplus", "lrt" if slab == "local_reparam" else "weight", "weight", spread, spread, None, False)
        self.selection, self.inclusion = selection, float(inclusion)
        self.temperature, self.slab, self.min_kept = float(temperature), slab, min_kept
        self.location = self.bias_location = None
        if selection != "none":
            shape = self.weight.shape if selection == "edge" else self.weight.shape[:1]
            self.location = nn.Parameter(torch.full(shape, self.inclusion))
        if selection == "edge" and self.bias is not None:
            self.bias_location = nn.Parameter(torch.full(self.bias.shape, self.inclusion))

    def _options(self) -> dict[str, Any]:
        names = ("selection", "inclusion", "temperature", "slab", "min_kept")
        return {
            "bias": self.bias is not None,
            "spread": self.initial,
            **{name: getattr(self, name) for name in names},
        }

    def stds(self) -> Stds:
        """Standard deviations of weights and biases."""
        return self.std(), self.bias_std()

    # -- the gates

    def gates(self) -> Tensor | None:
        """One draw of the gates of ``location``, exactly 0 or 1, with straight-through gradients."""
        return None if self.location is None else sample(self.location, self.temperature)

    @torch.no_grad()
    def kept(self) -> Tensor | None:
        """Which gates are more likely on than off, bool in the shape of ``location``; at least ``min_kept`` are."""
        if self.location is None:
            return None
        flat = self.location.flatten()
        least = flat.topk(min(self.min_kept, len(flat))).values[-1]
        # the best ones are above 0 anyway, unless there are too few of them
        return ((flat > 0) | (flat >= least)).view_as(self.location)

    @torch.no_grad()
    def kept_bias(self) -> Tensor | None:
        """The same for the biases, ``[out]``; None if all stay."""
        if self.bias_location is not None:
            return self.bias_location > 0
        return self.kept() if self.selection == "node" else None

    @torch.no_grad()
    def live(self) -> Tensor | None:
        """Which weights stay in the most likely net, ``[out, in, ...]``; None if all do."""
        kept = self.kept()
        return None if kept is None else self._spread_out(kept).expand_as(self.weight)

    @torch.no_grad()
    def settle(self) -> None:
        """Fix every gate at its more likely value; the gates learn nothing from then on."""
        for location, kept in ((self.location, self.kept()), (self.bias_location, self.kept_bias())):
            if location is not None and kept is not None:
                location.copy_(torch.where(kept, SETTLED, -SETTLED))
                location.requires_grad_(False)

    @torch.no_grad()
    def silence(self) -> None:
        """Means of what does not stay become 0, those of biases too."""
        for values, kept in ((self.weight, self.live()), (self.bias, self.kept_bias())):
            if values is not None and kept is not None:
                values.mul_(kept)

    # -- the output

    def draw(self, stds: Stds | None = None) -> tuple[Tensor, Tensor | None]:
        """One draw of weights and biases; where a gate is off they are 0.

        Args:
            stds: what :meth:`stds` gives, where it is known already.
        """
        std, bias_std = self.stds() if stds is None else stds
        weight = torch.addcmul(self.weight, std, torch.randn_like(self.weight))
        gates, bias = self.gates(), self.bias
        if bias is not None and bias_std is not None:
            bias = torch.addcmul(bias, bias_std, torch.randn_like(bias))
        if gates is not None:
            weight = weight * self._spread_out(gates)
        if bias is not None and (bias_gates := self._bias_gates(gates)) is not None:
            bias = bias * bias_gates
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer, with one draw for the batch in training and with ``sampling``; else the most likely net.

        In that one each gate has its more likely value and each weight its mean.
        """
        if self.held is not None:
            return self._op(x, *self.held)
        if self.training and self.slab == "local_reparam":
            return self._local_draw(x)
        if self.training or self.sampling:
            return self._op(x, *self.draw())
        live, kept = self.live(), self.kept_bias()
        weight = self.weight if live is None else self.weight * live
        return self._op(x, weight, self.bias if kept is None or self.bias is None else self.bias * kept)

    def _local_draw(self, x: Tensor) -> Tensor:
        """Gates for the batch, Gaussian noise for each input's own output (Kingma et al. 2015, sec. 2.3)."""
        gates = self.gates()
        bias_gates, bias, bias_std = self._bias_gates(gates), self.bias, self.bias_std()
        weight, variances = self.weight, self.variance()
        bias_variances = None if bias_std is None else bias_std.square()
        if gates is not None:
            weight, variances = weight * self._spread_out(gates), variances * self._spread_out(gates)
        if bias is not None and bias_variances is not None and bias_gates is not None:
            bias, bias_variances = bias * bias_gates, bias_variances * bias_gates
        centre = self._op(x, weight, bias)
        variance = self._op(x.square(), variances, bias_variances).clamp_min(0.0)
        # without the small number the root of a closed node's variance, 0, would have no derivative
        noise = (variance + EPS).sqrt() * (variance > 0)
        return centre + noise * torch.randn_like(centre)

    def _bias_gates(self, gates: Tensor | None) -> Tensor | None:
        if self.bias_location is not None:
            return sample(self.bias_location, self.temperature)
        return gates if self.selection == "node" else None

    def _spread_out(self, gates: Tensor) -> Tensor:
        """``gates`` in a shape that broadcasts over the weights."""
        return gates.view(-1, *[1] * (self.weight.dim() - 1)) if self.selection == "node" else gates


class SpikeSlabLinear(SpikeSlab, GaussianLinear):
    """A linear layer with gates, ``[..., in]`` to ``[..., out]``.

    Args:
        in_features, out_features, bias: as of ``nn.Linear``.
        selection: what has a gate, see :data:`Selection`.
        spread: first value of all spreads.
        inclusion: first value of all locations.
        temperature: of the soft gate that the gradient goes through.
        slab: how the Gaussian part is drawn in training: "weight" = one draw for the batch, "local_reparam" = of each
            input's output, with one draw of the gates.
        min_kept: so many gates stay in the most likely net, the most probable ones.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        selection: Selection = "node",
        spread: float = -6.0,
        inclusion: float = 4.595,
        temperature: float = 0.5,
        slab: SlabEstimator = "weight",
        min_kept: int = 1,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias=bias)
        self._add_gates(selection, spread, inclusion, temperature, slab, min_kept)


class SpikeSlabConv2d(SpikeSlab, GaussianConv2d):
    """A convolution with gates, ``[B, in, H, W]`` to ``[B, out, H', W']``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as of
            ``nn.Conv2d``.
        selection, spread, inclusion, temperature, slab, min_kept: as of :class:`SpikeSlabLinear`.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        selection: Selection = "node",
        spread: float = -6.0,
        inclusion: float = 4.595,
        temperature: float = 0.5,
        slab: SlabEstimator = "weight",
        min_kept: int = 1,
    ) -> None:
        GaussianConv2d.__init__(
            self,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
        )
        self._add_gates(selection, spread, inclusion, temperature, slab, min_kept)


def spike_slab(layer: nn.Linear | nn.Conv2d, **options: Any) -> SpikeSlabLinear | SpikeSlabConv2d:
    """A layer with gates and the means of ``layer`` (the same parameters)."""
    return like(layer, SpikeSlabLinear, SpikeSlabConv2d, **options)
