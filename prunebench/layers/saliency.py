"""Saliency and keep-or-skip decisions for the channels of a layer, from each sample's input.

Chen, Zhu, Li, Zhao: Self-Adaptive Network Pruning, ICONIP 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, OpenFraction, PositiveInt

Binarize = Annotated[str, Among(("straight_through", "semhash"))]
WEIGHT_STD, BIAS = 0.01, 1.0  # all channels start switched on: sigmoid(1) = 0.731


@validated
class SaliencyPruning(nn.Module):
    """Global average pooling, a fully connected layer (or two), a sigmoid, and a decision per channel and sample.

    ``straight_through``: the decision is ``s >= threshold``, its gradient that of ``s``. ``semhash`` (Kaiser and Bengio
    2018) differs in training only: Gaussian noise is added to the logits of the decision, a random half of the samples
    takes the relaxed value ``clip(1.2 sigmoid(a) - 0.1, 0, 1)`` instead of 0 or 1, and all get its gradient.

    Everything here is computed in float32, whatever the precision of the net, so that a decision does not depend on it.

    Args:
        in_channels, out_channels: of the layer whose outputs are decided on.
        hidden: width of a hidden layer with a ReLU (the form of SENet); None = a single linear layer.
        threshold: saliency from which on a channel is kept, in (0, 1).
        binarize: "straight_through" or "semhash".
        may_be_empty: a sample may switch off all channels; else the one of largest saliency stays.

    Raises:
        UserError: an option outside its values.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        hidden: PositiveInt | None = None,
        threshold: OpenFraction = 0.5,
        binarize: Binarize = "straight_through",
        may_be_empty: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.threshold = threshold
        self.binarize = binarize
        self.may_be_empty = may_be_empty
        self.squeeze = None if hidden is None else nn.Linear(in_channels, hidden)
        self.excite = nn.Linear(in_channels if hidden is None else hidden, out_channels)
        nn.init.normal_(self.excite.weight, std=WEIGHT_STD)
        nn.init.constant_(self.excite.bias, BIAS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input map ``[batch, in, height, width]`` to saliencies and decisions, both ``[batch, out]``, float32."""
        return self.decide(x.mean((2, 3), dtype=torch.float32))

    def decide(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the pooled input ``[batch, in]``."""
        if not torch.is_autocast_enabled(pooled.device.type):  # entering the context costs more than all the rest
            return self._decide(pooled)
        with torch.autocast(pooled.device.type, enabled=False):
            return self._decide(pooled)

    def _decide(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        if self.squeeze is not None:
            pooled = F.relu(self.squeeze(pooled))
        logits = self.excite(pooled)
        saliency = torch.sigmoid(logits)
        return saliency, self._decisions(logits, saliency)

    def _decisions(self, logits: Tensor, saliency: Tensor) -> Tensor:
        kept = (saliency.detach() >= self.threshold).to(saliency.dtype)
        relaxed = saliency
        if self.training and self.binarize == "semhash":
            noisy = logits + torch.randn_like(logits)
            relaxed = (1.2 * torch.sigmoid(noisy) - 0.1).clamp(0.0, 1.0)
            hard = (noisy.detach() >= torch.logit(torch.tensor(self.threshold))).to(saliency.dtype)
            soft_half = torch.rand(len(logits), 1, device=logits.device) < 0.5
            kept = torch.where(soft_half, relaxed.detach(), hard)
        if not self.may_be_empty:
            best = F.one_hot(saliency.argmax(1), saliency.shape[1]).to(kept.dtype)
            kept = torch.where(kept.any(1, keepdim=True), kept, best)
        return straight_through(kept, relaxed) if self.training else kept


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value`` exactly (``value + s - s`` would round it), with the gradient of ``surrogate``."""
    out: Tensor = _StraightThrough.apply(value, surrogate)  # type: ignore[no-untyped-call]
    return out


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor]:
        return None, grads[0]


@contextmanager
def recorded_decisions(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Decisions ``[batch, channels]`` of the forward passes inside, by the path of the layer that holds the module.

    A later pass overwrites an earlier one. Gradients flow through them.
    """
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            found[path] = output[1]

        return hook

    gates = [(path, module) for path, module in net.named_modules() if isinstance(module, SaliencyPruning)]
    handles = [module.register_forward_hook(keep(path.rpartition(".")[0])) for path, module in gates]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
