"""The command line: what it prints, what it refuses, what it leaves behind."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from prunebench.cli import main
from prunebench.cli.help import help_text
from prunebench.config.groups import GROUPS, conf_folder, options
from prunebench.core.result import read_result
from prunebench.core.task import Classification
from prunebench.disk.lock import FolderLock
from tests.kit import SHORT

FAST = (*SHORT, "model=lenet300_100", "schedule=oneshot", "dataset.epochs.train=1")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> object:
    """Run the command in this process; returns (exit code, output, errors)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prunebench"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setenv("PRUNEBENCH_OUTPUTS", str(tmp_path / "outputs"))
        GlobalHydra.instance().clear()
        code = main.main(list(arguments))
        output, errors = capfd.readouterr()
        return code, output, errors

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["method=fpgn"], ["method=fpgn is unknown", "did you mean fpgm"]),
        (["model=resnet57"], ["model=resnet57 is unknown", "resnet56"]),
        (["dataset=cifar"], ["dataset=cifar is unknown", "cifar10"]),
        (["metod=fpgm"], ["metod", "did you mean method"]),
        (["method.prune_ratoi=0.5"], ["method.prune_ratoi", "did you mean method.prune_ratio"]),
        (["schedule.phases.finetune.epoch=1"], ["schedule.phases.finetune.epochs"]),
        (["method.prune_ratio=1.0"], ["prune_ratio", "[0, 1)", "1.0"]),
        (["method.prune_ratio=-0.1"], ["prune_ratio", "[0, 1)", "-0.1"]),
        (
            ["method.prune_ratio=null", "method.target_macs=0.00001"],
            ["target_macs", "out of reach", "ask for at least that"],
        ),
        (["method=soft_filter_pruning", "schedule=oneshot"], ["schedule=oneshot is not supported", "simultaneous"]),
        (["dataset=cifar10", "paths.data=/nowhere"], ["/nowhere", "cifar10"]),
        (["model.pretrained=/nowhere/net.th"], ["/nowhere/net.th"]),
        (["model._target_=no.such.net"], ["no.such", "cannot be imported"]),
        (["seed=-1"], ["seed", "-1"]),
        (["seed=one"], ["seed", "one"]),
        (["trainer.precision=fp8"], ["trainer.precision must be one of", "bf16-mixed", "'fp8'"]),
        (["trainer.devices=2"], ["trainer.strategy=ddp"]),
        (["model=vgg16"], ["32", "dataset.size"]),
        (["model=custom"], ["model._target_"]),
        (["dataset.batch_size=0"], ["batch_size"]),
        (["schedule.phases.finetune.lr=-1"], ["lr", "-1"]),
        (["schedule.phases.finetune.clip_norm=big"], ["schedule.phases.finetune.clip_norm must be a number", "'big'"]),
        (["trainer.deterministic=maybe"], ["trainer.deterministic must be true or false or warn", "'maybe'"]),
        (["dataset=folder"], ["dataset.folder must be given"]),
        (["dataset=folder", "dataset.folder=x"], ["dataset.num_classes must be given"]),
        (["trainer.num_threads=two"], ["trainer.num_threads must be a whole number in [1, 1024] or null", "'two'"]),
        (["trainer.num_threads=1000000"], ["trainer.num_threads must be", "got 1000000"]),
        (["trainer.precision=16"], ["trainer.precision must be one of", "16-mixed", "got 16"]),
        (["trainer.channels_last=3"], ["trainer.channels_last must be true or false"]),
        (["+trainer.gpus=1"], ["trainer.gpus is unknown", "devices"]),
        (["method.target_macs=half"], ["method.target_macs must be a number in (0, 1]", "or null, got 'half'"]),
        (["method.target_params=[1]"], ["method.target_params must be a number in (0, 1]", "or null, got [1]"]),
        (
            ["method.prune_ratio=much"],
            ["method.prune_ratio must be a number in [0, 1)", "or a table of numbers", "or null"],
        ),
        (["method.prune_ratio={conv1:much}"], ["method.prune_ratio.conv1 must be a number in [0, 1)", "'much'"]),
        (["method.skip=conv1"], ["method.skip must be a list of texts or null"]),
        (["method.criterion=foo"], ["method.criterion must be a Criterion (a group with _target_)"]),
        (["method.criterion.norm_ratio=x"], ["method.criterion.norm_ratio must be a number"]),
        (["+method.foo=1"], ["method.foo is unknown", "prune_ratio"]),
        (["method._target_=no.such"], ["cannot be imported"]),
        (
            ["method=agp", "method.end=late"],
            ["method.end must be a number in [0, 1] (a share of the phase), got 'late'"],
        ),
        (["method=agp_structured", "method.gate_lr=-1"], ["method.gate_lr must be a number of at least 0 or null"]),
        (["method=flop_l0", "method.multiplier_lr=-1"], ["method.multiplier_lr"]),
        (["method=sanp", "method.ramp=x"], ["method.ramp must be a number"]),
        (["method=slimming", "method.penalty=x"], ["method.penalty must be a number"]),
        (["method=magnitude", "method.layers=conv1"], ["method.layers must be a list of texts"]),
        (["method=swag", "method.bn_images=all"], ["method.bn_images must be a whole number of at least 1 or null"]),
        (["method=bbb", "schedule=simultaneous", "method.mean_range=-1"], ["method.mean_range"]),
        (["method=pruning_from_scratch", "schedule=scratch", "method.widen=x"], ["method.widen must be a number"]),
        (["model.width=wide"], ["model.width must be a whole number"]),
        (["model.pretrained=5"], ["model.pretrained must be text"]),
        (["paths.data=null"], ["paths.data must be text"]),
        (["paths.download=maybe"], ["paths.download must be true or false"]),
        (["latency=maybe"], ["latency must be true or false"]),
        (["logger=wandb", "logger.online=maybe"], ["logger.online must be true or false"]),
        (["row=foo"], ["experiment="]),
    ],
)
def test_mistakes_are_one_sentence_before_any_training(
    arguments: list[str], words: list[str], command, tmp_path: Path
) -> None:
    code, _, errors = command(*arguments)
    assert code == 1
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("error: ")
    for word in words:
        assert word in sentence
    assert "Traceback" not in errors
    assert not list((tmp_path / "outputs").rglob("result.json"))
    assert not list((tmp_path / "outputs").rglob("phases"))


def test_a_net_that_cannot_be_traced_names_the_line(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "branchy.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(64, num_classes)\n"
        "    def forward(self, x):\n        x = x.flatten(1)\n"
        "        if x.sum() > 0:\n            x = -x\n        return self.fc(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, errors = command(*FAST, "model=custom", "model._target_=branchy.Net")
    assert code == 1
    assert "branchy.py:8" in errors or "line 8" in errors


def test_an_output_folder_that_cannot_be_written(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, errors = command(*FAST, f"paths.outputs={tmp_path / 'file' / 'runs'}")
    assert code == 1
    assert "cannot be written" in errors and "paths.outputs" in errors


def test_an_infinite_loss_in_a_later_epoch_keeps_the_last_good_checkpoint(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*SHORT, "model=lenet300_100", "schedule=oneshot")
    steps = iter(range(1, 1000))  # 437 digits in batches of 64 are 7 steps an epoch

    def losses(self: Classification, net: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> object:
        loss = torch.nn.functional.cross_entropy(net(batch[0]), batch[1])
        return {"ce": loss * (float("inf") if next(steps) == 10 else 1.0)}

    with monkeypatch.context() as broken:
        broken.setattr(Classification, "losses", losses)
        code, _, errors = command(*settings)
    assert code == 1
    assert "not finite in phase pretrain, epoch 1, step 9" in errors and "last good checkpoint stays" in errors
    (kept,) = (tmp_path / "outputs").rglob("last.ckpt")
    state = torch.load(kept, weights_only=True)
    assert (state["epoch"], state["global_step"]) == (0, 7)
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    (first,) = state["callbacks"]["History"]["records"]
    # the same command goes on behind that epoch
    assert command(*settings)[0] == 0
    (result,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    assert read_result(result.parent)["status"] == "complete"
    with (result.parent / "metrics.csv").open() as file:
        again, second = csv.DictReader(file)
    assert float(again["seconds"]) == first["seconds"] and second["epoch"] == "1"


def test_an_infinite_loss_names_phase_and_step(command, tmp_path: Path) -> None:
    options_ = (*SHORT, "model=lenet300_100", "schedule.phases.pretrain.lr_schedule=multistep")
    code, _, errors = command(
        *options_, "schedule.phases.pretrain.lr=1.0e30", "schedule.phases.pretrain.warmup_epochs=1",
        "schedule.phases.pretrain.warmup_factor=0.0",
    )  # fmt: skip
    assert code == 1
    assert "not finite in phase pretrain" in errors and "step" in errors
    (result,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    assert read_result(result.parent)["status"] == "failed"


def test_a_second_call_prints_the_row_and_trains_nothing(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, _ = command(*FAST)
    assert code == 0 and "result.json" in output

    def never(*args: object) -> None:
        raise AssertionError("a complete run was executed again")

    with monkeypatch.context() as unchanged:
        unchanged.setattr(main, "execute", never)
        code, output, _ = command(*FAST)
    assert code == 0
    assert "already complete" in output and "test accuracy" in output

    # unless it is forced: then the old one is kept aside, and it says the same
    (file,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    before = read_result(file.parent)
    code, output, _ = command(*FAST, "--force")
    assert code == 0 and "already complete" not in output
    (kept,) = (tmp_path / "outputs" / "replaced").rglob("result.json")
    assert read_result(kept.parent) == before and read_result(file.parent)["metrics"] == before["metrics"]
    assert kept.parent.name == f"{file.parent.name}-1"
    assert "--force" not in read_result(file.parent)["run"]["command"]


def test_a_run_locked_by_another_process_is_refused(command, tmp_path: Path) -> None:
    from prunebench.config.identity import run_folder
    from tests.kit import configure

    config, _ = configure(tmp_path / "outputs", *FAST)
    with FolderLock(run_folder(main.identified(config))):
        code, _, errors = command(*FAST, f"paths.outputs={tmp_path / 'outputs'}")
    assert code == 1
    assert "locked by another run" in errors
    assert not list((tmp_path / "outputs").rglob("result.json"))


@pytest.mark.parametrize("option", ["method=random method.like", "method=swag method.posterior", "model.pretrained"])
def test_paths_are_resolved_where_the_command_starts(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.kit import configure

    *group, key = option.split()
    monkeypatch.chdir(tmp_path)
    config, text = configure(tmp_path, *group, f"{key}=some/run")
    place = key.split(".")
    assert config[place[0]][place[1]] == str(tmp_path / "some" / "run")
    assert str(tmp_path / "some" / "run") in text


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_job_and_ends_with_an_error(tmp_path: Path) -> None:
    arguments = ["-m", *FAST, "method=none,random", "model.pretrained=null,/nowhere.th", f"paths.outputs={tmp_path}"]
    process = subprocess.run(
        [sys.executable, "-m", "prunebench", *arguments], capture_output=True, text=True, env={**os.environ}
    )
    assert process.returncode == 1
    results = [read_result(path.parent) for path in (tmp_path / "runs").rglob("result.json")]
    assert sorted((result["method"]["name"], result["status"]) for result in results) == [
        (name, status) for name in ("none", "random") for status in ("complete", "failed")
    ]
    assert all("/nowhere.th" in result["error"] for result in results if result["status"] == "failed")
    assert process.stderr.count("/nowhere.th") >= 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_how_it_goes_on(
    number: signal.Signals, code: int, words: list[str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "prunebench", *words, *FAST, "dataset.epochs.train=10000", "method=none"]
    command += ["schedule=simultaneous", f"paths.outputs={tmp_path}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # for a test in the background
    )
    while not list(tmp_path.rglob("last.ckpt")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == code
    assert errors.splitlines()[-1].endswith("; the same command goes on from here")
    assert not list(tmp_path.rglob("result.json"))
    for folder in tmp_path.glob("runs/*/*/*"):
        with FolderLock(folder):  # nobody writes there any more
            pass


@pytest.mark.slow
def test_a_key_that_some_options_have_reaches_those(tmp_path: Path) -> None:
    """And each job finds the user's own configuration files."""
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    digits = (conf_folder() / "dataset" / "digits.yaml").read_text()
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text(digits.replace("name: digits", "name: mine"))
    command = [sys.executable, "-m", "prunebench", "-m", "method=none,l1norm", "method.prune_ratio=0.5", "dataset=mine"]
    command += [*SHORT, "dataset.epochs.train=1", "model=lenet300_100", "schedule=oneshot"]
    command += [f"paths.outputs={tmp_path}", "--config-dir", str(tmp_path / "conf")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("method.prune_ratio=0.5 is left out: no such key here") == 1
    plain, cut = (read_result(path) for path in sorted(tmp_path.glob("runs/*/*/*"), reverse=True))
    assert "prune_ratio" not in plain["method"]["settings"] and cut["method"]["settings"]["prune_ratio"] == 0.5
    assert "method.prune_ratio" not in plain["run"]["command"]


@pytest.mark.slow
def test_two_processes_hold_the_same_plan_and_write_one_result_in_a_sweep_too(tmp_path: Path) -> None:
    short = ["model=lenet300_100", "dataset.epochs.train=1", "dataset.epochs.finetune=1", "seed=0,1"]
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    arguments = ["-m", *SHORT, *short, *two, f"paths.outputs={tmp_path}"]
    process = subprocess.run([sys.executable, "-m", "prunebench", *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    results = [read_result(file.parent) for file in (tmp_path / "runs").rglob("result.json")]
    assert sorted(result["run"]["seed"] for result in results) == [0, 1]
    for result in results:
        assert result["status"] == "complete"
        assert [phase["name"] for phase in result["phases"]] == ["pretrain", "finetune"]
    # a second rank that ran the sweep again would say so again
    logs = "".join(path.read_text() for path in (tmp_path / "runs").rglob("log.txt"))
    assert logs.count("phase finetune: ") == len(results)
    assert "already complete" not in process.stdout


def test_help_lists_every_group_option_and_five_examples() -> None:
    text = help_text()
    for group in GROUPS:
        for option, description in options(group).items():
            assert option in text and description in text and description, f"{group}={option}"
    assert text.count("\n  python -m prunebench ") >= 5


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from prunebench.cli.main import main; main(['--help']); "
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stderr.strip() == "False"


def test_the_stored_command_can_be_pasted(command, tmp_path: Path) -> None:
    code, _, _ = command(*FAST, "dataset.mean=[0.5]")
    assert code == 0
    (file,) = (tmp_path / "outputs" / "runs").rglob("result.json")
    stored = read_result(file.parent)["run"]["command"]
    assert stored == f"python -m prunebench {' '.join(FAST)} 'dataset.mean=[0.5]'"
