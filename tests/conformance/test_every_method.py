"""What holds for every method configuration under every schedule that it supports.

The net is small and the digits are real; two epochs a phase are enough to train, interrupt and resume.
"""

from __future__ import annotations

import copy
import functools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import prunebench
from prunebench.config import named
from prunebench.config.groups import NOT_ARGUMENTS, conf_folder, options
from prunebench.core.asked import TARGET_TOLERANCE
from prunebench.core.method import ALL_SCHEDULES, Method
from prunebench.core.result import read_result
from prunebench.data.loaders import ImageData
from prunebench.measure import cost
from prunebench.run import assemble
from prunebench.training.lit import Lit
from tests.conformance.settings import conformance, declared
from tests.kit import SHORT, configure, run

METHODS = sorted(options("method"))
NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")


def settings(path: Path) -> dict[str, Any]:
    """Settings of a configuration file and of its parts, without what Hydra adds: composing takes a second a method."""
    found: dict[str, Any] = {}
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    for entry in own.get("defaults", ()):
        if isinstance(entry, dict) and "part@_here_" in entry:
            found |= settings(path.parent / "part" / f"{entry['part@_here_']}.yaml")
        elif isinstance(entry, str) and entry != "_self_":
            found |= settings(path.parent / f"{entry}.yaml")
    return found | own


def declared_by(target: str, name: str) -> frozenset[str]:
    kind = named.find(target, what=name)
    assert isinstance(kind, type) and issubclass(kind, Method)
    return kind.schedules


KINDS = {name: settings(conf_folder() / "method" / f"{name}.yaml") for name in METHODS}
DEFAULT = next(entry["method"] for entry in settings(conf_folder() / "config.yaml")["defaults"] if "method" in entry)
"""The method of a run that names none."""
SUPPORTED = [
    (name, schedule)
    for name, kind in KINDS.items()
    for schedule in sorted(kind.get("schedules") or declared_by(kind["_target_"], name))
]
"""All methods under all schedules that they support."""


def pairs() -> Iterator[Any]:
    """:data:`SUPPORTED`: the default method under every schedule, every method under its first; the rest is slow."""
    seen: set[str] = set()
    for method, schedule in SUPPORTED:
        quick = method == DEFAULT or method not in seen
        seen.add(method)
        yield pytest.param(method, schedule, marks=() if quick else pytest.mark.slow)


PAIRS = list(pairs())


@functools.cache
def lengths(schedule: str) -> tuple[str, ...]:
    """The two epochs again, for methods whose own training of digits is longer."""
    phases = configure(Path("unused"), *SHORT, f"schedule={schedule}")[0]["schedule"]["phases"]
    return tuple(f"schedule.phases.{name}.epochs={phase['epochs']}" for name, phase in phases.items())


def command(method: str, schedule: str) -> tuple[str, ...]:
    words = (f"method={method}", f"schedule={schedule}", *lengths(schedule))
    return (*SHORT, *NET, *words, *conformance(method).options)


def test_what_is_declared_belongs_to_a_method() -> None:
    assert declared() and set(declared()) <= set(METHODS)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # one place for all: the dense nets are trained once and shared, as in a sweep
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def straight(outputs: Path) -> Callable[[str, str], tuple[dict[str, Any], Path]]:
    """``straight(method, schedule)``: result and folder of that run, which is made once."""
    return functools.cache(lambda method, schedule: run(outputs, *command(method, schedule)))


@pytest.mark.parametrize(("method", "schedule"), PAIRS)
def test_runs_and_keeps_its_promises(method: str, schedule: str, straight: Any) -> None:
    result, folder = straight(method, schedule)

    assert result == read_result(folder) | {"run": result["run"]}
    final, costs = result["metrics"]["final"], result["cost"]
    budget = result["budget"]
    missed = conformance(method).may_miss and abs(budget["reached"] - budget["target"]) > budget.get(
        "tolerance", TARGET_TOLERANCE * budget["target"]
    )
    assert result["status"] == ("missed_target" if missed else "complete")
    assert final["num_samples"] == 360
    assert 0 <= final["ece"] <= 1 and 0 < final["nll"] < 20
    low, high = final["interval"]
    assert low <= final["accuracy"] <= high

    # the saved net is the measured net: rebuilt from its folder alone it counts and predicts the same
    net = prunebench.load(folder, trust=True)
    # where the cost is a mean over samples, a pass over a batch computes more and says how much
    computed = costs["final"].get("macs_masked", costs["final"]["macs"])
    assert cost.count(net, torch.zeros(1, 1, 8, 8)).macs == computed
    assert sum(p.numel() for p in net.parameters()) == costs["final"]["params"]
    # where the run averages several predictions, the saved net makes one of its own
    alone = result["metrics"]["saved_net" if final["num_predictions"] > 1 else "final"]
    assert abs(accuracy(net) - alone["accuracy"]) < 1e-9

    if result["equivalence"]["max_abs_diff"] is not None:
        assert result["equivalence"]["max_abs_diff"] < 1e-4
    fewer_params = costs["final"]["nonzero_params"] < costs["dense"]["nonzero_params"]
    pruned_something = fewer_params or costs["macs_removed"] > 0
    assert pruned_something != conformance(method).keeps_all
    assert all(entry["reason"] for entry in result["not_pruned"])
    still = left_behind(net)
    assert still == [] or (conformance(method).closes and len(still) < len(list(net.parameters())))


@functools.cache
def digits() -> ImageData:
    config, _ = configure(Path("unused"))
    data: ImageData = named.build("dataset", config["dataset"])
    data.setup(Path("unused"), download=False)
    return data


def accuracy(net: torch.nn.Module) -> float:
    with torch.inference_mode():
        hits = [(net(x).argmax(1) == y).sum().item() for x, y in digits().test()]
    return sum(hits) / digits().num_test


def left_behind(net: torch.nn.Module) -> list[str]:
    """Trainable parameters without a gradient; the loss, and all after a step of SGD, must be finite."""
    images, labels = next(iter(digits().train(epoch=0, seed=0)))
    trained = {name: p for name, p in net.train().named_parameters() if p.requires_grad}
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    loss.backward()
    torch.optim.SGD(trained.values(), lr=0.1).step()
    assert trained and loss.isfinite() and all(p.isfinite().all() for p in trained.values())
    return [name for name, p in trained.items() if p.grad is None or not p.grad.any()]


class PowerCut(Exception):
    """Stands for the end of a process in the middle of an epoch."""


@pytest.mark.parametrize(("method", "schedule"), PAIRS)
def test_an_interrupted_run_ends_with_the_same_numbers(
    method: str, schedule: str, tmp_path: Path, outputs: Path, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = straight(method, schedule)
    last = [phase["name"] for phase in result["phases"]][-1]
    if last != "pretrain" and (outputs / "dense").exists():
        shutil.copytree(outputs / "dense", tmp_path / "dense")  # as in a sweep, where it is trained once
    original = Lit.training_step

    def cut_power(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == last and self.current_epoch == 1 and batch_idx == 3:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", cut_power)
    with pytest.raises(PowerCut):
        run(tmp_path, *command(method, schedule))
    monkeypatch.setattr(Lit, "training_step", original)
    epochs_again = []
    original_start = Lit.on_train_epoch_start

    def count_epochs(self: Lit) -> None:
        epochs_again.append((self.phase.name, self.current_epoch))
        original_start(self)

    monkeypatch.setattr(Lit, "on_train_epoch_start", count_epochs)
    resumed, again = run(tmp_path, *command(method, schedule))

    assert (last, 0) not in epochs_again and (last, 1) in epochs_again
    for stage, metrics in result["metrics"].items():
        assert resumed["metrics"][stage] == metrics, stage
    left, right = (load_file(path / "model" / "weights.safetensors") for path in (folder, again))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (folder / "model" / "plan.json").read_text() == (again / "model" / "plan.json").read_text()


@pytest.mark.parametrize("method", METHODS)
def test_the_optimiser_holds_what_trains_and_two_steps_move_it(method: str, outputs: Path) -> None:
    schedule = next(schedule for name, schedule in SUPPORTED if name == method)
    config, _ = configure(outputs, *command(method, schedule))
    job, net = assemble.build(config, outputs / "unused")
    built = job.method
    assert built.schedules == {schedule for name, schedule in SUPPORTED if name == method}, "SUPPORTED is wrong"
    built.check(net, job)
    job.phase = phase = [phase for phase in job.phases if phase.epochs][-1]
    clock = job.clock()
    net = built.attach(net, job)
    lit = Lit(net, built, job.task, phase, job.data, seed=0)
    groups = built.param_groups(net, phase)
    held = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in lit.parameters() if p.requires_grad]
    assert sorted(held) == sorted(trainable)

    optimizer = torch.optim.SGD(groups, lr=0.1)
    batch = next(iter(job.data.train(epoch=0, seed=0)))
    built.start_epoch(net.train(), clock)
    seen: list[dict[str, float]] = []
    for step in range(2):
        torch.manual_seed(0)  # the same draws each time: a change comes from the step
        terms = built.losses(net, batch, job.task)
        seen.append({name: float(term.detach()) for name, term in terms.items()})
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        built.before_step(net, clock.at(step))
        before = copy.deepcopy(net.state_dict())
        optimizer.step()
        moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
        assert step or moved == [name for name, p in net.named_parameters() if p.requires_grad]
        built.after_step(net, clock.at(step))
    first, second = seen
    assert all(math.isfinite(value) for value in (*first.values(), *second.values()))
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] == second[name]} == set()

    probabilities = built.predict(net.eval(), batch, job.task)
    assert probabilities.shape == (probabilities.shape[0], len(batch[1]), 10)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:2]))


@pytest.mark.parametrize("method", METHODS)
def test_an_unsupported_schedule_is_refused_before_training(method: str, outputs: Path) -> None:
    config, _ = configure(outputs, *SHORT, *NET, f"method={method}", *conformance(method).options)
    job, net = assemble.build(config, outputs / "unused")
    built = job.method
    for schedule in ALL_SCHEDULES - built.schedules:
        job.schedule = schedule
        with pytest.raises(prunebench.errors.UserError, match=f"schedule={schedule} is not supported"):
            built.check(net, job)


@pytest.mark.parametrize("method", METHODS)
def test_a_value_of_another_type_is_refused_by_name(method: str) -> None:
    """No option takes a list of tables; whatever it takes, the sentence names it."""
    settings = configure(Path("unused"), f"method={method}", *conformance(method).options)[0]["method"]
    for key in settings.keys() - {*NOT_ARGUMENTS["method"], "_target_"}:
        with pytest.raises(prunebench.errors.UserError, match=rf"method\.{key} must be "):
            named.build("method", {**settings, key: [{}]})


def test_seed_zero_is_a_seed(outputs: Path, tmp_path: Path) -> None:
    words = command("none", "simultaneous")
    zero, _ = run(outputs, *words, "seed=0")
    again, _ = run(tmp_path, *words, "seed=0")
    one, _ = run(outputs, *words, "seed=1")
    assert zero["metrics"]["final"] == again["metrics"]["final"]
    assert zero["metrics"]["final"]["nll"] != one["metrics"]["final"]["nll"]
