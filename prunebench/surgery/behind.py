"""What stands directly behind a layer: the norm that alone reads it, and the activation before any addition."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from prunebench.surgery import names
from prunebench.surgery.families import ACTIVATIONS, BORDERS, CONVOLUTIONS, COPIES, LINEAR, POOLS, TRANSPOSED
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.steps import (
    Add,
    Cat,
    Expanded,
    Extreme,
    Multiply,
    Opaque,
    Output,
    PerChannel,
    Piece,
    Reorder,
    Reshape,
    Shift,
    Size,
    Split,
    Step,
)
from prunebench.surgery.trace import Traced

SLOPE = 0.01  # torch's default for a leaky ReLU
UNKNOWN = "unknown"
"""In the place of an activation: something that is no function of a name, or several functions."""
_COPYING = names.COPIES - {"zeros_like"}
_MAXIMA = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
_LINEAR_STEPS = (Mix, Depthwise, Grouped, Output, Cat, Piece, Reorder, Expanded, Shift, PerChannel, Reshape, Split)
_LINEAR_MODULES = (
    *(kind for kinds in (*POOLS.values(), *BORDERS.values()) for kind in kinds),
    *(nn.Flatten, nn.Unflatten, nn.Upsample),
)
_LINEAR_FUNCTIONS = (
    names.POOLS
    | names.REDUCTIONS
    | names.RESHAPES
    | names.TURNS
    | names.SHIFTS
    | names.SPLITS
    | {"interpolate", "getitem", "pad"}
) - {"amax", "amin"}


class Behind:
    """Looks at the readers of steps.

    Args:
        traced: the net's operations.
        readers: of each step.
    """

    def __init__(self, traced: Traced, readers: Sequence[Sequence[Step]]) -> None:
        self._traced, self._readers = traced, readers
        self._nodes = list(traced.graph.nodes)

    def norm(self, step: Step) -> PerChannel | None:
        """The norm layer that alone reads the step."""
        readers = self._readers[step.index]
        return readers[0] if len(readers) == 1 and isinstance(readers[0], PerChannel) and readers[0].is_norm else None

    def activation(self, step: Step) -> tuple[str | None, float]:
        """What all that reads the step makes of it: a function's name, None (nothing, all is linear) or
        :data:`UNKNOWN`; and the slope of a leaky ReLU."""
        if step.module in self._traced.known.norms:  # a norm with parts may have an activation among them
            return UNKNOWN, SLOPE
        found = {self._of(reader) for reader in self._readers[step.index] if not isinstance(reader, Size)}
        return found.pop() if len(found) == 1 else (UNKNOWN if found else None, SLOPE)

    def _of(self, step: Step) -> tuple[str | None, float]:
        """The same of one reader. Copies are passed, and a maximum, which changes places with any rising function."""
        module = self._traced.net.get_submodule(step.module) if step.module else None
        node = self._nodes[step.index]
        name = names.name_of(node)
        if isinstance(module, ACTIVATIONS):
            return _snake(type(module).__name__), _number(vars(module).get("negative_slope"))
        if name in names.ACTIVATIONS:
            return name, _number(node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else None))
        if isinstance(module, (*COPIES, *_MAXIMA)) or name in _COPYING or name.startswith("max_pool"):
            return self.activation(step)
        adds = is_sum(step) and not isinstance(step, Extreme)
        linear = isinstance(step, _LINEAR_STEPS) or adds or reads_all(step, self._traced.net)
        known = linear or isinstance(module, _LINEAR_MODULES) or name in _LINEAR_FUNCTIONS
        return None if known else UNKNOWN, SLOPE


def reads_all(step: Step, net: nn.Module) -> bool:
    """A grouped or shared convolution reads all channels, but it is a layer all the same."""
    if not (isinstance(step, Opaque | Grouped) and step.module):
        return False
    return isinstance(net.get_submodule(step.module), (*CONVOLUTIONS, *TRANSPOSED, *LINEAR))


def _number(slope: object) -> float:
    return float(slope) if isinstance(slope, int | float) else SLOPE


def is_sum(step: Step) -> bool:
    """Whether a step adds tensors."""
    return isinstance(step, Add) and not isinstance(step, Multiply)


def _snake(name: str) -> str:
    """``LeakyReLU`` -> ``leaky_relu``, as the function is called."""
    special = {"LeakyReLU": "leaky_relu", "SiLU": "silu", "RReLU": "rrelu", "PReLU": "prelu"}
    return special.get(name, name.lower())
