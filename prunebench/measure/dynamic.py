"""What a net costs whose channels are switched per sample: over a data set, and with the channels really skipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prunebench.layers.saliency import recorded_decisions
from prunebench.layers.skipping import SkippingNet
from prunebench.measure import cost as counted
from prunebench.measure.per_sample import PerSampleMacs, distribution

NOTE = "no batched speed-up: samples of a batch keep different channels, masks compute all of them"


@torch.no_grad()
def sample_cost(
    net: nn.Module, form: PerSampleMacs, batches: Iterable[tuple[Tensor, Tensor]], example: Tensor
) -> dict[str, Any]:
    """Cost of a net with gates, in evaluation mode, over all samples of ``batches``.

    Returns:
        ``macs`` (= ``macs_backbone``: the mean over the samples, without the gates' own work) and ``flops``;
        ``macs_spm``: the gates' work, the same for each sample; ``macs_masked``: what a masked pass computes;
        ``per_sample``: see :func:`prunebench.measure.per_sample.distribution`; ``per_layer``: the counted rows of the
        masked net, where a gated convolution has its mean MACs and ``keep_ratio``, the mean share of its channels that
        samples keep; ``counted_as`` and ``note`` in words.
    """
    net.eval()
    rows, kept = [], {layer.name: 0.0 for layer in form.layers}
    for images, _ in batches:
        with recorded_decisions(net) as decisions:
            net(images)
        rows.append(form.by_layer(decisions).cpu())
        for name, decision in decisions.items():
            kept[name] += float(decision.sum())
    by_layer = torch.cat(rows)  # [samples, layers]
    whole = distribution(by_layer.sum(1) + form.ungated, form.full)
    masked = counted.count(net, example)
    found = {
        f"{layer.name}.conv": {
            "macs": round(mean),
            "keep_ratio": kept[layer.name] / (len(by_layer) * layer.out_channels),
        }
        for layer, mean in zip(form.layers, by_layer.mean(0).tolist(), strict=True)
    }
    mean = round(whole["mean"])
    return {
        "macs": mean,
        "flops": 2 * mean,
        "counted_as": "mean over the test samples",
        "note": NOTE,
        "per_sample": whole,
        "macs_backbone": mean,
        "macs_spm": masked.macs - form.full,
        "macs_masked": masked.macs,
        "per_layer": [{**row, **found.get(row["layer"], {})} for row in masked.per_layer],
    }


@torch.no_grad()
def compare_skipping(net: nn.Module, images: Tensor) -> dict[str, Any]:
    """Masks against skipping, sample by sample, in evaluation mode on the CPU.

    A decision whose logit is as near to the threshold as float noise may fall differently in the two; such samples
    compute different functions and are counted apart.

    Returns:
        ``max_abs_diff`` of the outputs over the samples with equal decisions, ``num_compared``,
        ``num_other_decisions``.
    """
    net.cpu().eval()
    skipping = SkippingNet(net)
    largest, num_differ, scale = 0.0, 0, 1.0
    for image in images.cpu().split(1):
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
