"""Other programs agree: exporters, a runtime for exported nets, another library for pruning."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.kit import images, largest_difference, small_net
from tests.surgery.nets import build


@pytest.mark.parametrize("name", ["chain", "option A, both ends", "squeeze"])
def test_export(name: str, tmp_path: Path) -> None:
    """torch.export and ONNX compute the same for another batch size."""
    small, *_ = small_net(name)
    x = images(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.export.export(small, (images(2),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        assert torch.allclose(program.module()(x), small(x), atol=1e-6)
        onnx = torch.onnx.export(small, (images(2),), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert onnx is not None
    onnx.save(str(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(result), small(x), atol=1e-5)


def test_torch_pruning_agrees() -> None:
    """A peer that can only cut aligned sets gives the same net for an aligned plan."""
    tp = pytest.importorskip("torch_pruning")
    net, x = build("option B"), images()
    graph = ChannelGraph.trace(net, x[:1])
    keep: dict[str, tuple[int, ...]] = {}
    for group in graph.groups():
        if all(graph.why_not(name) is None for name in group):
            width = graph.layers[group[0]].out_channels
            keep |= dict.fromkeys(group, tuple(range(0, width, 3)))
    small = shrink(net, graph, Plan(keep))
    peer = copy.deepcopy(net)
    dependencies = tp.DependencyGraph().build_dependency(peer, example_inputs=x)
    cut: set[str] = set()
    for group in graph.groups():
        if group[0] in keep and group[0] not in cut:
            layer = peer.get_submodule(group[0])
            dead = [c for c in range(graph.layers[group[0]].out_channels) if c not in keep[group[0]]]
            dependencies.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=dead).prune()
            cut |= set(group)
    assert {k: v.shape for k, v in peer.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}
    assert largest_difference(peer, small, x) < 1e-6
