"""The config group ``attack``: every net of a run, white box and black box, its identity, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunebench
from prunebench.cli.help import help_text
from prunebench.config import named
from prunebench.config.groups import options
from prunebench.config.identity import run_folder
from prunebench.core.result import summary
from prunebench.data.loaders import ImageData
from prunebench.errors import UserError
from prunebench.measure.attacks import Attack
from prunebench.measure.statistics import clopper_pearson
from prunebench.report.record import Pool, from_result
from prunebench.run import assemble
from prunebench.run.reevaluate import reevaluate
from prunebench.run.robustness import _batches
from tests.kit import SHORT, configure, run

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
TINY = (*SHORT, *NET, "attack=pgd", "attack.steps=4")
FEW = "attack.num_samples=100"


def digits(tmp_path: Path, *words: str) -> ImageData:
    data: ImageData = assemble.load_data(configure(tmp_path, *SHORT, *words)[0])  # type: ignore[assignment]
    return data


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A pruned net whose test set is attacked as a whole."""
    return run(tmp_path_factory.mktemp("outputs"), *TINY)


def test_dense_pruned_and_final_nets_are_attacked(pruned: tuple[dict[str, Any], Path]) -> None:
    result, folder = pruned
    for stage in ("dense", "pruned", "final"):
        found = result["metrics"][stage]["robust"]
        assert found["num_samples"] == 360 and found["accuracy"] == found["correct"] / 360
        assert found["interval"] == pytest.approx(list(clopper_pearson(found["correct"], 360)))
        assert 0 < found["max_distance"] <= 0.1 + 1e-6
        assert found["attack"] == {
            "name": "pgd", "norm": "linf", "eps": 0.1, "threat_model": "paper", "step": 0.0625, "steps": 4,
            "restarts": 1, "random_start": True, "access": "white_box", "seed": 0,
        }  # fmt: skip
        assert found["features"] == "whole" and len(found["vulnerability_per_layer"]) == 7
        mean = sum(found["vulnerability_per_layer"]) / 7
        assert found["vulnerability"] == pytest.approx(mean) and mean > 0
    dense = result["metrics"]["dense"]
    assert dense["robust"]["accuracy"] < dense["accuracy"]
    assert "robust" not in result["metrics"]["test_best_val"], "what no table shows is not attacked"
    shown = dict(summary(result))
    assert shown["accuracy under attack %"][2] == f"{100 * result['metrics']['final']['robust']['accuracy']:.2f}"
    numbers = from_result(result, folder, "here", Pool()).numbers
    assert numbers["final.robust.vulnerability"] == result["metrics"]["final"]["robust"]["vulnerability"]


def test_the_numbers_are_those_of_a_loop_by_hand(pruned: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The saved net on its own, attacked with the same starts."""
    result, folder = pruned
    data, net = digits(tmp_path), prunebench.load(folder, trust=True)
    mean, std = data.mean[0], data.std[0]
    correct, place = 0, 0
    for inputs, labels in data.test(batch_size=250):
        pixels = inputs * std + mean
        noise = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(place))
        x = (pixels + 0.1 * (2 * noise - 1)).clamp(0, 1)
        for _ in range(4):
            x = x.detach().requires_grad_(True)
            nn.functional.cross_entropy(net((x - mean) / std), labels).backward()
            assert x.grad is not None
            x = x.detach() + 0.0625 * x.grad.sign()
            x = pixels + (x - pixels).clamp(-0.1, 0.1)
            x = x.clamp(0, 1)
        correct += int((net((x - mean) / std).argmax(1) == labels).sum())
        place += len(labels)
    assert abs(correct - result["metrics"]["final"]["robust"]["correct"]) <= 1


def test_without_room_nothing_changes(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *TINY, "attack.eps=0", "schedule=oneshot")
    for stage in ("dense", "final"):
        metrics = result["metrics"][stage]
        assert metrics["robust"]["correct"] == metrics["correct"]
        assert metrics["robust"]["vulnerability"] == pytest.approx(0.0, abs=1e-6)
        assert metrics["robust"]["max_distance"] == 0.0


def test_some_samples_are_a_seeded_draw(tmp_path: Path) -> None:
    data = digits(tmp_path)

    def attack(**more: Any) -> Attack:
        settings = configure(tmp_path, *TINY)[0]["attack"]
        built: Attack = named.build("attack", {**settings, "batch_size": 32, **more}, expects=Attack)
        return built

    def chosen(**more: Any) -> Tensor:
        return torch.cat([inputs for _, (inputs, _) in _batches(attack(**more), data)])

    whole = torch.cat([inputs for inputs, _ in data.test()])
    assert torch.equal(chosen(), whole)
    few = chosen(num_samples=50)
    places = [int((whole == one).flatten(1).all(1).nonzero()[0]) for one in few]
    assert len(places) == 50 and places == sorted(places)
    assert torch.equal(few, chosen(num_samples=50)) and not torch.equal(few, chosen(num_samples=50, seed=1))
    labels = {int(label) for _, (_, part) in _batches(attack(num_samples=50), data) for label in part}
    assert len(labels) > 5, "not the first ones of the files"


def test_black_box_examples_are_made_on_another_net(pruned: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, source = pruned
    words = (*SHORT, *NET, "attack=pgd", "attack.steps=4", "method=none", "schedule=simultaneous", "seed=1")
    result, folder = run(tmp_path, *words, f"attack.source={source}")
    black = result["metrics"]["final"]["robust"]
    white, _ = run(tmp_path, *words)
    assert black["attack"]["access"] == "black_box" and len(black["attack"]["source_sha256"]) == 64
    assert white["metrics"]["final"]["robust"]["accuracy"] < black["accuracy"] <= result["metrics"]["final"]["accuracy"]
    # the same folder elsewhere is the same run, another net in it is another one
    copied = shutil.copytree(source, tmp_path / "elsewhere")
    again, _ = configure(tmp_path, *words, f"attack.source={copied}")
    assert run_folder(assemble.identified(again)) == folder
    (copied / "model" / "plan.json").write_text('{"inputs":{},"keep":{}}')
    assert run_folder(assemble.identified(again)) != folder


def test_the_attack_is_part_of_the_run_and_not_of_the_dense_net(tmp_path: Path) -> None:
    configs = [configure(tmp_path, *SHORT, *NET, *words)[0] for words in ((), ("attack=pgd",), ("attack=pgd", FEW))]
    assert "attack" not in configs[0]
    assert len({run_folder(config) for config in configs}) == 3
    jobs = [assemble.build(config, tmp_path)[0] for config in configs]
    assert len({job.dense_folder(job.phases[0]) for job in jobs}) == 1


def test_a_run_is_measured_again_without_its_attack(pruned: tuple[dict[str, Any], Path]) -> None:
    assert all(again.same for again in reevaluate(pruned[1], trust=True))


# each way to predict: one pass, draws of weights, several nets, gates that depend on the picture, means of iterates
METHODS = {
    "bbb": ("method.num_samples=3",),
    "sanp": ("method.timed_samples=0",),
    "simultaneous_vi": ("schedule.phases.train.epochs=40",),
    "vnd": ("method.num_samples=3", "method.num_widths=0"),
    "swag": ("method.num_samples=3", "method.start=0.0"),
    "dllp": ("method.num_particles=2",),
}
QUICK = 3


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if i >= QUICK else ()) for i, m in enumerate(METHODS)]
)
def test_every_way_to_predict_can_be_attacked(method: str, tmp_path: Path) -> None:
    words = (*SHORT, *NET, f"method={method}", *METHODS[method], "attack=pgd", "attack.steps=4")
    result, _ = run(tmp_path, *words, "attack.eps=0.3", "attack.num_samples=60")
    final = result["metrics"]["final"]
    found = final["robust"]
    assert found["num_samples"] == 60 and found["max_distance"] == pytest.approx(0.3, abs=1e-5)
    assert found["vulnerability"] > 0
    # the gradients are of use: this eps takes nearly everything
    assert found["accuracy"] < 0.6 * final["accuracy"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dataset=bytes", "model=sru_tiny", "attack=fgsm"), "attack=fgsm changes the pixels of pictures"),
        (
            ("dataset=simulation_one", "model=regression_mlp", "attack=fgsm"),
            "changes the pixels of pictures with labels",
        ),
        ((*TINY, "attack.num_samples=361"), r"has 360 test pictures \(attack.num_samples\), 361 were asked for"),
        ((*TINY, "attack.source=/no/such/run"), "/no/such/run is no folder"),
        ((*TINY, "attack.eps=-0.1"), r"attack.eps must be .*-0.1"),
        ((*TINY, "attack.eps=.inf"), r"attack.eps must be .*inf"),
        ((*TINY, "attack.steps=1e30"), r"attack.steps must be a whole number"),
        ((*TINY, "attack.batch_size=null"), r"attack.batch_size must be"),
        ((*TINY, "attack.threat_model=mine"), "attack.threat_model must be one of paper, official"),
        ((*TINY, "attack.restarts=2", "attack.random_start=false"), "needs attack.random_start=true"),
        ((*TINY, "dataset=noisy_digits", "dataset.input_noise=0.5"), "take a set without noise"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_training(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        run(tmp_path, *words)
    assert not list(tmp_path.glob("runs/**/log.txt")) and not list(tmp_path.glob("dense"))


def test_a_net_for_other_pictures_is_no_source(pruned: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    words = ("dataset=digits", "dataset.size=16", "model=lenet5", "method=none", "schedule=simultaneous")
    with pytest.raises(UserError, match=r"holds a net for inputs of \[1, 1, 8, 8\], those of dataset=digits are"):
        run(tmp_path, *SHORT, *words, "attack=fgsm", f"attack.source={pruned[1]}")


@pytest.mark.parametrize("name", sorted(options("attack")))
def test_each_attack_knows_the_usual_room_of_a_data_set(name: str, tmp_path: Path) -> None:
    rooms = {
        data: configure(tmp_path, f"dataset={data}", f"attack={name}")[0]["attack"] for data in ("mnist", "cifar10")
    }
    assert [settings["eps"] for settings in rooms.values()] == pytest.approx([0.3, 8 / 255])
    assert all(settings["name"] == name and settings["source"] is None for settings in rooms.values())


def test_help_names_it() -> None:
    assert "attack=" in help_text() and "attack=pgd" in help_text()
