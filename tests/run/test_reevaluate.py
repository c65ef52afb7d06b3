"""A run's folder is enough to measure its net again; a net or a number that was changed is found."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from prunebench.core.result import read_result, write_result
from prunebench.errors import UserError
from prunebench.run.reevaluate import reevaluate
from tests.hostile import canary, targets
from tests.kit import SHORT, run

ROOT = Path(__file__).resolve().parents[2]
NET = (*SHORT, "model=lenet300_100", "dataset.epochs.train=1", "dataset.epochs.finetune=1", "method.prune_ratio=0.5")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate_script", ROOT / "scripts" / "evaluate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("run"), *NET)[1]


@pytest.fixture
def moved(finished: Path, tmp_path: Path) -> Path:
    """The folder alone, at another place."""
    return Path(shutil.copytree(finished, tmp_path / "moved", ignore=shutil.ignore_patterns("phases", "stored")))


def test_the_numbers_come_out_again(moved: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(moved.rglob("*"))
    found = {item.name: item for item in reevaluate(moved)}
    final = read_result(moved)["metrics"]["final"]
    assert list(found) == ["accuracy", "nll", "macs", "params"]
    assert found["accuracy"].now == final["accuracy"] and found["nll"].now == pytest.approx(final["nll"], rel=1e-12)
    # 64 x 150 + 150 x 50 + 50 x 10, and 210 biases
    assert (found["macs"].now, found["params"].now) == (17_600, 17_810)
    assert script.main([str(moved)]) == 0
    assert "17,600" in capsys.readouterr().out
    assert sorted(moved.rglob("*")) == before


def test_other_weights_and_another_number_are_found(
    moved: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_result(moved)
    result["cost"]["final"]["params"] += 1
    write_result(moved, result)
    weights = load_file(moved / "model" / "weights.safetensors")
    save_file({name: torch.zeros_like(value) for name, value in weights.items()}, moved / "model/weights.safetensors")
    assert {item.name: item.same for item in reevaluate(moved)} == {
        "accuracy": False,
        "nll": False,
        "macs": True,
        "params": False,
    }
    assert script.main([str(moved)]) == 1
    assert capsys.readouterr().out.count("DIFFERS") == 3


def test_an_average_is_not_compared_with_one_prediction(tmp_path: Path) -> None:
    """Of a Bayesian net the saved one, at the mean of its weights, has numbers of its own."""
    settings = ("model=lenet300_100", "method=swag", "schedule=simultaneous", "method.num_samples=3")
    result, folder = run(tmp_path, *SHORT, *settings, "method.start=0", "method.rank=2", "method.collect_every=0.5")
    assert result["metrics"]["saved_net"]["nll"] != result["metrics"]["final"]["nll"]
    assert all(item.same for item in reevaluate(folder))


def test_what_cannot_be_evaluated_says_why(moved: Path, tmp_path: Path, script: ModuleType) -> None:
    result = read_result(moved)
    write_result(moved, {**result, "data": {**result["data"], "num_test": 7}})
    with pytest.raises(UserError, match="the data are not those of the run: num_test is 360 here and was 7"):
        reevaluate(moved)
    write_result(moved, {**result, "status": "failed"})
    with pytest.raises(UserError, match="a failed run without numbers"):
        reevaluate(moved)
    with pytest.raises(UserError, match=r"nowhere holds no result\.json; give the folder of a finished run"):
        reevaluate(tmp_path / "nowhere")
    assert script.main([str(tmp_path / "nowhere")]) == 1


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_hostile_folder_is_no_program(moved: Path, tmp_path: Path, every: int) -> None:
    """Nothing that a configuration or a saved net names is called, unless it is on the list."""
    with canary(tmp_path) as mark:
        found = targets(mark)
        assert len(found) > 20
        config = yaml.safe_load((moved / "config.yaml").read_text(encoding="utf-8"))
        for settings in found[::every]:
            for group in ("model", "dataset", "method"):
                given = {**config[group], **settings}
                _write(moved / "config.yaml", {**config, group: given})
                assert _refused(moved)
                _write(moved / "config.yaml", {**config, group: {**config[group], "inner": settings}})
                assert _refused(moved)
            _write(moved / "config.yaml", {**config, "method": {**config["method"], "criterion": settings}})
            assert _refused(moved)
            assert not mark.exists(), settings
        # the canary sings where it is trusted
        _write(moved / "config.yaml", {**config, "model": {**config["model"], "_target_": "canary_nets.net"}})
        with pytest.raises(UserError, match="does not suit"):
            reevaluate(moved, trust=True)
        assert mark.exists()


def _write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def _refused(folder: Path) -> bool:
    with pytest.raises(UserError) as caught:
        reevaluate(folder)
    return "\n" not in str(caught.value)


def test_the_script_trusts_only_where_it_is_told(
    moved: Path, tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with canary(tmp_path) as mark:
        config = yaml.safe_load((moved / "config.yaml").read_text(encoding="utf-8"))
        _write(moved / "config.yaml", {**config, "model": {**config["model"], "_target_": "canary_nets.net"}})
        assert script.main([str(moved)]) == 1
        assert not mark.exists()
        assert "give trust=True (--trust to a script)" in capsys.readouterr().err
        script.main([str(moved), "--trust"])
        assert mark.exists()
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "--trust" in capsys.readouterr().out


def test_a_damaged_folder_is_one_sentence(moved: Path) -> None:
    config = yaml.safe_load((moved / "config.yaml").read_text(encoding="utf-8"))
    contents: tuple[Any, ...] = (
        [],
        {},
        0,
        "text",
        *({**config, "seed": seed} for seed in ("x", 10**30, -1, 1.5, None)),
        *({**config, "paths": {**config["paths"], key: 3}} for key in ("data", "outputs", "download")),
        {**config, "trainer": {**config["trainer"], "num_threads": 10**6}},
        {**config, "schedule": {"phases": [1]}},
        {**config, "model": {**config["model"], "sizes": [10**9, 10**9]}},
        *({key: value for key, value in config.items() if key != group} for group in ("model", "dataset", "paths")),
        *({**config, group: 3} for group in ("model", "dataset", "method", "schedule", "trainer", "paths")),
    )
    for content in contents:
        _write(moved / "config.yaml", content)
        assert _refused(moved)
    (moved / "config.yaml").unlink()
    assert _refused(moved)
    _write(moved / "config.yaml", config)
    result = read_result(moved)
    parts: tuple[dict[str, Any], ...] = (
        {"metrics": []},
        {"cost": {}},
        {"data": 3},
        {"cost": {"final": {"macs": "x", "params": 1}}},
    )
    for broken in parts:
        (moved / "result.json").write_text(json.dumps({**result, **broken}))
        assert _refused(moved)
