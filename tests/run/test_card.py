"""What a net says of itself: the card beside it, the facts in an exported file."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from prunebench.core.result import read_result
from prunebench.nets import package
from prunebench.nets.export import export
from prunebench.run import card
from tests.kit import SHORT, run

NET = ("model=lenet300_100", "method=l1norm", "schedule=finetune", *SHORT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("card"), *NET)[1]


def test_the_card_says_what_the_result_says(folder: Path) -> None:
    result = read_result(folder)
    text = (folder / card.NAME).read_text(encoding="utf-8")
    assert card.NAME in result["files"]
    low, high = result["guarantee"]["accuracy_interval_95"]
    for part in (
        f"{100 * result['metrics']['final']['accuracy']:.2f}",
        f"{result['cost']['final']['macs']:,}",
        f"{100 * low:.2f} to {100 * high:.2f} %",
        f"on {result['metrics']['final']['num_samples']} test samples of digits",
        "softmax of 10 classes: 0, 1, 2",
        "Licence: not stated",
    ):
        assert part in text, part


def test_the_card_says_how_a_picture_becomes_an_input(folder: Path) -> None:
    result, spec = read_result(folder), package.read_spec(folder)
    assert "resized" not in card.model_card(result, spec)  # digits are stored as they are read
    assert "preparation" not in (folder / "model" / "net.yaml").read_text(encoding="utf-8")
    cut = "the shorter side resized to 37 pixels (bilinear), then the central 32 x 32"
    assert f"{cut}; pixels in [0, 1]" in card.model_card(result, spec.__class__(**{**vars(spec), "preparation": cut}))


def test_names_are_no_markup(folder: Path) -> None:
    result = read_result(folder)
    spec = package.read_spec(folder)
    names = ["a|b", "<script>alert(1)</script>", *map(str, range(30))]
    text = card.model_card(result, spec.__class__(**{**vars(spec), "class_names": names}))
    assert "a\\|b" in text
    assert "<script" not in text
    assert "32 classes" in text


def test_an_exported_file_carries_its_facts(folder: Path) -> None:
    facts = card.facts(folder)
    found = {entry.key: entry.value for entry in onnx.load(export(folder, "onnx", facts=facts).path).metadata_props}
    assert found == facts
    assert json.loads(found["class_names"]) == [str(digit) for digit in range(10)]
    assert json.loads(found["input_shape"]) == ["batch", 1, 8, 8]
    result = read_result(folder)
    assert float(found["test_accuracy"]) == pytest.approx(result["metrics"]["final"]["accuracy"], abs=1e-6)
    assert (found["run"], found["result_sha256"]) == (result["run"]["id"], result["checksum"])
    assert card.facts(folder / "model") == facts


def test_an_own_net_needs_its_module_and_trust(folder: Path) -> None:
    result, spec = read_result(folder), package.read_spec(folder)
    text = card.model_card(result, spec.__class__(**{**vars(spec), "target": "shop.nets.Small"}))
    assert "prunebench.load(<this folder>, trust=True)" in text
    assert "--trust" in text
    assert "Both import `shop.nets`" in text
    own = card.model_card(result, spec)
    assert "trust" not in own
    assert "int8" not in own
