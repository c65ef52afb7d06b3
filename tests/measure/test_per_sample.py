from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunebench.measure.per_sample import GatedLayer, PerSampleMacs, distribution

# 3 -> 4 -> 5 channels, 3x3 kernels on 8x8 maps
FIRST = GatedLayer(name="one", macs_each=576, in_channels=3, out_channels=4, reads=[(None, 3)])
SECOND = GatedLayer(name="two", macs_each=576, in_channels=4, out_channels=5, reads=[("one", 4)])
CHAIN = PerSampleMacs([FIRST, SECOND], ungated=0)
DECISIONS = {
    "one": torch.tensor([[1.0, 0, 1, 1], [1, 0, 0, 0]]),
    "two": torch.tensor([[1.0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]),
}


def test_two_layers_by_hand() -> None:
    assert CHAIN.full == 18_432
    assert CHAIN.by_layer(DECISIONS).tolist() == [[5184, 5184], [1728, 576]]
    ratios = CHAIN.ratios(DECISIONS)
    assert ratios.tolist() == [0.5625, 0.125]
    # the mean first, then the distance; neither the mean of squares (0.0723) nor products of mean counts (5,760 MACs)
    assert float((ratios.mean() - 0.5) ** 2) == 0.0244140625
    assert float(CHAIN.by_layer(DECISIONS).sum(1).mean()) == 6_336


def test_a_layer_that_reads_a_sum_or_a_concatenation() -> None:
    concat = GatedLayer(
        name="three", macs_each=10, in_channels=11, out_channels=2, reads=[("one", 4), (None, 2), ("two", 5)]
    )
    macs = PerSampleMacs([FIRST, SECOND, concat], ungated=100)
    kept = {**DECISIONS, "three": torch.ones(2, 2)}
    assert macs.by_layer(kept)[:, 2].tolist() == [10 * (3 + 2 + 3) * 2, 10 * (1 + 2 + 1) * 2]
    assert macs.full == 18_432 + 220 + 100
    assert float(macs.ratios({k: torch.ones_like(v) for k, v in kept.items()})[0]) == 1.0


def flat(kept: dict[str, Tensor]) -> Tensor:
    return torch.cat(list(kept.values()), dim=1)


def test_another_channel_never_costs_less() -> None:
    macs = PerSampleMacs([FIRST, SECOND], ungated=7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        bits = (torch.rand(1, 9, generator=generator) < 0.5).float()
        before = macs.ratios({"one": bits[:, :4], "two": bits[:, 4:]})
        assert 0 < float(before) <= 1
        for place in (bits[0] == 0).nonzero().flatten().tolist():
            more = bits.clone()
            more[0, place] = 1
            assert float(macs.ratios({"one": more[:, :4], "two": more[:, 4:]})) >= float(before)


def test_the_gradient_counts_both_ends_of_a_channel() -> None:
    one = DECISIONS["one"].clone().requires_grad_()
    CHAIN.by_layer({**DECISIONS, "one": one}).sum(1)[0].backward()
    # sample A: one more channel of the first layer costs 3 inputs there and 3 outputs of the second one
    assert one.grad is not None and one.grad[0].tolist() == [576 * (3 + 3)] * 4


def test_distribution() -> None:
    found = distribution(torch.tensor([10.0, 20.0, 30.0, 100.0]), 100)
    assert (found["mean"], found["min"], found["max"], found["num_samples"]) == (40.0, 10, 100, 4)
    assert found["median"] == 25.0
    assert found["sd"] == pytest.approx(40.8248, abs=1e-4)  # sqrt(5000 / 3)
    counts, edges = found["histogram"]["counts"], found["histogram"]["edges"]
    assert sum(counts) == 4 and len(edges) == len(counts) + 1 == 21
    assert [edges[i] for i, count in enumerate(counts) if count] == [0.1, 0.2, 0.3, 0.95]
