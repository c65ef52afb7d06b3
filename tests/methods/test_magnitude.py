from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.config.phase import Phase
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.methods.magnitude import Magnitude
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.sru import sru
from tests.methods.stub import StubJob


def cut(net: nn.Module, job: StubJob | None = None, **options: Any) -> tuple[nn.Module, Magnitude, StubJob]:
    job = job or StubJob(net)
    method = Magnitude(**options)
    method.check(net, job)  # type: ignore[arg-type]
    return method.prune(net, job), method, job  # type: ignore[arg-type]


def conv_weights(net: nn.Module) -> list[torch.Tensor]:
    return [module.weight.detach() for module in net.modules() if isinstance(module, nn.Conv2d)]


def share_alive(net: nn.Module) -> float:
    weights = conv_weights(net)
    return sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def test_only_convolutions_lose_weights_and_nothing_is_claimed_for_macs() -> None:
    net = resnet20(width=8)
    sparse, method, job = cut(net, prune_ratio=0.8)
    total = sum(weight.numel() for weight in conv_weights(net))
    assert sum(int(weight.count_nonzero()) for weight in conv_weights(sparse)) == total - (int(0.8 * total) + 1)
    assert torch.equal(sparse.linear.weight, net.linear.weight)
    assert share_alive(net) == 1.0  # the argument is left alone
    before, after = cost.count(net, job.example), cost.count(sparse, job.example)
    assert (after.macs, after.params) == (before.macs, before.params)
    assert before.nonzero_params - after.nonzero_params == int(0.8 * total) + 1
    assert job.achieved["weights_kept"] == pytest.approx(0.2, abs=1e-4)
    compact, plan = method.extract(sparse, job)  # type: ignore[arg-type]
    assert compact is sparse
    assert not plan.keep


def test_one_threshold_for_all_layers() -> None:
    net = resnet20(width=8)
    alive = (conv_weights(cut(net, prune_ratio=0.5)[0])[5] != 0).float().mean()
    with torch.no_grad():
        net.layer1[2].conv1.weight *= 10  # the sixth convolution
    scaled = cut(net, prune_ratio=0.5)[0]
    assert (conv_weights(scaled)[5] != 0).float().mean() > alive + 0.2
    assert share_alive(scaled) == pytest.approx(0.5, abs=1e-3)  # others pay for it


def test_training_never_revives_a_weight() -> None:
    net, method, _ = cut(resnet20(width=8), prune_ratio=0.7)
    pattern = [weight != 0 for weight in conv_weights(net)]
    for optimizer in (
        torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-2),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(torch.randn(8, 3, 16, 16)), torch.arange(8)).backward()
            method.before_step(net)
            optimizer.step()
            method.after_step(net)
    assert all(torch.equal(weight != 0, alive) for weight, alive in zip(conv_weights(net), pattern, strict=True))


def test_rounds_take_equal_shares_of_what_is_left() -> None:
    net: nn.Module = resnet20(width=8)
    job = StubJob(net)
    method = Magnitude(prune_ratio=0.488)
    total = sum(weight.numel() for weight in conv_weights(net))
    for step in (1, 2, 3):
        job.fraction, job.stored = step / 3, {}
        net = method.prune(net, job)  # type: ignore[arg-type]
        expected = 0.8**step
        assert expected - 3 * step / total <= share_alive(net) <= expected + 1 / total


def test_scratch_draws_the_live_weights_anew() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 4, 3))
    job = StubJob(net, torch.zeros(1, 64, 8, 8))
    sparse, method, job = cut(net, job, prune_ratio=0.7, layers=["0"])
    fresh = method.fresh(sparse, job)  # type: ignore[arg-type]
    weight, mask = fresh[0].weight.detach(), method.live.view(64, 64, 3, 3)
    assert torch.equal(weight != 0, mask)
    assert float(weight[mask].std()) == pytest.approx(math.sqrt(2 * 64 / int(mask.sum())), rel=0.05)


def test_scratch_b_counts_live_weights() -> None:
    net = resnet20(width=8)
    job = StubJob(net)
    phases, measured = [], []

    class Recorder(StubJob):
        phases = (Phase(name="scratch", epochs=10, lr=0.1, prune=True, equal_compute=True),)

        def measure_dense(self, net: nn.Module, method: Magnitude) -> None:
            measured.append(net)

        def prune(self, net: nn.Module, phase: Phase, method: Magnitude) -> nn.Module:
            return method.prune(net, self)  # type: ignore[arg-type]

        def fit(self, net: nn.Module, phase: Phase, method: Magnitude) -> nn.Module:
            phases.append(phase)
            return net

    job = Recorder(net)
    method = Magnitude(prune_ratio=0.4)
    sparse = method.run(net, job)  # type: ignore[arg-type]
    macs = 0
    for name, layer in job.graph.layers.items():
        macs += int(sparse.get_submodule(name).weight.count_nonzero()) * layer.positions
    assert method.sparse_macs(sparse, job) == macs  # type: ignore[arg-type]
    assert phases[0].epochs == int(10 * job.dense_cost.macs / macs)
    assert not phases[0].equal_compute
    assert measured == [net]  # before the cut


def test_layer_std_leaves_normal_weights_beyond_one_deviation() -> None:
    net = resnet20()
    sparse, _, _ = cut(net, prune_ratio=0.0, variant="layer_std", quality=1.0)
    for weight in conv_weights(sparse)[10:]:  # the larger ones; a normal weight is that large in 31.7 % of the cases
        assert float((weight != 0).float().mean()) == pytest.approx(0.317, abs=0.03)


def test_a_run_that_is_resumed_uses_the_stored_threshold() -> None:
    net = resnet20(width=8)
    job = StubJob(net)
    first, _, _ = cut(net, job, prune_ratio=0.5)
    second, _, _ = cut(net, job, prune_ratio=0.5)
    assert len(job.stored) == 1
    assert all(torch.equal(one, two) for one, two in zip(conv_weights(first), conv_weights(second), strict=True))


def test_a_layer_that_loses_everything_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        net[2].weight *= 1e-3
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
        cut(resnet20(width=8), StubJob(resnet20(width=8), schedule="simultaneous"), prune_ratio=0.5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UserError, match="this net has no such layer"):
        cut(net, StubJob(net, torch.zeros(1, 3, 2, 2)), prune_ratio=0.5)


def test_the_matrices_of_a_language_model() -> None:
    net = sru(num_symbols=20, layers=2, width=12, rank=4, embedding=6)
    job = StubJob(net, example=torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(UserError, match=r"method\.kinds=conv: this net has no such layer; use method.kinds=linear"):
        cut(net, job, prune_ratio=0.5)
    names = ["layers.0.project", "layers.1.project.down", "layers.1.project.up"]
    sparse, method, _ = cut(net, job, prune_ratio=0.4, kinds="linear", layers=["layers.*"])
    assert method.names == names
    weights = [sparse.get_parameter(f"{name}.weight") for name in names]
    total = sum(weight.numel() for weight in weights)
    assert total - sum(int(weight.count_nonzero()) for weight in weights) == int(0.4 * total) + 1
    assert torch.equal(sparse.output.weight, net.output.weight)
    # the matrices are used once for each of the 5 symbols
    left = job.dense_cost.macs - 5 * (int(0.4 * total) + 1)
    assert method.sparse_macs(sparse, job) == left  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"kinds must be one of conv, linear, all, got 'rnn'"):
        Magnitude(prune_ratio=0.5, kinds="rnn")
