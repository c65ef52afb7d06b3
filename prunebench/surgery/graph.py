"""The channels of a net: who writes them, who reads them, and what a plan leaves of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

from torch import Tensor, fx, nn

from prunebench.errors import UserError
from prunebench.surgery.equal import Cells, bound, equal_cells
from prunebench.surgery.families import CONVOLUTIONS, LINEAR, TRANSPOSED
from prunebench.surgery.heads import Attend, HeadProduct
from prunebench.surgery.joint import must_stay
from prunebench.surgery.kinds import build
from prunebench.surgery.layer import Layer, Surroundings
from prunebench.surgery.layer_steps import Depthwise, Grouped, Mix
from prunebench.surgery.pieces import completed, pieces
from prunebench.surgery.plan import Plan, check_names
from prunebench.surgery.refusals import explain, operation
from prunebench.surgery.sets import Bits, full, to_bits
from prunebench.surgery.steps import Blocked, Choice, PerChannel, Step
from prunebench.surgery.ties import Tie, sum_ties, ties
from prunebench.surgery.trace import Traced, trace
from prunebench.surgery.unread import unfollowed_layers, unread_tensors

__all__ = ["ChannelGraph", "Layer"]


class ChannelGraph:
    """Follows the live channels of each tensor through a dense net; the others are known to be zero.

    Made by :meth:`trace`. It knows shapes and names, no weights, so it serves every copy of the net.

    Attributes:
        layers: convolutions and linear layers in the order of execution.
        traced: the operations and their shapes.
        nodes, steps: each operation as it was traced, and its kind.
        writers: for each step the layers that write its channels, index by index.
        dense_macs, dense_params: sizes of the dense net. Those of the empty plan can be smaller: it takes the channels
            that a shortcut pads from who reads them.
        unread: parameters and stored buffers that the forward pass never reads.
        unfollowed: convolutions and linear layers that are no operation of the graph, with the reason.
    """

    def __init__(self, traced: Traced, steps: Sequence[Step], shared: dict[str, str]) -> None:
        self.traced = traced
        self.nodes: tuple[fx.Node, ...] = tuple(traced.graph.nodes)
        self.steps = tuple(steps)
        surroundings = Surroundings(traced, steps)
        self.layers: dict[str, Layer] = surroundings.layers()
        self.writers = surroundings.writers([name for name, layer in self.layers.items() if layer.kind != "depthwise"])
        self.unread = unread_tensors(traced)
        self.unfollowed = unfollowed_layers(traced, (*CONVOLUTIONS, *TRANSPOSED, *LINEAR), self.layers, self.unread)
        self._roots = [step.index for step, node in zip(steps, self.nodes, strict=True) if not node.users]
        self._pieces = pieces(steps)
        self._groups = surroundings.groups(self.layers)
        self._mixes = {step.module: step for step in steps if isinstance(step, Mix)}
        self._grouped = {step.module for step in steps if isinstance(step, Grouped)}
        self._sizes = dict(traced.net.named_parameters())
        self.dense_macs = sum(traced.macs.values())
        self.dense_params = sum(parameter.numel() for parameter in self._sizes.values())
        self._never = self._never_cut(shared)
        self._bound = bound(steps, self._operation)
        self._reasons: dict[str, str | None] = {}
        traced.net.to("meta")  # only types and shapes are of use from here on

    @classmethod
    def trace(cls, net: nn.Module, example: Tensor) -> ChannelGraph:
        """Follow one input through the net.

        Args:
            net: the dense net; takes one tensor and stays as it is.
            example: ``[batch, ...]``, as the net is called; only its shape matters.

        Raises:
            UserError: the forward pass cannot be written as a graph that computes the same; names file and line.
        """
        traced = trace(net, example)
        steps, shared = build(traced, net)
        return cls(traced, steps, shared)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Layers that must have one keep-set if no addition shall scatter: they meet, index by index, in additions.

        Layers that meet none are groups of one. Depthwise convolutions have no set of their own and are left out.
        Channels that a shortcut pads are other channels of the sum, so they do not join the groups of two stages.
        """
        return self._groups

    def why_not(self, layer: str, *, equally: bool = False) -> str | None:
        """Why a layer cannot lose channels, or None if it can.

        Args:
            equally: whoever cuts keeps equally many channels of each of the layer's :meth:`equal_cells`; else a layer
                that writes into the groups of a convolution, or has groups itself, must stay whole.
        """
        check_names(Plan(keep={layer: ()}), self.layers)
        if layer not in self._reasons:
            reason = self._never.get(layer) or self._blocked(layer)
            self._reasons[layer] = reason or self.must_stay([layer]).get(layer)
        return self._reasons[layer] or (None if equally else self._bound.get(layer))

    def equal_cells(self, groups: Sequence[Sequence[str]]) -> tuple[dict[str, Cells], dict[str, str]]:
        """The sets of a layer's channels of which equally many have to stay, so that grouped convolutions remain.

        Args:
            groups: of layers that may be cut, each of which shares one keep-set.

        Returns:
            Layer -> its sets, for layers that are bound so; and the layers that must stay whole, with the reason.
        """
        return equal_cells(self.steps, groups, self._operation) if self._bound else ({}, {})

    def is_bound(self, layer: str) -> bool:
        """Whether the layer may lose channels only equally from some sets."""
        return layer in self._bound

    def pieces(self, layer: str) -> tuple[Bits, ...]:
        """The sets of a layer's channels that splits hand to readers of their own: of each one channel has to stay."""
        return self._pieces.get(layer, ())

    @cached_property
    def ties(self) -> tuple[Tie, ...]:
        """Layers of which some channels only work together, where each of them can be cut with the others."""
        alone = [group[0] for group in self._groups if len(group) == 1 and group[0] not in self._never]
        return tuple(tie for tie in ties(self.steps, alone) if self._blocked_by(self._least(tie)) is None)

    @cached_property
    def sum_ties(self) -> tuple[Tie, ...]:
        """Layers that meet in additions behind concatenations and the like, where each can be cut with the others."""
        tied = {name for tie in self.ties for name in tie.layers}
        free = [name for name in self._mixes if name not in self._never and name not in tied | self._bound.keys()]
        found = sum_ties(self.steps, free, self._groups)
        return tuple(tie for tie in found if self._blocked_by(self._least(tie)) is None)

    def must_stay(self, layers: Collection[str], tied: Collection[Tie] = ()) -> dict[str, str]:
        """Which of some layers must stay whole if all of them may lose any channels, with the reason.

        Each of them could be cut alone. Together they write a stream that an operation needs complete, or their product
        might have no channel left.

        Args:
            layers: that may be cut.
            tied: what loses whole bundles only.
        """
        return must_stay(self.steps, layers, self._operation, tied)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that cannot be carried out.

        Raises:
            UserError: an unknown layer, an index out of range, a layer that can't be cut, dead channels that reach an
                operation whose result they change, a layer without channels that nothing bypasses.
        """
        self.live(plan)

    def live(self, plan: Plan) -> tuple[list[Bits], Choice]:
        """The live channels of each step's output as sets, and the plan as sets. Raises as :meth:`check`."""
        choice = self._choice(plan)
        live: list[Bits] = []
        try:
            for step in self.steps:
                live.append(step.live(live, choice))
        except Blocked as blocked:
            raise UserError(explain(self.steps, self.nodes, blocked, live, choice)) from None
        return live, choice

    def needed(self, live: Sequence[Bits]) -> list[bool]:
        """Which steps still run: not the branch that an addition drops, nor what feeds only that.

        A layer whose result nobody uses runs as in the dense net.
        """
        needed = [False] * len(self.steps)
        for root in self._roots:
            needed[root] = bool(live[root])
        for step in reversed(self.steps):
            if needed[step.index]:
                for source in step.inputs:
                    needed[source] = needed[source] or bool(live[source])
        return needed

    def macs(self, plan: Plan) -> int:
        """Multiply-accumulates of one sample in the shrunk net: convolutions, linear layers, matrix products."""
        live, choice = self.live(plan)
        total = 0
        for step, needed in zip(self.steps, self.needed(live), strict=True):
            if not needed:
                continue
            if isinstance(step, Mix):
                total += step.macs_each * step.num_features(live, choice) * live[step.index].bit_count()
            elif isinstance(step, Grouped):
                total += step.macs_each * step.num_read(live, choice) * live[step.index].bit_count()
            elif isinstance(step, Depthwise | HeadProduct | Attend):
                total += step.macs_each * live[step.index].bit_count()
            else:
                total += step.macs
        return total

    def params(self, plan: Plan) -> int:
        """Parameters of the shrunk net, those that nothing reads included."""
        live, choice = self.live(plan)
        total = 0
        whole = {name for name in self.unread if name in self._sizes}
        for step, needed in zip(self.steps, self.needed(live), strict=True):
            if not needed:
                continue
            kept = live[step.index].bit_count()
            if isinstance(step, Mix):
                total += kept * (step.params_each * step.num_features(live, choice) + step.has_bias)
            elif isinstance(step, Grouped):
                total += kept * (step.params_each * step.num_read(live, choice) + step.has_bias)
            elif isinstance(step, Depthwise):
                total += kept * step.params_each
            elif isinstance(step, PerChannel):
                total += kept * step.span * step.num_each
            else:
                whole.update(step.params)
        return total + sum(self._sizes[name].numel() for name in whole)

    def _never_cut(self, shared: dict[str, str]) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for name, layer in self.layers.items():
            if layer.is_output:
                reasons[name] = "its output is the output of the net"
            elif layer.kind == "depthwise":
                reasons[name] = "it is a depthwise convolution and follows the channels that it reads"
            elif name in shared:
                reasons[name] = shared[name]
            elif name in self._mixes and self._mixes[name].follows is not None:
                reasons[name] = "its channels only scale others and go with those"
            elif layer.kind == "transposed" and layer.groups > 1:
                reasons[name] = f"it is a transposed convolution in {layer.groups} groups"
            elif name not in self._mixes and name not in self._grouped:
                reasons[name] = "its input has no dimension of channels that can be followed"
        return reasons

    def _blocked(self, layer: str) -> str | None:
        """What an otherwise whole net does when only one channel of the layer, or of each of its pieces, is left."""
        least = completed(0, self.pieces(layer) or (1,), range(self.layers[layer].out_channels - 1, -1, -1))
        return self._blocked_by(Choice({layer: least}, any_groups=True))

    def _least(self, tie: Tie) -> Choice:
        """As little of the layers of a tie as may be left: the first bundle, and those that their pieces need."""
        kept = dict.fromkeys(tie.layers, 0)
        pieces = [(name, piece) for name in tie.layers for piece in (self.pieces(name) or (-1,))]
        for name, piece in pieces:
            if not kept[name] & piece:
                bundle = next(bundle for bundle in tie.bundles if bundle.get(name, 0) & piece)
                kept = {other: bits | bundle.get(other, 0) for other, bits in kept.items()}
        return Choice(kept, any_groups=True)

    def _blocked_by(self, choice: Choice) -> str | None:
        live = list[Bits]()
        try:
            for step in self.steps:
                live.append(step.live(live, choice))
        except Blocked as blocked:
            return f"its channels reach {self._operation(blocked.step)}, which needs all of them"
        return None

    def _choice(self, plan: Plan) -> Choice:
        check_names(plan, self.layers)
        keep = {name: to_bits(kept) for name, kept in plan.keep.items()}
        inputs = {name: to_bits(kept) for name, kept in plan.inputs.items()}
        for name, bits in keep.items():
            width = self.layers[name].out_channels
            _check_range("keep", name, bits, width)
            if name in self._never and bits != full(width):
                raise UserError(f"layer '{name}' cannot lose channels: {self._never[name]}; leave it out of the plan")
        for name, bits in inputs.items():
            width = self.layers[name].in_channels
            _check_range("inputs", name, bits, width)
            if name not in self._mixes and bits != full(width):
                known = self._never.get(name) or self._bound.get(name)
                reason = known or "its input has no channels that can be followed"
                raise UserError(f"layer '{name}' cannot select inputs: {reason}; leave it out of the plan")
        return Choice(keep, inputs)

    def _operation(self, step: Step) -> str:
        return operation(step, self.nodes)


def _check_range(what: str, name: str, bits: Bits, width: int) -> None:
    if bits >> width:
        raise UserError(
            f"{what}['{name}'] has channel {bits.bit_length() - 1}, but the layer has only {width} "
            f"({'outputs' if what == 'keep' else 'inputs'}, numbered from 0)"
        )
