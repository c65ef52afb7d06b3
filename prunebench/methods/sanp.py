"""Self-Adaptive Network Pruning: each sample switches its own channels (Chen, Zhu, Li, Zhao, ICONIP 2019)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.phase import Phase
from prunebench.config.ranges import (
    Among,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PhaseShare,
    PositiveInt,
)
from prunebench.core.clock import Clock
from prunebench.core.context import Extracted, Run
from prunebench.core.method import Method, match_layers
from prunebench.core.param_groups import apart
from prunebench.core.task import Batch, Task
from prunebench.errors import UserError
from prunebench.layers.gated_conv import gated_layers
from prunebench.layers.saliency import Binarize, recorded_decisions
from prunebench.layers.skipping import SkippingNet
from prunebench.measure.dynamic import compare_skipping, sample_cost
from prunebench.measure.latency import compare_samples
from prunebench.measure.per_sample import PerSampleMacs
from prunebench.methods.bases.sample_gates import gatable, gate_layers
from prunebench.surgery.graph import ChannelGraph

log = logging.getLogger("prunebench")

PROJECTIONS = ("*downsample*", "*shortcut*")
TOLERANCE = 0.02  # how far, as a share of the dense net's MACs, the mean over the test samples may miss the target
COMPARED_SAMPLES = 256  # test samples on which masks and skipping are compared


@validated
class SelfAdaptive(Method):
    """A saliency-and-pruning module per convolution; net and modules are trained together towards a mean cost.

    The module sees the layer's input and gives each output channel a saliency, which multiplies it, and a decision,
    which keeps or skips it. The loss is the task's plus ``cost_weight`` x the distance between the mean share of MACs
    of the batch and ``target_macs``. Only the mean is drawn to it: hard samples may cost more than easy ones.
    The net stays dynamic: nothing is cut, parameters are added, and masks save nothing in batches. For one sample
    the channels can be skipped for real, which is compared and timed here (:class:`SkippingNet`).

    Every convolution is gated but those that read the image and the 1x1 shortcuts; linear layers are not. Schedules:
    ``simultaneous`` trains everything from random weights (or ``model.pretrained``), ``finetune`` pretrains first.

    The paper's full text could not be read and no code is known. From its abstract and reading notes: pooling and a
    fully connected layer, decisions by a threshold, the joint loss with the mean cost. Chosen here: the sigmoid, the
    straight-through gradient, the squared distance, the initialisation, what is gated, the falling target, and all of
    the training.

    Args:
        target_macs: share of the dense net's MACs that the samples' mean is drawn to, in (0, 1).
        ramp: share of the phase in which the target falls linearly from 1, all of the net, to ``target_macs``; 0 =
            ``target_macs`` from the first step on.
        cost_weight: weight of that term of the loss.
        distance: "squared", "abs", or "hinge" = squared above the target, 0 below.
        hidden_ratio: None = one linear layer; r = a hidden layer of ``out_channels / r`` units (SENet).
        threshold: saliency from which on a channel is kept, in (0, 1).
        binarize: "straight_through" or "semhash".
        layers: names and globs of the convolutions to gate.
        skip: names and globs of convolutions without a gate; None = shortcuts.
        timed_samples: test samples that are timed one by one; 0 = none.

    Raises:
        UserError: an option outside its values.
    """

    schedules: frozenset[str] = frozenset({"simultaneous", "finetune"})
    last_ratio: Tensor

    def __init__(
        self,
        *,
        target_macs: OpenFraction,
        ramp: PhaseShare = 0.0,
        cost_weight: NonNegativeFloat = 5.0,
        distance: Annotated[str, Among(("squared", "abs", "hinge"))] = "squared",
        hidden_ratio: PositiveInt | None = None,
        threshold: OpenFraction = 0.5,
        binarize: Binarize = "straight_through",
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] | None = None,
        timed_samples: NonNegativeInt = 200,
    ) -> None:
        super().__init__()
        self.target_macs = target_macs
        self.ramp = ramp
        self.cost_weight = cost_weight
        self.distance = distance
        self.hidden_ratio = hidden_ratio
        self.gate_options = {"threshold": threshold, "binarize": binarize}
        self.layers = layers
        self.skip = skip
        self.timed_samples = timed_samples
        self._form: PerSampleMacs | None = None
        self._ahead = 0.0  # share of the ramp that is still to go: it follows from the clock
        # mean share of the dense net's MACs in the last training batch
        self.register_buffer("last_ratio", torch.ones(()))

    # -- before and in training

    def check(self, net: nn.Module, run: Run) -> None:
        super().check(net, run)
        names, _ = self._names(net, run.graph)
        if not names:
            raise UserError("method=sanp gates convolutions, and none of this net's can get a gate")
        form = PerSampleMacs.of(names, run.graph, dense_macs=run.dense.cost.macs)
        if self.target_macs <= form.ungated / form.full:
            raise UserError(
                f"method.target_macs={self.target_macs:g} is out of reach: layers without a gate cost "
                f"{form.ungated / form.full:.3f} of the dense net's MACs; give a larger share"
            )
        log.info("gated layers: %s", ", ".join(names))

    def prune(self, net: nn.Module, run: Run) -> Extracted:
        # nothing is cut; "pruned" is the net with untrained gates
        return Extracted(net=self.attach(net, run), not_pruned=self._names(run.template, run.graph)[1])

    def attach(self, net: nn.Module, run: Run) -> nn.Module:
        names, _ = self._names(run.template, run.graph)
        self._form = PerSampleMacs.of(names, run.graph, dense_macs=run.dense.cost.macs)
        if gated_layers(net):
            return net
        with torch.random.fork_rng([]):
            run.seed_all("gates")
            return gate_layers(names, net, run.graph, hidden_ratio=self.hidden_ratio, gate=self.gate_options)

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        """No weight decay on the gates' biases: it would draw saliencies to 1/2, which is the threshold."""
        gates = [layer.gate for layer in gated_layers(net).values()]
        biases = [p for gate in gates for p in gate.parameters() if p.ndim == 1 and p.requires_grad]
        return apart(super().param_groups(net, phase), biases, weight_decay=0.0)

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        assert self._form is not None, "attach comes first"
        with recorded_decisions(net) as decisions:
            terms = task.losses(net, batch)
        ratio = self._form.ratios(decisions).mean()
        self.last_ratio.copy_(ratio.detach())
        off = ratio - self.target_now
        if self.distance == "abs":
            distance = off.abs()
        else:
            distance = (off.clamp_min(0.0) if self.distance == "hinge" else off).square()
        return {**terms, "cost": (self.cost_weight * distance).float()}

    def start_epoch(self, net: nn.Module, clock: Clock) -> None:
        self._aim(clock.step, clock.num_steps)

    def after_step(self, net: nn.Module, clock: Clock) -> None:
        self._aim(clock.step + 1, clock.num_steps)

    def _aim(self, step: int, num_steps: int) -> None:
        """Set the share of MACs that the mean is drawn to after ``step`` steps."""
        ramp = int(self.ramp * num_steps)
        self._ahead = max(0.0, 1 - step / ramp) if ramp else 0.0

    @property
    def target_now(self) -> float:
        """The share of MACs that this step's mean is drawn to."""
        return self.target_macs + (1 - self.target_macs) * self._ahead

    def report(self, net: nn.Module) -> Mapping[str, float]:
        return {"macs_ratio": float(self.last_ratio), "target_macs": self.target_now}

    def selectable(self, net: nn.Module) -> bool:
        return self._ahead == 0.0

    # -- afterwards

    def extract(self, net: nn.Module, run: Run) -> Extracted:
        net = self.attach(net, run)  # of no effect unless nothing was trained
        compared = dict(run.once("skipping", lambda: compare_skipping(net, _some_images(run, COMPARED_SAMPLES))))
        difference = compared.pop("max_abs_diff")
        achieved = {
            "target": self.target_macs,
            "reached": self._measured(net, run)["per_sample"]["mean"] / run.dense.cost.macs,
            "tolerance": TOLERANCE,
            "unit": "share of the dense net's MACs, mean over the test samples",
            **compared,
        }
        whole = self._names(run.template, run.graph)[1]
        return Extracted(net=net, not_pruned=whole, achieved=achieved, max_abs_diff=difference)

    def cost(self, net: nn.Module, run: Run) -> Mapping[str, Any]:
        found = self._measured(net, run)
        if not self.timed_samples:
            return found
        timed = run.once("sample-latency", lambda: self._time(net, run))
        return {**found, "sample_latency": timed}

    def _measured(self, net: nn.Module, run: Run) -> dict[str, Any]:
        return run.once("per-sample-cost", lambda: self._measure(net, run))

    def _measure(self, net: nn.Module, run: Run) -> dict[str, Any]:
        assert self._form is not None, "attach comes first"
        device = run.device
        run.data.to(device)
        found = sample_cost(net.to(device), self._form, run.data.test(), run.example)
        net.cpu()
        return found

    def _time(self, net: nn.Module, run: Run) -> dict[str, Any]:
        """Dense, masked and skipping net on single test samples, each in turn."""
        masked = copy.deepcopy(net).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        nets = {"dense": run.dense.template, "masked": masked, "skipping": SkippingNet(net)}
        return compare_samples(nets, _some_images(run, self.timed_samples))

    def _names(self, net: nn.Module, graph: ChannelGraph) -> tuple[list[str], list[dict[str, str]]]:
        """The convolutions that get a gate, and those that should but cannot, with the reason."""
        convs = [name for name, layer in graph.layers.items() if layer.kind != "linear"]
        if not convs:
            return [], []
        chosen = match_layers(self.layers, convs, what="method.layers")
        if self.skip is not None:
            skipped = match_layers(self.skip, convs, what="method.skip")
        else:
            skipped = [name for name in convs if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)]
        skipped.append(convs[0])  # reads the image
        return gatable([name for name in chosen if name not in skipped], net, graph)


def _some_images(run: Run, num: int) -> Tensor:
    """The first test images, on the CPU; not more than one batch."""
    run.data.to("cpu")
    batch = next(iter(run.data.test()))
    return batch[0][:num]
