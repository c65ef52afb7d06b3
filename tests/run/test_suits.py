"""What cannot work is said before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.config.settings import TrainerSettings
from prunebench.errors import UserError
from prunebench.run import assemble, runner, suits
from tests.kit import SHORT, configure


class Answers(nn.Module):
    """Logits in another wrapping, or of another shape."""

    def __init__(self, *, num_classes: int, wrapping: str) -> None:
        super().__init__()
        self.fc = nn.Linear(64, num_classes)
        self.wrapping = wrapping

    def forward(self, x: Tensor) -> Any:
        logits = self.fc(x.flatten(1))
        kinds = {"dict": {"logits": logits}, "tuple": (logits, x), "list": [logits], "flat": logits.flatten()}
        return {**kinds, "map": logits[:, :, None, None], "nothing": None}[self.wrapping]


class Broken(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def refusal(tmp_path: Path, *words: str) -> str:
    config, _ = configure(tmp_path, *SHORT, *words)
    with pytest.raises(UserError) as caught:
        assemble.build(config, tmp_path / "run")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrapping", "words"),
    [
        *((kind, f"gives a {kind}") for kind in ("dict", "tuple", "list")),
        ("nothing", "gives a NoneType"),
        ("flat", "the shape [10] for one sample, [1, 10]"),
        ("map", "[1, 10, 1, 1]"),
    ],
)
def test_an_output_that_is_no_prediction(wrapping: str, words: str, tmp_path: Path) -> None:
    net = ("model=custom", "model._target_=tests.run.test_suits.Answers", f"+model.wrapping={wrapping}")
    assert words in refusal(tmp_path, *net)


@pytest.mark.parametrize("classes", [1, 3, 11])
def test_another_number_of_classes(classes: int, tmp_path: Path) -> None:
    said = refusal(tmp_path, f"model.num_classes={classes}")
    assert f"[1, {classes}]" in said and "[1, 10]" in said and "dataset=digits" in said


def test_a_net_that_fails_says_with_what_even_without_a_text(tmp_path: Path) -> None:
    said = refusal(tmp_path, "model=custom", "model._target_=tests.run.test_suits.Broken")
    assert "fails on an input of dataset=digits, of shape [1, 1, 8, 8]: NotImplementedError" in said
    assert "fails on an input" in refusal(tmp_path, "model.in_channels=3")


@pytest.mark.parametrize("key", ["dataset.batch_size", "schedule.phases.finetune.batch_size"])
def test_batches_of_one_need_a_net_without_batch_norms(key: str, tmp_path: Path) -> None:
    assert "batches of 1 image, and model=resnet20 has batch norms" in refusal(tmp_path, f"{key}=1")
    config, _ = configure(tmp_path, *SHORT, f"{key}=1", "model=lenet300_100")
    job, _ = assemble.build(config, tmp_path / "run")
    assert 1 in (job.phases[-1].batch_size, job.data.batch_size)
    config, _ = configure(tmp_path, *SHORT, "schedule=oneshot", "schedule.phases.cut.batch_size=1")
    assemble.build(config, tmp_path / "run")  # nothing is trained in that phase


def test_a_language_model_answers_with_its_state(tmp_path: Path) -> None:
    net = ("dataset=bytes", "dataset.max_bytes=20000", "model=custom", "model.num_classes=256", "model.in_channels=1")
    target = ("model._target_=tests.run.test_suits.Plain", "+model.num_symbols=256")
    config, _ = configure(tmp_path, *net, *target)
    with pytest.raises(UserError) as caught:
        assemble.build(config, tmp_path / "run")
    said = str(caught.value)
    assert "a language model gives two tensors, (logits, state), and this net gives a Tensor" in said


class Plain(nn.Module):
    def __init__(self, *, num_symbols: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_symbols, num_symbols)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return self.table(x) + torch.zeros(())


def test_a_precision_that_the_processor_lacks(tmp_path: Path) -> None:
    """Else the run would train in bf16 and say fp16."""
    config, text = configure(tmp_path, *SHORT, "trainer.accelerator=cpu", "trainer.precision=16-mixed")
    with pytest.raises(UserError, match="16-mixed needs a GPU"):
        runner.execute(config, text, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("supported", [True, False])
def test_a_precision_that_the_processor_imitates(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    trainer = configure(Path("unused"), "trainer.accelerator=cpu")[0]["trainer"]
    settings = replace(TrainerSettings(**trainer), precision="bf16-mixed")
    assert any("use 32-true" in said for said in suits.check_precision(settings)) is not supported
    assert suits.check_precision(replace(settings, precision="32-true")) == []


def test_data_that_no_memory_holds(tmp_path: Path) -> None:
    words = refusal(tmp_path, "ood=noise", f"ood.num_pictures={10**15}")
    assert words == "ood=noise needs more memory than there is; set fewer or smaller samples"


class Shuffled(nn.Module):
    """Reads its inputs in an order that the constructor draws."""

    def __init__(self, *, num_classes: int, kept: str) -> None:
        super().__init__()
        order = torch.randperm(64, generator=torch.Generator().manual_seed(3) if kept == "seeded" else None)
        self.fc = nn.Linear(64, num_classes)
        if kept == "buffer":
            self.register_buffer("order", order)
        else:
            self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)[:, self.order])


def test_a_net_that_its_state_does_not_hold(tmp_path: Path) -> None:
    own = ("model=custom", "model._target_=tests.run.test_suits.Shuffled", "method=none", "schedule=simultaneous")
    assert "computes with values that its constructor draws" in refusal(tmp_path, *own, "+model.kept=nowhere")
    for kept in ("buffer", "seeded"):
        config, _ = configure(tmp_path, *SHORT, *own, f"+model.kept={kept}")
        assemble.build(config, tmp_path / "run")


@pytest.mark.parametrize("name", ["a/b", ".hidden", "x" * 101])
def test_a_name_of_a_net_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.name=.* is no name of a file"):
        configure(tmp_path, f"model.name={name}")
