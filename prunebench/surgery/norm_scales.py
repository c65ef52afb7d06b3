"""The scales of norm layers as switches of channels: which channels a scale of 0 makes dead, and how they are cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.plan import Indices, Plan
from prunebench.surgery.steps import PerChannel, Source, Step, Through


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A norm layer whose scale and shift of 0 leave a channel without effect.

    Either a layer writes for the norm alone: then its output channels go, and the norm's with them. Or the norm reads
    a stream, a sum or a concatenation that others read too: then the layers behind the norm stop reading the channel
    (channel selection), and the stream and the norm keep their width.

    Attributes:
        norm: path of the norm layer.
        width: number of its channels.
        layer: the layer whose output channels go; None if inputs are selected.
        readers: ``{layer: input features a channel has in it}``, the layers that select inputs; empty otherwise.
        is_image: its channels have more than one position (they come from a convolution), not single features.
    """

    norm: str
    width: int
    layer: str | None
    readers: Mapping[str, int]
    is_image: bool

    @property
    def name(self) -> str:
        """What a message calls it: the layer that is cut, or the norm that selects."""
        return self.layer or self.norm

    def cut(self, plan: Plan, kept: Indices) -> Plan:
        """``plan`` with ``kept`` as the only channels of this norm that have an effect."""
        if self.layer is not None:
            return Plan(keep={**plan.keep, self.layer: kept}, inputs=plan.inputs)
        selected = {name: features(kept, span) for name, span in self.readers.items()}
        return Plan(keep=plan.keep, inputs={**plan.inputs, **selected})

    def kept(self, plan: Plan) -> Indices:
        """The channels that ``plan`` leaves."""
        whole = tuple(range(self.width))
        if self.layer is not None:
            return plan.keep.get(self.layer, whole)
        name, span = next(iter(self.readers.items()))
        inputs = plan.inputs.get(name)
        return whole if inputs is None else tuple(dict.fromkeys(feature // span for feature in inputs))


def features(channels: Collection[int], span: int) -> Indices:
    """The ``span`` consecutive input features of each channel (height x width behind a flatten)."""
    return tuple(channel * span + offset for channel in channels for offset in range(span))


def norm_scales(graph: ChannelGraph) -> tuple[dict[str, Scale], dict[str, str]]:
    """The norm layers whose scales can switch channels off, in the order of execution, and the others with the reason.

    A layer whose channels meet an addition keeps them: channels of a stream go by selection only. Each can be cut
    alone; see :meth:`prunebench.surgery.graph.ChannelGraph.must_stay` for all of them together. A reason speaks of the
    layer that the norm follows, if it is the only one.
    """
    written = {layer.norm: layer for layer in graph.layers.values() if layer.norm is not None}
    found: dict[str, Scale] = {}
    refused: dict[str, str] = {}
    for step in graph.steps:
        if not (isinstance(step, PerChannel) and step.is_norm):
            continue
        is_image = graph.traced.values[graph.nodes[step.index]].dim() > 2
        layer = written.get(step.module)
        if step.num_each == 0:
            refused[step.module] = "it has no learned scale and shift"
        elif layer is not None and layer.meets_addition:
            refused[step.module] = "its channels meet an addition, where other layers write them too"
        elif layer is not None:
            reason = graph.why_not(layer.name)
            if reason is not None:
                refused[step.module] = reason
                continue
            found[step.module] = Scale(
                norm=step.module, width=layer.out_channels, layer=layer.name, readers={}, is_image=is_image
            )
        else:
            readers = _readers(graph, step)
            if readers is None or step.span != 1:
                refused[step.module] = "something else than convolutions and linear layers reads its channels"
                continue
            found[step.module] = Scale(
                norm=step.module, width=step.width, layer=None, readers=readers, is_image=is_image
            )
    return found, refused


def without_scale(graph: ChannelGraph, scales: Collection[str]) -> list[str]:
    """The hidden layers without a norm of their own of whose channels none of the norms ``scales`` selects any."""
    hidden = {name: layer for name, layer in graph.layers.items() if layer.kind != "depthwise"}
    waiting = [step.inputs[0] for step in graph.steps if isinstance(step, PerChannel) and step.module in scales]
    reached: set[int] = set()
    while waiting:
        reached.add(index := waiting.pop())
        if graph.steps[index].module not in hidden:
            waiting += set(graph.steps[index].inputs) - reached
    selected = {graph.steps[index].module for index in reached}
    return [name for name, at in hidden.items() if at.norm is None and not at.is_output and name not in selected]


def _readers(graph: ChannelGraph, norm: Step) -> dict[str, int] | None:
    """Convolutions and linear layers that read the norm's channels; None if anything else reads them too."""
    found: dict[str, int] = {}
    reached = {norm.index}
    for step in graph.steps[norm.index + 1 :]:
        if not reached.intersection(step.inputs):
            continue
        if isinstance(step, Mix) and not step.complete and not step.whole:
            found[step.module] = step.in_span
        elif isinstance(step, Source):
            continue  # a size: selection leaves the tensor's shape alone
        elif isinstance(step, Through) and not (isinstance(step, PerChannel) and step.is_norm):
            reached.add(step.index)
        else:
            return None
    return found or None
