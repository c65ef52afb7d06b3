"""Which channels a norm's scale switches off: those of the layer in front, or what the layers behind read."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn

from prunebench.models.densenet_cifar import CifarDenseNet
from prunebench.models.preresnet_cifar import CifarPreResNet
from prunebench.models.vgg_cifar import vgg11
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_scales import norm_scales
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import images, largest_difference
from tests.surgery.nets import build, randomise

PAPER_NETS = {
    "vgg": lambda: vgg11(),
    "preresnet": lambda: CifarPreResNet(blocks=2, num_classes=5, in_channels=3, width=4),
    "densenet": lambda: CifarDenseNet(layers=2, growth=4, stem=6, num_classes=5, in_channels=3),
}


def paper_net(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    net = PAPER_NETS[name]()
    randomise(net)
    return net, torch.randn(4, 3, 32, 32) if name == "vgg" else torch.randn(4, 3, 8, 8)


def draw(graph: ChannelGraph, rng: random.Random) -> tuple[Plan, dict[str, list[int]]]:
    """A plan that leaves a random set of each norm's channels, and the others."""
    plan, dead = Plan(), {}
    for norm, scale in norm_scales(graph)[0].items():
        kept = sorted(rng.sample(range(scale.width), max(1, scale.width // 2)))
        plan = scale.cut(plan, tuple(kept))
        assert scale.kept(plan) == tuple(kept)
        dead[norm] = sorted(set(range(scale.width)) - set(kept))
    return plan, dead


def masked(net: nn.Module, dead: dict[str, list[int]]) -> nn.Module:
    """The official code's mask: scale and shift are 0."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for norm, channels in dead.items():
            module = net.get_submodule(norm)
            module.weight[channels] = 0.0
            module.bias[channels] = 0.0
    return net


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", PAPER_NETS)
def test_a_scale_of_zero_is_a_channel_less(name: str, training: bool) -> None:
    net, x = paper_net(name)
    graph = ChannelGraph.trace(net, x[:1])
    plan, dead = draw(graph, random.Random(4))
    by_hand = masked(net, dead).train(training)
    small = shrink(net, graph, plan).train(training)
    # forward passes in training mode move the running statistics, so each net runs once
    assert largest_difference(by_hand, small, x) < 1e-5
    assert (
        largest_difference(zero(net, graph, plan).train(training), shrink(net, graph, plan).train(training), x) < 1e-5
    )
    back = restore(net, graph, plan, shrink(net, graph, plan)).train(training)
    assert largest_difference(back, shrink(net, graph, plan).train(training), x) < 1e-5
    assert largest_difference(net.train(training), shrink(net, graph, plan).train(training), x) > 1e-3


def test_after_training_the_small_net_goes_back_into_the_dense_shapes() -> None:
    net, x = paper_net("preresnet")
    graph = ChannelGraph.trace(net, x[:1])
    plan, _ = draw(graph, random.Random(5))
    small = shrink(net, graph, plan).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        small(x).square().mean().backward()
        optimizer.step()
    back = restore(net, graph, plan, small)
    assert largest_difference(back.eval(), small.eval(), x) < 1e-5
    narrower = plan
    for scale in norm_scales(graph)[0].values():
        narrower = scale.cut(narrower, scale.kept(plan)[1:])
    assert graph.params(narrower) < graph.params(plan)
    assert largest_difference(zero(back, graph, narrower), shrink(back, graph, narrower), x) < 1e-5


def test_a_chain_is_cut_in_front_of_the_norm() -> None:
    graph = ChannelGraph.trace(vgg11(), torch.zeros(1, 3, 32, 32))
    scales, refused = norm_scales(graph)
    assert [scale.layer for scale in scales.values()] == [
        n for n, layer in graph.layers.items() if layer.kind == "conv"
    ]
    assert not refused
    assert all(scale.is_image and not scale.readers for scale in scales.values())


def test_a_stream_is_selected_behind_the_norm() -> None:
    net, x = paper_net("preresnet")
    scales, refused = norm_scales(ChannelGraph.trace(net, x[:1]))
    assert not refused
    assert scales["layer1.0.bn1"].readers == {"layer1.0.conv1": 1}
    assert scales["layer2.1.bn2"].layer == "layer2.1.conv1"
    assert scales["layer2.1.bn3"].layer == "layer2.1.conv2"
    assert scales["bn"].readers == {"linear": 1}
    assert sum(scale.layer is None for scale in scales.values()) == 7  # one a block, and the last
    assert not any(scale.layer in ("conv1", "layer1.0.conv3") for scale in scales.values())


def test_a_dense_net_loses_only_inputs() -> None:
    net, x = paper_net("densenet")
    scales, refused = norm_scales(ChannelGraph.trace(net, x[:1]))
    assert not refused
    assert all(scale.layer is None for scale in scales.values())
    assert len(scales) == 3 * 2 + 2 + 1
    assert scales["trans1.bn1"].width == 6 + 2 * 4


def test_norms_in_front_of_an_addition_have_no_part() -> None:
    scales, refused = norm_scales(ChannelGraph.trace(build("option A, behind"), images(1)))
    assert [scale.layer for scale in scales.values()] == [f"blocks.{i}.conv1" for i in range(4)]
    assert "addition" in refused["blocks.0.bn2"]
    assert "addition" in refused["bn"]


def test_a_norm_that_others_read_has_no_part() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
            self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.one(x) + self.two(x)))
            return self.fc((x + self.conv(x)).mean((2, 3)))

    scales, refused = norm_scales(ChannelGraph.trace(Forked(), images(1)))
    assert not scales
    assert "something else" in refused["norm"]


def test_a_flatten_gives_a_channel_several_features() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4 * 64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.relu(self.norm(self.one(x) + self.two(x))).flatten(1))

    net, x = Flat().eval(), images()
    graph = ChannelGraph.trace(net, x[:1])
    scale = norm_scales(graph)[0]["norm"]
    assert scale.readers == {"fc": 64}
    plan = scale.cut(Plan(), (0, 2))
    assert plan.inputs["fc"] == (*range(64), *range(128, 192))
    assert scale.kept(plan) == (0, 2)
    assert largest_difference(masked(net, {"norm": [1, 3]}), shrink(net, graph, plan), x) < 1e-5
