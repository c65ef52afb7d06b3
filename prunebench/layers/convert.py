"""From the layers of a net to layers of components, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from torch import nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt
from prunebench.layers.components import Components, Factorised, preserving_rank
from prunebench.layers.factorised import FactorisedLinear
from prunebench.layers.factorised_conv import FactorisedConv2d
from prunebench.layers.gated import Gated
from prunebench.layers.own_weight import has_own_weight
from prunebench.layers.selected import InputLinear

FactorInit = Annotated[str, Among(("svd", "random"))]
FactorRank = Annotated[str, Among(("preserve", "full"))] | PositiveInt


def is_factored(module: nn.Module) -> bool:
    """Two linear layers in a row with nothing between them: a model's own way to write a factorised one."""
    if not (isinstance(module, nn.Sequential) and len(module) == 2):
        return False
    first, second = module[0], module[1]
    return isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and first.bias is None


def is_matrix(module: nn.Module) -> bool:
    """A linear layer or a convolution without groups that pads with zeros: its weight is one matrix."""
    if not has_own_weight(module):
        return False
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def candidates(net: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer of ``net`` that can be turned into components; factored pairs count as one."""
    found: dict[str, nn.Module] = {}
    for path, module in net.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if path and not inside and (is_factored(module) or is_matrix(module) or isinstance(module, Components)):
            found[path] = module
    return found


@validated
def factorise(module: nn.Module, *, rank: FactorRank, init: FactorInit) -> Factorised:
    """``module`` as two factors.

    Args:
        module: a linear layer, a convolution, or a factored pair, which keeps its rank and its weights.
        rank: ``preserve`` = as many parameters as before, ``full`` = min(in, out), or a number, at most min(in, out).
        init: ``svd`` = the nearest matrix of that rank to the present one, ``random`` = new weights.

    Raises:
        UserError: an option is outside its values.
    """
    if isinstance(module, Factorised):
        return module
    if is_factored(module):
        assert isinstance(module, nn.Sequential)
        first, second = module[0], module[1]
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        pair = FactorisedLinear(
            in_features=first.in_features,
            out_features=second.out_features,
            rank=first.out_features,
            bias=second.bias is not None,
        )
        pair.load_factors(first.weight, second.weight, second.bias)
        return pair
    assert isinstance(module, nn.Linear | nn.Conv2d)
    outputs, inputs = module.weight.flatten(1).shape
    made = _empty(module, _rank(rank, inputs, outputs))
    if init == "svd":
        made.load_matrix(module.weight, module.bias)
    return made


def _rank(rank: int | str, inputs: int, outputs: int) -> int:
    if isinstance(rank, int):
        return min(rank, inputs, outputs)
    return preserving_rank(inputs, outputs) if rank == "preserve" else min(inputs, outputs)


def _empty(module: nn.Linear | nn.Conv2d, rank: int) -> Factorised:
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return FactorisedLinear(in_features=module.in_features, out_features=module.out_features, rank=rank, bias=bias)
    return FactorisedConv2d(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        rank=rank,
        bias=bias,
    )


def by_input(module: nn.Linear) -> InputLinear:
    """The same layer with the same weights, to be gated by input feature."""
    made = InputLinear(in_features=module.in_features, out_features=module.out_features, bias=module.bias is not None)
    made.load_state_dict(module.state_dict())
    return made


def gated_layers(net: nn.Module) -> Iterator[tuple[str, Gated]]:
    """Path and layer of each gated layer of ``net``."""
    for path, module in net.named_modules():
        if isinstance(module, Gated):
            yield path, module
