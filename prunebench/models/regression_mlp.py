"""Perceptrons for regression: hidden layers with one activation, a mean for each target, and the size of the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveFloat, PositiveInt
from prunebench.models.activations import ACTIVATIONS, Activation


class RegressionMLP(nn.Module):
    """Hidden linear layers, each with an activation, and a linear output.

    Args:
        num_inputs, num_outputs: sizes of the first and the last layer.
        hidden: widths of the hidden layers.
        activation: a key of :data:`~prunebench.models.activations.ACTIVATIONS`.
        noise_std: deviation of the noise in the targets. ``learned``: whether it is a parameter that starts there.

    Attributes:
        log_noise_std: ln of it, a scalar; the regression task reads it.
    """

    log_noise_std: Tensor

    def __init__(
        self,
        *,
        num_inputs: int,
        num_outputs: int,
        hidden: Sequence[int],
        activation: str,
        noise_std: float,
        learned: bool,
    ) -> None:
        super().__init__()
        sizes = [num_inputs, *hidden]
        self.activation = ACTIVATIONS[activation]
        self.hidden = nn.ModuleList(nn.Linear(num_in, num_out) for num_in, num_out in zip(sizes, hidden, strict=False))
        self.out = nn.Linear(sizes[-1], num_outputs)
        self.first_log_std = math.log(noise_std)
        log_std = torch.tensor(self.first_log_std)
        if learned:
            self.log_noise_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_noise_std", log_std)

    def forward(self, x: Tensor) -> Tensor:
        """Rows ``[batch, inputs]`` to means ``[batch, outputs]``."""
        for layer in self.hidden:
            x = self.activation(layer(x))
        return cast(Tensor, self.out(x))

    def initialise(self, net: nn.Module) -> None:
        """The noise as at first; the linear layers as PyTorch does."""
        cast(Tensor, net.log_noise_std).data.fill_(self.first_log_std)


@validated
def regression_mlp(
    *,
    num_inputs: PositiveInt,
    num_outputs: PositiveInt,
    noise_std: PositiveFloat,
    target_std: PositiveFloat,
    hidden_units: PositiveInt = 20,
    hidden_layers: PositiveInt = 1,
    activation: Activation = "sigmoid",
    noise: Annotated[str, Among(("known", "learned"))] = "known",
) -> RegressionMLP:
    """A perceptron for rows of numbers, for example 2-20-1: 81 parameters, 60 MACs.

    Args:
        num_inputs, num_outputs, noise_std, target_std: of the data set.
        hidden_units, hidden_layers: width and number of the hidden layers.
        noise: "known" = the data set's ``noise_std``, "learned" = a parameter that starts at ``target_std``.

    Raises:
        UserError: a value is out of range.
    """
    learned = noise == "learned"
    return RegressionMLP(
        num_inputs=num_inputs,
        num_outputs=num_outputs,
        hidden=(hidden_units,) * hidden_layers,
        activation=activation,
        noise_std=target_std if learned else noise_std,
        learned=learned,
    )
