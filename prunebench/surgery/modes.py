"""What may differ between the lists of operations of training and of evaluation: dropout, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from prunebench.surgery.places import owner, where
from prunebench.surgery.tracer import CannotFollow

# Functions that get the net's training flag as an argument: symbolic tracing writes its present value down.
DROPOUTS: dict[Any, Callable[..., nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
}

DROPPED = "dropped in training"
"""Key of a node's ``meta``: the share of the weights that attention drops."""


def check_modes(training: fx.Graph, evaluation: fx.Graph) -> None:
    """The shrunk net has one graph for both modes, so the mode may only switch modules and dropout functions.

    Raises:
        CannotFollow: names file and line.
    """
    for one, other in zip(training.nodes, evaluation.nodes, strict=False):
        same = (one.op, one.name) == (other.op, other.name)
        if not same or (_arguments(one) != _arguments(other) and not _only_drops(one, other)):
            longer, shorter = (one, other) if len(training.nodes) > len(evaluation.nodes) else (other, one)
            raise CannotFollow(
                f"the forward pass depends on self.training{where(longer) or where(shorter)}",
                max(owner(one), owner(other), key=lambda path: path.count(".") + bool(path)),
                advice="put what differs into a module such as nn.Dropout",
            )
    assert len(training.nodes) == len(evaluation.nodes), "the output is the last node, so one list cannot be longer"


def switched_dropouts(training: fx.Graph, evaluation: fx.Graph) -> frozenset[fx.Node]:
    """The dropout functions of the second graph that follow the net's mode; attention notes what it drops."""
    pairs = [(a, b) for a, b in zip(training.nodes, evaluation.nodes, strict=True) if _arguments(a) != _arguments(b)]
    for one, other in pairs:
        if one.target is F.scaled_dot_product_attention:
            other.meta[DROPPED] = attention_arguments(one).get("dropout_p", 0.0)
    return frozenset(other for _, other in pairs)


def attention_arguments(node: fx.Node) -> dict[str, Any]:
    """What ``F.scaled_dot_product_attention`` is called with, by name."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _only_drops(training: fx.Node, evaluation: fx.Node) -> bool:
    """Whether two calls differ in their dropout alone."""
    if training.target is not F.scaled_dot_product_attention:
        return training.target in DROPOUTS
    one, other = ({**attention_arguments(node), "dropout_p": None} for node in (training, evaluation))
    return str(one) == str(other) and attention_arguments(evaluation).get("dropout_p", 0.0) == 0


def _arguments(node: fx.Node) -> str:
    return str((node.args, node.kwargs))
