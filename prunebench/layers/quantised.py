"""A layer whose weights and inputs have few bits, imitated in floating point: its time is that of a float layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, Range
from prunebench.errors import UserError
from prunebench.layers import quantisers
from prunebench.layers.around import Around

FLOAT = 32
"""Bits of a number that is not quantised."""
WEIGHTS: Mapping[str, range] = {
    "none": range(FLOAT, FLOAT + 1),
    "dorefa": range(1, 17),
    "symmetric": range(2, 17),
    "bwn": range(1, 2),
    "binaryconnect": range(1, 2),
    "twn": range(2, 3),
    "ttq": range(2, 3),
}
"""Scheme of weights -> bits that it can have."""
ACTIVATIONS: Mapping[str, range] = {
    "none": range(FLOAT, FLOAT + 1),
    "dorefa": range(1, 17),
    "pact": range(1, 17),
    "range": range(2, 17),
    "sign": range(1, 2),
}
"""Scheme of activations -> bits that it can have."""
MOVING = 0.01  # share of a new batch in the running range

Bits = Annotated[int, Range(low=1, high=FLOAT)]


@validated
class Quantised(Around):
    """``y = layer(Q_a(x))`` with the weights ``Q_w(w)`` of the layer; gradients go straight through.

    The layer keeps its float weights, which are trained. Once ``frozen`` its weights are the values ``Q_w(w)``
    themselves. Biases stay float.

    Args:
        weights: of :data:`WEIGHTS`. ``bits_w``: of a stored weight.
        activations: of :data:`ACTIVATIONS`: ``dorefa`` clips at [0, 1], ``pact`` at a trained value, ``range`` at the
            largest input of the training, as a running mean over batches. ``bits_a``: of an input.
        per_channel: of ``symmetric`` weights: a scale for each filter.
        signed: inputs may be negative; then ``range`` is symmetric around 0.
        frozen: the weights are quantised values.

    Attributes:
        limit: where inputs are clipped: a parameter of ``pact``, a buffer of ``range``, scalar.
    """

    def __init__(
        self,
        *,
        weights: Annotated[str, Among(WEIGHTS)],
        bits_w: Bits,
        activations: Annotated[str, Among(ACTIVATIONS)],
        bits_a: Bits,
        per_channel: bool = True,
        signed: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.weights, self.bits_w = weights, bits_w
        self.activations, self.bits_a = activations, bits_a
        self.per_channel, self.signed, self.frozen = per_channel, signed, frozen
        if activations == "pact":
            self.limit = nn.Parameter(torch.ones(()))
        elif activations == "range":
            self.register_buffer("limit", torch.ones(()))
        if weights == "ttq" and not frozen:
            self.positive, self.negative = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def around(self, layer: nn.Module) -> Self:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            raise UserError(f"only convolutions and linear layers are quantised, not a {type(layer).__name__}")
        super().around(layer)
        if self.weights == "ttq" and not self.frozen:
            w = self.weight.detach()
            with torch.no_grad():
                for scale, chosen in zip((self.positive, self.negative), quantisers.ttq_sets(w), strict=True):
                    scale.copy_((w.abs() * chosen).sum() / chosen.sum().clamp_min(1))
        return self

    @property
    def weight(self) -> nn.Parameter:
        """Of the layer, ``[out, ...]``."""
        found = self.layer.weight
        assert isinstance(found, nn.Parameter)
        return found

    @property
    def num_scales(self) -> int:
        """Float numbers that belong to the stored integers of the weights and inputs and are no parameters."""
        filters = self.weight.shape[0]
        of_weights = {"bwn": filters, "twn": filters, "ttq": 2, "symmetric": filters if self.per_channel else 1}
        one = self.weights == "dorefa" and self.bits_w == 1
        # of ttq the two scales are parameters until they are frozen
        counted = 0 if self.weights == "ttq" and not self.frozen else of_weights.get(self.weights, int(one))
        return counted + (self.activations == "range")

    def quantised_weight(self) -> Tensor:
        """``Q_w(w)``, ``[out, ...]``."""
        w = self.weight
        if self.frozen or self.weights == "none":
            return w
        if self.weights == "dorefa":
            return quantisers.dorefa(w, self.bits_w)
        if self.weights == "symmetric":
            return quantisers.symmetric(w, self.bits_w, per_channel=self.per_channel)
        if self.weights == "ttq":
            return quantisers.ttq(w, self.positive, self.negative)
        of_filters = {"bwn": quantisers.bwn, "twn": quantisers.twn, "binaryconnect": quantisers.binary_connect}
        return of_filters[self.weights](w)

    def quantised_input(self, x: Tensor) -> Tensor:
        """``Q_a(x)``."""
        if self.activations == "none":
            return x
        if self.activations == "sign":
            return quantisers.sign_activation(x)
        if self.activations == "dorefa":
            return quantisers.dorefa_activation(x, self.bits_a)
        if self.activations == "range":
            if self.training:
                with torch.no_grad():
                    self.limit.lerp_(x.detach().abs().max().float(), MOVING)
            if self.signed:
                return quantisers.symmetric_grid(x, self.limit, self.bits_a)
        return quantisers.pact(x, self.limit, self.bits_a)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        x = self.quantised_input(x)
        if self.frozen or self.weights == "none":
            return super().forward(x)
        found: Tensor = functional_call(self.layer, {"weight": self.quantised_weight()}, (x,))
        return found

    @torch.no_grad()
    def freeze(self) -> Quantised:
        """The same layer, whose weights are the quantised values; the layer inside is taken over and changed."""
        made = Quantised(**self.config() | {"frozen": True})
        values = self.quantised_weight()
        made.around(self.layer)
        self.weight.copy_(values)
        if hasattr(self, "limit"):
            made.limit.copy_(self.limit)
        return made.train(self.training)

    def config(self) -> dict[str, Any]:
        """Keyword arguments that build the layer; the one inside comes from the net."""
        return {
            "weights": self.weights,
            "bits_w": self.bits_w,
            "activations": self.activations,
            "bits_a": self.bits_a,
            "per_channel": self.per_channel,
            "signed": self.signed,
            "frozen": self.frozen,
        }


def quantised_layers(net: nn.Module) -> Iterator[tuple[str, Quantised]]:
    """Path and layer of all of them, in the order of the net's modules."""
    for path, module in net.named_modules():
        if isinstance(module, Quantised):
            yield path, module
