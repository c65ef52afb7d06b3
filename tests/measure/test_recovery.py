"""Nodes at work and inputs found, on a net by hand."""

from __future__ import annotations

import torch
from torch import nn

from prunebench.measure import recovery


@torch.no_grad()
def test_nodes_and_inputs() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    first, last = net[0], net[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    first.weight.copy_(torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [2.0, 0.1, 0.0]]))
    last.weight.copy_(torch.tensor([[1.0, 1.0, 0.0, -1.0]]))
    # node 1 reads nothing, nobody reads node 2; inputs 0 and 2 are the strongest of the others
    found = recovery.of(net, {"nodes": 1, "inputs": 2})
    assert found == {"nodes": 2, "nodes_per_layer": [2], "true_nodes": 1, "inputs_found": 0.5}
    assert recovery.of(net, {"inputs": 1})["inputs_found"] == 1.0
