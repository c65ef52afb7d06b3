from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.criteria.group_norm import GroupNorm, group_norm, relative
from prunebench.criteria.scorers import look_at
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.models.resnet_cifar import resnet20
from prunebench.surgery.graph import ChannelGraph
from tests.bare import bare_run

WRITER = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
SCALES = torch.tensor([0.5, 2.0, 1.0])
READER = torch.tensor([[1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])


def scores(criterion: GroupNorm, net: nn.Module, graph: ChannelGraph, name: str, *group: str) -> Tensor:
    return criterion(look_at(name, net, graph, torch.Generator(), group=group))


def test_by_hand() -> None:
    parts = [WRITER, SCALES[:, None], READER.T]
    assert [group_norm([part]).tolist() for part in parts] == [[5.0, 1.0, 9.0], [0.25, 4.0, 1.0], [2.0, 1.0, 4.0]]
    found = group_norm(parts)
    assert found.tolist() == pytest.approx([2.416667, 2.0, 4.666667], abs=1e-6)
    assert relative(found).tolist() == pytest.approx([0.798165, 0.660550, 1.541284], abs=1e-6)


@pytest.mark.parametrize("order", [1.0, 2.0])
@pytest.mark.parametrize("biases", [False, True])
def test_the_parts_of_a_layer(order: float, biases: bool) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        net[0].weight.copy_(WRITER[:, :, None, None])
        net[1].weight.copy_(SCALES)
        net[1].bias.fill_(3.0)
        net[0].bias.fill_(-1.0)
        net[3].weight.copy_(READER[:, :, None, None])
    graph = ChannelGraph.trace(net, torch.zeros(1, 2, 4, 4))
    parts = [WRITER, SCALES[:, None], READER.T]
    if biases:
        parts += [torch.full((3, 1), -1.0), torch.full((3, 1), 3.0)]
    criterion = GroupNorm(order=order, biases=biases, normaliser="none")
    torch.testing.assert_close(scores(criterion, net, graph, "0"), group_norm(parts, order=order))
    normalised = GroupNorm(order=order, biases=biases)
    torch.testing.assert_close(scores(normalised, net, graph, "0"), relative(group_norm(parts, order=order)))


class Residual(nn.Module):
    """A stream with a norm that reads it, a depthwise layer in the block, a flatten in front of the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(4, 6, 1)
        self.depth = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.narrow = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4 * 2 * 2, 3)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.narrow(F.relu(self.depth(F.relu(self.wide(F.relu(self.norm(x)))))))
        return self.fc(F.max_pool2d(x, 2).flatten(1))


def test_the_parts_of_a_group() -> None:
    net = Residual()
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 4, 4))
    weight = {name: p.detach() for name, p in net.named_parameters()}
    criterion = GroupNorm(normaliser="none")
    # the stream: two writers, the norm that reads the stem, its reader, the classifier behind pooling and flattening
    slices = weight["fc.weight"].reshape(3, 4, 4).transpose(0, 1)
    stream = [weight["stem.weight"], weight["narrow.weight"], weight["norm.weight"][:, None]]
    stream += [weight["wide.weight"].transpose(0, 1), slices]
    for name in ("stem", "narrow"):
        torch.testing.assert_close(scores(criterion, net, graph, name, "stem", "narrow"), group_norm(stream))
    # inside the block: the writer, the depthwise convolution, the reader
    inside = [weight["wide.weight"], weight["depth.weight"], weight["narrow.weight"].transpose(0, 1)]
    torch.testing.assert_close(scores(criterion, net, graph, "wide"), group_norm(inside))
    # alone: the stem's norm and reader are its own, the classifier reads the sum
    alone = [weight["stem.weight"], weight["norm.weight"][:, None], weight["wide.weight"].transpose(0, 1)]
    torch.testing.assert_close(scores(criterion, net, graph, "stem"), group_norm(alone))
    torch.testing.assert_close(scores(criterion, net, graph, "narrow"), group_norm([weight["narrow.weight"]]))


@pytest.mark.parametrize(("order", "biases"), [(2, False), (1, False), (2, True)])
def test_a_peer_ranks_every_group_alike(order: int, biases: bool) -> None:
    tp = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    net = resnet20(shortcut="B")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.zeros(1, 3, 32, 32)
    graph = ChannelGraph.trace(net, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dependencies = tp.DependencyGraph().build_dependency(net, example_inputs=x)
    importance = tp.importance.GroupMagnitudeImportance(p=order, bias=biases)
    groups = [group for group in graph.groups() if graph.why_not(group[0]) is None]
    assert len(groups) == 12  # nine interior convolutions, three streams
    for group in groups:
        layer, width = net.get_submodule(group[0]), graph.layers[group[0]].out_channels
        peer = importance(dependencies.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(width))))
        found = scores(GroupNorm(order=order, biases=biases), net, graph, group[0], *group)
        torch.testing.assert_close(found.float(), peer, rtol=1e-4, atol=1e-6)
        assert found.argsort().tolist() == peer.argsort().tolist()


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_a_cut_by_groups(coupling: str) -> None:
    net = resnet20(width=8)
    run = bare_run(net)
    method = FilterPruning(criterion=GroupNorm(), scope="global", coupling=coupling, target_macs=0.5)
    method.check(net, run)
    run.note(method.prune(net, run))
    assert run.achieved["reached"] == pytest.approx(0.5, abs=0.01)
    if coupling == "aligned":
        found = method.scores(net, run)
        for group in run.graph.groups():
            members = [name for name in group if name in found]
            if members:  # the members' scores add up to the group's
                whole = scores(GroupNorm(), net, run.graph, members[0], *group)
                torch.testing.assert_close(torch.stack([found[name] for name in members]).sum(0), whole)
                assert len({run.plan.keep.get(name) for name in members}) == 1


def test_weights_that_are_all_zero_have_a_score() -> None:
    assert relative(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
