"""SWAG: when it collects, what it predicts with, what it prunes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.config import named
from prunebench.config.phase import Phase, build_phases, lr_factor
from prunebench.core.clock import Clock
from prunebench.errors import UserError
from prunebench.layers.iterates import IterateGaussian
from prunebench.layers.vectors import to_vector, write_vector
from prunebench.measure.calibration import nll
from prunebench.methods.swag import SWAG
from prunebench.rows import register
from prunebench.run.bare import BareRun
from prunebench.surgery.shrink import shrink
from prunebench.training.lit import Lit
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run
from tests.small_nets import small_resnet

CONFORMANCE = {
    "swag": Conformance(options=("method.start=0", "method.collect_every=0.25", "method.num_samples=3"), keeps_all=True)
}

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
COLLECT = ("method=swag", "method.start=0", "method.collect_every=0.25", "method.num_samples=4")


def collecting_steps(method: SWAG, *, epochs: int, steps: int, begin: int = 0) -> list[tuple[int, int]]:
    """(epoch, step in the epoch), both from 0, after which the method collects in a phase from epoch ``begin`` on."""
    net = nn.Linear(1, 1)
    method.attach(net, bare_run(net))
    found = []
    assert method.posterior is not None
    first = Clock.first(num_epochs=epochs, steps_per_epoch=steps, lr=0.1)
    for epoch in range(begin, epochs):
        method.start_epoch(net, first.at(epoch * steps))
        for step in range(steps):
            before = int(method.posterior.num_collected)
            method.after_step(net, first.at(epoch * steps + step))
            if int(method.posterior.num_collected) > before:
                found.append((epoch, step))
    return found


def row() -> dict[str, Any]:
    """The configuration of a row of the paper."""
    option = "experiment=swag-nll_cifar100_vgg16_swag"
    register([option])
    return configure(Path("unused"), option)[0]


def test_the_papers_schedule_collects_139_models_and_keeps_20_deviations() -> None:
    config = row()
    method = named.build("method", config["method"])
    phase = build_phases(config["schedule"]["phases"])[0]
    found = collecting_steps(method, epochs=phase.epochs, steps=2)
    assert found == [(epoch, 1) for epoch in range(161, 300)] and len(found) == 139
    assert method.posterior.deviations.shape == (20, 2)
    rates = [phase.lr * lr_factor(phase, epoch, 1) for epoch in (0, 80, 81, 100, 144, 145, 299)]
    assert rates == pytest.approx([0.05, 0.05, 0.049689, 0.037888, 0.010559, 0.01, 0.01], abs=1e-5)


def test_the_configured_recipe_is_that_of_the_row() -> None:
    config, _ = configure(Path("unused"), "method=swag", "schedule=simultaneous", "dataset=cifar100")
    assert build_phases(config["schedule"]["phases"]) == build_phases(row()["schedule"]["phases"])
    assert {key: value for key, value in row()["method"].items() if config["method"][key] != value} == {}


def test_several_collections_an_epoch_are_equally_spaced() -> None:
    quarter = collecting_steps(SWAG(collect_every=0.25), epochs=2, steps=8)
    assert quarter == [(epoch, step) for epoch in (0, 1) for step in (1, 3, 5, 7)]
    # 10 steps: quarters end after 2.5, 5, 7.5 and 10 of them
    assert [step for _, step in collecting_steps(SWAG(collect_every=0.25), epochs=1, steps=10)] == [2, 4, 7, 9]
    assert collecting_steps(SWAG(collect_every=2.0, start=0.5), epochs=10, steps=3) == [(6, 2), (8, 2)]


@pytest.mark.parametrize(("every", "start"), [(2.0, 0.5), (0.7, 0.0), (0.25, 0.3)])
@pytest.mark.parametrize("begin", [1, 6, 7])
def test_a_resumed_phase_collects_where_the_whole_one_does(every: float, start: float, begin: int) -> None:
    settings: dict[str, Any] = {"collect_every": every, "start": start}
    whole = collecting_steps(SWAG(**settings), epochs=10, steps=3)
    again = collecting_steps(SWAG(**settings), epochs=10, steps=3, begin=begin)
    assert again == [(epoch, step) for epoch, step in whole if epoch >= begin] != []


def with_posterior(net: nn.Module, **options: Any) -> SWAG:
    """A method that has collected five noisy copies of ``net``'s weights, the noise growing with the index."""
    method = SWAG(**options)
    weights = to_vector(net)
    method.posterior = IterateGaussian(size=len(weights), rank=3)
    noise = torch.randn(5, len(weights), generator=torch.Generator().manual_seed(1))
    for row in noise * torch.linspace(0.01, 1.0, len(weights)):
        method.posterior.collect(weights + row)
    return method


def test_samples_are_drawn_once_and_do_not_depend_on_the_batches() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    method, bare = with_posterior(net, num_samples=5), bare_run(net, torch.zeros(1, 3, 2, 2))
    task = prunebench.core.task.Classification(num_classes=3)
    images, labels = torch.randn(10, 3, 2, 2), torch.randint(3, (10,))
    ensemble = method.before_measure(net, bare)
    torch.rand(7)  # the global stream does not matter
    whole = method.predict(ensemble, (images, labels), task)
    assert whole.shape == (5, 10, 3)
    again = method.before_measure(net, bare)
    parts = [method.predict(again, (images[i : i + 3], labels[i : i + 3]), task) for i in range(0, 10, 3)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert (whole[0] - whole[1]).abs().max() > 0.01
    # Jensen: averaging the probabilities beats the average of the samples
    assert nll(whole.mean(0), labels) <= sum(nll(one, labels) for one in whole) / 5
    # validation during training: one prediction of the net itself
    torch.testing.assert_close(method.predict(net, (images, labels), task)[0], net(images).softmax(1))


def test_before_anything_is_collected_the_net_itself_predicts() -> None:
    net = nn.Linear(2, 2)
    method, bare = SWAG(), bare_run(net)
    assert method.before_measure(net, bare) is net
    method.attach(net, bare)
    assert method.before_measure(net, bare) is net


def test_the_mean_alone_is_one_prediction_of_the_average() -> None:
    net = nn.Linear(2, 2)
    method = with_posterior(net, variant="swa", num_samples=30)
    (member,) = method.before_measure(net, bare_run(net)).children()
    assert method.posterior is not None
    torch.testing.assert_close(to_vector(member), method.posterior.mean.float())


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return small_resnet(num_classes=10, in_channels=3)


def run_of(net: nn.Module, schedule: str = "oneshot") -> BareRun:
    return bare_run(net, torch.zeros(1, 3, 8, 8), schedule=schedule)


def weights_of(net: nn.Module) -> list[torch.Tensor]:
    return [m.weight.detach() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_weights_of_lowest_ratio_go_from_every_sample(scope: str) -> None:
    net = small_net()
    method, bare = with_posterior(net, prune_ratio=0.75, scope=scope, num_samples=2), run_of(net)
    assert method.posterior is not None
    ratio = method.posterior.mean.abs() / method.posterior.std(scale=0.5, low_rank=True)
    pruned = bare.note(method.prune(net, bare))
    index = torch.arange(len(ratio))
    numbered = small_net()
    write_vector(numbered, index)
    dead = [weight.long().flatten() for weight in weights_of(numbered)]
    dead = [numbers[weight.flatten() == 0] for numbers, weight in zip(dead, weights_of(pruned), strict=True)]
    total = sum(weight.numel() for weight in weights_of(net))
    if scope == "global":
        ranked = torch.cat([weight.long().flatten() for weight in weights_of(numbered)])
        expected = ranked[ratio[ranked].argsort(stable=True)[: int(0.75 * total)]]
        assert sorted(torch.cat(dead).tolist()) == sorted(expected.tolist())
    else:
        assert [len(d) for d in dead] == [int(0.75 * w.numel()) for w in weights_of(net)]
    assert bare.achieved["weights_kept"] == pytest.approx(0.25, abs=1e-3)
    gone = torch.cat(dead)
    for member in method.before_measure(pruned, bare).children():
        assert to_vector(member)[gone].count_nonzero() == 0
    norms = [m for m in pruned.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.count_nonzero() == norm.num_features for norm in norms)


def test_ratio_and_magnitude_choose_differently() -> None:
    kept = {}
    for score in ("snr", "magnitude"):
        net = small_net()
        pruned = with_posterior(net, prune_ratio=0.5, score=score).prune(net, run_of(net)).net
        kept[score] = torch.cat([weight.flatten() != 0 for weight in weights_of(pruned)])
    # the noise grows along the net: by the ratio the last layer loses more
    assert kept["snr"][-300:].double().mean() < kept["magnitude"][-300:].double().mean() - 0.2


def test_training_after_the_cut_keeps_dead_weights_at_zero() -> None:
    net = small_net()
    method, bare = with_posterior(net, prune_ratio=0.5), run_of(net, schedule="finetune")
    net = method.prune(net, bare).net
    dead = to_vector(net) == 0
    method.attach(net, bare)
    assert method.posterior is not None and int(method.posterior.num_collected) == 0
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-2)
    first = Clock.first(num_epochs=2, steps_per_epoch=4, lr=1e-3)
    method.start_epoch(net, first)
    for step in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 8, 8)).square().mean().backward()
        method.before_step(net, first.at(step))
        optimizer.step()
        method.after_step(net, first.at(step))
    alive = method.posterior.live
    assert int((~alive).sum()) > 0 and dead[~alive].all()
    assert to_vector(net)[~alive].count_nonzero() == 0
    assert int(method.posterior.num_collected) == 1


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_channels_take_their_part_of_the_gaussian_along(coupling: str) -> None:
    net = small_net()
    method = with_posterior(net, prune_ratio=0.5, unit="channel", coupling=coupling, num_samples=2)
    bare = run_of(net)
    assert method.posterior is not None
    whole = method.posterior
    dense = small_net()
    write_vector(dense, whole.draw(torch.Generator().manual_seed(3), scale=0.0, low_rank=False))
    compact = bare.note(method.prune(net, bare))
    torch.testing.assert_close(to_vector(compact), to_vector(shrink(dense, bare.graph, bare.plan)))
    # the deviations too: each row is a weight vector that the same cut makes smaller
    write_vector(dense, whole.deviations[-1])
    torch.testing.assert_close(method.posterior.deviations[-1], to_vector(shrink(dense, bare.graph, bare.plan)))
    assert bare.count(compact).macs < bare.dense.cost.macs
    members = list(method.before_measure(compact, bare).children())
    assert all(to_vector(member).shape == to_vector(compact).shape for member in members)


def test_another_run_takes_the_gaussian_over(tmp_path: Path) -> None:
    first, folder = run(tmp_path, *SHORT, *NET, *COLLECT, "schedule=simultaneous")
    assert [row["method/num_collected"] for row in first_history(folder)] == [4, 8]
    taken = (*COLLECT, "schedule=oneshot", "method.acts.pretrain=false", f"method.posterior={folder}")
    again, _ = run(tmp_path, *SHORT, *NET, *taken)
    assert again["cost"]["final"]["macs_all_predictions"] == 4 * again["cost"]["dense"]["macs"]
    assert again["metrics"]["final"]["nll"] == first["metrics"]["final"]["nll"]
    alone, _ = run(tmp_path, *SHORT, *NET, *taken, "method.variant=swa")
    assert alone["metrics"]["final"]["nll"] == first["metrics"]["saved_net"]["nll"]
    assert alone["metrics"]["final"]["num_predictions"] == 1
    half, other = run(tmp_path, *SHORT, *NET, *taken, "method.prune_ratio=0.5", "method.unit=channel")
    assert half["cost"]["macs_removed"] > 0.3 and half["equivalence"]["max_abs_diff"] < 1e-4
    assert half["metrics"]["final"]["num_predictions"] == 4
    assert half["budget"]["origin"] == "prunebench_extension" and "origin" not in again["budget"]
    assert sum(p.numel() for p in prunebench.load(other, trust=True).parameters()) == half["cost"]["final"]["params"]


def first_history(folder: Path) -> list[dict[str, Any]]:
    from prunebench.disk.atomic import read_json

    found: list[dict[str, Any]] = read_json(folder / "phases" / "train" / "phase.json")["value"]["history"]
    return found


def test_the_best_epoch_is_measured_with_what_was_collected_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def falling(self: Lit, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", 1.0 - 0.1 * self.current_epoch, on_epoch=True, batch_size=len(batch[1]))

    monkeypatch.setattr(Lit, "validation_step", falling)
    result, _ = run(tmp_path, *SHORT, *NET, *COLLECT, "schedule=simultaneous", "method.start=0.5")
    assert result["phases"][0]["best_epoch"] == 0
    assert result["metrics"]["test_best_val"]["num_predictions"] == 1  # nothing is collected in the first epoch
    assert result["metrics"]["final"]["num_predictions"] == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "swagg"}, "did you mean swag"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1"),
        ({"rank": 1}, "method.rank must be at least 2 for method.variant=swag, got 1"),
        ({"start": 1.0}, r"start must be a number in \[0, 1\), got 1.0"),
        ({"collect_every": 0}, "collect_every must be a number of at least 1e-06, got 0"),
        ({"prune_ratio": 1.0}, r"prune_ratio must be a number in \[0, 1\)"),
        ({"variant": "swa", "prune_ratio": 0.5}, "without a variance"),
        ({"scale": 0.0, "prune_ratio": 0.5}, "without a variance"),
        ({"score": "size"}, "snr, magnitude"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SWAG(**options)


def phases(**pretrain: Any) -> tuple[Phase, ...]:
    first = Phase(name="pretrain", epochs=4, lr=0.1, pretrain=True, **pretrain)
    return (first, Phase(name="finetune", epochs=2, lr=0.1, prune=True, active=True))


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        ({}, {"phases": phases()}, "method.acts.pretrain=true"),
        ({"start": 0.9}, {"phases": phases(active=True)}, "phase pretrain would collect 1 weight vectors in 4 epochs"),
        ({"posterior": "there"}, {"phases": phases(active=True)}, "method.posterior replaces training"),
        ({"posterior": "there"}, {"phases": phases()}, "method.posterior=there is no folder of a finished run"),
        ({"bn_images": 5}, {"phases": phases(active=True)}, "1 to 4 training pictures"),
        ({"prune_ratio": 0.5, "layers": ["con"]}, {"phases": phases(active=True)}, "'con' matches no layer"),
        (
            {"prune_ratio": 0.5},
            {"schedule": "simultaneous", "phases": (Phase(name="train", epochs=4, lr=0.1, active=True),)},
            "acts at a cut",
        ),
        ({}, {"schedule": "iterative", "phases": phases()}, "schedule=iterative is not supported"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    options: dict[str, Any], settings: dict[str, Any], words: str
) -> None:
    net = small_net()
    bare = run_of(net, schedule=settings.get("schedule", "finetune"))
    bare.phases = settings["phases"]
    with pytest.raises(UserError, match=words):
        SWAG(**options).check(net, bare)
