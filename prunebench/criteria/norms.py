"""Scores of channels from the batch-norm layer that follows them (Oh et al. 2022), and the compensation of a mean.

The paper's exact scalar could not be verified (only its abstract and first page were read), so the whole closed-form
family is here under ``statistic``; ``mean`` is the most literal reading of the text and the default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunebench.criteria import activation_moments

STATISTICS = ("mean", "second_moment", "std", "prob_active", "gamma", "mean_x_next", "shift", "var_x_next")
_WITH_READERS = frozenset({"mean_x_next", "shift", "var_x_next"})


def needs_readers(statistic: str) -> bool:
    """Whether a statistic weighs a channel by the weights of the layers that read it."""
    return statistic in _WITH_READERS


def kernel_sums(weight: Tensor, num_channels: int) -> Tensor:
    """K[j, i], the sum of a reader's weights from input channel i to output j: ``[out, in, ...] -> [out, in]``.

    Args:
        weight: of the reading layer. A linear layer behind a flatten has H*W columns for each channel; a grouped
            convolution has weights for the channels of its group only, the others count 0.
        num_channels: number of channels that are read.
    """
    return by_channel(weight, num_channels).sum(dim=2)


def by_channel(weight: Tensor, num_channels: int) -> Tensor:
    """The weights by input channel, ``[out, num_channels, taps]``."""
    weight = weight.detach().double()
    num_out, num_in = weight.shape[:2]
    grouped = weight.ndim > 2 and num_in < num_channels
    if (num_channels % num_in if grouped else num_in % num_channels) or (weight.ndim > 2 and num_in > num_channels):
        raise ValueError(f"a reader with weight {tuple(weight.shape)} cannot read {num_channels} channels")
    if not grouped:
        return weight.reshape(num_out, num_channels, -1)
    blocks = weight.flatten(start_dim=2).chunk(num_channels // num_in)  # each [out of a group, in of a group, taps]
    taps = weight.new_zeros(num_out, num_channels, blocks[0].shape[2])
    for place, block in enumerate(blocks):
        taps[place * len(block) : (place + 1) * len(block), place * num_in : (place + 1) * num_in] = block
    return taps


def bn_importance(
    statistic: str,
    beta: Tensor,
    gamma: Tensor,
    *,
    activation: str | None = "relu",
    slope: float = 0.01,
    readers: Sequence[Tensor] = (),
) -> Tensor:
    """Importance of each channel from the (beta, gamma) of its norm layer, ``[channels] -> [channels]``.

    With Y = f(X), X ~ N(beta, gamma^2), and W the weights of the readers, stacked along their outputs:

    ==============  ============================================  ================================================
    statistic       score                                         meaning
    ==============  ============================================  ================================================
    mean            E|Y|                                          expected activation
    second_moment   E[Y^2]                                        expected energy
    std             sqrt(Var Y)                                   what remains once the mean is compensated
    prob_active     P(X > 0)                                      firing rate
    gamma           |gamma|                                       the score of network slimming
    mean_x_next     E|Y| * sum |W[:, i]|                          contribution bound to the next layer
    shift           E|Y| * mean over outputs of |kernel sum|      shift of the next pre-activation (FSM)
    var_x_next      Var Y * sum W[:, i]^2                         its squared error after mean compensation
    ==============  ============================================  ================================================

    Args:
        beta: bias of the norm layer, ``[channels]``.
        gamma: weight of the norm layer, ``[channels]``; its sign is irrelevant by symmetry.
        activation: what follows the norm layer, one of ``activation_moments.ACTIVATIONS``.
        slope: of a leaky ReLU.
        readers: weights of the layers that read the channels, for the last three statistics.

    Raises:
        ValueError: unknown statistic or activation, or a statistic that needs readers and gets none.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"unknown statistic {statistic!r}; allowed: {', '.join(STATISTICS)}")
    if statistic == "gamma":
        return gamma.detach().double().abs()
    if statistic == "prob_active":
        return activation_moments.prob_active(beta, gamma)
    if statistic == "second_moment":
        return activation_moments.second_moment(beta, gamma, activation=activation, slope=slope)
    if statistic == "std":
        return activation_moments.std(beta, gamma, activation=activation, slope=slope)
    expected = activation_moments.magnitude(beta, gamma, activation=activation, slope=slope)
    if statistic == "mean":
        return expected
    if not readers:
        raise ValueError(f"the statistic {statistic!r} needs the weights of the layers that read the channels")
    taps = [by_channel(weight, len(beta)) for weight in readers]  # each [out, channels, taps]
    if statistic == "mean_x_next":
        return expected * torch.stack([tap.abs().sum(dim=(0, 2)) for tap in taps]).sum(dim=0)
    if statistic == "shift":
        return expected * torch.cat([tap.sum(dim=2).abs() for tap in taps]).mean(dim=0)
    spread = activation_moments.variance(beta, gamma, activation=activation, slope=slope)
    return spread * torch.stack([tap.square().sum(dim=(0, 2)) for tap in taps]).sum(dim=0)


def mean_shift(weight: Tensor, channel_mean: Tensor, removed: Sequence[int]) -> Tensor:
    """How much a reader's output loses on average when channels go: sum over them of K[j, i] * mean_i, ``[out]``.

    Subtract it from the running mean of the reader's norm layer (or add it to its bias) and the expected
    pre-activation is unchanged, up to zero padding; it costs nothing at inference.

    Args:
        weight: of the reader, as in :func:`kernel_sums`.
        channel_mean: expected value of each channel as it is read, ``[channels]``.
        removed: the channels that go.
    """
    index = torch.as_tensor(list(removed), dtype=torch.long, device=weight.device)
    sums = kernel_sums(weight, len(channel_mean))
    return sums[:, index] @ channel_mean.detach().double()[index]
