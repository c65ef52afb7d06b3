from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from prunebench.criteria import kernel_sums, mean
from prunebench.criteria.compensation import compensated
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero

Pair = tuple[nn.Sequential, ChannelGraph]


def normal_net(*, reader_norm: bool, depthwise: bool = False, slope: float = 0.0) -> Pair:
    """1x1 convolutions on normal inputs: the first batch norm's output is exactly normal with its beta and gamma."""
    first = nn.LeakyReLU(slope) if slope else nn.ReLU()
    layers: list[nn.Module] = [nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), first]
    if depthwise:
        layers += [nn.Conv2d(6, 6, 1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 5, 1, bias=True)] + ([nn.BatchNorm2d(5)] if reader_norm else [])
    net = nn.Sequential(*layers).eval()
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net, ChannelGraph.trace(net, torch.zeros(1, 4, 2, 2))


def mean_output(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images).mean(dim=(0, 2, 3))


def test_the_expected_output_stays() -> None:
    images = torch.randn(2000, 4, 5, 5)
    for reader_norm, slope in ((True, 0.0), (False, 0.0), (True, 0.3)):
        net, graph = normal_net(reader_norm=reader_norm, slope=slope)
        # the running statistics of the inputs, so that the normalised values are standard normal
        with torch.no_grad():
            values = net[0](images)
            net[1].running_mean.copy_(values.mean(dim=(0, 2, 3)))
            net[1].running_var.copy_(values.var(dim=(0, 2, 3)))
        plan = Plan(keep={"0": (0, 3)})
        before = mean_output(net, images)
        plain = mean_output(zero(net, graph, plan), images) - before
        repaired = mean_output(zero(compensated(net, graph, plan, Plan()), graph, plan), images) - before
        assert plain.abs().max() > 0.1
        assert repaired.abs().max() < 0.02  # the mean of 50,000 values


def test_what_an_earlier_cut_has_compensated_is_not_compensated_again() -> None:
    net, graph = normal_net(reader_norm=True)
    first, second = Plan(keep={"0": (0, 1, 3)}), Plan(keep={"0": (0, 3)})
    at_once = compensated(net, graph, second, Plan())
    in_steps = compensated(compensated(net, graph, first, Plan()), graph, second, first)
    torch.testing.assert_close(in_steps[4].running_mean, at_once[4].running_mean)


def test_only_the_readers_change_and_never_the_argument() -> None:
    net, graph = normal_net(reader_norm=True)
    before = copy.deepcopy(net.state_dict())
    changed = compensated(net, graph, Plan(keep={"0": (0, 3)}), Plan()).state_dict()
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before)
    assert [name for name in before if not torch.equal(changed[name], before[name])] == ["4.running_mean"]


def test_behind_a_depthwise_convolution_its_own_mean_counts() -> None:
    net, graph = normal_net(reader_norm=True, depthwise=True)
    removed = [1, 2, 4, 5]
    changed = compensated(net, graph, Plan(keep={"0": (0, 3)}), Plan())
    expected = mean(net.get_parameter("4.bias"), net.get_parameter("4.weight"))
    shift = kernel_sums(net.get_parameter("6.weight"), 6)[:, removed] @ expected[removed]
    torch.testing.assert_close(changed[7].running_mean, net[7].running_mean - shift.float())


def test_layers_without_a_norm_change_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 5, 1))
    graph = ChannelGraph.trace(net, torch.zeros(1, 4, 2, 2))
    changed = compensated(net, graph, Plan(keep={"0": (0, 3)}), Plan())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in changed.state_dict().items())
