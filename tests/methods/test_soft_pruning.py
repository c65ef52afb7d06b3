from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.core.clock import Clock
from prunebench.criteria import geometric_median
from prunebench.criteria.scorers import BatchNormStatistic, FilterNorm, GeometricMedian
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.models.resnet_cifar import resnet20
from prunebench.run.bare import BareRun
from prunebench.surgery.plan import Plan
from tests.bare import bare_run

NUM_STEPS = 2


def start(net: nn.Module, **options: Any) -> tuple[FilterPruning, BareRun]:
    run = bare_run(net, schedule="simultaneous")
    given: dict[str, Any] = {"criterion": FilterNorm(order=2), "prune_ratio": 0.4}
    method = FilterPruning(**(given | options))
    method.check(net, run)
    assert method.attach(net, run) is net
    return method, run


def train(net: nn.Module, method: FilterPruning, *, epochs: int = 2) -> None:
    """The first of two epochs, or both, as the training loop calls the hooks.

    SGD has everything that could move a dead weight.
    """
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    net.train()
    first = Clock.first(num_epochs=2, steps_per_epoch=NUM_STEPS, lr=0.05)
    for epoch in range(epochs):
        method.start_epoch(net, first.at(epoch * NUM_STEPS))
        for step in range(epoch * NUM_STEPS, (epoch + 1) * NUM_STEPS):
            images = torch.randn(8, 3, 16, 16, generator=generator)
            labels = torch.randint(10, (8,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            method.before_step(net, first.at(step))
            optimizer.step()
            method.after_step(net, first.at(step))
        method.end_epoch(net, first.at(step))


def dead_filters(net: nn.Module, name: str) -> list[int]:
    sizes = net.get_submodule(name).weight.flatten(1).abs().sum(1)
    return torch.nonzero(sizes == 0).flatten().tolist()


def dead_by_plan(run: BareRun, plan: Plan, name: str) -> list[int]:
    return sorted(set(range(run.graph.layers[name].out_channels)) - set(plan.keep[name]))


class TestRecovery:
    """A zeroed filter gets its gradient through a batch norm of variance 0: it comes back at once, or is frozen."""

    def block(self) -> tuple[nn.Sequential, Tensor]:
        net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)])
        # a shift of 0 would put the dead channel on the kink of the ReLU, whose gradient there is 0
        nn.init.constant_(net.get_parameter("1.bias"), 0.1)
        return net, torch.randn(32, 3, 8, 8)

    @pytest.mark.parametrize("grad_mask", [False, True])
    def test_one_step(self, grad_mask: bool) -> None:
        net, images = self.block()
        run = bare_run(net, images[:1], schedule="simultaneous")
        # 1 of 16 goes; the norm layers stay, so that the gradient can pass
        method = FilterPruning(criterion=FilterNorm(order=2), prune_ratio=1 / 16, grad_mask=grad_mask, mask_norm=False)
        method.attach(net, run)
        method.start_epoch(net, run.clock())
        (dead,) = dead_filters(net, "0")
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        nn.functional.cross_entropy(net(images), torch.arange(32) % 10).backward()
        method.before_step(net, run.clock())
        sizes = net[0].weight.grad.flatten(1).norm(dim=1)
        optimizer.step()
        if grad_mask:
            assert sizes[dead] == 0
            assert dead_filters(net, "0") == [dead]
        else:
            others = sizes[torch.arange(16) != dead]
            assert sizes[dead] > 10 * others.max()
            assert dead_filters(net, "0") == []


class TestSoft:
    def test_zeroed_before_training_and_after_each_epoch(self) -> None:
        net = resnet20(width=8)
        method, run = start(net)
        method.start_epoch(net, run.clock())
        first = method.masks.plan()
        assert all(dead_filters(net, name) == dead_by_plan(run, first, name) for name in first.keep)
        assert [len(dead_filters(net, name)) for name in ("conv1", "layer2.0.conv1", "layer3.2.conv2")] == [3, 6, 12]
        before = copy.deepcopy(net.state_dict())
        method.end_epoch(net, run.clock())  # nothing was trained: choosing again changes nothing
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        train(net, method, epochs=1)
        assert method.masks.plan() != first  # some came back and others went
        assert all(dead_filters(net, name) == dead_by_plan(run, method.masks.plan(), name) for name in first.keep)

    def test_norm_layers_are_touched_only_at_the_end(self) -> None:
        net = resnet20(width=8)
        method, run = start(net)
        train(net, method, epochs=1)
        assert net.bn1.weight.ne(0).all()
        train(net, method, epochs=2)
        dead = dead_by_plan(run, method.masks.plan(), "conv1")
        assert torch.nonzero(net.bn1.weight == 0).flatten().tolist() == dead
        assert torch.nonzero(net.bn1.bias == 0).flatten().tolist() == dead

    def test_from_scratch_the_first_choice_inside_a_block_is_final(self) -> None:
        """A new batch norm has shift 0, so a dead channel sits on the ReLU's kink and gets no gradient."""
        net = resnet20(width=8)
        method, run = start(net)
        method.start_epoch(net, run.clock())
        first = method.masks.plan()
        train(net, method)
        now = method.masks.plan()
        inside = [name for name in first.keep if name.endswith("conv1") and name != "conv1"]
        assert all(now.keep[name] == first.keep[name] for name in inside)
        assert any(now.keep[name] != kept for name, kept in first.keep.items())

    def test_nothing_pruned_is_dense_training(self) -> None:
        net = resnet20(width=8)
        plain = copy.deepcopy(net)
        method, _ = start(net, prune_ratio=0.0)
        train(net, method)
        train(plain, FilterPruning(criterion=FilterNorm(order=2), prune_ratio=0.0))
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in net.state_dict().items())

    def test_the_small_net_is_the_trained_net(self) -> None:
        for options in (
            {},
            {"coupling": "aligned"},
            {"grad_mask": True},
            {"scope": "global", "target_macs": 0.5, "prune_ratio": None},
        ):
            net = resnet20(width=8)
            method, run = start(net, **options)
            train(net, method)
            compact = run.note(method.extract(net, run))
            assert method.masks is not None and run.plan == method.masks.plan()
            images = torch.randn(4, 3, 16, 16)
            torch.testing.assert_close(compact.eval()(images), net.eval()(images), atol=1e-4, rtol=1e-4)
            listed = {entry["layer"] for entry in run.not_pruned}
            assert listed == {name for name, layer in run.graph.layers.items() if layer.kind == "conv"} - set(
                run.plan.keep
            )

    def test_masks_are_in_the_checkpoint(self) -> None:
        net = resnet20(width=8)
        method, _ = start(net)
        train(net, method, epochs=1)
        resumed, _ = start(copy.deepcopy(net))
        resumed.load_state_dict(method.state_dict())
        assert resumed.masks.plan() == method.masks.plan()

    def test_other_schedules_do_nothing_in_training(self) -> None:
        net = resnet20(width=8)
        plain = copy.deepcopy(net)
        method = FilterPruning(criterion=FilterNorm(order=2), prune_ratio=0.5)
        method.attach(net, bare_run(net, schedule="finetune"))
        train(net, method)
        train(plain, FilterPruning(criterion=FilterNorm(order=2), prune_ratio=0.5))
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in net.state_dict().items())
        assert not list(method.state_dict())


class TestFrozen:
    def test_dead_filters_stay_dead(self) -> None:
        net = resnet20()
        method, run = start(net, criterion=GeometricMedian(), grad_mask=True)
        method.start_epoch(net, run.clock())
        first = method.masks.plan()
        train(net, method)
        assert method.masks.plan() == first
        for name, layer in run.graph.layers.items():
            if layer.kind != "conv":
                continue
            dead = dead_by_plan(run, first, name)
            assert dead_filters(net, name) == dead
            norm = net.get_submodule(str(layer.norm))
            assert norm.weight[dead].abs().sum() == norm.bias[dead].abs().sum() == 0
            # and choosing again, as the official code does, would find the same ones
            again = geometric_median(net.get_parameter(f"{name}.weight")).argsort(stable=True)[: len(dead)]
            assert sorted(again.tolist()) == dead

    def test_without_masked_norms_only_the_filters_are_frozen(self) -> None:
        net = resnet20(width=8)
        method, run = start(net, criterion=GeometricMedian(), grad_mask=True, mask_norm=False)
        train(net, method)
        assert dead_filters(net, "conv1") == dead_by_plan(run, method.masks.plan(), "conv1")
        assert net.bn1.weight.ne(0).all()


def test_a_norm_criterion_may_be_soft_too() -> None:
    net = resnet20(width=8)
    method, run = start(net, criterion=BatchNormStatistic(statistic="std"), layers="interior")
    train(net, method)
    compact = run.note(method.extract(net, run))
    assert {len(kept) for kept in run.plan.keep.values()} == {5, 10, 20}
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(compact.eval()(images), net.eval()(images), atol=1e-4, rtol=1e-4)
