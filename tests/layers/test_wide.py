from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from prunebench.layers.memory_format import to_memory_format
from prunebench.layers.wide import widened
from prunebench.measure.cost import count

ROWS = ([1, 4], [0, 1, 4, 7])  # what the layer has, and what the tensor has that it writes
COLUMNS = ([2, 3, 6], [2, 3, 5, 6])
PLACES_OUT, PLACES_IN = [1, 2], [0, 1, 3]


def embedded(narrow: Tensor, places: list[int], width: int) -> Tensor:
    """Written out: zeros, and the narrow tensor's channels in their places."""
    wide = torch.zeros(narrow.shape[0], width, *narrow.shape[2:])
    for source, target in enumerate(places):
        wide[:, target] = narrow[:, source]
    return wide


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_reads_live_inputs_and_writes_zeros_elsewhere(bias: bool) -> None:
    small = nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=bias)
    wide = widened(copy.deepcopy(small), rows=ROWS, columns=COLUMNS)
    x = torch.randn(5, 4, 8, 8)
    expected = embedded(small(x[:, PLACES_IN]), PLACES_OUT, 4)
    torch.testing.assert_close(wide(x), expected)
    assert wide(x)[:, [0, 3]].abs().max() == 0
    assert {n: p.shape for n, p in wide.state_dict().items()} == {n: p.shape for n, p in small.state_dict().items()}

    # the gradients are the small layer's
    wide(x).square().sum().backward()
    small(x[:, PLACES_IN]).square().sum().backward()
    for ours, theirs in zip(wide.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_memory_format_does_not_matter() -> None:
    small = nn.Conv2d(3, 2, 3, padding=1)
    wide = widened(copy.deepcopy(small), rows=ROWS, columns=COLUMNS)
    x = torch.randn(2, 4, 6, 6)
    plain = wide(x)
    last = to_memory_format(wide, torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


def test_a_linear_layer() -> None:
    small = nn.Linear(3, 2)
    wide = widened(copy.deepcopy(small), rows=ROWS, columns=COLUMNS)
    x = torch.randn(5, 4)
    torch.testing.assert_close(wide(x), embedded(small(x[:, PLACES_IN]), PLACES_OUT, 4))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_norm_has_statistics_of_live_channels_only(momentum: float | None) -> None:
    small = nn.BatchNorm2d(2, momentum=momentum)
    with torch.no_grad():
        small.weight.copy_(torch.tensor([2.0, -0.5]))
        small.bias.copy_(torch.tensor([0.3, 1.0]))
    wide = widened(copy.deepcopy(small), rows=ROWS, columns=None)
    for _ in range(3):
        narrow = 1 + 3 * torch.randn(6, 2, 4, 4)
        x = embedded(narrow, PLACES_OUT, 4)
        torch.testing.assert_close(wide(x), embedded(small(narrow), PLACES_OUT, 4))
    for name, value in small.state_dict().items():
        torch.testing.assert_close(wide.state_dict()[name], value, msg=name)
    wide.eval(), small.eval()
    torch.testing.assert_close(wide(x), embedded(small(narrow), PLACES_OUT, 4))


def test_the_small_layer_is_counted() -> None:
    net = nn.Sequential(widened(nn.Conv2d(3, 2, 3, padding=1, bias=False), rows=ROWS, columns=COLUMNS))
    assert count(net, torch.zeros(1, 4, 8, 8)).macs == 3 * 2 * 9 * 64
    net = nn.Sequential(widened(nn.Linear(3, 2), rows=ROWS, columns=COLUMNS))
    assert count(net, torch.zeros(1, 4)).macs == 3 * 2


def test_a_layer_that_has_all_channels_stays_as_it_is() -> None:
    layer = nn.Conv2d(4, 4, 3)
    assert widened(layer, rows=(ROWS[1], ROWS[1]), columns=(COLUMNS[1], COLUMNS[1])) is layer


def test_what_is_remembered_follows_the_weights() -> None:
    """Evaluation places weights once, and again when they have changed."""
    wide = widened(nn.Conv2d(3, 2, 3, padding=1), rows=ROWS, columns=COLUMNS).eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        first = wide(x)
        torch.testing.assert_close(wide(x), first, rtol=0, atol=0)
        for parameter in wide.parameters():
            parameter.mul_(2.0)
        torch.testing.assert_close(wide(x), 2 * first)
        for parameter in wide.parameters():
            parameter.data[0] = 0  # counts no version up
        assert wide(x).abs().amax((0, 2, 3)).count_nonzero() == 1
        for parameter in wide.parameters():
            parameter.data[:] = 1
        ones = wide(x)
        fresh = copy.deepcopy(wide)
        torch.testing.assert_close(ones, fresh(x), rtol=0, atol=0)
        loaded = copy.deepcopy(wide)
        loaded.load_state_dict({name: 0 * value for name, value in wide.state_dict().items()})
        assert loaded(x).abs().max() == 0
        torch.testing.assert_close(wide(x), ones)
