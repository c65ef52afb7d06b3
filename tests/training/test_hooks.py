"""Each hook through a method of a few lines: beside a loop written by hand, and killed and resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prunebench
from prunebench.config.phase import Phase, lr_factor
from prunebench.core.task import Batch, Classification
from prunebench.errors import UserError
from prunebench.run import assemble
from prunebench.run.job import Job
from prunebench.surgery.graph import ChannelGraph
from prunebench.training.lit import Lit
from tests.kit import SHORT, configure, run
from tests.training import tiny_methods
from tests.training.tiny_methods import Alternating, Scale, Taylor, Ticks, shift_apart

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
TRAIN = "schedule.phases.train"
PLAIN = "tests.small_nets.without_norms"
ONE = (*SHORT, *NET, "schedule=simultaneous", f"{TRAIN}.clip_norm=0.5", f"{TRAIN}.lr_schedule=cosine", "method=none")


def words(method: str, *more: str) -> tuple[str, ...]:
    return (*ONE, f"method.name={method.lower()}", f"method._target_=tests.training.tiny_methods.{method}", *more)


class PowerCut(Exception):
    """Stands for the end of a process in the middle of an epoch."""


def cut_in(epoch: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Lit.training_step

    def step(self: Lit, given: Any, batch_idx: int) -> Tensor | None:
        if self.current_epoch == epoch and batch_idx == batch:
            monkeypatch.setattr(Lit, "training_step", original)
            raise PowerCut
        return original(self, given, batch_idx)

    monkeypatch.setattr(Lit, "training_step", step)


def phase_file(folder: Path, phase: str = "train") -> dict[str, Tensor]:
    return load_file(folder / "phases" / phase / "weights.safetensors")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("Ticks", ()),
        ("Ticks", (f"{TRAIN}.accumulate=3",)),
        ("Ticks", (f"{TRAIN}.lr_schedule=plateau", f"{TRAIN}.step_epochs=1", f"{TRAIN}.epochs=4", f"{TRAIN}.lr=2.0")),
        ("Scale", (f"{TRAIN}.optimizer=adam", f"{TRAIN}.lr=0.01")),
        ("Alternating", ()),
        ("Alternating", (f"{TRAIN}.accumulate=2",)),
        ("Widths", ()),
    ],
)
def test_killed_and_resumed_it_ends_with_the_same_bits(
    method: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, folder = run(tmp_path / "straight", *words(method, *more))
    cut_in(1, 2, monkeypatch)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", *words(method, *more))
    resumed, again = run(tmp_path / "cut", *words(method, *more))
    assert resumed["metrics"] == straight["metrics"]
    assert resumed.get("points") == straight.get("points")
    left, right = phase_file(folder), phase_file(again)
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_plateau_lowers_the_rate_that_a_resumed_run_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = (f"{TRAIN}.lr_schedule=plateau", f"{TRAIN}.step_epochs=1", f"{TRAIN}.gamma=0.3", f"{TRAIN}.epochs=5")
    flat = words("Ticks", *more)
    original = Classification.validation

    def worse(self: Classification, probabilities: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {**original(self, probabilities, batch), "val/nll": torch.ones(())}  # never below the first one

    monkeypatch.setattr(Classification, "validation", worse)
    straight, folder = run(tmp_path / "straight", *flat)
    cut_in(4, 2, monkeypatch)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", *flat)
    resumed, again = run(tmp_path / "cut", *flat)
    assert resumed["metrics"] == straight["metrics"]
    ticks, others = (phase_file(place)["method.ticks"] for place in (folder, again))
    assert torch.equal(ticks, others)
    rates = straight["phases"][0]["lr"]
    assert rates == pytest.approx([float(ticks[ticks[:, 1] == epoch, 2][0]) for epoch in range(5)])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.03, 0.03])


# ------------------------------------------------------------------------------------------------------- beside a loop
def built(outputs: Path, method: str, *more: str) -> tuple[Job, nn.Module, Phase]:
    config, _ = configure(outputs, *words(method, *more))
    job, net = assemble.build(config, outputs / "run")
    return job, net, job.phases[-1]


def by_hand(net: nn.Module, moved: Tensor, phase: Phase, step: Callable[[int, int], None], num_batches: int) -> None:
    """Run ``step(epoch, batch)`` through the phase with the seeds of a run."""
    net.train()
    for epoch in range(phase.epochs):
        torch.manual_seed(epoch)
        for batch in range(num_batches):
            step(epoch, batch)


def clip(net: nn.Module, phase: Phase) -> None:
    assert phase.clip_norm
    nn.utils.clip_grad_norm_(net.parameters(), phase.clip_norm)


def test_two_optimisers_in_turn_are_those_of_a_loop_by_hand(tmp_path: Path) -> None:
    job, net, phase = built(tmp_path, "Alternating", f"{TRAIN}.accumulate=2")
    reference = job.arrange(job.dense.fresh("init"))
    method = job.method
    assert isinstance(method, Alternating)
    job.fit(net, phase)

    scale = nn.Parameter(torch.ones(()))
    weights = torch.optim.SGD(reference.parameters(), lr=phase.lr, momentum=0.9, weight_decay=phase.weight_decay)
    side = torch.optim.Adam([scale], lr=0.05)
    halves = [[list(job.data.train(epoch=epoch, seed=0, part=(k, 2))) for epoch in range(phase.epochs)] for k in (0, 1)]
    num_batches = min(len(halves[0][0]), len(halves[1][0]))
    steps_per_epoch = -(-num_batches // 2)

    def step(epoch: int, batch: int) -> None:
        last = batch % 2 == 1 or batch + 1 == num_batches
        if batch % 2 == 0:
            weights.zero_grad()
        x, y = halves[0][epoch][batch]
        loss = nn.functional.cross_entropy(reference(x) * scale, y) / 2
        grads = torch.autograd.grad(loss, list(reference.parameters()))
        for p, grad in zip(reference.parameters(), grads, strict=True):
            p.grad = grad if p.grad is None else p.grad + grad
        if last:
            done = epoch * steps_per_epoch + batch // 2
            weights.param_groups[0]["lr"] = phase.lr * lr_factor(phase, done, steps_per_epoch)
            clip(reference, phase)
            weights.step()
        if batch % 2 == 0:
            side.zero_grad()
        x, y = halves[1][epoch][batch]
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(reference(x) * scale, y) / 2, [scale])
        scale.grad = grad if scale.grad is None else scale.grad + grad
        if last:
            nn.utils.clip_grad_norm_([scale], phase.clip_norm or 0.0)
            side.step()

    by_hand(reference, scale, phase, step, num_batches)
    assert abs(float(method.scale.detach()) - 1.0) > 1e-3
    torch.testing.assert_close(method.scale, scale, rtol=1e-5, atol=1e-6)
    for name, p in reference.named_parameters():
        torch.testing.assert_close(net.get_parameter(name), p, rtol=1e-4, atol=1e-5)


def test_a_group_with_an_optimiser_of_its_own_is_that_of_a_loop_by_hand(tmp_path: Path) -> None:
    job, net, phase = built(tmp_path, "Scale", f"{TRAIN}.optimizer=adam", f"{TRAIN}.lr=0.01")
    reference, method = job.arrange(job.dense.fresh("init")), job.method
    assert isinstance(method, Scale)
    job.fit(net, phase)

    scale = nn.Parameter(torch.ones(()))
    adam = torch.optim.Adam(reference.parameters(), lr=phase.lr, weight_decay=phase.weight_decay)
    plain = torch.optim.SGD([scale], lr=0.5)
    epochs = [list(job.data.train(epoch=epoch, seed=0)) for epoch in range(phase.epochs)]

    def step(epoch: int, batch: int) -> None:
        x, y = epochs[epoch][batch]
        adam.zero_grad()
        plain.zero_grad()
        nn.functional.cross_entropy(reference(x) * scale, y).backward()
        nn.utils.clip_grad_norm_([*reference.parameters(), scale], phase.clip_norm or 0.0)
        adam.param_groups[0]["lr"] = phase.lr * lr_factor(phase, epoch * len(epochs[0]) + batch, len(epochs[0]))
        adam.step()
        plain.step()

    by_hand(reference, scale, phase, step, len(epochs[0]))
    assert abs(float(method.scale.detach()) - 1.0) > 1e-3
    torch.testing.assert_close(method.scale, scale, rtol=1e-5, atol=1e-6)
    for name, p in reference.named_parameters():
        torch.testing.assert_close(net.get_parameter(name), p, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_clock_counts_steps_and_says_the_rate(accumulate: int, tmp_path: Path) -> None:
    job, net, phase = built(tmp_path, "Ticks", f"{TRAIN}.accumulate={accumulate}")
    job.fit(net, phase)
    num_batches = len(job.data.train(epoch=0, seed=0))
    steps = -(-num_batches // accumulate)
    assert isinstance(job.method, Ticks) and job.steps_per_epoch(phase) == steps
    expected = [[k, k // steps, phase.lr * lr_factor(phase, k, steps)] for k in range(steps * phase.epochs)]
    torch.testing.assert_close(job.method.ticks, torch.tensor(expected))


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    # without batch norm, and with a loss that is a mean: the halves of a batch have its gradient
    options = (f"model._target_={PLAIN}", "dataset.augment.crop=0", "dataset.validation=1037")
    nets = []
    for size, accumulate in ((20, 2), (40, 1)):
        batches = (f"dataset.batch_size={size}", f"{TRAIN}.accumulate={accumulate}")
        job, net, phase = built(tmp_path / str(size), "Ticks", *options, *batches)
        assert job.data.num_train == 400
        job.fit(net, phase)
        assert isinstance(job.method, Ticks) and len(job.method.ticks) == 2 * 10
        nets.append(net)
    untrained = dict(built(tmp_path / "fresh", "Ticks", *options)[1].named_parameters())
    for (name, small), large in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(small, untrained[name])


# ---------------------------------------------------------------------------------------------------- asking and saying
def test_what_a_method_asks_for_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ("method=none", "method.name=asking", "method._target_=tests.training.tiny_methods.Asking")
    command = (*SHORT, *NET, *method, "schedule=finetune")
    straight, _ = run(tmp_path / "straight", *command)
    made: list[str] = []
    original = tiny_methods.Asking.__init__

    def watched(self: tiny_methods.Asking) -> None:
        original(self)
        self.made = made

    monkeypatch.setattr(tiny_methods.Asking, "__init__", watched)
    cut_in(1, 2, monkeypatch)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", *command)
    cut_in(1, 3, monkeypatch)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", *command)
    resumed, _ = run(tmp_path / "cut", *command)
    assert made == ["tensors"]
    assert resumed["metrics"] == straight["metrics"] and resumed["budget"] == straight["budget"]
    budget = resumed["budget"]
    assert len(budget["noise"]) == 3 and len(set(budget["samples"])) == 5
    assert budget["teacher_differs"] == 0.0  # nothing was cut: the teacher is the net
    # a number of the 1,000 held-out pictures, not of the 360 test pictures
    hits = 1000 * budget["validated"]
    assert hits == pytest.approx(round(hits), abs=1e-6) and round(hits) % 25 != 0


def test_there_is_no_teacher_and_no_validation_where_there_is_none(tmp_path: Path) -> None:
    job, net, _ = built(tmp_path, "Ticks", "dataset.validation=0")
    with pytest.raises(UserError, match=r"no trained dense net .* schedule=simultaneous"):
        job.teacher()
    with pytest.raises(UserError, match="has no validation split"):
        job.validate(net)


def test_a_teacher_from_another_run_is_its_saved_net(tmp_path: Path) -> None:
    _, folder = run(tmp_path, *words("Ticks"))
    job, _, _ = built(tmp_path / "other", "Ticks")
    teacher, saved = job.teacher(str(folder)), job.arrange(prunebench.load(folder, trust=True))
    assert job.max_abs_diff(teacher, saved) == 0.0
    assert not any(p.requires_grad for p in teacher.parameters())


def test_points_and_metrics_are_in_the_result(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *words("Widths"))
    one, zero = result["points"]
    assert (one["name"], zero["name"]) == ("times_1", "times_0")
    assert one["settings"] == {"factor": 1.0} and one["cost"]["macs"] == result["cost"]["final"]["macs"]
    final = result["metrics"]["final"]
    assert one["metrics"]["accuracy"] == final["accuracy"]
    # logits 0: every class has the probability 1/10, so the NLL is ln 10
    assert zero["metrics"]["nll"] == pytest.approx(2.302585, abs=1e-5)
    # the net itself, and for the points a container and a factor around it
    assert one["metrics"]["method"]["modules"] == final["method"]["modules"] + 2


def test_streams_are_disjoint_halves(tmp_path: Path) -> None:
    job, _, phase = built(tmp_path, "Alternating")
    job.phase = phase
    halves = {name: batches(0) for name, batches in job.method.streams(job).items()}
    sizes = {name: sum(len(y) for _, y in batches) for name, batches in halves.items()}
    assert sum(sizes.values()) == job.data.num_train and abs(sizes["net"] - sizes["side"]) <= 1
    assert job.num_batches(phase) == min(len(batches) for batches in halves.values())


def test_a_group_of_its_own(tmp_path: Path) -> None:
    net, phase = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), Phase(name="p", epochs=1, lr=0.1)
    weights, biases = shift_apart(net, phase)
    assert [p.shape for p in weights["params"]] == [(4, 3), (2, 4)] and biases["lr"] == 0.0
    assert [p.shape for p in biases["params"]] == [(4,), (2,)]


# ------------------------------------------------------------------------------------------------- criteria with data
def taylor(**more: Any) -> tuple[str, ...]:
    criterion = ("method.criterion._target_=tests.training.tiny_methods.Taylor", "+method.criterion.num=50")
    return (*SHORT, *NET, "method=random", *criterion, *(f"{key}={value}" for key, value in more.items()))


def test_a_criterion_is_prepared_with_data_before_a_cut(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, *taylor(schedule="oneshot"))
    job, net = assemble.build(config, tmp_path / "run")
    method = job.method
    method.check(net, job)
    job.phase = job.phases[-1]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    choice = method.rank(net, job)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())

    # the same by hand: the gradient of the mean loss of those 50 pictures, in one batch
    (x, y) = (torch.cat(parts) for parts in zip(*job.samples("taylor", 50), strict=True))
    names = list(choice.plan.keep)
    weights = [net.get_parameter(f"{name}.weight") for name in names]
    grads = torch.autograd.grad(nn.functional.cross_entropy(net.eval()(x), y), weights)
    for name, weight, grad in zip(names, weights, grads, strict=True):
        scores = (weight.detach() * grad).flatten(1).sum(1).abs()
        kept = choice.plan.keep[name]
        gone = [k for k in range(len(scores)) if k not in kept]
        assert scores[gone].max() <= scores[list(kept)].min() * (1 + 1e-4) + 1e-9, name


def test_a_criterion_with_data_works_in_a_run_and_is_refused_without_a_cut(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *taylor(schedule="finetune"))
    assert result["status"] == "complete" and result["cost"]["macs_removed"] > 0.1
    with pytest.raises(UserError, match=r"Taylor looks at data.*schedule=simultaneous"):
        run(tmp_path, *taylor(schedule="simultaneous"))


def test_taylor_itself() -> None:
    """A net with one weight a filter and a loss that is their weighted sum: |w x g| by hand."""
    net = nn.Sequential(nn.Linear(1, 3, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-2.0], [3.0]]))

    class Given:
        device = torch.device("cpu")
        graph = ChannelGraph.trace(net, torch.zeros(1, 1))

        def samples(self, purpose: str, number: int) -> Any:
            return [(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))]

        def loss(self, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return (net(batch[0]) * torch.tensor([5.0, 1.0, -1.0])).sum(1).mean()

    ready = Taylor(num=2).prepare(net, Given())
    assert isinstance(ready, Taylor)
    found: Mapping[str, Tensor] = ready.found
    assert found["0"].tolist() == [5.0, 2.0, 3.0]
