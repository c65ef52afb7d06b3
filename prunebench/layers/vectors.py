"""All trainable parameters of a net as one vector, in the order of ``named_parameters``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trainable(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and tensor of each parameter with a gradient; one that is shared appears once."""
    return [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]


def to_vector(net: nn.Module) -> Tensor:
    """A copy of the trainable parameters, ``[d]``, each in its logical order whatever its memory format."""
    return torch.cat([parameter.detach().reshape(-1) for _, parameter in trainable(net)])


@torch.no_grad()
def write_vector(net: nn.Module, vector: Tensor) -> None:
    """Overwrite the trainable parameters of ``net`` with ``vector [d]``, in place."""
    for (_, parameter), values in zip(trainable(net), split(net, vector).values(), strict=True):
        parameter.copy_(values)


def split(net: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """Views of ``vector [d]`` with the name and the shape of each trainable parameter of ``net``."""
    parameters = trainable(net)
    sizes = [parameter.numel() for _, parameter in parameters]
    assert vector.numel() == sum(sizes), f"{vector.numel()} values for {sum(sizes)} parameters"
    parts = vector.split(sizes)
    return {name: part.view(parameter.shape) for (name, parameter), part in zip(parameters, parts, strict=True)}
