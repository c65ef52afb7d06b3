"""Small nets of one whose channels are ordered: cut out of the trained net, or each trained by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from prunebench.budget import Choice
from prunebench.core.context import Extracted, Point, Run
from prunebench.methods.bases.fresh_norms import with_fresh_norms
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_plain, with_spread
from prunebench.methods.bases.nested_widths import NestedWidths, Width
from prunebench.methods.bases.ordered_nets import without_masks
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

TEST_LOG_ALPHA = (-8.0, 0.0)
"""To what Cui et al.'s official evaluation clamps log alpha (torch_vnd_eval.py:61-65)."""


@torch.no_grad()
def cut_out(
    net: nn.Module,
    run: Run,
    plan: Plan,
    *,
    masked: Mapping[str, str],
    whole: list[dict[str, str]],
    scale: bool,
    clamp: bool,
    noise: bool,
    bn_images: int | None,
    compared: bool,
) -> Extracted:
    """The small net of a plan, with batch norms that fit.

    Args:
        net: trained, perhaps with ordered masks and multiplicative Gaussian noise (``log_alpha``).
        masked: path of what a mask stands behind -> the layer whose channels it masks.
        whole: layers without a mask, with the reason.
        scale: multiply each channel by the chance that it stays.
        clamp: ln alpha to :data:`TEST_LOG_ALPHA`.
        noise: the small net has the noise; else the weights are the means.
        bn_images: training pictures for its batch norms; None = all.
        compared: with the zeroed net.
    """
    dense = without_masks(net, masked, scale=scale).cpu()
    random = gaussian_layers(dense)
    for layer in random.values() if clamp else ():
        layer.get_parameter("spread").clamp_(*TEST_LOG_ALPHA)
    means = to_plain(dense) if random else dense
    if compared:
        found = run.cut(means, Choice(plan, whole, {}))
    else:
        found = Extracted(net=shrunk(means, run, plan), plan=plan)
    small = found.net
    if random and noise:
        small = with_spread(small, dense, run.graph, plan)
    return replace(found, net=with_fresh_norms(small, run, num_images=bn_images))


def trained_apart(
    net: nn.Module, run: Run, nested: NestedWidths, width: Width, *, num_widths: int
) -> tuple[nn.Module, list[Point]]:
    """A net of its own for each width, trained through the whole of the only phase from new random weights.

    Args:
        net: the dense net.
        width: whose net is trained last and returned.
        num_widths: of the operating points, which are returned beside it.
    """
    (phase,) = run.phases
    own, points = nested.plan(width), nested.points(num_widths)
    others = {f"{phase.name}_{point:.4g}": nested.plan(point) for point in points if nested.plan(point) != own}
    trained: dict[str, nn.Module] = {}  # plan as JSON -> its net
    for name, plan in {**others, phase.name: own}.items():
        trained[plan.to_json()] = run.fit(shrunk(net, run, plan), replace(phase, name=name, fresh=True))
    curve = [nested.point(point, trained[nested.plan(point).to_json()], run.graph) for point in points]
    return trained[own.to_json()], curve


def shrunk(net: nn.Module, run: Run, plan: Plan) -> nn.Module:
    """``net`` (dense shapes) without what the plan leaves out; ``net`` itself if that is nothing."""
    return shrink(net, run.graph, plan) if plan.keep else net
