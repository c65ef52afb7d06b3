"""quantize=int8: the exported nets of any run in integers, measured like any stage, kept and measured again."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from prunebench.cli.closing import show
from prunebench.cli.help import help_text
from prunebench.config.identity import run_folder
from prunebench.core.result import in_integers, is_complete, summary
from prunebench.disk.seal import file_sha256
from prunebench.errors import UserError
from prunebench.nets.quantize import Integers, StaticInt8
from prunebench.report.record import Pool, from_result
from prunebench.run import assemble, quantized
from prunebench.run.reevaluate import reevaluate
from tests.kit import SHORT, configure, run

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
INT8 = (*SHORT, *NET, "method=l1norm", "schedule=finetune", "quantize=int8", "quantize.samples=64")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export.py"
FILES = ["dense_float32.onnx", "dense_int8.onnx", "final_float32.onnx", "final_int8.onnx"]


def export(arguments: list[str]) -> int:
    return int(runpy.run_path(str(SCRIPT))["main"](arguments))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return run(tmp_path_factory.mktemp("outputs"), *INT8, "latency=true")


def test_both_nets_are_measured_on_the_files_of_integers(finished: tuple[dict[str, Any], Path]) -> None:
    result, folder = finished
    for net, stage in (("dense", "dense_quantized"), ("final", "quantized")):
        measured, plain = result["metrics"][stage], result["metrics"][net]
        assert measured["num_samples"] == plain["num_samples"] == 360
        assert measured["nll"] != plain["nll"] and abs(measured["accuracy"] - plain["accuracy"]) < 0.05
        assert measured.keys() == plain.keys()
        costs = result["cost"][stage]
        assert costs["file_bytes"] == (folder / "export" / f"{net}_int8.onnx").stat().st_size
        assert costs["float32_file_bytes"] == (folder / "export" / f"{net}_float32.onnx").stat().st_size
        assert costs["layers_float"] == 0 and costs["layers_int8"] == 8 and costs["executed_quantised"] is True
    assert result["guarantee"]["test_evaluations"] == len(result["metrics"])
    times = result["quantized"]["latency"]
    for name in (f"{net}_{engine}" for net in ("dense", "final") for engine in ("torch", "onnxruntime", "int8")):
        assert times[name]["batch_1_ms"] > 0 and times[name]["batch_64_repetitions"] >= 9
    assert dict(summary(result))["test accuracy %"][-1] == f"{100 * result['metrics']['quantized']['accuracy']:.2f}"
    numbers = from_result(result, folder, "here", Pool()).numbers
    assert numbers["quantized.file_bytes"] == result["cost"]["quantized"]["file_bytes"]


def test_files_and_times_are_said_beside_those_in_float32(
    finished: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = finished
    costs, times = result["cost"]["quantized"], result["quantized"]["latency"]
    small, whole = (f"{costs[key] / 1000:,.0f} kB" for key in ("file_bytes", "float32_file_bytes"))
    integers, floats = (f"{times[f'final_{name}']['batch_64_ms']:.3g} ms" for name in ("int8", "onnxruntime"))
    line = in_integers(result)[1]
    assert line.startswith(f"final net in int8: file {small} of {whole} in float32, batch 1 ")
    assert line.endswith(f"batch 64 {integers} of {floats} in ONNX Runtime")
    assert f"F{line[1:]}." in (folder / "model" / "README.md").read_text()
    show(result)
    assert line in " ".join(capsys.readouterr().out.split())
    assert in_integers({**result, "quantized": {}})[0] == in_integers(result)[0].partition(", batch")[0]


def test_the_files_belong_to_the_result(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    result, folder = finished
    for name in FILES:
        assert result["files"][f"export/{name}"] == file_sha256(folder / "export" / name)
    again = {item.name: item for item in reevaluate(folder, trust=True)}
    assert {"quantized.accuracy", "dense_quantized.nll", "quantized.file_bytes"} <= again.keys()
    assert all(item.same for item in again.values())
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.copy(copy / "export" / "dense_int8.onnx", copy / "export" / "final_int8.onnx")
    assert not is_complete(copy)
    with pytest.raises(UserError, match=r"final_int8\.onnx is missing or not the file that was measured"):
        reevaluate(copy, trust=True)


def test_the_file_to_ship_is_the_measured_one_with_facts(
    finished: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder = finished
    shipped = tmp_path / "shipped.onnx"
    assert export([str(folder / "model"), "--to", "int8", "--output", str(shipped)]) == 0
    written, measured = onnx.load(shipped), onnx.load(folder / "export" / "final_int8.onnx")
    assert written.graph == measured.graph
    facts = {entry.key: entry.value for entry in written.metadata_props}
    assert float(facts["test_accuracy"]) == pytest.approx(result["metrics"]["quantized"]["accuracy"], abs=1e-6)
    assert (facts["run"], facts["name"]) == (result["run"]["id"], "small_resnet")
    assert "--to int8" in (folder / "model" / "README.md").read_text()
    assert capsys.readouterr().out.endswith("the file that was measured\n")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    shutil.copy(copy / "export" / "dense_int8.onnx", copy / "export" / "final_int8.onnx")
    assert export([str(copy), "--to", "int8"]) == 1
    assert "not the file that was measured" in capsys.readouterr().err


def test_without_integers_none_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run(tmp_path, *SHORT, *NET, "method=none", "schedule=simultaneous")
    assert export([str(folder), "--to", "int8"]) == 1
    assert "quantize=int8 makes one" in capsys.readouterr().err


def test_a_run_that_was_stopped_ends_with_the_same_files(
    finished: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = finished
    original, calls = StaticInt8.quantise, []

    def stop_at_the_third(self: StaticInt8, *args: Any) -> Integers:
        calls.append(1)
        if len(calls) == 3:  # the check, the dense net, the final net
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(StaticInt8, "quantise", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *INT8)
    resumed, again = run(tmp_path, *INT8)
    assert len(calls) == 5  # the check again, and the final net: the dense one is kept
    assert {name: file_sha256(again / "export" / name) for name in FILES} == {
        name: file_sha256(folder / "export" / name) for name in FILES
    }
    for stage in ("quantized", "dense_quantized"):
        assert resumed["metrics"][stage] == result["metrics"][stage]
    assert "quantized" not in resumed  # latency=false


def test_a_net_that_cannot_be_exported_in_the_end_is_said_and_nothing_else_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StaticInt8.quantise

    def only_the_check(self: StaticInt8, net: Any, pictures: Any) -> Integers:
        if len(pictures[0]) > 2:
            raise UserError("export: no")
        return original(self, net, pictures)

    monkeypatch.setattr(StaticInt8, "quantise", only_the_check)
    words = ("method=none", "schedule=simultaneous", "quantize=int8", "quantize.samples=64")
    result, _ = run(tmp_path, *SHORT, *NET, *words)
    assert result["status"] == "complete" and "quantized" not in result["metrics"]
    assert "the final net is not measured in integers: export: no" in result["warnings"]


def test_a_small_set_gives_all_of_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(StaticInt8, "quantise", lambda self, net, pictures: asked.append(sum(map(len, pictures))))
    config, _ = configure(tmp_path, *INT8, "quantize.samples=2000")
    job, _ = assemble.build(config, tmp_path)
    monkeypatch.setattr(StaticInt8, "check", lambda *given: None)
    quantized.check(job)
    with pytest.raises(AttributeError):  # nothing was made here
        quantized.measure(job, job.dense.template, timed=False)
    assert asked == [job.data.num_train] == [437]


def test_what_cannot_work_is_refused_before_training(tmp_path: Path) -> None:
    config, _ = configure(tmp_path, "model=sru_tiny", "quantize=int8")
    with pytest.raises(UserError, match="quantize exports nets for pictures, and dataset=bytes has none"):
        assemble.make_integers(config)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_it_keeps_its_folder(tmp_path: Path) -> None:
    without, _ = configure(tmp_path)
    withit, _ = configure(tmp_path, "quantize=int8")
    assert without.get("quantize") is None
    assert run_folder(without) != run_folder(withit)
    jobs = [assemble.build(config, tmp_path)[0] for config in (without, withit)]
    assert len({job.dense_folder(job.phases[0]) for job in jobs}) == 1


def test_help_names_it() -> None:
    assert "quantize=" in help_text() and "quantize=int8" in help_text()
