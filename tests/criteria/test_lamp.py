from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.criteria.lamp import Lamp, lamp
from prunebench.criteria.scorers import FilterNorm, Random, look_at
from prunebench.criteria.taylor import Taylor
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.models.resnet_cifar import resnet20
from prunebench.surgery.graph import ChannelGraph
from tests.bare import bare_run

ONE, OTHER = torch.tensor([0.1, -0.5, 0.3, 0.2]), torch.tensor([1.0, -2.0])


def test_by_hand() -> None:
    assert lamp(ONE.square()).tolist() == pytest.approx([0.025641, 1.0, 0.264706, 0.105263], abs=1e-6)
    assert lamp(OTHER.square()).tolist() == pytest.approx([0.2, 1.0], abs=1e-6)


def test_keeping_four_of_six_by_hand() -> None:
    """The two filters of (1, -2) and the two larger ones of the other layer stay: the lowest that stays scores 0.2."""
    net = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), nn.ReLU())
    net.append(nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(ONE.reshape(4, 1, 1, 1))
        net[2].weight.zero_()
        net[2].weight[:, 0, 0, 0] = OTHER
    run = bare_run(net, torch.zeros(1, 1, 2, 2))
    method = FilterPruning(criterion=Lamp(score=FilterNorm(order=2)), scope="global", prune_ratio=1 / 3)
    scores = method.scores(net, run)
    kept = sorted(float(score) for values in scores.values() for score in values)[2:]
    assert kept == pytest.approx([0.2, 0.264706, 1.0, 1.0], abs=1e-6)
    method.check(net, run)
    run.note(method.prune(net, run))
    assert run.plan.keep == {"0": (1, 2)}


@pytest.mark.parametrize("seed", range(20))
def test_what_holds_for_any_sizes(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    sizes = torch.rand(int(torch.randint(1, 40, (), generator=draws)), generator=draws)
    if seed % 2:
        sizes = (4 * sizes).round() / 4  # ties and zeros
    scores = lamp(sizes)
    order = sizes.argsort(stable=True)
    assert scores[order].diff().min() >= 0 if len(sizes) > 1 else True  # the order of the sizes
    if sizes.max() > 0:
        assert scores.max() == 1 and scores[order[-1]] == 1  # no layer is emptied
    torch.testing.assert_close(lamp(7 * sizes), scores)  # a layer's scale does not matter
    for place in range(len(sizes)):  # the definition
        above = sizes[order[place:]].double().sum()
        expected = sizes[order[place]].double() / above if above > 0 else torch.zeros((), dtype=torch.double)
        torch.testing.assert_close(scores[order[place]], expected)


def test_nothing_but_zeros_scores_zero() -> None:
    assert lamp(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_a_peer_normalises_alike() -> None:
    tp = pytest.importorskip("torch_pruning")
    sizes = torch.rand(50, generator=torch.Generator().manual_seed(0))
    peer = tp.importance.LAMPImportance()._lamp(sizes.clone())
    torch.testing.assert_close(lamp(sizes).float(), peer, rtol=1e-5, atol=1e-6)


def test_a_group_has_one_score() -> None:
    net = resnet20(width=8)
    run = bare_run(net)
    group = next(group for group in run.graph.groups() if len(group) > 1)
    norms = [net.get_parameter(f"{name}.weight").detach().double().flatten(1).square().sum(1) for name in group]
    criterion = Lamp(score=FilterNorm(order=2))
    scores = criterion(look_at(group[1], net, run.graph, torch.Generator(), group=group))
    torch.testing.assert_close(scores, lamp(torch.stack(norms).sum(0)))
    # all members scored: the budget adds them to that score again; a third of them: the same
    for layers in ("all", [group[0]]):
        method = FilterPruning(criterion=criterion, scope="global", coupling="aligned", prune_ratio=0.3, layers=layers)
        found = method.scores(net, run)
        torch.testing.assert_close(torch.stack([found[name] for name in group if name in found]).sum(0), scores)


def test_each_layer_keeps_its_largest_channel() -> None:
    net = resnet20(width=8)
    with torch.no_grad():
        for place, parameter in enumerate(net.parameters()):
            parameter.mul_(3.0 ** (place % 5))
    run = bare_run(net)
    run.carry_out = False
    method = FilterPruning(criterion=Lamp(score=FilterNorm(order=2)), scope="global", prune_ratio=0.9, min_channels=0)
    method.check(net, run)
    run.note(method.prune(net, run))
    for name, kept in run.plan.keep.items():
        assert int(net.get_parameter(f"{name}.weight").flatten(1).norm(dim=1).argmax()) in kept


def test_what_the_inner_criterion_needs_is_passed_on() -> None:
    assert Lamp(score=Taylor()).needs_data and not Lamp(score=FilterNorm(order=1)).needs_data

    class Negative(Random):
        def __call__(self, subject: Any) -> torch.Tensor:
            return -super().__call__(subject) - 1

    net = resnet20(width=8)
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="Negative gives negative scores"):
        Lamp(score=Negative())(look_at("conv1", net, graph, torch.Generator()))
    run = bare_run(net)
    taylor = Lamp(score=Taylor(num_samples=4, batch_size=2), power=1).prepare(copy.deepcopy(net), run)
    assert float(taylor(look_at("layer1.0.conv1", net, graph, torch.Generator())).max()) == 1.0
