"""Nets in other programs compute the same, and what does not is refused."""

from __future__ import annotations

import collections

import onnx
import pytest
import torch
from torch import Tensor, nn

from prunebench.budget import choose
from prunebench.errors import UserError
from prunebench.measure.layer_times import LayerTimes
from prunebench.models.resnet_cifar import resnet20
from prunebench.nets.engines import runner, traced_onnx
from prunebench.nets.net_timing import NetTiming
from prunebench.run import speed
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return resnet20(num_classes=10, in_channels=3, image_size=16).eval()


@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_a_cut_net_runs_in_onnxruntime(coupling: str) -> None:
    net, example = small_resnet(), torch.zeros(1, 3, 16, 16)
    graph = ChannelGraph.trace(net, example)
    scores = {n: torch.rand(layer.out_channels) for n, layer in graph.layers.items() if layer.kind == "conv"}
    small = shrink(net, graph, choose(scores, graph, prune_ratio=0.4, coupling=coupling).plan)
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(runner("onnxruntime", small, example)(x), small(x), atol=1e-4)
    kinds = collections.Counter(node.op_type for node in onnx.load_from_string(traced_onnx(small, example)).graph.node)
    assert kinds["ScatterElements"] == 0  # slow in every runtime


class Undecided(nn.Module):
    """Its path depends on the sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if float(x.sum()) < 1e-9 else -x.flatten(1)


def test_what_a_tracer_freezes_is_refused() -> None:
    with pytest.raises(UserError, match="onnxruntime: its outputs differ from torch's by"):
        runner("onnxruntime", Undecided(), torch.zeros(1, 3, 4, 4))


def test_symbols_are_not_timed_in_onnxruntime() -> None:
    nets = {name: nn.Sequential(nn.Embedding(5, 3)) for name in ("dense", "final")}
    found = speed.compare(nets, torch.zeros(1, 4, dtype=torch.long), device=torch.device("cpu"))
    assert found["engines"] == ["torch"]
    assert "only nets for images" in found["not_timed"]["onnxruntime"]


def test_both_programs_stand_in_one_record() -> None:
    nets = {"dense": small_resnet(), "final": small_resnet()}
    found = speed.compare(nets, torch.zeros(1, 3, 16, 16), device=torch.device("cpu"))
    assert found["engines"] == ["torch", "onnxruntime"]
    for prefix in ("", "onnxruntime_"):
        assert found["final"][f"{prefix}batch_64_ms"] > 0
        assert 0.3 < found["speedup"][f"{prefix}batch_64"] < 3  # the same net twice


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_the_time_of_a_net_is_that_of_its_layers_and_a_rest(engine: str) -> None:
    net, example = small_resnet(), torch.zeros(1, 3, 16, 16)
    graph = ChannelGraph.trace(net, example)
    timing = NetTiming(net=net, graph=graph, example=example, times=LayerTimes(engine=engine, batch=4))
    assert list(timing.layers) == list(graph.layers)
    assert timing.cost("layer1.0.conv1", 0, 0) == 0
    assert timing.dense_cost > timing.cost("layer1.0.conv1", 16, 16) > 0
    empty = {name: () for name in graph.layers if name.endswith(".conv1") and "layer" in name}
    assert 0 < timing.share(Plan(empty)) < 0.9  # all blocks gone
    assert timing.facts()["engine"] == engine


class Attentive(nn.Module):
    """Attention of torch's own module, which takes a fused kernel in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return mixed.mean(1)


def test_attention_of_torchs_own_module_runs_in_onnxruntime(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net, x = Attentive().eval(), torch.randn(3, 8, 4, 4)
    with torch.no_grad():
        assert torch.allclose(runner("onnxruntime", net, torch.zeros(1, 8, 4, 4))(x), net(x), atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()
    assert capfd.readouterr().out == ""


class Eigenvalues(nn.Module):
    """What ONNX has no operation for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x.mean(1))


def test_a_net_without_a_graph_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="cannot be written as a graph") as refused:
        runner("onnxruntime", Eigenvalues(), torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().out == ""  # torch prints its graph, hundreds of lines for a real net


def test_what_must_be_known_of_times_is_said() -> None:
    def one(milliseconds: float, spread: float) -> dict[str, float]:
        keys = ("batch_1", "batch_64", "onnxruntime_batch_1", "onnxruntime_batch_64")
        return {f"{key}_ms": milliseconds for key in keys} | {f"{key}_spread_ms": spread for key in keys}

    even = dict.fromkeys(("batch_1", "batch_64", "onnxruntime_batch_1", "onnxruntime_batch_64"), 1.5)
    times = {"engines": ["torch", "onnxruntime"], "dense": one(10.0, 0.5), "final": one(8.0, 0.5), "speedup": even}
    assert speed.remarks({}) == speed.remarks(times) == []
    times["speedup"] = even | {"onnxruntime_batch_64": 0.5}
    assert [line.partition(":")[0] for line in speed.remarks(times)] == [
        "in onnxruntime, batch 64 the small net takes 2.00 times the dense net's time"
    ]
    times["final"] = times["final"] | {"batch_1_spread_ms": 4.0, "onnxruntime_batch_64_spread_ms": 8.0}
    assert speed.remarks(times) == [
        "times in torch, batch 1 vary by 50%: the machine was busy, measure them again",
        "times in onnxruntime, batch 64 vary by 100%: the machine was busy, measure them again",
    ]


def test_the_share_of_a_target_is_that_of_the_times_in_the_result() -> None:
    one = {f"{key}_{what}": 1.0 for key in ("batch_64", "onnxruntime_batch_64") for what in ("ms", "spread_ms")}
    times = {
        "speedup": {"batch_64": 1.25, "onnxruntime_batch_64": 2.0},
        "dense": one | {"batch_64_spread_ms": 0.1},
        "final": one | {"batch_64_spread_ms": 0.2},
    }
    assert speed.reached(times, {"engine": "onnxruntime", "batch": 64}) == {"reached": 0.5, "noise": 1.0}
    assert speed.reached(times, {"engine": "torch", "batch": 64}) == {"reached": 0.8}
    assert speed.reached(times, {"engine": "torch", "batch": 16}) == {}
    assert speed.reached({}, {"engine": "torch", "batch": 64}) == {}
