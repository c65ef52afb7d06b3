"""MACs, parameters and file size of a net, all read off the net itself: never a formula with pruning rates.

MACs are multiply-accumulates of conv, linear and matmul for ONE sample. Norm layers, activations, biases,
scalings, scatters and pooling are free; their parameters are listed with zero MACs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.counter import ROOT, Call, Counter, plain_attention


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of one sample.

    Attributes:
        macs: multiply-accumulates of conv, linear and matmul.
        params: parameters, shared ones counted once; buffers are none.
        nonzero_params: those of them that are not exactly 0.
        per_layer: a dict per layer that has parameters or MACs, in the order of execution: ``layer``,
            ``kind`` (conv, depthwise, grouped, linear, matmul, norm, embedding, other), ``macs``,
            ``params``, ``nonzero_params``, ``in_channels`` and ``out_channels`` (None without MACs),
            ``output_shape`` (without the batch; None if the layer was not called). The rows add up to
            the totals.
    """

    macs: int
    params: int
    nonzero_params: int
    per_layer: list[dict[str, Any]]

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 x MACs."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """All counts as plain JSON data."""
        return {
            "macs": self.macs,
            "flops": self.flops,
            "params": self.params,
            "nonzero_params": self.nonzero_params,
            "per_layer": [dict(row) for row in self.per_layer],
        }


def count(net: nn.Module, example: Tensor, *, samples: int = 1) -> Cost:
    """Cost of one sample, from a run of the first entry of ``example`` [B, ...] through a copy of ``net`` in eval mode.

    Args:
        net: any net; it is left as it is.
        example: inputs; only the first entry is used.
        samples: how many samples one entry holds (the symbols of a text window); MACs are shared among them.

    Raises:
        UserError: the example is empty, or a layer runs an operation whose MACs are not known (``nn.LSTM``).
    """
    if example.ndim == 0 or len(example) == 0:
        raise UserError(f"cost: the example needs at least one sample, got shape {list(example.shape)}")
    net = copy.deepcopy(net).eval()
    first = next(net.parameters(), None)
    sample = example[:1].detach().to(example.device if first is None else first.device)
    counter = Counter(net, sample)
    # a forward may draw random numbers (Gaussian weights): the caller's stream must not move
    with torch.random.fork_rng([sample.device] if sample.is_cuda else []), torch.no_grad(), plain_attention(), counter:
        net(sample)
    rows = _rows(net, counter.calls, samples)
    return Cost(
        macs=sum(row["macs"] for row in rows),
        params=sum(row["params"] for row in rows),
        nonzero_params=sum(row["nonzero_params"] for row in rows),
        per_layer=rows,
    )


def training_macs(net: nn.Module, counted: Cost) -> int:
    """Multiply-accumulates of a forward and a backward pass of one sample, the usual estimate.

    Once for the output, once for the gradient of the input, once for that of the weights, unless they are frozen.

    Args:
        net: says which weights are frozen.
        counted: the cost of ``net``.
    """
    modules = {name or ROOT: module for name, module in net.named_modules()}
    total = 0
    for row in counted.per_layer:
        own = list(modules[row["layer"]].parameters(recurse=False))
        frozen = bool(own) and not any(p.requires_grad for p in own)
        total += row["macs"] * (2 if frozen else 3)
    return total


def _rows(net: nn.Module, calls: Mapping[str, Call], samples: int) -> list[dict[str, Any]]:
    """Layers with parameters or MACs: those that were called in their order, then the others."""
    modules = {name or ROOT: module for name, module in net.named_modules()}
    rows: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name in dict.fromkeys([*calls, *modules]):
        own = [p for p in modules[name].parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        call = calls.get(name, Call())
        kind = call.kind or next((word for word in ("norm", "embedding") if word in call.words), "other")
        if own or call.macs:
            rows.append(
                {
                    "layer": name,
                    "kind": kind,
                    "macs": round(call.macs / samples),
                    "params": sum(p.numel() for p in own),
                    "nonzero_params": sum(int(torch.count_nonzero(p)) for p in own),
                    "in_channels": call.channels[0],
                    "out_channels": call.channels[1],
                    "output_shape": call.output_shape,
                }
            )
    return rows
