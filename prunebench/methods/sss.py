"""SSS: scales on whole structures, trained with the weights towards exact zeros; what has the scale 0 is removed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from prunebench.budget import Choice, describe
from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, Fraction, NonNegativeFloat
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart
from prunebench.errors import UserError
from prunebench.layers.structure_scale import ScaledLayer, accelerated_step, scaled_layers
from prunebench.methods.bases.structures import KINDS, Structure, find_structures
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace

log = logging.getLogger("prunebench")


@validated
class SparseStructureSelection(Method):
    """Huang, Wang, ECCV 2018; official code TuSimple/sparse-structure-selection (MXNet, blocks only).

    Each structure is multiplied by a scale that begins at 1 and minimises the loss plus ``penalty * sum |scale|``: SGD
    for the weights, an accelerated proximal step at the same learning rate for the scales, which makes them exactly 0
    (core/optimizer.py:30-42). Scales have no weight decay. In the end structures with the scale 0 are removed and the
    others' scales are multiplied into the weights before them; nothing is fine-tuned under ``schedule=simultaneous``.

    - ``blocks``: the residual branch, in front of the addition; a projection on the shortcut stays.
    - ``channels``: each channel of a layer behind its norm, where no addition mixes it with others.
    - ``groups``: each group of a grouped convolution, behind its norm (a path of a ResNeXt block).

    The scale stands in front of the activation, which makes no difference for a rectifier, as scales are not negative.
    If no structure of a layer is left and a shortcut bypasses the layer, its whole branch goes.

    Under ``finetune`` and ``oneshot`` the scales act while the whole net is trained, and the cut follows;
    ``scratch_e`` and ``scratch_b`` train the found structure anew (Liu et al. 2019).

    Args:
        structure: ``blocks``, ``channels`` or ``groups``.
        penalty: weight of the L1 norm, >= 0 (gamma of the paper).
        momentum: of the scales, in [0, 1]; 0 = plain ISTA.
        nonnegative: clip scales at 0 (official code; the paper does not stress it).
        remove: names and globs of blocks that go whatever the scales say, for structures that are published without
            their penalty; only they have scales. null = the scales decide.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous", "finetune", "oneshot", "scratch_e", "scratch_b"})
    objective: ClassVar[str] = "regularised_heuristic"

    def __init__(
        self,
        *,
        structure: Annotated[str, Among(KINDS)] = "blocks",
        penalty: NonNegativeFloat,
        momentum: Fraction = 0.9,
        nonnegative: bool = True,
        remove: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if remove is not None and structure != "blocks":
            raise UserError(f"method.remove names blocks; with method.structure={structure} leave it null")
        self.structure, self.penalty, self.momentum, self.nonnegative = structure, penalty, momentum, nonnegative
        self.remove = remove
        self.sizes_given = remove is not None
        self._before: dict[str, Tensor] = {}  # scales during one step, no state

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        structures, _ = self._structures(run)
        total = sum(structure.size for structure in structures.values())
        log.info("scales: %d on %s of %d places", total, self.structure, len(structures))
        if self.remove is not None:
            run.rehearse(net, self._choice({}, run))

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if scaled_layers(net):
            return net
        structures, _ = self._structures(run)

        def scaled(path: str, module: nn.Module) -> nn.Module | None:
            at = structures.get(path)
            return None if at is None else ScaledLayer(module, channels=at.channels, size=at.size)

        return replace(net, scaled)

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        groups = super().param_groups(net, phase)
        scales = [layer.scale for layer in scaled_layers(net).values()]
        # a plain gradient step; after_step makes the accelerated proximal one of it
        return apart(groups, scales, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, clip=False)

    def before_step(self, net: nn.Module, clock: Clock) -> None:
        self._before = {name: layer.scale.detach().clone() for name, layer in scaled_layers(net).items()}

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for name, layer in scaled_layers(net).items():
            scale, velocity = accelerated_step(
                self._before[name],
                layer.scale,
                layer.velocity,
                lr=clock.lr,
                penalty=self.penalty,
                momentum=self.momentum,
                nonnegative=self.nonnegative,
            )
            layer.scale.copy_(scale)
            layer.velocity.copy_(velocity)

    def report(self, net: nn.Module) -> Mapping[str, float]:
        if not (layers := scaled_layers(net)):
            return {}
        scales = torch.cat([layer.scale.detach() for layer in layers.values()])
        return {"zero_scales": float((scales == 0).float().mean()), "mean_scale": float(scales.mean())}

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        scales = {name: layer.scale.detach().cpu() for name, layer in scaled_layers(net).items()}
        return run.cut(folded(net), run.choose(lambda: self._choice(scales, run)))

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        return self.prune(net, run) if scaled_layers(net) else Extracted(net=net)

    def _choice(self, scales: Mapping[str, Tensor], run: Run) -> Choice:
        """What goes: structures with the scale 0, or the named blocks."""
        graph = run.graph
        structures, refused = self._structures(run)
        keep: dict[str, tuple[int, ...]] = {}
        num_kept = total = 0
        for name, at in structures.items():
            if self.remove is None:
                # without any scale nothing has been trained
                alive = (scales[name] != 0).tolist() if name in scales else [True] * at.size
            else:
                alive = [False]
                if name in scales and float(scales[name].abs().max()) > 0:
                    log.warning("warning: %s is removed with the scale %.3g", at.name, float(scales[name]))
            num_kept, total = num_kept + sum(alive), total + at.size
            if not any(alive) and at.bypassed is None:
                raise UserError(
                    f"all scales of {at.name} are 0, and nothing bypasses it: the net is dead; lower method.penalty "
                    f"(now {self.penalty:g})"
                )
            keep |= at.keep(alive)
        whole = [{"layer": at.name, "reason": "all of its scales are above 0"} for at in structures.values()
                 if at.layer not in keep and at.bypassed not in keep]  # fmt: skip
        plan = Plan(keep=keep)
        achieved = describe(plan, [at.layer for at in structures.values()], graph)
        counts = {"structures": total, "structures_kept": num_kept, "structure": self.structure}
        return Choice(plan, whole + refused, achieved | counts)

    def _structures(self, run: Run) -> tuple[dict[str, Structure], list[dict[str, str]]]:
        """Path of the module that gets scales -> the structures there; and what has none, with the reason.

        Raises:
            UserError: there is none, or ``remove`` names none.
        """
        found, refused = find_structures(self.structure, run.graph)
        if not found:
            raise UserError(
                f"the net has no {self.structure} that scales could switch off; method.structure is one of "
                f"{', '.join(KINDS)}"
            )
        if self.remove is None:
            return found, refused
        names = {at.name: path for path, at in found.items()}
        chosen = match_layers(self.remove, names, what="method.remove")
        return {names[name]: found[names[name]] for name in chosen}, refused


def folded(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with all scales in the weights before them; it computes the same in evaluation mode."""
    if not scaled_layers(net):
        return net
    return replace(net, lambda _, module: module.folded() if isinstance(module, ScaledLayer) else None)
