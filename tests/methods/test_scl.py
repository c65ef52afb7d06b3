"""Sparse connectivity learning: the normalised step by hand, when masks die, are frozen and come back, what is cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.methods.scl import Scl, connected_layers, keep_largest, normalised, num_mask_steps, share_kept
from prunebench.run.bare import BareRun
from prunebench.training.optimizers import build_optimizer
from tests.bare import bare_run
from tests.kit import SHORT, run
from tests.layers.test_connections import MASKS, VALUES

PHASE = Phase(name="train", epochs=10, lr=0.1, momentum=0.9, weight_decay=1e-2)
CLOCK = Clock.first(num_epochs=10, steps_per_epoch=2, lr=0.1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12), nn.ReLU(),
        nn.Linear(12, 4),
    )  # fmt: skip


def start(net: nn.Module | None = None, **options: Any) -> tuple[nn.Module, Scl, BareRun]:
    bare = bare_run(net or small(), torch.zeros(1, 1, 8, 8), schedule="simultaneous", epochs=10)
    method = Scl(**{"penalty": 0.1, **options})
    method.check(bare.template, bare)
    return method.attach(bare.dense.fresh("start"), bare), method, bare


def train(net: nn.Module, method: Scl, steps: range, *, phase: Phase = PHASE) -> None:
    optimizer = build_optimizer(phase, method.param_groups(net, phase))
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        batch = torch.randn(16, 1, 8, 8), torch.randint(4, (16,))
        torch.stack(list(method.losses(net.train(), batch, Classification(num_classes=4)).values())).sum().backward()
        method.before_step(net, CLOCK.at(step))
        optimizer.step()
        method.after_step(net, CLOCK.at(step))
        if step % 2:
            method.end_epoch(net, CLOCK.at(step))


TASK = torch.tensor([[1.0, -2.0, 1.0, -3.0], [-0.03, -0.06, 0.18, 0.12]])


def test_the_task_s_gradient_by_feature_and_by_layer() -> None:
    by_row = [[0.516398, -1.032796, 0.516398, -1.549193], [-0.264906, -0.529813, 1.589439, 1.059626]]
    whole = [[0.729051, -1.458102, 0.729051, -2.187153], [-0.021872, -0.043743, 0.131229, 0.087486]]
    torch.testing.assert_close(normalised(TASK, "feature"), torch.tensor(by_row), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(normalised(TASK, "layer"), torch.tensor(whole), atol=1e-6, rtol=1e-5)
    assert normalised(TASK, "none") is TASK


def test_each_feature_has_rms_one_or_no_gradient() -> None:
    gradient = torch.randn(5, 3, 2, 2) * torch.tensor([1e-6, 1.0, 1e3, 0.0, 7.0]).view(5, 1, 1, 1)
    rms = normalised(gradient, "feature").square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rms, torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]), atol=1e-5, rtol=1e-5)
    assert float(normalised(gradient, "layer").square().mean().sqrt()) == pytest.approx(1.0)
    scaled = normalised(gradient * 1000, "feature")
    torch.testing.assert_close(scaled, normalised(gradient, "feature"), atol=1e-5, rtol=1e-5)
    # one mask for each filter: no row has a spread of its own, the layer has
    filters = torch.randn(6, 1, 1, 1)
    assert torch.equal(normalised(filters, "feature"), normalised(filters, "layer"))
    assert not torch.equal(normalised(filters, "feature").abs(), torch.ones(6, 1, 1, 1))


def test_one_step_by_hand() -> None:
    net: nn.Module = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    bare = bare_run(net, torch.zeros(1, 4), schedule="simultaneous", epochs=10)
    method = Scl(penalty=0.5, mask_lr=0.1, layers=["0"], min_connections=0)
    method.check(net, bare)
    net = method.attach(net, bare)
    (layer,) = connected_layers(net).values()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(VALUES))
        layer.mask.copy_(torch.tensor(MASKS))
    optimizer = build_optimizer(PHASE, method.param_groups(net, PHASE))
    output = layer(torch.tensor([[1.0, 1.0, 2.0, -1.0]]))
    (0.5 * (output - torch.tensor([[1.0, 0.0]])).square().sum()).backward()
    method.before_step(net, CLOCK)
    optimizer.step()
    method.after_step(net, CLOCK)
    expected = [[0.39836, -0.04672, -0.10164, -1.895081], [0.976491, 1.002981, 0.791056, -1.155963]]
    torch.testing.assert_close(layer.mask.detach(), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert layer.live()[0].tolist() == [True, False, False, False]


def test_what_the_task_never_pulls_at_dies_on_time() -> None:
    net, method, _ = start(penalty=0.3, initial=1.0, mask_lr=0.4, mask_share=1.0, min_connections=0)
    optimizer = build_optimizer(PHASE, method.param_groups(net, PHASE))
    due = math.floor(1.0 / (0.4 * 0.3)) + 1
    for step in range(due):
        assert share_kept(net) == 1.0, step
        for layer in connected_layers(net).values():
            layer.mask.grad = torch.zeros_like(layer.mask)
        method.before_step(net, CLOCK.at(step))
        optimizer.step()
        method.after_step(net, CLOCK.at(step))
    assert due == 9 and share_kept(net) == 0.0


def test_the_rate_follows_from_the_budget() -> None:
    _, method, _ = start(penalty=0.1, budget=3.0, initial=2.0, mask_share=0.5)  # 10 of 20 steps
    group = method.param_groups(start()[0], PHASE)[-1]
    assert group["lr"] == pytest.approx(3.0 * 2.0 / (0.1 * 10))
    assert (group["momentum"], group["weight_decay"], group["optimizer"], group["clip"]) == (0.0, 0.0, "sgd", False)
    assert num_mask_steps(CLOCK, 0.75) == 15 and num_mask_steps(CLOCK, 0.01) == 1


def test_a_frozen_pattern_stays_and_what_is_off_keeps_its_value() -> None:
    net, method, _ = start(penalty=0.3, decay_masked=False)
    train(net, method, range(15))
    masks = {name: layer.mask.detach().clone() for name, layer in connected_layers(net).items()}
    off = {name: (~layer.live(), layer.weight.detach().clone()) for name, layer in connected_layers(net).items()}
    assert 0.01 < share_kept(net) < 0.9 and not method.selectable(net)  # their last epoch has not ended
    train(net, method, range(15, 20))
    for name, layer in connected_layers(net).items():
        assert torch.equal(layer.mask, masks[name])
        dead, value = off[name]
        assert torch.equal(layer.weight[dead], value[dead]) and not torch.equal(layer.weight, value)
    assert method.selectable(net)
    net, method, _ = start(penalty=0.3)
    train(net, method, range(15))
    where = {name: ~layer.live() for name, layer in connected_layers(net).items()}
    before = {name: layer.weight.detach().clone() for name, layer in connected_layers(net).items()}
    train(net, method, range(15, 20), phase=Phase(name="train", epochs=10, lr=0.1, momentum=0.0, weight_decay=1e-2))
    for name, layer in connected_layers(net).items():  # the decay alone: 5 steps of 1 - lr wd
        torch.testing.assert_close(layer.weight[where[name]], before[name][where[name]] * 0.999**5)


def test_connections_come_back() -> None:
    net, method, _ = start(penalty=0.2, mask_share=1.0)
    seen_off = {name: torch.zeros_like(layer.live()) for name, layer in connected_layers(net).items()}
    back = 0
    for step in range(20):
        train(net, method, range(step, step + 1))
        for name, layer in connected_layers(net).items():
            back += int((layer.live() & seen_off[name]).sum())
            seen_off[name] = ~layer.live()
    assert back > 0


def test_a_layer_keeps_its_largest_masks() -> None:
    mask = torch.tensor([[-3.0, -0.5], [-0.1, -2.0]])
    keep_largest(mask, 0)
    assert not (mask >= 0).any()
    keep_largest(mask, 2)
    assert mask.tolist() == [[-3.0, 0.0], [0.0, -2.0]]
    mask = torch.tensor([[5.0, -0.5]])
    keep_largest(mask, 2)
    assert mask.tolist() == [[5.0, 0.0]]
    net, method, _ = start(penalty=1e6, mask_share=1.0, min_connections=3)
    train(net, method, range(20))
    assert all(int(layer.live().sum()) == 3 for layer in connected_layers(net).values())


def test_a_target_moves_the_penalty_once_an_epoch() -> None:
    net, method, _ = start(penalty=0.1, target_keep=0.25)
    train(net, method, range(2))
    expected = 0.1 * math.exp(0.5 * (share_kept(net) - 0.25) / 0.25)
    assert method.report(net)["penalty"] == pytest.approx(expected, rel=1e-5)
    train(net, method, range(2, 15))
    kept = float(method.penalty)
    train(net, method, range(15, 20))  # frozen: nothing to steer any more
    assert float(method.penalty) == kept


@pytest.mark.parametrize("mask", ["weight", "filter", "channel"])
def test_the_small_net_is_the_masked_net(mask: str) -> None:
    net, method, bare = start(penalty=0.5, mask=mask)
    with torch.no_grad():
        layers = list(connected_layers(net).values())
        for layer in layers:
            layer.mask.copy_(torch.randn_like(layer.mask))
        if mask == "weight":  # a unit that nobody reads, and one that reads nothing: its constant moves on
            layers[3].mask[:, 2], layers[2].mask[5] = -1.0, -1.0
    x = torch.randn(5, 1, 8, 8)
    found = method.extract(net.eval(), bare)
    small_net = bare.note(found)
    torch.testing.assert_close(small_net(x), net(x), atol=1e-5, rtol=1e-5)
    assert not connected_layers(small_net)
    assert found.plan is not None and found.plan.keep
    if mask == "weight":
        assert not {2, 5} & set(found.plan.keep["5"])
    # the counted masks are the zeros of the net before anything was removed
    kept = sum(int(layer.live().sum()) for layer in layers)
    assert found.achieved["connections_kept"] == kept
    assert found.achieved["connections"] == sum(layer.weight.numel() for layer in layers)
    assert 0 < found.achieved["sparse_macs"] <= bare.count(small_net).macs < bare.dense.cost.macs


def test_sparse_multiply_accumulates_by_hand() -> None:
    net, method, bare = start(layers=["0"])
    (layer,) = connected_layers(net).values()
    with torch.no_grad():
        layer.mask[:, :, 0] = -1.0  # a third of the taps
    found = method.extract(net.eval(), bare)
    dense = bare.dense.cost.macs
    assert dense == 54 * 36 + 432 * 16 + 128 * 12 + 48
    assert found.achieved["sparse_macs"] == dense - 18 * 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "method.penalty=0 gives the masks no rate"),
        ({"penalty": -1.0}, "penalty must be a number of at least 0"),
        ({"ste": "relu"}, "ste must be one of identity, softplus, leaky_relu"),
        ({"mask": "row"}, "mask must be one of weight, filter, channel"),
        ({"mask_share": 0.0}, r"mask_share must be a number in \(0, 1\]"),
        ({"target_keep": 1.0}, r"target_keep must be a number in \(0, 1\) or null"),
        ({"layers": ["fc"]}, "method.layers: 'fc' matches no layer"),
        ({"skip": ["*"]}, "leaves no layer with masks"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(**options)


def test_a_run_by_one_coefficient(tmp_path: Path) -> None:
    words = (*SHORT, "method=scl", "dataset.validation=100", "schedule.phases.train.epochs=6")
    kept = []
    for penalty in (0.03, 0.3):
        result, folder = run(tmp_path, *words, f"method.penalty={penalty}")
        facts = result["budget"]
        kept.append(facts["connections_kept"] / facts["connections"])
        net = prunebench.load(folder)
        zeros = sum(int((p == 0).sum()) for p in net.parameters())
        assert result["cost"]["final"]["nonzero_params"] == sum(p.numel() for p in net.parameters()) - zeros
        assert result["cost"]["final"]["params"] < result["cost"]["dense"]["params"]
        assert result["phases"][0]["best_epoch"] >= 4  # masks learn until the middle of the fifth epoch
    assert kept[1] < kept[0] < 1
