"""The hand example: iterates (1, 2), (3, 2), (2, 5), (6, 3) with two deviations kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.layers.iterates import IterateGaussian
from prunebench.layers.memory_format import to_memory_format
from prunebench.layers.vectors import split, to_vector, write_vector

ITERATES = ((1.0, 2.0), (3.0, 2.0), (2.0, 5.0), (6.0, 3.0))


def collected(rank: int = 2) -> IterateGaussian:
    gaussian = IterateGaussian(size=2, rank=rank)
    for iterate in ITERATES:
        gaussian.collect(torch.tensor(iterate))
    return gaussian


def test_moments_and_deviations() -> None:
    gaussian = collected()
    assert int(gaussian.num_collected) == 4
    assert gaussian.mean.tolist() == pytest.approx([3, 3])
    assert gaussian.square.tolist() == pytest.approx([12.5, 10.5])
    assert gaussian.variance().tolist() == pytest.approx([3.5, 1.5])
    assert gaussian.variance().tolist() == pytest.approx(torch.tensor(ITERATES).var(0, correction=0).tolist())
    # each from the mean of its moment, the new iterate included: (0, 0), (1, 0), (0, 2), (3, 0); the last two stay
    assert collected(rank=4).deviations.tolist() == [[0, 0], [1, 0], [0, 2], [3, 0]]
    assert gaussian.deviations.tolist() == [[0, 2], [3, 0]]


def test_a_sample_by_hand() -> None:
    sample = collected().sample(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.5]), scale=0.5)
    assert sample.tolist() == pytest.approx([5.383536, 3.548188], abs=1e-6)


def covariance(samples: Tensor) -> Tensor:
    return torch.cov(samples.T)


def test_empirical_covariance_of_swag() -> None:
    generator, gaussian = torch.Generator().manual_seed(0), collected()
    samples = torch.stack([gaussian.draw(generator, scale=0.5, low_rank=True) for _ in range(20_000)])
    torch.testing.assert_close(samples.mean(0), gaussian.mean, atol=0.06, rtol=0)
    expected = torch.tensor([[6.25, 0.0], [0.0, 2.75]], dtype=torch.float64)
    torch.testing.assert_close(covariance(samples), expected, atol=0.15, rtol=0)
    torch.testing.assert_close(gaussian.std(scale=0.5, low_rank=True), expected.diagonal().sqrt())


def test_the_low_rank_part_correlates_weights() -> None:
    gaussian = IterateGaussian(size=2, rank=2)
    for iterate in ((0.0, 0.0), (2.0, -2.0), (4.0, -4.0)):
        gaussian.collect(torch.tensor(iterate))
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([gaussian.draw(generator, scale=1.0, low_rank=True) for _ in range(20_000)])
    # D = [(1, -1), (2, -2)]: D^T D = [[5, -5], [-5, 5]], the variances of the iterates are 8 / 3
    expected = torch.tensor([[5 + 8 / 3, -5.0], [-5.0, 5 + 8 / 3]], dtype=torch.float64)
    torch.testing.assert_close(covariance(samples), expected, atol=0.3, rtol=0)


def test_diagonal_and_mean() -> None:
    generator, gaussian = torch.Generator().manual_seed(0), collected()
    assert torch.equal(gaussian.draw(generator, scale=0.0, low_rank=True), gaussian.mean)
    samples = torch.stack([gaussian.draw(generator, scale=1.0, low_rank=False) for _ in range(20_000)])
    expected = torch.tensor([[3.5, 0.0], [0.0, 1.5]], dtype=torch.float64)
    torch.testing.assert_close(covariance(samples), expected, atol=0.12, rtol=0)
    assert gaussian.std(scale=1.0, low_rank=False).square().tolist() == pytest.approx([3.5, 1.5])


def test_few_iterates_keep_the_divisor_of_the_official_code() -> None:
    gaussian = IterateGaussian(size=1, rank=5)
    for value in (0.0, 2.0):
        gaussian.collect(torch.tensor([value]))
    # variance 1, deviations 0 and 1, divided by K - 1 = 4 and not by the one that two iterates would give
    assert gaussian.std(scale=1.0, low_rank=True).square().item() == pytest.approx(1 + 1 / 4)


def test_moments_do_not_cancel() -> None:
    gaussian = IterateGaussian(size=1, rank=0)
    for value in (1.0, 1.0 + 2**-20, 1.0 - 2**-20):
        gaussian.collect(torch.tensor([value]))
    # 2 / 3 * 2^-40 = 6.06e-13 is lost in float32, whose numbers near 1 are 1.2e-7 apart
    assert gaussian.variance().item() == pytest.approx(2 / 3 * 2**-40, rel=1e-3)


def test_pruned_weights_are_zero_in_every_sample() -> None:
    gaussian = collected()
    gaussian.prune(torch.tensor([False, True]))
    generator = torch.Generator().manual_seed(0)
    samples = torch.stack([gaussian.draw(generator, scale=0.5, low_rank=True) for _ in range(100)])
    assert gaussian.mean.tolist() == pytest.approx([0, 3])
    assert gaussian.deviations.tolist() == [[0, 2], [0, 0]]
    assert samples[:, 0].count_nonzero() == 0
    assert samples[:, 1].std() > 1


def test_a_selection_is_the_gaussian_of_those_weights() -> None:
    gaussian = collected()
    small = gaussian.select(torch.tensor([1]))
    assert small.mean.tolist() == gaussian.mean[1:].tolist()
    assert small.std(scale=0.5, low_rank=True).tolist() == gaussian.std(scale=0.5, low_rank=True)[1:].tolist()
    assert int(small.num_collected) == 4


def test_a_low_rank_part_needs_two_deviations() -> None:
    with pytest.raises(UserError, match="rank of at least 2, got 1"):
        collected(rank=1).std(scale=0.5, low_rank=True)


def test_vectors_are_independent_of_the_memory_format() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[1].bias.requires_grad_(False)
    vector = to_vector(net)
    assert len(vector) == 3 * 4 * 9 + 4 + 4
    assert torch.equal(to_vector(to_memory_format(net, torch.channels_last)), vector)
    write_vector(net, torch.arange(len(vector)))
    assert net[0].weight.flatten().tolist() == list(range(108))
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert {name: part.shape for name, part in split(net, vector).items()} == {
        name: parameter.shape for name, parameter in net.named_parameters() if parameter.requires_grad
    }
