"""Transposed convolutions wherever people have them, and layers with more than a weight and a bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.methods.bases.channel_masks import ChannelMasks
from prunebench.surgery.dead import without_constants
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero
from tests.surgery.kit import images, largest_difference
from tests.surgery.nets import randomise
from tests.surgery.test_split_rules import carried_out


def test_a_generator_is_cut_from_its_first_layer_on() -> None:
    """The channels of its input are nobody's, as those of a picture."""
    norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(6)]
    layers = [nn.ConvTranspose2d(10, 8, 4), nn.ConvTranspose2d(8, 6, 4, 2, 1), nn.ConvTranspose2d(6, 3, 4, 2, 1)]
    net = nn.Sequential(layers[0], norms[0], nn.ReLU(), layers[1], norms[1], nn.ReLU(), layers[2]).eval()
    randomise(net)
    graph = ChannelGraph.trace(net, torch.randn(1, 10, 1, 1))
    assert graph.why_not("0") is graph.why_not("3") is None
    plan = Plan({"0": (0, 2, 5), "3": (1, 4)})
    x = torch.randn(3, 10, 1, 1)
    small = carried_out(net, graph, plan, x)
    assert [tuple(small.get_submodule(name).weight.shape[:2]) for name in ("0", "3", "6")] == [(10, 3), (3, 2), (2, 3)]


class Sized(nn.Module):
    """The output's size is said as it is called."""

    def __init__(self, call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 5, 3, 2, 1)
        self.next, self.head = nn.Conv2d(5, 4, 3, padding=1), nn.Linear(4, 2)
        self.call = call
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.next(self.call(self.up, self.down(x), x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    "call",
    [
        lambda up, y, x: up(y, output_size=x.size()),
        lambda up, y, x: up(y, x.shape[-2:]),
        lambda up, y, x: up(y, output_size=[x.size(2), x.size(3)]),
        lambda up, y, x: up(y, output_size=[8, 8]),
    ],
)
def test_sizes_come_along(call: Callable[..., Tensor]) -> None:
    net = Sized(call)
    graph = ChannelGraph.trace(net, torch.randn(1, 3, 8, 8))
    assert graph.why_not("down") is graph.why_not("up") is None
    carried_out(net, graph, Plan({"down": (0, 2, 5), "up": (1, 4)}), torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_named_as_the_reason(groups: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 8, 3, groups=groups), nn.Conv2d(8, 2, 1)).eval()
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("1") == f"it is a transposed convolution in {groups} groups"
    weight = net.get_parameter("1.weight")
    by_outputs = graph.layers["1"].by_outputs(weight)
    assert by_outputs.shape == (8, 4 // groups, 3, 3)
    for group in range(groups):  # each on its own
        own = slice(group * 8 // groups, (group + 1) * 8 // groups)
        read = slice(group * 4 // groups, (group + 1) * 4 // groups)
        assert torch.equal(by_outputs[own], weight[read].transpose(0, 1))


def test_masks_in_training_take_its_outputs() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 2, 1)).eval()
    graph, plan, x = ChannelGraph.trace(net, images(1)), Plan({"1": (0, 1)}), images()
    masks = ChannelMasks(graph)
    masks.load_plan(plan)
    expected = zero(net, graph, plan)
    net(x).sum().backward()
    masks.zero_gradients(net, thorough=False)
    masks.zero(net, thorough=False)
    assert largest_difference(net, expected, x) == 0
    gradient = net.get_parameter("1.weight").grad
    assert gradient is not None and gradient[:, 2:].abs().max() == 0 and gradient[:, :2].abs().min() > 0


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_constants_do_not_move_into_padded_layers(kind: Any) -> None:
    """Beside the zeros of the border a constant channel is none."""
    net = nn.Sequential(kind(3, 4, 3, padding=1), nn.ReLU(), kind(4, 4, 3, padding=1), nn.ReLU(), kind(4, 2, 1)).eval()
    with torch.no_grad():
        net.get_parameter("0.weight")[1] = 0
        net.get_parameter("0.bias").fill_(0.7)
    x = torch.randn(2, 3, *[6] * (net.get_parameter("0.weight").dim() - 2))
    graph = ChannelGraph.trace(net, x[:1])
    torch.testing.assert_close(without_constants(net, graph, x[:1])(x), net(x))


def test_what_tools_leave_in_a_layer_stays() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 5, 3, 2), nn.Conv2d(5, 4, 3)).eval()
    for module in net:
        module.register_buffer("total_ops", torch.full((1,), 7.0))
    graph = ChannelGraph.trace(net, images(1))
    small = carried_out(net, graph, Plan({"0": (0, 2), "1": (1, 3)}))
    assert all(float(small.get_buffer(f"{name}.total_ops")) == 7 for name in ("0", "1", "2"))


def test_further_parameters_of_a_layer_keep_it_whole() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    net.get_submodule("0").register_parameter("extra", nn.Parameter(torch.ones(6)))
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("0") == "it has parameters beside weight and bias: extra"
    assert graph.params(Plan()) == graph.dense_params


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_weights_that_a_hook_computes_are_refused(name: str) -> None:
    wrap = getattr(nn.utils, name)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), wrap(nn.Conv2d(6, 5, 3)), nn.Conv2d(5, 4, 3)).eval()
    with pytest.raises(UserError, match=rf"layer '1' has the hook of .*use torch\.nn\.utils\.parametrizations\.{name}"):
        ChannelGraph.trace(net, images(1))


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm"])
def test_a_layer_whose_weights_are_computed_stays_whole(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)).eval()
    getattr(nn.utils.parametrizations, name)(net.get_submodule("1"))
    graph = ChannelGraph.trace(net, images(1))
    assert graph.unfollowed == {"1": "its weight is computed from other parameters"}
    assert f"'1' ({graph.unfollowed['1']}), which needs all of them" in str(graph.why_not("0"))
    assert graph.macs(Plan()) == graph.dense_macs == cost.count(net, images(1)).macs
