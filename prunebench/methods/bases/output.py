"""The output of a layer that is rebuilt: with the batch norm behind it, and beside the shortcut it is added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunebench.methods.bases.reconstruction import Reader
from prunebench.methods.bases.walk import Take
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.steps import Add, Multiply, PerChannel, Step


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a layer gives: ``scale * layer + offset`` with the batch norm that reads it alone, or itself.

    Attributes:
        reader: the layer.
        norm: path of the batch norm; None without one (or with one that has no learned scale).
        has_bias: of the layer.
        sum: the addition that reads the output, and ``shortcut``: the other operation that it adds; None without one.
        places: positions of samples, ``[pictures, places]``.
    """

    reader: Reader
    norm: str | None
    has_bias: bool
    sum: int | None
    shortcut: int | None
    places: Tensor

    @classmethod
    def of(cls, graph: ChannelGraph, net: nn.Module, reader: Reader, places: Tensor) -> Output:
        """The output of ``reader`` in ``net``."""
        readers: dict[int, list[Step]] = {}
        for step in graph.steps:
            for source in step.inputs:
                readers.setdefault(source, []).append(step)
        last, norm = graph.steps[reader.step], None
        after = _only(readers, last)
        if isinstance(after, PerChannel) and _restorable(net.get_submodule(after.module)):
            last, norm = after, after.module
            after = _only(readers, last)
        total: int | None = None
        shortcut: int | None = None
        if after is not None and _adds(graph, after):
            total = after.index
            (shortcut,) = (source for source in after.inputs if source != last.index)
        has_bias = net.get_submodule(reader.name).bias is not None
        return cls(reader=reader, norm=norm, has_bias=has_bias, sum=total, shortcut=shortcut, places=places)

    @property
    def takes_shift(self) -> bool:
        """Whether a constant can be added to it."""
        return self.norm is not None or self.has_bias

    def before(self, *, corrected: bool) -> tuple[int, Take]:
        """What is to be rebuilt, in the net before the cut: the sum with the shortcut, or the layer's own output."""
        index = self.sum if corrected and self.sum is not None else self.reader.step
        return index, self.reader.outputs(self.places)

    def now(self, *, corrected: bool) -> dict[str, tuple[int, Take]]:
        """What rebuilds it, in the net as it is now: what the layer reads, and the shortcut beside it."""
        wanted = {"windows": (self.reader.source, self.reader.windows(self.places))}
        if corrected and self.shortcut is not None:
            wanted["shortcut"] = (self.shortcut, self.reader.outputs(self.places))
        return wanted

    def weight(self, net: nn.Module) -> Tensor:
        """Of the layer and its norm in one: ``[outputs, width, taps]``."""
        scale, _, _ = self._folded(net)
        return scale[:, None, None] * self.reader.weight(net)

    def targets(self, net: nn.Module, before: Tensor, shortcut: Tensor | None) -> Tensor:
        """What the new weights alone are to give, ``[samples, outputs]``: the output without its offset.

        Args:
            net: as it is now; this layer and its norm are still those from before the cut.
            before: samples as :meth:`before` says; ``shortcut``: as :meth:`now` does.
        """
        scale, offset, bias = self._folded(net)
        return scale * (before - bias) if shortcut is None else before - shortcut - offset

    def rebuild(self, net: nn.Module, kept: Sequence[int], weight: Tensor, shift: Tensor, windows: Tensor) -> None:
        """Write new weights into ``net``, so that layer and norm give ``windows @ weight.T + shift + offset``.

        The norm's statistics become those of the new outputs, so that training goes on from the same function; its
        filters keep their norms, of which a batch norm takes no notice but the learning rate does.

        Args:
            kept: channels that are read; the weights on the others become 0.
            weight: ``[outputs, kept * taps]``; ``shift``: ``[outputs]``.
            windows: samples of what is read, ``[samples, kept * taps]``.
        """
        old = self.reader.weight(net)
        weight, shift = weight.to(old.device), shift.to(old.device)
        _, offset, bias = self._folded(net)
        size, new_size = (w.flatten(1).double().norm(dim=1) for w in (old, weight))
        stretch = torch.where((size > 0) & (new_size > 0), size / new_size, 1.0) if self.norm else torch.ones_like(size)
        new = torch.zeros_like(old)
        new[:, kept] = (stretch[:, None] * weight).reshape(len(old), len(kept), self.reader.taps).to(old)
        self.reader.set_weight(net, new)
        if self.norm is None:
            if self.has_bias:
                net.get_parameter(f"{self.reader.name}.bias").data += shift.to(old)
            return
        norm = net.get_submodule(self.norm)
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        outputs = windows.double() @ weight.T
        mean, variance = outputs.mean(dim=0), stretch**2 * outputs.var(dim=0)
        norm.running_mean.copy_(stretch * mean + bias)
        norm.running_var.copy_(variance)
        norm.weight.data.copy_((variance + norm.eps).sqrt() / stretch)
        norm.bias.data.copy_(offset + shift + mean)

    def tensors(self, net: nn.Module) -> dict[str, Tensor]:
        """Everything in ``net``'s state that :meth:`rebuild` changes, on the CPU."""
        owners = [f"{name}." for name in (self.reader.name, self.norm) if name is not None]
        state = net.state_dict()
        names = [name for name in state if any(name.startswith(owner) for owner in owners)]
        return {name: state[name].detach().cpu().clone() for name in names}

    def _folded(self, net: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Scale and offset of each output, and the layer's bias, ``[outputs]``."""
        bias = self.reader.bias(net)
        if self.norm is None:
            return torch.ones_like(bias), bias, bias
        norm = net.get_submodule(self.norm)
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        return scale, norm.bias.detach() + scale * (bias - norm.running_mean), bias


def _only(readers: Mapping[int, Sequence[Step]], step: Step) -> Step | None:
    found = readers.get(step.index, ())
    return found[0] if len(found) == 1 else None


def _restorable(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats


def _adds(graph: ChannelGraph, step: Step) -> bool:
    """Whether ``step`` adds two tensors of one shape, neither of them stretched."""
    if not isinstance(step, Add) or isinstance(step, Multiply) or len(set(step.inputs)) != 2:
        return False
    shapes = {tuple(graph.traced.values[graph.nodes[index]].shape) for index in (*step.inputs, step.index)}
    return len(shapes) == 1
