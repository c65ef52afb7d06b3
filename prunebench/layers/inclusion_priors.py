"""Prior probabilities that a node or a weight is part of a net, from its sizes and the number of training samples.

Jantre, Bhattacharya, Maiti 2023 as their code has it (jsanket12/SS_IG, SS_Gaussian_Node_MLP.py:167-178) for nodes, and
their edge baseline after Bai et al. 2020 for single weights. Natural logarithms throughout; the probabilities
themselves may be too small for a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SCALE = 1e-9
"""C_l, which keeps the exponent of the theory small enough to be of use."""


def node_log_priors(inputs: Sequence[int], outputs: Sequence[int], num_train: int) -> list[float]:
    """ln lambda of each hidden layer: lambda_l = exp(-C (k_l + 1) theta_l) / k_(l+1).

    With L hidden layers, B_m = k_m + 1, and the sum and u over all L + 1 layers::

        u_m = (L + 1)^2 (ln n + ln(L + 1) + ln B_m + ln k_(m+1))
        theta_l = B_l^2 + sum_(m != l) ln B_m + L + ln k_(l+1) + ln B_l + ln n + ln sum_m u_m

    Args:
        inputs: k_l, the weights of a node without its bias, for each layer up to the output layer.
        outputs: k_(l+1), the nodes of each of these layers.
        num_train: n.

    Returns:
        One value a layer but the last one.
    """
    assert len(inputs) == len(outputs) and num_train > 0
    hidden = len(inputs) - 1
    log_n = math.log(num_train)
    total = sum(
        (hidden + 1) ** 2 * (log_n + math.log(hidden + 1) + math.log(fan_in + 1) + math.log(fan_out))
        for fan_in, fan_out in zip(inputs, outputs, strict=True)
    )
    logs = [math.log(fan_in + 1) for fan_in in inputs]
    found = []
    for place in range(hidden):
        bound, width = inputs[place] + 1, outputs[place]
        # the others' logarithms and the layer's own make the sum over all
        theta = bound**2 + sum(logs) + hidden + math.log(width) + log_n + math.log(total)
        found.append(-math.log(width) - SCALE * bound * theta)
    return found


def edge_log_prior(inputs: Sequence[int], outputs: Sequence[int], num_train: int) -> float:
    """ln lambda of every weight: -(ln T + 0.1 ((L + 1) ln w + ln(sqrt(n) p))).

    T parameters in all, w the widest hidden layer, p inputs of the net, L layers with weights.

    Args:
        inputs, outputs: of each layer, up to the output layer. ``num_train``: n.
    """
    parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in zip(inputs, outputs, strict=True))
    widest = max(outputs[:-1], default=outputs[-1])
    layers = len(inputs)
    exponent = (layers + 1) * math.log(widest) + math.log(math.sqrt(num_train) * inputs[0])
    return -(math.log(parameters) + 0.1 * exponent)
