"""First-order Taylor scores: how much the loss would change, squared, without a channel (Molchanov et al. 2019)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.config.arguments import validated
from prunebench.config.ranges import Among, PositiveInt
from prunebench.criteria.scorers import Criterion, Evidence, Subject
from prunebench.errors import UserError
from prunebench.surgery.graph import Layer

Batch: TypeAlias = tuple[Tensor, Tensor]
Loss: TypeAlias = Callable[[nn.Module, Batch], Tensor]
_AS_THEY_ARE: Mapping[str, Callable[[Tensor], Tensor]] = {}
VARIANTS = ("gate", "per_example", "filter", "weight", "norm")


def from_gradients(gradients: Tensor) -> Tensor:
    """Mean of the squares over the rows: ``[mini-batches or examples, channels] -> [channels]`` (equation 8)."""
    return gradients.double().square().mean(0)


def gate_gradients(net: nn.Module, gated: Mapping[str, nn.Module], batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """Name -> dL/dgate of each example, ``[batch, channels]``; L is the mean over the batch, so they sum to its own.

    A gate of value 1 multiplies each channel of each example behind a module. Its gradient is dL/dz . z summed over
    positions, and it survives in-place operations on z.

    Args:
        gated: modules of ``net`` by the name that each is to have.

    Raises:
        UserError: the forward pass does not call one of them as a module.
    """
    gates: dict[str, Tensor] = {}

    def gate(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        channels = -1 if isinstance(module, nn.Linear | nn.LayerNorm) else 1
        shape = [len(output)] + [1] * (output.ndim - 1)
        shape[channels] = output.shape[channels]
        gates[name] = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        return output * gates[name]

    hooks = [module.register_forward_hook(partial(gate, name)) for name, module in gated.items()]
    try:
        value = loss(net, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name in gated:
        if name not in gates:
            raise UserError(f"the forward pass never calls {name} or its norm as a module, so it can have no gate")
    found = torch.autograd.grad(value, list(gates.values()), allow_unused=True, materialize_grads=True)
    return {name: gradient.flatten(1) for name, gradient in zip(gates, found, strict=True)}


def parameter_gradients(
    net: nn.Module,
    names: Mapping[str, Sequence[str]],
    batch: Batch,
    loss: Loss,
    *,
    squared: bool,
    by_outputs: Mapping[str, Callable[[Tensor], Tensor]] = _AS_THEY_ARE,
) -> dict[str, Tensor]:
    """Name -> sum of g w, or of (g w)^2, over what belongs to each channel: ``[1, channels]``.

    Over scale and shift of a norm, sum of g w is the gradient of a gate behind it: z = gamma x + beta, so that
    gamma dL/dgamma + beta dL/dbeta = dL/dz . z. The same holds for weight and bias of a layer and a gate behind that.

    Args:
        names: of parameters whose first dimension are the channels; their gradients alone are computed.
        by_outputs: for those of them that are stored otherwise, how they come into that form.
    """
    paths = [path for parameters in names.values() for path in parameters]
    wanted = [net.get_parameter(path) for path in paths]
    for parameter in wanted:
        parameter.requires_grad_(True)
    found = torch.autograd.grad(loss(net, batch), wanted, allow_unused=True, materialize_grads=True)
    owned = [parameter.detach() * gradient for parameter, gradient in zip(wanted, found, strict=True)]
    by_channel = [by_outputs[path](x) if path in by_outputs else x for path, x in zip(paths, owned, strict=True)]
    products = iter([product.reshape(len(product), -1) for product in by_channel])
    rows = {}
    for name, parameters in names.items():
        parts = [next(products) for _ in parameters]
        rows[name] = torch.stack([(part.square() if squared else part).sum(1) for part in parts]).sum(0, keepdim=True)
    return rows


def in_batches(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same examples in their order, ``size`` in each batch but the last."""
    held: Batch | None = None
    for batch in batches:
        held = batch if held is None else (torch.cat([held[0], batch[0]]), torch.cat([held[1], batch[1]]))
        while len(held[0]) >= size:
            yield held[0][:size], held[1][:size]
            held = held[0][size:], held[1][size:]
    if held is not None and len(held[0]):
        yield held


@validated
class Taylor(Criterion):
    """Squared first-order change of the loss without a channel, from training samples.

    What the official code (NVlabs/Taylor_pruning) adds up while it trains is averaged here over ``num_samples``
    training samples before a cut; ``schedule=iterative`` scores anew in each round. Layers that share their channels
    (``coupling=aligned``) have one gate: their gradients are added before the square, which is divided by their number
    (pruning_engine.py:271-283).

    Args:
        variant: "gate", the square of each mini-batch's gradient of a gate behind the norm (method 22, the paper's
            best); "per_example", of each example's (method 23); "filter", of the sum of g w over the filter (equation
            8); "weight", the sum of (g w)^2 over the filter (method 0); "norm", of gamma dgamma + beta dbeta (method
            31).
        num_samples: training samples.
        batch_size: of a mini-batch; a larger one cancels more of the gradients' noise before the square.
        statistics: of batch norms: "running", as in evaluation, or "batch", as in training; dropout is off.
    """

    of_group = True

    def __init__(
        self,
        *,
        variant: Annotated[str, Among(VARIANTS)] = "gate",
        num_samples: PositiveInt = 1024,
        batch_size: PositiveInt = 128,
        statistics: Annotated[str, Among(("running", "batch"))] = "running",
    ) -> None:
        self.variant = variant
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.statistics = statistics
        self.rows: Mapping[str, Tensor] = {}

    def refuses(self, layer: Layer) -> str | None:
        if self.variant == "norm" and layer.norm is None:
            return "no norm layer follows"
        if self.variant in ("gate", "norm") and layer.norm is not None and not layer.norm_learns:
            return (
                "the norm layer that follows has no learned scale and shift to take a gradient of "
                "(method.criterion.variant=per_example needs none)"
            )
        return None

    def prepare(self, net: nn.Module, evidence: Evidence) -> Criterion:
        net = copy.deepcopy(net).eval().requires_grad_(False).to(evidence.device)
        if self.statistics == "batch":
            for module in net.modules():
                module.train(isinstance(module, _BatchNorm))
        layers = [layer for layer in evidence.graph.layers.values() if _has_gate(layer) and not self.refuses(layer)]
        rows: dict[str, list[Tensor]] = {}
        for batch in in_batches(evidence.samples("taylor", self.num_samples), self.batch_size):
            for name, row in self._rows_of(net, layers, batch, evidence.loss).items():
                rows.setdefault(name, []).append(row.detach().cpu().double())
        ready = copy.copy(self)
        ready.rows = {name: torch.cat(parts) for name, parts in rows.items()}
        return ready

    def __call__(self, subject: Subject) -> Tensor:
        members = [self.rows[name] for name in subject.group if name in self.rows]
        together = torch.stack(members).sum(0)
        scores = together.mean(0) if self.variant == "weight" else from_gradients(together)
        return scores / len(members)

    def _rows_of(self, net: nn.Module, layers: Sequence[Layer], batch: Batch, loss: Loss) -> dict[str, Tensor]:
        """Layer -> rows of a mini-batch, one, or one for each example: ``[rows, channels]``."""
        if self.variant == "per_example":
            gated = {layer.name: net.get_submodule(layer.norm or layer.name) for layer in layers}
            return {name: row * len(row) for name, row in gate_gradients(net, gated, batch, loss).items()}
        known = dict(net.named_parameters())
        names = {layer.name: _existing(self._owned(layer), known) for layer in layers}
        turned = {f"{layer.name}.weight": layer.by_outputs for layer in layers if layer.kind == "transposed"}
        return parameter_gradients(net, names, batch, loss, squared=self.variant == "weight", by_outputs=turned)

    def _owned(self, layer: Layer) -> list[str]:
        """The parameters whose gradients count."""
        if self.variant in ("filter", "weight"):
            return [f"{layer.name}.weight"]
        place = layer.norm or layer.name
        return [f"{place}.weight", f"{place}.bias"]


def _has_gate(layer: Layer) -> bool:
    """Depthwise convolutions have the channels that they read, and those of the output stay."""
    return layer.kind != "depthwise" and not layer.is_output


def _existing(names: Sequence[str], known: Collection[str]) -> list[str]:
    if names[0] not in known:
        raise UserError(f"there is no {names[0]} to take a gradient of; use method.criterion.variant=per_example")
    return [name for name in names if name in known]
