"""What a small net must be able to do: train, copy, pickle, export, run in any memory format."""

from __future__ import annotations

import copy
import pickle
import random

import onnx
import pytest
import torch
from torch import nn

from prunebench.layers import wide
from prunebench.layers.memory_format import to_memory_format
from prunebench.layers.wide import WideConv2d
from prunebench.nets.engines import traced_onnx
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import counted, draw_plan, images, largest_difference, small_net
from tests.surgery.nets import NETS, build

SOME = ["chain", "option A, both ends", "bottlenecks", "mobile", "squeeze", "dense"]


@pytest.mark.parametrize("name", NETS)
def test_copy_and_pickle(name: str) -> None:
    small, *_ = small_net(name)
    x = images()
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert largest_difference(small, other, x) == 0.0
        assert list(other.state_dict()) == list(small.state_dict())


@pytest.mark.parametrize("name", NETS)
def test_state_dict_follows_from_net_and_plan(name: str) -> None:
    small, net, _, plan = small_net(name)
    other = build(name, seed=1)
    again = shrink(other, ChannelGraph.trace(other, images(1)), plan)
    shapes = [(key, value.shape) for key, value in small.state_dict().items()]
    assert [(key, value.shape) for key, value in again.state_dict().items()] == shapes
    assert {key for key, _ in shapes} <= set(net.state_dict()), "the names are those of the dense net"
    again.load_state_dict(small.state_dict())
    assert largest_difference(small, again, images()) == 0.0


@pytest.mark.parametrize("name", NETS)
def test_every_parameter_trains(name: str) -> None:
    small, *_ = small_net(name)
    before = [parameter.clone() for parameter in small.parameters()]
    optimiser = torch.optim.SGD(small.parameters(), lr=0.1)
    # in evaluation mode, since batch statistics cancel the bias in front of them
    for _ in range(3):  # a ReLU may be silent once
        small(torch.randn(16, 3, 8, 8)).square().sum().backward()
    optimiser.step()
    moved = [bool((old != new).any()) for old, new in zip(before, small.parameters(), strict=True)]
    still = [key for (key, _), did in zip(small.named_parameters(), moved, strict=True) if not did]
    assert not still


def test_gradients_are_those_of_the_zeroed_net() -> None:
    small, net, graph, plan = small_net("option A, behind")
    zeroed, x = zero(net, graph, plan), images()
    for model in (small, zeroed):
        model(x).square().sum().backward()
    for name, kept in plan.keep.items():
        whole = zeroed.get_submodule(name).weight.grad
        part = small.get_submodule(name).weight.grad
        assert isinstance(whole, torch.Tensor)
        assert isinstance(part, torch.Tensor)
        rows = whole[list(kept)]
        # inputs that are dead have gradients in the zeroed net only if they are not 0, which they are
        columns = rows.abs().sum((0, 2, 3)) > 0
        assert torch.allclose(rows[:, columns], part[:, part.abs().sum((0, 2, 3)) > 0], atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", SOME)
def test_any_batch_and_memory_format(name: str, batch: int) -> None:
    small, *_ = small_net(name)
    x = images(batch)
    expected = small(x)
    strided = to_memory_format(copy.deepcopy(small), torch.channels_last)
    assert torch.allclose(strided(x.to(memory_format=torch.channels_last)), expected, atol=1e-5)
    with torch.inference_mode():
        assert torch.allclose(small(x), expected, atol=1e-6)


def test_channels_last_weights_stay_so() -> None:
    net = to_memory_format(build("bottlenecks"), torch.channels_last)
    graph = ChannelGraph.trace(net, images(1))
    small = shrink(net, graph, draw_plan(graph, random.Random(0)))
    weight = small.get_submodule("layer1.0.conv2.0").weight
    assert isinstance(weight, nn.Parameter)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.parametrize("name", SOME)
def test_half_precision(name: str) -> None:
    small, *_ = small_net(name)
    x = images().to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low = to_memory_format(small, torch.channels_last)(x)
    assert torch.allclose(low.float(), small(x), atol=0.1, rtol=0.1)


def test_settings_of_the_dense_net_stay() -> None:
    net = build("bottlenecks").train()
    net.get_submodule("layer1").eval()
    net.get_submodule("stem.0").requires_grad_(False)
    graph = ChannelGraph.trace(net, images(1))
    small = shrink(net, graph, draw_plan(graph, random.Random(0)))
    assert not any(module.training for module in small.get_submodule("layer1").modules())
    assert small.training
    assert small.get_submodule("layer2.0.conv1.1").training
    frozen = {key for key, parameter in small.named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem.0.weight"}
    assert type(small).__name__ == "Bottlenecks"


def operations(net: nn.Module) -> list[str]:
    graph = torch.fx.symbolic_trace(net).graph if not isinstance(net, torch.fx.GraphModule) else net.graph
    return [str(node.target) for node in graph.nodes if node.op == "call_module"]


def test_equal_sets_add_no_operation() -> None:
    """Aligned plans give the dense net's operations, in its order."""
    net, x = build("option B"), images()
    graph = ChannelGraph.trace(net, x[:1])
    keep: dict[str, tuple[int, ...]] = {}
    for group in graph.groups():
        if all(graph.why_not(name) is None for name in group):
            width = graph.layers[group[0]].out_channels
            keep |= dict.fromkeys(group, tuple(range(0, width, 2)))
    small = shrink(net, graph, Plan(keep))
    assert operations(small) == operations(net)
    assert largest_difference(small, zero(net, graph, Plan(keep)), x) < 1e-5


@pytest.mark.parametrize(("name", "num_scatters"), [("option B", 0), ("option A, both ends", 1)])
def test_free_sets_scatter_only_where_a_shortcut_pads(
    name: str, num_scatters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the wide form; in the narrow one, which layers with few channels take on a CPU, other additions do as well."""
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    free = [layer for name, layer in graph.layers.items() if graph.why_not(name) is None]
    plan = Plan({layer.name: tuple(range(place % 3, layer.out_channels, 3)) for place, layer in enumerate(free)})
    small = shrink(net, graph, plan)
    extra = [node for node in operations(small) if node not in operations(net)]
    assert len(extra) > 1
    assert all(type(small.get_submodule(node)).__name__ == "ScatterAdd" for node in extra)
    # the layers may compute in the width of the stream, but they hold what the plan left
    assert any(isinstance(module, WideConv2d) for module in small.modules())
    narrow = small(x)
    moved: list[bool] = []
    for node in extra:
        width = small.get_submodule(node).width

        def look(_: nn.Module, given: tuple[torch.Tensor, ...], width: object = width) -> None:
            moved.append(any(tensor.shape[1] != width for tensor in given))

        small.get_submodule(node).register_forward_pre_hook(look)
    small(x)
    assert all(moved) and len(moved) == len(extra)
    moved.clear()
    monkeypatch.setattr(wide, "_takes_narrow", lambda tensor: False)
    torch.testing.assert_close(small(x), narrow)
    assert sum(moved) == num_scatters
    # a graph runtime gets that form, and pads and gathers at those shortcuts alone
    kinds = [node.op_type for node in onnx.load_from_string(traced_onnx(small, x)).graph.node]
    assert (kinds.count("Gather") > 0) == (num_scatters > 0)


def test_layers_that_have_no_wide_form_are_scattered() -> None:
    """Instance norms: the addition moves the channels, the result is the same."""
    net = build("option B")
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            net.set_submodule(name, nn.InstanceNorm2d(module.num_features, affine=True))
    graph = ChannelGraph.trace(net.eval(), images(1))
    plan = draw_plan(graph, random.Random(0))
    small = shrink(net, graph, plan)
    assert any(type(module).__name__ == "ScatterAdd" for module in small.modules())
    assert not any(isinstance(module, WideConv2d) for module in small.modules())
    assert largest_difference(small, zero(net, graph, plan), images()) < 1e-4


@pytest.mark.parametrize(
    ("name", "empty", "gone"),
    [
        ("option A, both ends", "blocks.1.conv2", ["blocks.1.conv1", "blocks.1.bn1", "blocks.1.conv2"]),
        ("option A, zeros", "blocks.3.conv1", ["blocks.3.conv1", "blocks.3.bn1", "blocks.3.conv2", "blocks.3.bn2"]),
        ("option B", "blocks.2.conv2", ["blocks.2.conv1", "blocks.2.conv2"]),
        ("option B", "blocks.2.shortcut.0", ["blocks.2.shortcut.0", "blocks.2.shortcut.1"]),
        ("preactivation", "conv1", ["bn1", "conv1", "bn2", "conv2"]),
        ("dense", "convs.1", ["convs.1", "norms.1"]),
        ("branches", "left", ["left"]),
        ("branches", "two", ["two"]),
    ],
)
def test_a_bypassed_layer_can_go(name: str, empty: str, gone: list[str]) -> None:
    """The branch is dropped, with all that only it used."""
    net, x = build(name), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = Plan(draw_plan(graph, random.Random(0)).keep | {empty: ()})
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    assert largest_difference(small, zeroed, x) < 1e-5
    assert not any(hasattr(small, "get_submodule") and _has(small, module) for module in gone)
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)
    assert largest_difference(restore(net, graph, plan, small), small, x) < 1e-5
    small.train()(images(6)).sum().backward()


def _has(net: nn.Module, path: str) -> bool:
    return path in dict(net.named_modules())


def test_selected_inputs() -> None:
    """Channel selection: the norm on the stream keeps its width, the reader has the selected inputs only."""
    net, x = build("preactivation"), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = Plan({"conv1": (0, 2, 3)}, inputs={"conv1": (1, 4, 6), "conv3": (0, 7), "fc": (2, 3, 4)})
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    assert largest_difference(small, zeroed, x) < 1e-5
    assert largest_difference(small, net, x) > 1e-3
    assert small.get_submodule("bn1").weight.shape == (8,)
    assert small.get_submodule("conv1").weight.shape == (3, 3, 3, 3)
    assert small.get_submodule("conv3").weight.shape == (8, 2, 3, 3)
    assert small.get_submodule("fc").weight.shape == (5, 3)
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)
    assert largest_difference(restore(net, graph, plan, small), small, x) < 1e-5
    columns = zeroed.get_submodule("conv1").weight[:, [0, 2, 3, 5, 7]]
    assert torch.count_nonzero(columns) == 0


def test_selected_inputs_of_the_net() -> None:
    net, x = build("chain"), images()
    graph = ChannelGraph.trace(net, x[:1])
    plan = Plan(inputs={"conv1": (0, 2)})
    small = shrink(net, graph, plan)
    assert small.get_submodule("conv1").weight.shape == (6, 2, 3, 3)
    assert largest_difference(small, zero(net, graph, plan), x) < 1e-5
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)


def test_selected_features_behind_a_flatten() -> None:
    net, x = build("chain"), images()
    graph = ChannelGraph.trace(net, x[:1])
    features = tuple(range(5, 100, 3))
    plan = Plan({"conv2": (0, 1, 5)}, inputs={"hidden": features})
    small = shrink(net, graph, plan)
    alive = [f for f in features if f // 16 in (0, 1, 5)]
    assert small.get_submodule("hidden").weight.shape == (12, len(alive))
    assert largest_difference(small, zero(net, graph, plan), x) < 1e-5
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)
    assert largest_difference(restore(net, graph, plan, small), small, x) < 1e-5
