"""Times of single layers: what is timed is the layer of the net, and the table is measured once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.reference
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.measure.layer_times import LayerTimes
from prunebench.measure.operations import BRANCHES, Operation, operations
from prunebench.surgery.graph import ChannelGraph

CONV = Operation(
    reads=6,
    writes=8,
    kernel=(3, 3),
    stride=(2, 2),
    padding=(1, 1),
    dilation=(1, 1),
    size=(9, 9),
    norm=True,
    activation=True,
)
OPERATIONS = [CONV, Operation(reads=5, writes=3), CONV.sized(4, 7)]


def test_the_operations_of_a_net() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    found = operations(ChannelGraph.trace(net, torch.zeros(1, 3, 12, 12)))
    assert list(found) == ["0", "3", "4", "7"]
    first, depthwise, point, last = found.values()
    assert (first.size, first.norm, first.activation, first.groups) == ((12, 12), True, True, 1)
    assert (depthwise.reads, depthwise.groups, depthwise.stride, depthwise.norm) == (8, 8, (2, 2), False)
    assert depthwise.sized(4, 4).groups == 4
    assert (point.size, point.kernel, point.sized(3, 5).writes) == ((5, 5), (1, 1), 5)
    assert (last.reads, last.writes, last.kernel, last.size) == (16, 5, (), ())
    assert len({operation.key for operation in found.values()}) == 4


@pytest.mark.parametrize("operation", OPERATIONS)
def test_both_programs_run_the_layer_that_is_named(operation: Operation) -> None:
    """The ONNX graph against torch, with the weights of the graph; the torch call by its shapes."""
    graph = onnx.load_from_string(operation._graph())
    weights = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.graph.initializer}
    x = torch.randn(2, operation.reads, *operation.size)
    found = onnx.reference.ReferenceEvaluator(graph).run(None, {"x": x.numpy()})
    assert len(found) == BRANCHES
    for branch, value in enumerate(found):
        weight = torch.from_numpy(weights[f"w{branch}"].copy())
        if operation.kernel:
            y = F.conv2d(x, weight, stride=operation.stride, padding=operation.padding).relu()
            expected = y.mean(dim=(2, 3), keepdim=True)
        else:
            expected = F.linear(x, weight)
        assert np.allclose(value, expected.numpy(), atol=1e-4)
    operation.torch(x)()
    operation.onnxruntime(x, threads=1)()


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_a_table_is_measured_once_and_kept(tmp_path: Path, engine: str) -> None:
    times = LayerTimes(engine=engine, batch=2, folder=tmp_path)
    found = times.seconds(OPERATIONS)
    assert list(found) == OPERATIONS
    assert all(0 < seconds < 1 for seconds in found.values())
    (file,) = tmp_path.iterdir()
    stored = json.loads(file.read_text())
    assert (stored["engine"], stored["batch"], stored["threads"]) == (engine, 2, torch.get_num_threads())
    again = LayerTimes(engine=engine, batch=2, folder=tmp_path)
    assert again.seconds(OPERATIONS) == found
    assert again.sha256 == times.sha256
    assert LayerTimes(engine=engine, batch=3, folder=tmp_path).path != file
    wider = again.seconds([CONV.sized(12, 16)])
    assert set(json.loads(file.read_text())["seconds"]) == {op.key for op in (*found, *wider)}


@pytest.mark.parametrize("content", ["", "[]", '{"seconds": {"a": 1}}', '{"seconds": 3}', "[" * 100_000])
def test_what_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    times = LayerTimes(engine="torch", batch=2, folder=tmp_path)
    assert times.path is not None
    times.path.write_text(content)
    with pytest.raises(UserError, match="holds no times of layers; remove it"):
        LayerTimes(engine="torch", batch=2, folder=tmp_path)


def test_more_work_takes_longer() -> None:
    """A hundred times the products, with room for any noise."""
    small = CONV.sized(16, 16)
    large = CONV.sized(256, 256)
    for engine in ("torch", "onnxruntime"):
        found = LayerTimes(engine=engine, batch=8).seconds([small, large])
        assert found[large] > 3 * found[small]
