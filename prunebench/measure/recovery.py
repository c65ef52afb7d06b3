"""What a net has found of the known function behind made-up data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.layers.gaussian_weights import GaussianWeights


@torch.no_grad()
def of(net: nn.Module, truth: Mapping[str, int]) -> dict[str, Any]:
    """Nodes and inputs of a perceptron beside the ``truth`` (see ``Data.truth``).

    Args:
        net: linear layers one after the other.

    Returns:
        ``nodes``: hidden nodes at work, those with a weight into them and one out of them that is not 0;
        ``nodes_per_layer``; with a known net ``true_nodes``; with meaningful inputs ``inputs_found``: their share among
        as many inputs with the largest weights (root of the sum of squares) into nodes at work of the first layer.
    """
    weights = [_weight(layer) for layer in net.modules() if isinstance(layer, nn.Linear)]
    at_work = [(into != 0).any(1) & (out != 0).any(0) for into, out in pairwise(weights) if len(into) == out.shape[1]]
    found: dict[str, Any] = {
        "nodes": sum(int(nodes.sum()) for nodes in at_work),
        "nodes_per_layer": [int(nodes.sum()) for nodes in at_work],
    }
    if "nodes" in truth:
        found["true_nodes"] = truth["nodes"]
    if "inputs" in truth and at_work:
        strength = weights[0][at_work[0]].square().sum(0)
        strongest = strength.argsort(descending=True, stable=True)[: truth["inputs"]]
        found["inputs_found"] = float(((strongest < truth["inputs"]) & (strength[strongest] > 0)).double().mean())
    return found


def _weight(layer: nn.Module) -> Tensor:
    return layer.posterior()[0] if isinstance(layer, GaussianWeights) else layer.get_parameter("weight")
