from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import prunebench
from prunebench.errors import UserError
from prunebench.models.resnet_cifar import resnet20
from prunebench.nets import export as module
from prunebench.nets import package
from prunebench.nets.export import FORMATS, export
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink

SHAPE = (1, 1, 8, 8)
CUT = Plan(keep={"layer1.0.conv1": (1, 2, 5), "layer1.0.conv2": (0, 3), "layer2.1.conv1": (0, 1, 2, 3, 4, 9)})
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export.py"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A saved ResNet with removed channels and scattered branches."""
    net = resnet20(in_channels=1, width=8)
    net(torch.randn(16, 1, 8, 8))
    net.eval()
    small = shrink(net, ChannelGraph.trace(net, torch.zeros(SHAPE)), CUT).eval()
    config = {"_target_": "prunebench.models.resnet_cifar.resnet20", "name": "resnet20", "in_channels": 1, "width": 8}
    package.save(tmp_path, small, model_config=config, example_shape=SHAPE, plan=CUT)
    return tmp_path


def images(batch: int) -> Tensor:
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(7))


def test_onnx_takes_any_batch_and_gives_the_same_outputs(run_folder: Path) -> None:
    done = export(run_folder, "onnx")
    assert done.path == run_folder / "export" / "resnet20.onnx"
    assert done.num_bytes == done.path.stat().st_size
    assert done.max_abs_diff <= 1e-4
    session = onnxruntime.InferenceSession(done.path.read_bytes(), providers=["CPUExecutionProvider"])
    net = prunebench.load(run_folder)
    for batch in (1, 2, 5):
        (found,) = session.run(None, {"input": images(batch).numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), net(images(batch)), atol=1e-4)


def test_torch_export_takes_any_batch_and_gives_the_same_outputs(run_folder: Path, tmp_path: Path) -> None:
    done = export(run_folder, "torch_export", output=tmp_path / "deep" / "net.pt2")
    program = torch.export.load(done.path).module()
    net = prunebench.load(run_folder)
    for batch in (1, 2, 5):
        with torch.no_grad():
            torch.testing.assert_close(program(images(batch)), net(images(batch)))  # free sets are in the wide form


@pytest.mark.parametrize("form", ["onnx", "torch_export"])
def test_a_file_tells_nothing_of_the_machine_that_wrote_it(form: str, run_folder: Path) -> None:
    content = export(run_folder, form).path.read_bytes()
    here = Path(module.__file__).parents[1]
    for place in (str(here), "stack_trace", "in forward", "site-packages"):
        assert place.encode() not in content, place


def test_state_dict_holds_the_small_tensors(run_folder: Path) -> None:
    done = export(run_folder, "state_dict")
    tensors = load_file(done.path)
    assert tensors["layer1.0.conv1.weight"].shape[0] == 3
    assert {name: list(t.shape) for name, t in tensors.items()} == {
        name: list(t.shape) for name, t in prunebench.load(run_folder).state_dict().items()
    }
    assert done.max_abs_diff == 0.0


def test_a_fixed_batch_is_fixed(run_folder: Path) -> None:
    done = export(run_folder, "torch_export", batch=4)
    program = torch.export.load(done.path).module()
    assert program(images(4)).shape == (4, 10)
    with pytest.raises(Exception, match=r"Guard failed|expected"):
        program(images(3))


def test_a_wrong_file_is_not_left(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = export(run_folder, "state_dict")
    before = right.path.read_bytes()

    def wrong(net: nn.Module, example: Tensor, path: Path, dynamic: bool) -> Any:
        path.write_bytes(b"wrong")
        return lambda x: net(x) + 2e-4

    monkeypatch.setattr(module, "_state_dict", wrong)
    with pytest.raises(UserError, match=r"differ from the net's by 2\.0.e-04, more than 1e-04"):
        export(run_folder, "state_dict")
    assert [path.name for path in right.path.parent.iterdir()] == [right.path.name]
    assert right.path.read_bytes() == before


def test_outputs_that_are_not_numbers_differ(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(net: nn.Module, example: Tensor, path: Path, dynamic: bool) -> Any:
        path.write_bytes(b"")
        return lambda x: net(x) * float("nan")

    monkeypatch.setattr(module, "_state_dict", broken)
    with pytest.raises(UserError, match="differ from the net's by nan"):
        export(run_folder, "state_dict")


def test_misuse_is_refused(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"format must be one of onnx, .*, got 'onx'; did you mean onnx"):
        export(run_folder, "onx")
    with pytest.raises(UserError, match="batch size must be a whole number of at least 1 or null, got 0"):
        export(run_folder, "onnx", batch=0)
    with pytest.raises(UserError, match="is a folder; give the file to write in --output"):
        export(run_folder, "onnx", output=run_folder)
    with pytest.raises(UserError, match=r"result\.json.* cannot be made \(.*\); give another one"):
        export(run_folder, "onnx", output=run_folder / "model" / "net.yaml" / "result.json" / "x.onnx")


def script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_script_writes_all_formats(
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert script(monkeypatch, str(run_folder), "--to", "all") == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == len(FORMATS)
    assert all("bytes  max abs difference" in line for line in out.splitlines())
    assert err == ""
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    for name in module.KNOWN_NOISE:
        assert logging.getLogger(name).filters == []


def test_script_fails_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(monkeypatch, str(tmp_path), "--to", "state_dict") == 1
    assert "holds no saved net" in capsys.readouterr().err
    assert script(monkeypatch, str(tmp_path), "--to", "onnx", "--batch", "some") == 1
    assert script(monkeypatch, str(tmp_path), "--to", "all", "--output", "x.onnx") == 1


def test_a_refusal_names_what_was_raised_first() -> None:
    error = RuntimeError("step 1/3 of a page about the exporter")
    error.__cause__ = ValueError("\na number that depends on the data\nand more")
    message = r"onnx cannot express this net \(a number that depends on the data\)"
    with pytest.raises(UserError, match=message), module._export_errors("onnx"):
        raise error
