from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.config.phase import Phase
from prunebench.errors import UserError
from prunebench.methods.magnitude import Magnitude
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.sru import sru
from prunebench.run.bare import BareRun
from tests.bare import bare_run


def cut(net: nn.Module, run: BareRun | None = None, **options: Any) -> tuple[nn.Module, Magnitude, BareRun]:
    run = run or bare_run(net)
    method = Magnitude(**options)
    method.check(net, run)
    return run.note(method.prune(net, run)), method, run


def conv_weights(net: nn.Module) -> list[torch.Tensor]:
    return [module.weight.detach() for module in net.modules() if isinstance(module, nn.Conv2d)]


def share_alive(net: nn.Module) -> float:
    weights = conv_weights(net)
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_only_convolutions_lose_weights_and_nothing_is_claimed_for_macs() -> None:
    net = resnet20(width=8)
    sparse, method, run = cut(net, prune_ratio=0.8)
    total = sum(weight.numel() for weight in conv_weights(net))
    assert sum(int(weight.count_nonzero()) for weight in conv_weights(sparse)) == total - (int(0.8 * total) + 1)
    assert torch.equal(sparse.get_parameter("linear.weight"), net.get_parameter("linear.weight"))
    assert share_alive(net) == 1.0  # the argument is left alone
    before, after = run.count(net), run.count(sparse)
    assert (after.macs, after.params) == (before.macs, before.params)
    assert before.nonzero_params - after.nonzero_params == int(0.8 * total) + 1
    assert run.achieved["weights_kept"] == pytest.approx(0.2, abs=1e-4)
    assert run.note(method.extract(sparse, run)) is sparse
    assert not run.plan.keep


def test_one_threshold_for_all_layers() -> None:
    net = resnet20(width=8)
    alive = (conv_weights(cut(net, prune_ratio=0.5)[0])[5] != 0).float().mean()
    with torch.no_grad():
        net.layer1[2].conv1.weight *= 10  # the sixth convolution
    scaled = cut(net, prune_ratio=0.5)[0]
    assert (conv_weights(scaled)[5] != 0).float().mean() > alive + 0.2
    assert share_alive(scaled) == pytest.approx(0.5, abs=1e-3)  # others pay for it


def test_training_never_revives_a_weight() -> None:
    net, method, run = cut(resnet20(width=8), prune_ratio=0.7)
    pattern = [weight != 0 for weight in conv_weights(net)]
    for optimizer in (
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-2),
    ):
        for step in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()
            method.before_step(net, run.clock().at(step))
            optimizer.step()
            method.after_step(net, run.clock().at(step))
    assert all(torch.equal(weight != 0, alive) for weight, alive in zip(conv_weights(net), pattern, strict=True))


def test_rounds_take_equal_shares_of_what_is_left() -> None:
    net: nn.Module = resnet20(width=8)
    run = bare_run(net)
    method = Magnitude(prune_ratio=0.488)
    total = sum(weight.numel() for weight in conv_weights(net))
    for step in (1, 2, 3):
        run.phase = Phase(name=f"round_{step}", epochs=1, lr=0.1, prune=True, fraction=step / 3)
        net = method.prune(net, run).net
        expected = 0.8**step
        assert expected - 3 * step / total <= share_alive(net) <= expected + 1 / total


def test_scratch_draws_the_live_weights_anew() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 4, 3))
    sparse, method, run = cut(net, bare_run(net, torch.zeros(1, 64, 8, 8)), prune_ratio=0.7, layers=["0"])
    fresh = method.fresh(sparse, run)
    ((drawn, mask),) = method.masks.pairs(fresh)
    weight = fresh.get_parameter("0.weight").detach()
    assert drawn.shape == mask.shape == (64, 64, 3, 3)
    assert torch.equal(weight != 0, mask)
    assert float(weight[mask].std()) == pytest.approx(math.sqrt(2 * 64 / int(mask.sum())), rel=0.05)


@dataclass(kw_only=True)
class Walked(BareRun):
    """Makes the cuts of a method, and remembers what it was given on the way."""

    method: Magnitude
    fitted: list[Phase] = field(default_factory=list)
    measured: list[nn.Module] = field(default_factory=list)

    def measure_dense(self, net: nn.Module) -> None:
        self.measured.append(net)

    def prune(self, net: nn.Module, phase: Phase, *, measured: bool = True) -> nn.Module:
        self.phase = phase
        return self.note(self.method.prune(net, self))

    def fit(self, net: nn.Module, phase: Phase) -> nn.Module:
        self.fitted.append(phase)
        return super().fit(net, phase)


def test_scratch_b_counts_live_weights() -> None:
    net, method = resnet20(width=8), Magnitude(prune_ratio=0.4)
    bare = bare_run(net, schedule="scratch_b")
    phases = (Phase(name="scratch", epochs=10, lr=0.1, prune=True, equal_compute=True),)
    run = Walked(dense=bare.dense, data=bare.data, task=bare.task, schedule="scratch_b", phases=phases, method=method)
    sparse = method.run(net, run)
    macs = 0
    for name, layer in run.graph.layers.items():
        macs += int(sparse.get_parameter(f"{name}.weight").count_nonzero()) * layer.positions
    assert method.sparse_macs(sparse, run) == macs
    (phase,) = run.fitted
    assert phase.epochs == int(10 * run.dense.cost.macs / macs)
    assert not phase.equal_compute
    assert run.measured == [net]  # before the cut


def test_layer_std_leaves_normal_weights_beyond_one_deviation() -> None:
    net = resnet20()
    sparse, _, _ = cut(net, prune_ratio=0.0, variant="layer_std", quality=1.0)
    for weight in conv_weights(sparse)[10:]:  # the larger ones; a normal weight is that large in 31.7 % of the cases
        assert float((weight != 0).float().mean()) == pytest.approx(0.317, abs=0.03)


def test_a_run_that_is_resumed_uses_the_stored_threshold() -> None:
    net = resnet20(width=8)
    run = bare_run(net)
    first, _, _ = cut(net, run, prune_ratio=0.5)
    with torch.no_grad():
        net.layer3[0].conv1.weight.mul_(1e-6)  # half of all weights would lie below another threshold now
    second, _, _ = cut(net, run, prune_ratio=0.5)
    anew, _, _ = cut(net, prune_ratio=0.5)

    def num_like_first(net: nn.Module) -> int:
        return sum(torch.equal(one, two) for one, two in zip(conv_weights(first), conv_weights(net), strict=True))

    assert num_like_first(second) == len(conv_weights(net)) - 1  # all but the layer that was changed
    assert num_like_first(anew) == 0


def test_a_layer_that_loses_everything_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net.get_parameter("2.weight").mul_(1e-3)
    with pytest.raises(UserError, match="all weights of 2 fall below the threshold and nothing bypasses the layer"):
        cut(net, prune_ratio=0.8)
    # in a residual block the shortcut goes on without it
    residual = resnet20(width=8)
    with torch.no_grad():
        residual.layer1[1].conv2.weight *= 1e-3
    sparse, _, _ = cut(residual, prune_ratio=0.5)
    assert not sparse.layer1[1].conv2.weight.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio must be a number in \[0, 1\) \(the share that goes\), got 1.0"),
        (
            {"prune_ratio": 0.5, "variant": "globl"},
            "variant must be one of global, layer_std.*did you mean global",
        ),
        ({"prune_ratio": 0.5, "layers": ["fc"]}, "method.layers: 'fc' matches no layer"),
        ({"prune_ratio": 0.5, "variant": "layer_std", "quality": -1.0}, "quality must be"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(resnet20(width=8), **options)


def test_schedules_and_nets_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="schedule=simultaneous is not supported"):
        cut(resnet20(width=8), bare_run(resnet20(width=8), schedule="simultaneous"), prune_ratio=0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UserError, match="this net has no such layer"):
        cut(net, bare_run(net, torch.zeros(1, 3, 2, 2)), prune_ratio=0.5)


def test_the_matrices_of_a_language_model() -> None:
    net = sru(num_symbols=20, layers=2, width=12, rank=4, embedding=6)
    run = bare_run(net, torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(UserError, match=r"method\.kinds=conv: this net has no such layer; use method.kinds=linear"):
        cut(net, run, prune_ratio=0.5)
    names = ["layers.0.project", "layers.1.project.down", "layers.1.project.up"]
    sparse, method, _ = cut(net, run, prune_ratio=0.4, kinds="linear", layers=["layers.*"])
    assert method.masks.names == names
    weights = [sparse.get_parameter(f"{name}.weight") for name in names]
    total = sum(weight.numel() for weight in weights)
    assert total - sum(int(weight.count_nonzero()) for weight in weights) == int(0.4 * total) + 1
    assert torch.equal(sparse.get_parameter("output.weight"), net.get_parameter("output.weight"))
    # the matrices are used once for each of the 5 symbols
    left = run.dense.cost.macs - 5 * (int(0.4 * total) + 1)
    assert method.sparse_macs(sparse, run) == left
    with pytest.raises(UserError, match=r"kinds must be one of conv, linear, all, got 'rnn'"):
        Magnitude(prune_ratio=0.5, kinds="rnn")


def test_lamp_keeps_the_best_scores_of_all_tensors() -> None:
    """Lee et al. 2021: of (0.1, -0.5, 0.3, 0.2) and (1, -2) four weights survive, those at or above 0.2."""
    layers = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 2, 1, bias=False, groups=2)
    net = nn.Sequential(*layers)
    hand = [torch.tensor([0.1, -0.5, 0.3, 0.2]), torch.tensor([1.0, 0.0, -2.0, 0.0])]
    with torch.no_grad():
        for layer, weight in zip(layers, hand, strict=True):
            layer.weight.copy_(weight.reshape(layer.weight.shape))
    sparse, _, run = cut(
        net, bare_run(net, torch.zeros(1, 1, 2, 2)), prune_ratio=0.5, variant="lamp", layers=["0", "1"]
    )
    kept = [weight.flatten().tolist() for weight in conv_weights(sparse)]
    assert kept == [pytest.approx([0.0, -0.5, 0.3, 0.0]), [1.0, 0.0, -2.0, 0.0]]
    assert run.achieved["weights_kept"] == pytest.approx(4 / 8)


def test_lamp_empties_no_layer_and_its_rounds_go_on_from_what_is_left() -> None:
    net = resnet20(width=8)
    with torch.no_grad():
        for place, weight in enumerate(module.weight for module in net.modules() if isinstance(module, nn.Conv2d)):
            weight.mul_(4.0 ** (place % 4))
    total = sum(weight.numel() for weight in conv_weights(net))
    sparse, _, _ = cut(net, prune_ratio=0.99, variant="lamp")
    assert all(weight.count_nonzero() >= 1 for weight in conv_weights(sparse))
    assert sum(int(weight.count_nonzero()) for weight in conv_weights(sparse)) == round(0.01 * total)
    run = bare_run(net, fraction=0.5)
    half, _, run = cut(net, run, prune_ratio=0.51, variant="lamp")
    run.phase = Phase(name="second", epochs=1, lr=0.1, prune=True)
    whole, _, _ = cut(half, run, prune_ratio=0.51, variant="lamp")
    assert share_alive(half) == pytest.approx(0.7, abs=1e-3) and share_alive(whole) == pytest.approx(0.49, abs=1e-3)
    for before, after in zip(conv_weights(half), conv_weights(whole), strict=True):
        assert not (after != 0)[before == 0].any()
