"""Static quantisation of exports: the folded graph, executed integers, and what cannot be quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.nets.engines import OnnxNet
from prunebench.nets.quantize import Integers, StaticInt8
from tests.surgery.nets import randomise


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5)
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return found


@pytest.fixture(scope="module")
def made() -> tuple[Net, list[Tensor], Integers]:
    torch.manual_seed(0)
    net = Net().eval()
    randomise(net)
    pictures = [torch.randn(8, 3, 6, 6) for _ in range(3)]
    return net, pictures, StaticInt8(samples=24).quantise(net, pictures)


def test_batch_norms_are_folded(made: tuple[Net, list[Tensor], Integers]) -> None:
    """w' = w gamma / sqrt(var + eps), b' = beta + (b - mean) gamma / sqrt(var + eps)."""
    net, pictures, integers = made
    graph = onnx.load_from_string(integers.floats).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    conv = next(node for node in graph.node if node.op_type == "Conv")
    factor = net.bn.weight / torch.sqrt(torch.as_tensor(net.bn.running_var) + net.bn.eps)
    weight, bias = (torch.from_numpy(np.array(stored[name])) for name in conv.input[1:])
    torch.testing.assert_close(weight, net.conv.weight * factor[:, None, None, None], atol=1e-5, rtol=1e-5)
    expected = net.bn.bias + (net.conv.bias - net.bn.running_mean) * factor
    torch.testing.assert_close(bias, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(OnnxNet(integers.floats)(pictures[0]), net(pictures[0]), atol=1e-5, rtol=1e-5)


def test_the_file_holds_and_executes_integers(made: tuple[Net, list[Tensor], Integers]) -> None:
    net, pictures, integers = made
    assert (integers.layers_int8, integers.layers_float) == (2, 0)
    assert integers.facts()["executed_quantised"] is True
    graph = onnx.load_from_string(integers.content).graph
    kinds = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    assert kinds == {onnx.TensorProto.INT8}
    # a scale for each filter: the largest weight of a filter is 63 or 64 of 7 bits
    weight = next(t for t in graph.initializer if len(t.dims) == 4)
    largest = np.abs(numpy_helper.to_array(weight).astype(int)).reshape(5, -1).max(1)
    assert set(largest) <= {63, 64}
    with torch.no_grad():
        exact, found = net(pictures[0]), OnnxNet(integers.content)(pictures[0])
    assert 0 < float((found - exact).abs().max()) < 0.05 * float(exact.abs().max())


def test_the_same_pictures_give_the_same_file(made: tuple[Net, list[Tensor], Integers]) -> None:
    net, pictures, integers = made
    assert StaticInt8(samples=24).quantise(net, pictures).content == integers.content
    others = [10 * x for x in pictures]
    assert StaticInt8(samples=24).quantise(net, others).content != integers.content


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": "percentile", "percentile": 99.0},
        {"calibration": "entropy"},
        {"per_channel": False},
        {"reduce_range": False},
        {"activations": "int8"},
    ],
)
def test_each_option_changes_the_file(options: dict[str, object], made: tuple[Net, list[Tensor], Integers]) -> None:
    net, pictures, integers = made
    other = StaticInt8(samples=24, **options).quantise(net, pictures)  # type: ignore[arg-type]
    assert other.content != integers.content
    assert other.floats == integers.floats


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] if float(x.sum()) > 0 else x.flatten(1)[:, 4:8]


def test_a_net_whose_way_depends_on_the_picture_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^export: onnx cannot express this net [^\n]*$"):
        StaticInt8(samples=2).check(Refuses(), torch.zeros(1, 3, 4, 4))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is no ONNX file that can be executed"):
        OnnxNet(b"something else")
