"""Quantisation-aware training: weights and activations of few bits while a net trains, a new one or a trained one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.named import arguments
from prunebench.config.phase import Phase
from prunebench.config.ranges import Among, NonNegativeFloat, PositiveInt
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method
from prunebench.core.param_groups import apart
from prunebench.errors import UserError
from prunebench.layers.own_weight import has_own_weight
from prunebench.layers.quantised import ACTIVATIONS, FLOAT, WEIGHTS, Bits, Quantised, quantised_layers
from prunebench.measure import bits, cost
from prunebench.nets import package
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace

log = logging.getLogger("prunebench")
USUAL = 4  # bits of a scheme that can have several, where none are asked for


@validated
class QuantisationAwareTraining(Method):
    """Convolutions and linear layers with quantised weights and inputs, and straight-through gradients.

    The quantisers of Roth et al. 2024 (JMLR 25(50)): DoReFa-Net (Zhou et al. 2016), BinaryConnect (Courbariaux et al.
    2015), XNOR-Net's weights (Rastegari et al. 2016), TWN (Li et al. 2016), TTQ (Zhu et al. 2017), uniform symmetric
    ones, PACT (Choi et al. 2018); formulas in :mod:`prunebench.layers.quantisers`. Float weights are kept and trained;
    the final net holds the quantised values. Norms, biases and sums stay in floating point.

    Under ``simultaneous`` the net is quantised before its first epoch; ``start`` takes the saved net of a finished run
    instead of a new one, also a cut one, so that it is pruned, tuned, quantised and tuned again. Under ``finetune``
    the dense net is trained, quantised and tuned; under ``oneshot`` nothing is trained after it. The stage ``pruned``
    is the net just quantised.

    Layers whose inputs can be negative (the first one; a bottleneck without activation) have ``range`` inputs in place
    of ``dorefa`` and ``pact`` ones, which would lose the negative half. Which they are is seen on training pictures.

    Args:
        weights: scheme of the weights. ``bits_w``: their bits; null = 4, or what the scheme has.
        activations: scheme of the inputs of layers. ``bits_a``: their bits; null = 4, or what the scheme has.
        first_last_bits: bits of weights and inputs of the first and the last layer, uniform; null = as all others.
        per_channel: of symmetric weights: a scale for each filter.
        samples: training pictures on which inputs are looked at.
        pact_decay: weight decay of the values at which PACT clips.
        start: folder of a finished run of the same net (.../seed_<n>); null = the net of this run.

    Raises:
        UserError: an option outside its values.
    """

    schedules = frozenset({"simultaneous", "finetune", "oneshot"})

    def __init__(
        self,
        *,
        weights: Annotated[str, Among(WEIGHTS)],
        bits_w: Bits | None = None,
        activations: Annotated[str, Among(ACTIVATIONS)],
        bits_a: Bits | None = None,
        first_last_bits: Bits | None = 8,
        per_channel: bool = True,
        samples: PositiveInt = 128,
        pact_decay: NonNegativeFloat = 1e-4,
        start: str | None = None,
    ) -> None:
        super().__init__()
        self.weights, self.bits_w = weights, _bits("weights", weights, "bits_w", bits_w, WEIGHTS)
        self.activations = activations
        self.bits_a = _bits("activations", activations, "bits_a", bits_a, ACTIVATIONS)
        if first_last_bits == 1 or (first_last_bits is not None and 16 < first_last_bits < FLOAT):
            raise UserError(f"method.first_last_bits must be 2 to 16, 32 or null, got {first_last_bits!r}")
        self.first_last_bits, self.per_channel = first_last_bits, per_channel
        self.samples, self.pact_decay, self.start = samples, pact_decay, start
        self._plan: Plan | None = None

    # -- hooks

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        if 0 < run.data.num_train < self.samples:
            raise UserError(
                f"method.samples must be at most the {run.data.num_train} training samples of "
                f"dataset={run.data.name}, got {self.samples!r}"
            )
        if self.start is not None:
            if any(phase.pretrain for phase in run.phases):
                raise UserError(
                    f"method.start={self.start} is trained already, and schedule={run.schedule} would train another "
                    "net first; use schedule=simultaneous"
                )
            net = self._begin(run)
        if run.data.num_train:  # else the row is only counted
            self.attach(net, run)

    def run(self, net: nn.Module, run: Run) -> nn.Module:
        if self.start is not None:
            net = self.attach(self._begin(run), run)
            run.measure("pruned", net)
        return super().run(net, run)

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        if any(quantised_layers(net)):
            return net
        seen = _look(net, run, self.samples)
        if len(seen) < 2:
            raise UserError("method=qat quantises the layers between the first and the last one; this net has fewer")
        ends = {next(iter(seen)), list(seen)[-1]}
        return replace(net, lambda path, module: self._around(path, module, seen[path], path in ends)
                       if path in seen else None)  # fmt: skip

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        return Extracted(net=self.attach(net, run))

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        layers = [layer for _, layer in quantised_layers(net)]
        binary = [
            layer.weight for layer in layers if layer.bits_w == 1
        ]  # the decay of a sign's size is none of the sign
        scales = [p for layer in layers for name, p in layer.named_parameters(recurse=False) if name != "limit"]
        limits = [p for layer in layers for name, p in layer.named_parameters(recurse=False) if name == "limit"]
        groups = apart(super().param_groups(net, phase), [*binary, *scales], weight_decay=0.0)
        return apart(groups, limits, weight_decay=self.pact_decay)

    @torch.no_grad()
    def after_step(self, net: nn.Module, clock: Clock) -> None:
        for _, layer in quantised_layers(net):
            if layer.weights == "binaryconnect":
                layer.weight.clamp_(-1, 1)
            for parameter in layer.parameters(recurse=False):  # limits and scales are positive
                parameter.clamp_(min=1e-6)

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        frozen = replace(net, lambda _, module: module.freeze() if isinstance(module, Quantised) else None)
        return Extracted(net=frozen, plan=self._plan)

    def cost(self, net: nn.Module, run: Run) -> Mapping[str, Any] | None:
        layers = {f"{path}.layer": layer for path, layer in quantised_layers(net)}
        rows = {row["layer"]: row["macs"] for row in cost.count(net, run.example).per_layer}
        counted = [
            bits.LayerBits(
                macs=rows[path],
                weights=layer.weight.numel(),
                fan_in=layer.weight[0].numel(),
                bits_w=layer.bits_w,
                bits_a=layer.bits_a,
            )
            for path, layer in layers.items()
        ]
        quantised = sum(layer.weights for layer in counted)
        floats = sum(p.numel() for p in net.parameters()) - quantised
        floats += sum(layer.num_scales for layer in layers.values())
        return {
            "bits_w": self.bits_w,
            "bits_a": self.bits_a,
            "first_last_bits": self.first_last_bits,
            "weight_bytes": bits.weight_bytes(counted, floats=floats),
            "peak_activation_bytes": bits.peak_activation_bytes(
                net, run.example, {path: layer.bits_a for path, layer in layers.items()}
            ),
            "bops": bits.bops(counted),
            "bops_uniq": bits.bops_uniq(counted),
            # few bits are imitated: the time of this net is that of a float net
            "executed_quantised": False,
        }

    # -- helpers

    def _begin(self, run: Run) -> nn.Module:
        """The net of the run in ``start``, and what was cut from it."""
        assert self.start is not None
        spec = package.read_spec(self.start)
        own = run.dense.settings
        if spec.members is not None or spec.layers:
            raise UserError(f"method.start={self.start} holds more than convolutions and linear layers of its net")
        if spec.target != own["_target_"] or dict(spec.arguments) != arguments("model", own):
            raise UserError(
                f"method.start={self.start} holds another net ({spec.name}) than model={own.get('name')}, or one with "
                "other options; give the same model and dataset as there"
            )
        self._plan = package.read_plan(self.start)
        return run.teacher(self.start).requires_grad_(True)

    def _around(self, path: str, module: nn.Module, seen: _Inputs, is_end: bool) -> Quantised:
        weights, bits_w, activations, bits_a = self.weights, self.bits_w, self.activations, self.bits_a
        if is_end and self.first_last_bits is not None:
            uniform = self.first_last_bits < FLOAT
            weights, activations = ("symmetric", "range") if uniform else ("none", "none")
            bits_w = bits_a = self.first_last_bits
        elif activations == "sign" and not seen.signed:
            raise UserError(
                f"method.activations=sign: the inputs of {path} are never negative, so that all signs would be +1; "
                "use activations=dorefa with bits_a=1, or a net without rectifiers"
            )
        if seen.signed and activations in ("dorefa", "pact"):
            activations, bits_a = "range", max(2, bits_a)
        made = Quantised(
            weights=weights,
            bits_w=bits_w,
            activations=activations,
            bits_a=bits_a,
            per_channel=self.per_channel,
            signed=seen.signed,
        ).around(module)
        if activations in ("pact", "range"):
            with torch.no_grad():
                made.limit.fill_(seen.largest)
        return made.to(next(module.parameters()).device)


class _Inputs:
    """What was seen of the inputs of one layer."""

    def __init__(self) -> None:
        self.signed, self.largest = False, 0.0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        low, high = args[0].aminmax()
        self.signed |= bool(low < 0)
        self.largest = max(self.largest, float(high), -float(low))


def _look(net: nn.Module, run: Run, number: int) -> dict[str, _Inputs]:
    """Path of each convolution and linear layer, in the order of execution -> its inputs on training pictures."""
    seen: dict[str, _Inputs] = {}
    hooks = []

    def first_call(path: str) -> Any:
        return lambda module, args: seen.setdefault(path, _Inputs())(module, args)

    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and has_own_weight(module):
            hooks.append(module.register_forward_pre_hook(first_call(path)))
    training, device = net.training, next(net.parameters()).device
    try:
        with torch.no_grad():
            for inputs, _ in run.samples("ranges", number):
                net.eval()(inputs.to(device))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return seen


def _bits(key: str, scheme: str, name: str, asked: int | None, known: Mapping[str, range]) -> int:
    """The bits of a scheme.

    Raises:
        UserError: it cannot have those that are asked for.
    """
    allowed = known[scheme]
    if asked is None:
        return USUAL if USUAL in allowed else allowed[0]
    if asked not in allowed:
        words = f"{allowed[0]}" if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
        raise UserError(f"method.{name} of method.{key}={scheme} must be {words}, got {asked!r}")
    return asked
