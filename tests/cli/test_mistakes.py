"""Command lines that cannot work: one sentence, exit code 1, nothing written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from prunebench.cli import main
from prunebench.cli.mistakes import refuse_replaced
from prunebench.config.groups import GROUPS, MAY_LACK, options
from prunebench.errors import UserError
from tests.kit import configure

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; returns exit code and errors."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["prunebench"])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setenv("PRUNEBENCH_OUTPUTS", str(tmp_path / "outputs"))
        GlobalHydra.instance().clear()
        return main.main(list(arguments)), capfd.readouterr().err

    return call


REMOVED = {f"~{group}": (f"{group} must be a group",) for group in GROUPS if group not in MAY_LACK}
EMPTY = {f"{group}=null": (f"{group}=null",) for group in GROUPS}
NAMELESS = {f"{group}.name=null": (f"{group}.name must be text, got None",) for group in ("method", "model", "dataset")}
TAKEN = {
    "~seed": ("seed must be given",),
    "~latency": ("latency must be given",),
    "~paths.outputs": ("paths.outputs must be given",),
    "~dataset.epochs": ("dataset.epochs",),
    "~schedule.phases": ("schedule.phases must be a table of phases, got None",),
    "~schedule.phases.finetune": ("schedule=finetune has only its pretraining left", "nothing would be pruned"),
    "schedule.phases.finetune.prune=false": ("no phase of schedule=finetune begins with a cut", "or take method=none"),
    "schedule.phases=3": ("schedule.phases must be a table of phases, got 3",),
    "~method._target_": ("method._target_ must be given",),
}
FLAGS = {
    "--resolve": ("--resolve belongs to --cfg job",),
    "--foo": ("--foo is no flag",),
    "--cfg nothing": ("--cfg", "'nothing'"),
    "--info --cfg job": ("--cfg and --info exclude each other",),
    "seed=0 --cfg job method=fpgm": ("method=fpgm stands behind",),
    f"seed={'9' * 5000}": ("seed has a number of 5000 digits",),
    f"method.prune_ratio=0.{'1' * 5000}": ("method.prune_ratio", "5000 digits"),
}
SWEEPS = {
    "seed=0,1": ("seed=0,1 are several values", "-m before all else"),
    "method=fpgm,l1norm": ("method=fpgm,l1norm are several values", "-m before all else"),
    "seed=range(0,3)": ("seed=range(0,3) are several values", "-m before all else"),
    "dataset.mean=0.5,0.5": ("-m before all else", "a list is dataset.mean=[0.5,0.5]"),
    "-m method=none,l1norm method.prune_rato=0.5": ("unknown to method=none or method=l1norm", "method.prune_ratio"),
}
UNREADABLE = {
    "method": ("method is no key=value",),
    "=3": ("=3 is no key=value",),
    "paths.data=/tmp/ä=b": ("paths.data=/tmp/ä=b cannot be read", """'paths.data="/tmp/ä=b"'"""),
    "paths.data=~/x": ("paths.data=~/x cannot be read", """'paths.data="~/x"'"""),
    "dataset.files=[a=b]": ("dataset.files=[a=b] cannot be read", """'dataset.files=["…"]'"""),
    "method.{x}=1": ("method.{x} is no name of a key",),
    "+schedule.phases.a/b.epochs=1": ("+schedule.phases.a/b.epochs is no name of a key",),
    "${x}": ("${x} is no key=value",),
    "seed=${nope}": ("seed: Interpolation key 'nope' not found",),
    "method.prune_ratio=${method.prune_ratio}": ("method.prune_ratio: Recursive interpolation detected",),
}
NO_OPTIONS = {
    "method=": ("method=: it can be agp,",),
    "method=3": ("method=3: it can be agp,",),
    "model=1e3": ("model=1e3: it can be ", " custom,"),
    "dataset=true": ("dataset=true: it can be bytes,",),
    "logger=[1,2]": ("logger=[1,2]: it can be csv,",),
    "schedule={a:1}": ("schedule={a:1}: it can be finetune,",),
    "ood=bool(1)": ("ood=bool(1): it can be cifar10,",),
    "~model=1": ("~model takes the group away", "leave out =1"),
    "experiment=null": ("experiment=null: leave it out",),
    "objective=acuracy": ("objective must be a metric", "did you mean accuracy"),
    "+ood=3": ("+ood=3: it can be cifar10,",),
    "ood=": ("ood=: leave it out",),
    "hydra/launcher=nope": ("hydra/launcher=nope is unknown; it can be basic",),
    "hydra/sweeper/smapler=x": ("hydra/sweeper/smapler is no config group; it belongs to hydra/sweeper=optuna",),
    "--shell-completion": ("--shell-completion needs one of install=bash",),
}
UNKNOWN = {
    "+seed=1": ("the key seed is there already; leave out the +",),
    "dataset.epochs={a:1}": ("dataset.epochs is a table and stays one; set dataset.epochs.train or",),
    "dataset.std={1:2}": ("dataset.std={1:2} does not fit what is there: ",),
    "+method.recipe.imagenet.train.lrr=1": ("train.lrr is no setting of a phase; did you mean lr",),
    "method.recipe.imagenet.train.lr=-1": ("method.recipe.imagenet.train.lr must be a number of at least 0",),
    "+foo=1": ("the key foo is unknown",),
    "+seeds=1": ("the key seeds is unknown; did you mean seed?",),
    "+schedule.foo=1": ("schedule.foo is unknown; it can be name, phases",),
    "+paths.foo=1": ("paths.foo is unknown; it can be data, outputs, download",),
    "+logger.foo=1": ("logger.foo is unknown",),
}
MEANT = {
    "epochs=3": ("did you mean schedule.phases.<phase>.epochs? (<phase> is pretrain or finetune)",),
    "schedule=oneshot lr=0.1": ("did you mean schedule.phases.<phase>.lr? (<phase> is pretrain or cut)",),
    "schedule=simultaneous lr=0.1": ("did you mean schedule.phases.train.lr?",),
    "target_macs=0.5": ("target_macs is no config group or key; did you mean method.target_macs?",),
    "model.target_macs=0.5": ("the key model.target_macs is unknown; did you mean method.target_macs?",),
    "+target_macs=0.5": ("the key target_macs is unknown; did you mean method.target_macs?",),
    "batchsize=8": ("did you mean dataset.batch_size or schedule.phases.<phase>.batch_size",),
    "mehtod=fpgm": ("mehtod is no config group or key; did you mean method?",),
    "fpgm": ("fpgm is no key=value; did you mean method=fpgm?",),
    "fpmg": ("fpmg is no key=value; did you mean method=fpgm?",),
    "cifar10": ("cifar10 is no key=value; did you mean dataset=cifar10 or ood=cifar10?",),
    "model": ("model is no key=value; did you mean model=conv_bbb, or another model?",),
}
REPLACED = {
    "method.target_macs=0.5 method.prune_ratio=0.4": (
        "method.prune_ratio=0.4 has no effect beside method.target_macs=0.5: method.target_macs says how much goes",
        "leave out one of the two",
    ),
    "method.prune_ratio={conv1:0.4} +method.target_latency=0.5": ("beside +method.target_latency=0.5",),
    "-m method=fpgm,l1norm method.target_params=0.5,0.7 method.prune_ratio=0.1,0.2": ("beside method.target_params",),
    "method=thinet method.like=runs/x method.prune_ratio=0.4": ("beside method.like=runs/x",),
}
NO_PATHS = {
    "paths.outputs=": ("paths.outputs: '' is no path", "it is empty"),
    "paths.data=": ("paths.data: '' is no path",),
    'paths.outputs="~no.such.user/x"': ("paths.outputs: '~no.such.user/x' is no path",),
    'model.pretrained="~no.such.user/x"': ("model.pretrained: '~no.such.user/x' is no path",),
    f"paths.data=/{'x' * 5000}": ("paths.data: '/xxx", "name too long"),
    "method=random method.like=" + "x" * 5000: ("method.like: 'xxx", "name too long"),
}
PAIRS = {
    "dataset=bytes": ("model=resnet20 does not fit dataset=bytes", "model=sru, sru_small", "dataset=cifar10"),
    "model=sru_small dataset=digits": ("model=sru_small does not fit dataset=digits", "resnet20", "dataset=bytes"),
    "model=vgg16 dataset=bytes": ("to this net fits dataset=cifar10, cifar100, digits (dataset.size=32), folder",),
    "model=sru_small dataset=bytes method=none ood=noise": ("ood=noise does not fit dataset=bytes", "leave ood out"),
}


LINES = (
    REMOVED
    | EMPTY
    | NAMELESS
    | TAKEN
    | FLAGS
    | PAIRS
    | SWEEPS
    | UNREADABLE
    | NO_OPTIONS
    | UNKNOWN
    | MEANT
    | REPLACED
    | NO_PATHS
)


@pytest.mark.parametrize("line", list(LINES), ids=lambda line: line[:40])
def test_it_is_one_sentence_and_nothing_is_written(line: str, command: Command, tmp_path: Path) -> None:
    words = LINES[line]
    code, errors = command(*line.split())
    assert code == 1
    (sentence,) = errors.strip().splitlines()
    assert sentence.startswith("error: ") and all(word in sentence for word in words), sentence
    assert not (tmp_path / "outputs").exists()


def test_a_name_that_is_no_text_is_refused(command: Command, tmp_path: Path) -> None:
    code, errors = command("dataset=folder", os.fsdecode(b"dataset.folder=p\xff"), "dataset.num_classes=3")
    assert code == 1
    assert errors == "error: dataset.folder=p\\udcff is not written in UTF-8; rename what it names\n"
    assert not (tmp_path / "outputs").exists()


def test_a_value_may_be_another_one_s(command: Command) -> None:
    """Refused because of what it stands for: it is found."""
    code, errors = command("latency=false", "method.min_channels=${dataset.mean}", "method=l1norm")
    assert code == 1 and "method.min_channels must be a whole number of at least 0, got [0.3053]" in errors


def test_an_experiment_of_ones_own_stands_beside_the_rows(command: Command, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: mine\n")
    (tmp_path / "experiment" / "bare.yaml").write_text("seed: mine\n")
    for name, words in {
        "mine": "seed must be a whole number in [0, 2147483648), got 'mine'",
        "bare": "begins with the line # @package _global_",
        "other": "experiment=other is no row",
    }.items():
        code, errors = command(f"experiment={name}", "--config-dir", str(tmp_path))
        assert code == 1 and words in errors, errors


def test_what_a_terminal_would_obey_is_written_out(command: Command) -> None:
    code, errors = command("schedule='\x1b[31m'")
    assert code == 1 and errors.startswith(r"error: schedule=\x1b[31m is unknown")


def test_the_version_is_ours(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    from prunebench import __version__

    assert main.main(["--version"]) == 0
    assert capfd.readouterr().out == f"prunebench {__version__}\n"


def test_a_key_of_a_group_that_is_taken_away_is_not_called_unknown(command: Command) -> None:
    code, errors = command("trainer.precision=32-true", "~trainer")
    assert code == 1 and "trainer.precision is set here and taken away by ~trainer" in errors


# ------------------------------------------------------------------------------------------------ what suits a method


def chosen(*words: str) -> dict[str, str]:
    """Group -> the name of what a command line ends up with."""
    config, _ = configure(Path("unused"), *words)
    return {group: config[group]["name"] for group in ("method", "schedule", "model", "dataset")}


def test_a_method_brings_what_suits_it_and_what_is_asked_for_wins() -> None:
    assert chosen()["schedule"] == "finetune"
    assert chosen("method=bbb")["schedule"] == "simultaneous"
    assert chosen("method=bbb", "schedule=oneshot")["schedule"] == "oneshot"  # the method refuses it later
    language = chosen("method=flop_l0")
    assert (language["model"], language["dataset"]) == ("sru_tiny", "bytes")
    pictures = chosen("method=flop_l0", "model=resnet20")
    assert (pictures["model"], pictures["dataset"]) == ("resnet20", "digits")
    assert chosen("method=flop_l0", "dataset=text8")["model"] == "sru_tiny"


@pytest.mark.parametrize("method", sorted(options("method")))
def test_one_word_gives_a_schedule_that_the_method_supports(method: str) -> None:
    from prunebench.config import named

    config, _ = configure(Path("unused"), f"method={method}")
    assert config["schedule"]["name"] in named.build("method", config["method"]).schedules


def test_a_row_wins_over_what_its_method_brings() -> None:
    from prunebench import rows

    ready = [row for row in rows.load() if row.overrides and {"method", "schedule"} <= row.overrides.keys()]
    row = next(row for row in ready if row.overrides and row.overrides["schedule"] != "finetune")
    assert row.overrides is not None
    config = rows.compose(row)
    schedules = {"simultaneous_pretrained": "simultaneous"}
    asked = row.overrides["schedule"]
    assert config["schedule"]["name"] == schedules.get(asked, asked)


@pytest.mark.parametrize(
    "words",
    [
        "method.target_macs=0.5",
        "method.target_macs=null method.prune_ratio=0.4",
        "method.target_macs=0.5 method.prune_ratio=null",
        "-m method.target_macs=null,0.5 method.prune_ratio=0.4",
        "~method.like method.prune_ratio=0.4 latency=null",
    ],
)
def test_a_ratio_that_counts_is_not_refused(words: str) -> None:
    refuse_replaced(words.split())


def test_only_a_ratio_of_the_command_line_contradicts_a_target(tmp_path: Path) -> None:
    """Every method has one by default, and so may a row."""
    from prunebench.cli.composition import composed
    from prunebench.cli.resolve import resolve

    words = ["method=l1norm", "method.target_macs=0.5"]
    settings = resolve(composed(words), words)[0]["method"]
    assert settings["prune_ratio"] == 0.3 and settings["target_macs"] == 0.5


def test_nets_that_need_larger_pictures_are_not_recommended(command: Command) -> None:
    _, errors = command("model=sru_small", "dataset=digits")
    assert "resnet20" in errors and "vgg16" not in errors and "lenet5" not in errors
    _, errors = command("model=sru_small", "dataset=digits", "dataset.size=16")
    assert "lenet5" in errors and "vgg16" not in errors


def test_pairs_that_do_not_fit_are_refused_wherever_they_are_composed() -> None:
    with pytest.raises(UserError, match="does not fit"):
        chosen("dataset=bytes", "model=lenet5")
