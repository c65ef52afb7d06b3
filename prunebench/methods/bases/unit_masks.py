"""Masks of units in a net: behind convolutions, in front of linear layers; adding them, and what is left without."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from prunebench.budget import Choice, describe
from prunebench.core.context import Extracted, Run
from prunebench.core.method import match_layers
from prunebench.errors import UserError
from prunebench.layers.beta_bernoulli import BetaBernoulliMask
from prunebench.methods.bases.dead_channels import EXACT
from prunebench.methods.bases.ordered_nets import MaskPosition, holder, why_not_masked
from prunebench.surgery.dead import unread, without_constants
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.layer_steps import Mix
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace
from prunebench.surgery.sets import to_indices

log = logging.getLogger("prunebench")

NORMED_START, START = 2.0, -1.0
"""First raw_a of convolutions that a norm follows (vgg.py:22), and of all other masks (bbdropout.py:13)."""


@dataclass(frozen=True, kw_only=True)
class MaskPlace:
    """Where the mask of a layer stands.

    Attributes:
        layer: whose outputs (a convolution) or inputs (a linear layer) are masked.
        path: of the module that it stands beside: the layer, or the norm behind it.
        units: how many. ``in_front``: of the module, else behind it.
        normed: a norm reads the layer's output.
    """

    layer: str
    path: str
    units: int
    in_front: bool
    normed: bool


class UnitMasked(nn.Module):
    """A module with a mask, in its place."""

    def __init__(self, layer: nn.Module, mask: BetaBernoulliMask, *, in_front: bool) -> None:
        super().__init__()
        self.layer, self.mask, self.in_front = layer, mask, in_front

    def forward(self, x: Tensor) -> Tensor:
        """As the module, with masked inputs or outputs."""
        if not self.in_front:
            return self.mask(self.layer(x))  # type: ignore[no-any-return]
        # features are the last dimension of a linear layer's input, and the second one of what a mask takes
        return self.layer(self.mask(x.movedim(-1, 1)).movedim(1, -1))  # type: ignore[no-any-return]


def first_raw_a(place: MaskPlace, given: float | Mapping[str, float] | None) -> float:
    """Where ``raw_a`` of a mask begins.

    Args:
        given: a number, or a table of layers (names and globs, the first that fits counts); what it does not name, and
            None, has Madaan et al.'s official values.
    """
    official = NORMED_START if place.normed and not place.in_front else START
    if isinstance(given, Mapping):
        return next((value for pattern, value in given.items() if fnmatchcase(place.layer, pattern)), official)
    return official if given is None else given


def mask_places(
    graph: ChannelGraph, names: Collection[str], position: MaskPosition
) -> tuple[dict[str, MaskPlace], dict[str, str]]:
    """The masks of the layers ``names``, and the reason for each layer without one.

    A convolution has one on its channels, a linear layer on its inputs: so hidden units of linear layers are masked,
    and each position of a picture that is flattened by itself (Madaan et al. 2020). Neither the net's input nor what is
    added to a stream is masked.
    """
    mixes = {step.module: step for step in graph.steps if isinstance(step, Mix)}
    found: dict[str, MaskPlace] = {}
    refused: dict[str, str] = {}
    for name in names:
        layer = graph.layers[name]
        if layer.kind == "linear":
            step = mixes.get(name)
            writers = graph.writers[step.inputs[0]] if step is not None and not (step.whole or step.complete) else ()
            if not writers:
                refused[name] = "no layer writes its inputs one by one"
            elif any(graph.layers[writer].meets_addition for writer in writers):
                refused[name] = "its inputs meet an addition, where other layers write them too"
            else:
                found[name] = MaskPlace(
                    layer=name, path=name, units=layer.in_channels, in_front=True, normed=layer.norm is not None
                )
        elif reason := why_not_masked(graph, name, position=position):
            refused[name] = reason
        elif layer.norm is not None and not layer.norm_learns and position == "post_act":
            refused[name] = "the norm layer that follows has no learned scale, into which its mask could go"
        else:
            found[name] = MaskPlace(
                layer=name,
                path=holder(graph, name, position),
                units=layer.out_channels,
                in_front=False,
                normed=layer.norm is not None,
            )
    together = graph.must_stay([name for name, place in found.items() if not place.in_front])
    return {name: place for name, place in found.items() if name not in together}, {**refused, **together}


def add_unit_masks(
    net: nn.Module, places: Mapping[str, MaskPlace], make: Callable[[MaskPlace], BetaBernoulliMask]
) -> nn.Module:
    """A copy of ``net`` with a mask at each place."""
    by_path = {place.path: place for place in places.values()}
    device = next(net.parameters()).device

    def masked(path: str, module: nn.Module) -> nn.Module | None:
        place = by_path.get(path)
        if place is None:
            return None
        return UnitMasked(module, make(place).to(device), in_front=place.in_front)

    return replace(net, masked)


def unit_masks(net: nn.Module) -> dict[str, BetaBernoulliMask]:
    """Path of what each mask stands beside -> mask; none in a net without."""
    return {path: module.mask for path, module in net.named_modules() if isinstance(module, UnitMasked)}


def mask_parameters(net: nn.Module) -> list[nn.Parameter]:
    """What the masks of a net learn."""
    return [p for mask in unit_masks(net).values() for p in mask.parameters()]


def check_masks(
    net: nn.Module,
    places: Mapping[str, MaskPlace],
    whole: Mapping[str, str],
    raw_a: float | Mapping[str, float] | None,
    run: Run,
) -> None:
    """Refuse, before anything is trained, masks that cannot be; the cut is tried with one unit of each.

    Args:
        whole: layers without a mask, with the reason.
        raw_a: of :func:`first_raw_a`.

    Raises:
        UserError: there is no mask, ``raw_a`` names no layer with one, or the cut cannot be made.
    """
    if not places:
        reasons = "".join(f", for example {name}: {why}" for name, why in list(whole.items())[:1])
        raise UserError(f"no layer of this net can have a mask{reasons}; choose others by method.layers")
    if isinstance(raw_a, Mapping):
        match_layers(raw_a, places, what="method.raw_a")
    keep = {name: (0,) for name, place in places.items() if not place.in_front}
    inputs = {name: (0,) for name, place in places.items() if place.in_front}
    run.rehearse(net, Choice(Plan(keep=keep, inputs=inputs), [], {}))
    log.info("masks: %d units of %s", sum(place.units for place in places.values()), ", ".join(places))


@torch.no_grad()
def folded(net: nn.Module, places: Mapping[str, MaskPlace]) -> nn.Module:
    """The net (dense shapes) without masks that computes what the masked one does in evaluation.

    The rates go into what the mask stands beside: rows and biases behind it, columns in front of it. The filters of
    channels that are gone are 0 too.
    """
    masks = unit_masks(net)
    plain = replace(net, lambda _, module: module.layer if isinstance(module, UnitMasked) else None)
    for place in places.values():
        module, rates = plain.get_submodule(place.path), masks[place.path].rates()
        weight = module.get_parameter("weight")
        factors = rates.to(weight.dtype)
        if place.in_front:
            weight.mul_(factors.view(1, -1))
            continue
        for parameter in (weight, module.bias):
            if isinstance(parameter, nn.Parameter):
                parameter.mul_(factors.view(-1, *[1] * (parameter.dim() - 1)))
        for parameter in plain.get_submodule(place.layer).parameters(recurse=False):
            parameter[rates == 0] = 0
    return plain


def without_masked_units(
    net: nn.Module, places: Mapping[str, MaskPlace], whole: Mapping[str, str], run: Run
) -> Extracted:
    """The compact net of a masked one: the same function, without the units that nothing depends on any more.

    A channel that a norm makes constant goes where its readers can take the constant over: where they do not pad.

    Args:
        whole: layers without a mask, with the reason.
    """
    settled = without_constants(folded(net, places).cpu(), run.graph, run.example)
    keep = unread(settled, run.graph).keep
    plan = Plan(keep=keep, inputs=_inputs(settled, [p.layer for p in places.values() if p.in_front], keep, run.graph))
    cut_layers = {*plan.keep, *plan.inputs}
    refused = [{"layer": name, "reason": reason} for name, reason in whole.items() if name not in cut_layers]
    refused += [
        {"layer": name, "reason": "no unit's expected rate is at or below the threshold"}
        for name in places
        if name not in cut_layers
    ]
    found = run.cut(settled, Choice(plan, refused, describe(plan, [*places], run.graph)))
    difference = run.max_abs_diff(net, found.net)
    assert difference <= EXACT, f"the compact net differs from the masked one by {difference}"
    return found


def _inputs(
    net: nn.Module, names: Collection[str], keep: Mapping[str, tuple[int, ...]], graph: ChannelGraph
) -> dict[str, tuple[int, ...]]:
    """The features that linear layers still read, where these are fewer than the plan ``keep`` leaves them."""
    live, choice = graph.live(Plan(keep=keep))
    found = {}
    for step in graph.steps:
        if isinstance(step, Mix) and step.module in names:
            there = to_indices(step.features(live, choice))
            used = net.get_submodule(step.module).get_parameter("weight").ne(0).any(0)
            read = [feature for feature in there if used[feature]] or there[:1]
            if len(read) < len(there):
                found[step.module] = tuple(read)
    return found
