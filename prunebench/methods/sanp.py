"""Self-Adaptive Network Pruning: each sample switches its own channels (Chen, Zhu, Li, Zhao, ICONIP 2019)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunebench.errors import UserError, nearest
from prunebench.layers.gated_conv import GatedConv, Moved, gated_layers, why_not
from prunebench.layers.saliency import SaliencyPruning, recorded_decisions
from prunebench.layers.skipping import SkippingNet
from prunebench.measure import cost as counted
from prunebench.measure.latency import compare_samples
from prunebench.measure.per_sample import GatedLayer, PerSampleMacs, distribution
from prunebench.method import Method, match_layers
from prunebench.surgery.plan import Plan
from prunebench.surgery.replace import replace
from prunebench.surgery.sources import known_parts, only_read_by, sources

if TYPE_CHECKING:
    from prunebench.job import Job
    from prunebench.phase import Phase
    from prunebench.surgery.graph import ChannelGraph
    from prunebench.task import Batch, Task

log = logging.getLogger("prunebench")

DISTANCES = ("squared", "abs", "hinge")
PROJECTIONS = ("*downsample*", "*shortcut*")
COMPARED_SAMPLES = 256  # test samples on which masks and skipping are compared


class SelfAdaptive(Method):
    """A saliency-and-pruning module per convolution; net and modules are trained together towards a mean cost.

    The module sees the layer's input and gives each output channel a saliency, which multiplies it, and a decision,
    which keeps or skips it. The loss is the task's plus ``cost_weight`` x the distance between the mean share of MACs
    of the batch and ``budget``. Only the mean is drawn to the budget: hard samples may cost more than easy ones.
    The net stays dynamic: nothing is cut, parameters are added, and masks save nothing in batches. For one sample
    the channels can be skipped for real, which is compared and timed here (:class:`SkippingNet`).

    Every convolution is gated but those that read the image and the 1x1 shortcuts; linear layers are not. Schedules:
    ``simultaneous`` trains everything from random weights (or ``model.pretrained``), ``finetune`` pretrains first.

    The paper's full text could not be read and no code is known. From its abstract and reading notes: pooling and a
    fully connected layer, decisions by a threshold, the joint loss with the mean cost. Chosen here: the sigmoid, the
    straight-through gradient, the squared distance, the initialisation, what is gated, and all of the training.

    Args:
        budget: share of the dense net's MACs that the samples' mean is drawn to, in (0, 1).
        cost_weight: weight of that term of the loss.
        distance: "squared", "abs", or "hinge" = squared above the budget, 0 below.
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

    def __init__(
        self,
        *,
        budget: float,
        cost_weight: float = 5.0,
        distance: str = "squared",
        hidden_ratio: int | None = None,
        threshold: float = 0.5,
        binarize: str = "straight_through",
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] | None = None,
        timed_samples: int = 200,
    ) -> None:
        super().__init__()
        if not 0 < budget < 1:
            raise UserError(f"method.budget must be in (0, 1), got {budget!r}")
        if not cost_weight >= 0:
            raise UserError(f"method.cost_weight must be at least 0, got {cost_weight!r}")
        if distance not in DISTANCES:
            hint = nearest(str(distance), DISTANCES)
            raise UserError(f"method.distance must be one of {', '.join(DISTANCES)}, got {distance!r}{hint}")
        if hidden_ratio is not None and hidden_ratio < 1:
            raise UserError(f"method.hidden_ratio must be at least 1 or null, got {hidden_ratio!r}")
        if timed_samples < 0:
            raise UserError(f"method.timed_samples must be at least 0, got {timed_samples!r}")
        SaliencyPruning(in_channels=1, out_channels=1, threshold=threshold, binarize=binarize)  # checks them
        self.budget = budget
        self.cost_weight = cost_weight
        self.distance = distance
        self.hidden_ratio = hidden_ratio
        self.gate_options = {"threshold": threshold, "binarize": binarize}
        self.layers = layers
        self.skip = skip
        self.timed_samples = timed_samples
        self._macs: PerSampleMacs | None = None

    # -- before and in training

    def check(self, net: nn.Module, job: Job) -> None:
        super().check(net, job)
        names, _ = self._gated(net, job.graph)
        if not names:
            raise UserError("method=sanp gates convolutions, and none of this net's can get a gate")
        macs = self._count(names, job)
        if self.budget <= macs.ungated / macs.full:
            raise UserError(
                f"method.budget={self.budget:g} is out of reach: layers without a gate cost "
                f"{macs.ungated / macs.full:.3f} of the dense net's MACs; give a larger share"
            )
        log.info("gated layers: %s", ", ".join(names))

    def prune(self, net: nn.Module, job: Job) -> nn.Module:
        return self.attach(net, job)  # nothing is cut; "pruned" is the net with untrained gates

    def attach(self, net: nn.Module, job: Job) -> nn.Module:
        names, job.not_pruned = self._gated(job.template, job.graph)
        self._macs = self._count(names, job)
        if gated_layers(net):
            return net
        with torch.random.fork_rng([]):
            job.seed_all("gates")
            swaps = self._swaps(net, job.graph, names)
        return replace(net, lambda path, _: swaps.get(path))

    def param_groups(self, net: nn.Module, phase: Phase) -> list[dict[str, Any]]:
        """No weight decay on the gates' biases: it would draw saliencies to 1/2, which is the threshold."""
        biases = {
            id(parameter)
            for layer in gated_layers(net).values()
            for parameter in layer.gate.parameters()
            if parameter.ndim == 1
        }
        groups = super().param_groups(net, phase)
        free = [p for group in groups for p in group["params"] if id(p) in biases]
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in biases]
        return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups

    def losses(self, net: nn.Module, batch: Batch, task: Task) -> Mapping[str, Tensor]:
        assert self._macs is not None, "attach comes first"
        with recorded_decisions(net) as decisions:
            terms = task.losses(net, batch)
        off = self._macs.ratios(decisions).mean() - self.budget
        if self.distance == "abs":
            distance = off.abs()
        else:
            distance = (off.clamp_min(0.0) if self.distance == "hinge" else off).square()
        return {**terms, "cost": (self.cost_weight * distance).float()}

    # -- afterwards

    def extract(self, net: nn.Module, job: Job) -> tuple[nn.Module, Plan]:
        compared = job.once("skipping", lambda: self._compare(net, job))
        job.achieved = {
            "budget": self.budget,
            "mean_macs_ratio": self._measured(net, job)["per_sample"]["mean"] / job.dense_cost.macs,
            **compared,
        }
        return net, job.plan

    def cost(self, net: nn.Module, job: Job) -> Mapping[str, Any]:
        found = self._measured(net, job)
        if not self.timed_samples:
            return found
        timed = job.once("sample-latency", lambda: self._time(net, job))
        return {**found, "sample_latency": timed}

    def _measured(self, net: nn.Module, job: Job) -> dict[str, Any]:
        return job.once("per-sample-cost", lambda: self._measure(net, job))

    @torch.no_grad()
    def _measure(self, net: nn.Module, job: Job) -> dict[str, Any]:
        """Cost of each test sample, in evaluation mode."""
        assert self._macs is not None
        job.data.to("cpu")
        net.cpu().eval()
        rows, kept = [], {layer.name: 0.0 for layer in self._macs.layers}
        for images, _ in job.data.test():
            with recorded_decisions(net) as decisions:
                net(images)
            rows.append(self._macs.by_layer(decisions))
            for name, decision in decisions.items():
                kept[name] += float(decision.sum())
        by_layer = torch.cat(rows)  # [samples, layers]
        whole = distribution(by_layer.sum(1) + self._macs.ungated, self._macs.full)
        masked = counted.count(net, job.example)
        mean = round(whole["mean"])
        return {
            "macs": mean,
            "flops": 2 * mean,
            "counted_as": "mean over the test samples",
            "note": "no batched speed-up: samples of a batch keep different channels, masks compute all of them",
            "per_sample": whole,
            "macs_backbone": mean,
            "macs_spm": masked.macs - self._macs.full,
            "macs_masked": masked.macs,
            "per_layer": self._rows(masked, by_layer.mean(0).tolist(), kept, len(by_layer)),
        }

    def _rows(
        self, masked: counted.Cost, macs: Sequence[float], kept: Mapping[str, float], num_samples: int
    ) -> list[dict[str, Any]]:
        """The counted rows; a gated convolution has its mean MACs and the mean share of channels that samples keep."""
        assert self._macs is not None
        found = {
            f"{layer.name}.conv": {
                "macs": round(mean),
                "keep_ratio": kept[layer.name] / (num_samples * layer.out_channels),
            }
            for layer, mean in zip(self._macs.layers, macs, strict=True)
        }
        return [{**row, **found.get(row["layer"], {})} for row in masked.per_layer]

    @torch.no_grad()
    def _compare(self, net: nn.Module, job: Job) -> dict[str, Any]:
        """Masks against skipping, sample by sample.

        A decision whose logit is as near to the threshold as float noise may fall differently in the two; such samples
        compute different functions and are counted apart.
        """
        job.data.to("cpu")
        images = next(iter(job.data.test()))[0][:COMPARED_SAMPLES]
        net.cpu().eval()
        skipping = SkippingNet(net)
        largest, num_differ, scale = 0.0, 0, 1.0
        for image in images.split(1):
            with recorded_decisions(net) as decisions:
                masked = net(image)
            skipped = skipping(image)
            chosen = {name: decision[0].nonzero().flatten().tolist() for name, decision in decisions.items()}
            if chosen != skipping.kept():
                num_differ += 1
                continue
            largest = max(largest, float((masked - skipped).abs().max()))
            scale = max(scale, float(masked.abs().max()))
        assert largest <= 1e-4 * scale, f"skipping differs from masks by {largest}"
        assert num_differ <= len(images) / 10, f"masks and skipping choose differently for {num_differ} samples"
        return {"max_abs_diff": largest, "num_compared": len(images), "num_other_decisions": num_differ}

    def _time(self, net: nn.Module, job: Job) -> dict[str, Any]:
        """Dense, masked and skipping net on single test samples, each in turn."""
        job.data.to("cpu")
        images = next(iter(job.data.test()))[0][: self.timed_samples]
        nets = {"dense": job.template, "masked": net, "skipping": SkippingNet(net)}
        return compare_samples(nets, images)

    # -- which layers

    def _gated(self, net: nn.Module, graph: ChannelGraph) -> tuple[list[str], list[dict[str, str]]]:
        """The convolutions that get a gate, and the others with the reason."""
        convs = [name for name, layer in graph.layers.items() if layer.kind != "linear"]
        chosen = match_layers(self.layers, convs, what="method.layers") if convs else []
        if self.skip is not None:
            skipped = match_layers(self.skip, convs, what="method.skip")
        else:
            skipped = [name for name in convs if any(fnmatchcase(name, pattern) for pattern in PROJECTIONS)]
        first = convs[:1]  # reads the image
        gated: list[str] = []
        reasons: list[dict[str, str]] = []
        for name in (name for name in chosen if name not in skipped and name not in first):
            norm = graph.layers[name].norm
            reason = graph.why_not(name) or why_not(net.get_submodule(name), net.get_submodule(norm) if norm else None)
            if reason is None:
                gated.append(name)
            else:
                reasons.append({"layer": name, "reason": reason})
        return gated, reasons

    def _swaps(self, net: nn.Module, graph: ChannelGraph, names: Sequence[str]) -> dict[str, nn.Module]:
        """The new modules by path; they take over the convolutions and norms of ``net``."""
        reads = {name: known_parts(sources(graph, name), dict.fromkeys(names)) for name in names}
        swaps: dict[str, nn.Module] = {}
        for name in names:
            layer, readers = graph.layers[name], only_read_by(graph, name)
            alone = ((name, layer.out_channels),)
            hidden = None if self.hidden_ratio is None else max(1, layer.out_channels // self.hidden_ratio)
            conv, norm = net.get_submodule(name), net.get_submodule(layer.norm) if layer.norm else None
            assert isinstance(conv, nn.Conv2d) and (norm is None or isinstance(norm, nn.BatchNorm2d))
            swaps[name] = GatedConv.around(
                conv,
                norm,
                gate={**self.gate_options, "hidden": hidden, "may_be_empty": _may_be_empty(graph, name)},
                reads=reads[name],
                narrow=bool(readers) and all(reads.get(reader) == alone for reader in readers or ()),
            )
            if layer.norm:
                swaps[layer.norm] = Moved()
        return swaps

    def _count(self, names: Sequence[str], job: Job) -> PerSampleMacs:
        layers = []
        for name in names:
            layer = job.graph.layers[name]
            layers.append(
                GatedLayer(
                    name=name,
                    macs_each=layer.kernel_area * layer.positions,
                    in_channels=layer.in_channels,
                    out_channels=layer.out_channels,
                    reads=known_parts(sources(job.graph, name), dict.fromkeys(names)),
                )
            )
        gated = sum(layer.macs_each * layer.in_channels * layer.out_channels for layer in layers)
        return PerSampleMacs(layers, ungated=job.dense_cost.macs - gated)


def _may_be_empty(graph: ChannelGraph, name: str) -> bool:
    """Whether an addition bypasses the layer, so that the net still computes something without it."""
    try:
        graph.check(Plan(keep={name: ()}))
    except UserError:
        return False
    return True
