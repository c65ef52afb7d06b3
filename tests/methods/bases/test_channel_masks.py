from __future__ import annotations

import torch
from torch import Tensor, nn

from prunebench.methods.bases.channel_masks import ChannelMasks
from prunebench.models.resnet_cifar import resnet20
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan


def tiny() -> tuple[nn.Sequential, ChannelGraph]:
    """A depthwise convolution carries the channels of the first one on to a norm layer that is not its own."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    net.extend([nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4), nn.ReLU()])
    net.extend([nn.Conv2d(4, 6, 1), nn.Flatten(), nn.Linear(24, 2)])
    for place in (1, 4):
        nn.init.uniform_(net.get_parameter(f"{place}.bias"), 1, 2)
    return net, ChannelGraph.trace(net, torch.zeros(1, 3, 2, 2))


def alive(tensor: Tensor | None) -> list[bool]:
    assert tensor is not None
    return tensor.reshape(len(tensor), -1).abs().sum(1).ne(0).tolist()


KEPT = [True, False, True, False]


def test_a_plan_goes_in_and_comes_out_also_through_a_checkpoint() -> None:
    net = resnet20(width=8)
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 32, 32))
    masks, restored = ChannelMasks(graph), ChannelMasks(graph)
    assert masks.plan() == Plan()
    plan = Plan(keep={"conv1": (0, 7), "layer2.1.conv1": (3,), "layer1.0.conv2": ()})
    masks.load_plan(plan)
    restored.load_state_dict(masks.state_dict())
    assert restored.plan() == plan
    masks.load_plan(Plan(keep={"conv1": (1,)}))  # the channels that come back
    assert masks.plan() == Plan(keep={"conv1": (1,)})


def test_exactly_the_dead_channels_become_zero() -> None:
    net, graph = tiny()
    masks = ChannelMasks(graph)
    masks.load_plan(Plan(keep={"0": (0, 2), "6": (1, 2, 3, 4, 5)}))
    masks.zero(net, thorough=False)
    assert alive(net.get_parameter(f"{0}.weight")) == alive(net.get_parameter(f"{0}.bias")) == KEPT
    assert alive(net.get_parameter(f"{6}.weight")) == [False] + [True] * 5
    for place in (1, 3, 4):
        assert all(alive(net.get_parameter(f"{place}.weight"))), place
    masks.zero(net, thorough=True)
    for place in (1, 3, 4):
        assert alive(net.get_parameter(f"{place}.weight")) == alive(net.get_parameter(f"{place}.bias")) == KEPT, place


def test_gradients_of_dead_channels_become_zero() -> None:
    net, graph = tiny()
    masks = ChannelMasks(graph)
    masks.load_plan(Plan(keep={"0": (0, 2)}))
    for thorough in (False, True):
        net.zero_grad()
        masks.zero_gradients(net, thorough=thorough)  # nothing to do before the first backward
        net(torch.randn(4, 3, 2, 2)).square().sum().backward()
        masks.zero_gradients(net, thorough=thorough)
        assert alive(net.get_parameter(f"{0}.weight").grad) == KEPT
        for place in (1, 3, 4):
            assert alive(net.get_parameter(f"{place}.weight").grad) == (KEPT if thorough else [True] * 4), place
        assert all(alive(net.get_parameter(f"{6}.weight").grad))


def test_a_net_that_trains_under_thorough_masks_is_its_small_net() -> None:
    net, graph = tiny()
    masks = ChannelMasks(graph)
    masks.load_plan(Plan(keep={"0": (0, 2)}))
    masks.zero(net, thorough=True)
    before = {name: value.clone() for name, value in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 2, 2)).square().sum().backward()
        masks.zero_gradients(net, thorough=True)
        optimizer.step()
    for name, value in net.named_parameters():
        assert bool((value[before[name] == 0] == 0).all()), name
        assert not torch.equal(value, before[name]), name
