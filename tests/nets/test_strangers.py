"""A saved net from a stranger: nothing is called that is not on the list, nothing is built that is out of bounds."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import prunebench
from prunebench.config.named import build
from prunebench.errors import UserError
from prunebench.nets import package
from prunebench.nets.export import export
from prunebench.surgery.plan import Plan
from tests.hostile import canary, targets
from tests.nets.test_package import CONFIG, CUT, SHAPE, small_net

SECONDS = 60
"""A refusal that takes longer is a hang; most take milliseconds."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    package.save(folder, small_net(), model_config=CONFIG, example_shape=SHAPE, plan=CUT)
    return folder / "model"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    with canary(tmp_path) as found:
        yield found


def read(saved: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((saved / "net.yaml").read_text(encoding="utf-8"))
    return content


def write(saved: Path, folder: Path, *, net: str | None = None, plan: str | None = None) -> Path:
    """A copy of the saved net with other files."""
    folder.mkdir()
    for name, text in (("net.yaml", net), ("plan.json", plan)):
        (folder / name).write_text((saved / name).read_text(encoding="utf-8") if text is None else text, "utf-8")
    (folder / "weights.safetensors").write_bytes((saved / "weights.safetensors").read_bytes())
    return folder


def sentence(folder: Path) -> str | None:
    """Why a folder is not loaded, in one line; None if it is."""
    start, said = time.process_time(), None
    try:
        prunebench.load(folder)
    except UserError as error:
        said = str(error)
    assert time.process_time() - start < SECONDS
    assert said is None or ("\n" not in said and len(said) < 1500), said
    return said


def refused(folder: Path) -> str:
    """The sentence of a folder that must not be loaded."""
    said = sentence(folder)
    assert said is not None
    return said


def hostile_nets(saved: Path, mark: Path) -> Iterator[dict[str, Any]]:
    """``net.yaml`` with each target as the net, its argument, below its argument, a layer, an argument of a layer."""
    whole = read(saved)
    gate = "prunebench.methods.bases.channel_gates.ChannelGate"
    for settings in targets(mark):
        given = {key: value for key, value in settings.items() if key != "_target_"}
        yield {**whole, "target": settings["_target_"], "arguments": given}
        yield {**whole, "arguments": {**whole["arguments"], "width": settings}}
        nested = {"_target_": "torch.nn.Sequential", "args": settings, "inner": {"deeper": settings}}
        yield {**whole, "arguments": {**whole["arguments"], "width": nested}}
        yield {**whole, "layers": {"layer1.0.conv1": {"target": settings["_target_"], "arguments": given}}}
        yield {**whole, "layers": {"layer1.0.conv1": {"target": gate, "arguments": {"channels": settings}}}}


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_is_called_that_is_not_on_the_list(saved: Path, tmp_path: Path, mark: Path, every: int) -> None:
    found = list(hostile_nets(saved, mark))
    assert len(found) > 150
    for number, content in enumerate(found[::every]):
        folder = write(saved, tmp_path / str(number), net=yaml.safe_dump(content))
        refused(folder)
        assert not mark.exists(), content
    with pytest.raises(UserError):
        export(folder, "state_dict")
    assert not mark.exists()


def test_the_canary_sings(saved: Path, tmp_path: Path, mark: Path) -> None:
    """What the test above watches would be seen."""
    content = {**read(saved), "target": "canary_nets.net", "arguments": {}}
    with pytest.raises(UserError):
        prunebench.load(write(saved, tmp_path / "net", net=yaml.safe_dump(content)), trust=True)
    assert mark.exists()


@pytest.mark.parametrize("target", ["torch.nn.Linear", "torch.nn.modules.linear.Linear"])
def test_modules_of_torch_are_on_the_list(target: str) -> None:
    settings = {"_target_": target, "in_features": 3, "out_features": 2}
    assert build("model", settings, expects=torch.nn.Module, trust=False).weight.shape == (2, 3)


BAD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    0.5,
    10**9,
    10**30,
    "x",
    "1",
    "",
    "a" * 5000,
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    {1: 2},
    [None],
)


def odd_nets(saved: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``net.yaml`` with each of its values replaced or left out, and each of its arguments."""
    whole = read(saved)
    whole["layers"] = {}
    for key in whole:
        yield f"no {key}", {name: value for name, value in whole.items() if name != key}
        for value in BAD:
            yield f"{key}={value!r:.50}", {**whole, key: value}
    for key in [*whole["arguments"], "blocks", "unknown"]:
        for value in BAD:
            yield f"arguments.{key}={value!r:.50}", {**whole, "arguments": {**whole["arguments"], key: value}}
    for shape in ([10**9, 1, 8, 8], [1] * 9, [1, 1, 1 << 30, 1 << 30], [1, 1, -8, 8], [1, 1, "8", 8], [1, 1, 8.0, 8]):
        yield f"shape {shape}", {**whole, "example_shape": shape}
    for name in ("../../x", "/etc/x", ".hidden", "a\0b", "a\\b"):
        yield f"name {name!r}", {**whole, "name": name}
    for dtype in ("save", "nn", "float33", "Tensor", "complex64"):
        yield f"dtype {dtype}", {**whole, "example_dtype": dtype}
    rows: tuple[Any, ...] = ([], {"target": "x"}, {"target": "x", "arguments": 3}, {"target": 3, "arguments": {}})
    for row in rows:
        yield f"layer {row}", {**whole, "layers": {"layer1.0.conv1": row}}
    gauss = {"target": "prunebench.methods.bases.channel_gates.ChannelGate", "arguments": {"channels": 10**11}}
    yield "a layer without end", {**whole, "layers": {"layer1.0.conv1": gauss}}
    yield "a layer nowhere", {**whole, "layers": {"layer9": {**gauss, "arguments": {"channels": 3}}}}


HARMLESS = (
    "schema=True",
    "num_classes",
    "pretrained",
    "mean",
    "std",
    "class_names",
    "name",
    "layers",
    "example_shape",
    "example_dtype",
    "no members",
    "members=None",
)
"""Where another value may make another description of the same net."""


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_values_out_of_bounds_are_one_sentence(saved: Path, tmp_path: Path, every: int) -> None:
    cases = list(odd_nets(saved))
    assert len(cases) > 200
    passed = []
    for number, (what, content) in enumerate(cases[::every]):
        folder = write(saved, tmp_path / str(number), net=yaml.safe_dump(content))
        if sentence(folder) is None:
            passed.append(what)
    odd = [what for what in passed if not any(word in what for word in HARMLESS)]
    assert odd == [], odd


def bomb(levels: int) -> str:
    """Each line holds the one before ten times."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'lol'}]" for n in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(12),
        "a: &a [*a]",
        "a: &a {b: 1}\nc: {<<: *a}",
        "a: " + "[" * 500 + "]" * 500,
        "a: " + "{b: " * 500 + "}" * 500,
        "[" * 100_000,
        "x" * (3 << 20),
        "!!python/object/apply:os.system [true]",
        "a: !!python/name:os.system",
        "schema: 1\nschema: 1",
        "a: \0",
        "schema: [1]",
        "\ufeff",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_a_yaml_file_that_unfolds_is_refused_before(saved: Path, tmp_path: Path, text: str) -> None:
    assert "net.yaml" in refused(write(saved, tmp_path / "x", net=text))


def odd_plans() -> Iterator[str]:
    good = json.loads(CUT.to_json())
    for bad in (99999999999, 10**30, -1, 8, 1.5, "1", None, True, [1], {"a": 1}):
        for key in ("keep", "inputs"):
            changed = copy.deepcopy(good)
            changed[key]["layer1.0.conv1"] = [0, bad]
            yield json.dumps(changed)
            changed[key]["layer1.0.conv1"] = bad
            yield json.dumps(changed)
    contents: tuple[Any, ...] = (
        [],
        {},
        {"keep": []},
        {"keep": {"nowhere": [1]}},
        {"keep": {}, "more": 1},
        {"keep": {"": [0]}},
    )
    for content in contents:
        yield json.dumps(content)
    yield from ("", "{", "NaN", '{"keep": {"layer1.0.conv1": [NaN]}}', "[" * 200_000, '{"keep": ' * 5000, "1" * 6000)
    yield json.dumps({"keep": {"layer1.0.conv1": list(range(200_000))}})
    yield json.dumps({"keep": {"linear": [0]}})
    yield json.dumps({"keep": {f"layer{n}": [0] for n in range(10_000)}})


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_plans_out_of_bounds_are_one_sentence(saved: Path, tmp_path: Path, every: int) -> None:
    for number, text in enumerate(list(odd_plans())[::every]):
        refused(write(saved, tmp_path / str(number), plan=text))


def test_a_plan_file_that_is_too_large_is_not_read(saved: Path, tmp_path: Path) -> None:
    folder = write(saved, tmp_path / "x")
    with (folder / "plan.json").open("wb") as file:
        file.truncate(1 << 40)  # without a block on the disk
    assert "plan.json" in refused(folder)


def test_an_index_has_a_bound_of_its_own() -> None:
    with pytest.raises(UserError, match=r"at most 16,777,215, got 99999999999"):
        Plan(keep={"conv": (0, 99999999999)})


def test_a_net_that_is_too_large_takes_no_memory(saved: Path, tmp_path: Path) -> None:
    whole = read(saved)
    sizes: tuple[dict[str, Any], ...] = ({"width": 20_000}, {"width": 10**6}, {"num_classes": 10**8})
    for arguments in sizes:
        content = {**whole, "arguments": {**whole["arguments"], **arguments}}
        said = refused(write(saved, tmp_path / str(arguments), net=yaml.safe_dump(content)))
        assert "the net would have more than 536,870,912 numbers" in said


def test_the_plain_net_still_loads(saved: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(prunebench.load(saved)(x), small_net()(x))
