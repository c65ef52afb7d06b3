from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph, Layer
from prunebench.surgery.plan import Plan
from tests.surgery.kit import images
from tests.surgery.nets import build


def traced(name: str) -> ChannelGraph:
    return ChannelGraph.trace(build(name), images(1))


def test_layer_of_a_chain() -> None:
    layers = traced("chain").layers
    assert list(layers) == ["conv1", "conv2", "hidden", "out"]
    assert layers["conv1"] == Layer(
        name="conv1",
        kind="conv",
        in_channels=3,
        out_channels=6,
        kernel_area=9,
        positions=64,
        groups=1,
        has_bias=True,
        norm="norm1",
        norm_learns=True,
        activation="leaky_relu",
        slope=0.1,
        readers=("conv2",),
        meets_addition=False,
        is_output=False,
    )
    assert (layers["conv2"].norm, layers["conv2"].activation, layers["conv2"].readers) == (None, "tanh", ("hidden",))
    assert (layers["hidden"].kind, layers["hidden"].norm, layers["hidden"].activation) == ("linear", "norm", "relu6")
    assert (layers["hidden"].in_channels, layers["hidden"].positions) == (128, 1)
    assert layers["out"].is_output
    assert layers["out"].readers == ()


def test_surroundings_in_a_residual_net() -> None:
    layers = traced("option A, both ends").layers
    stem, first, second = layers["conv"], layers["blocks.0.conv1"], layers["blocks.0.conv2"]
    assert (stem.norm, stem.activation, stem.readers, stem.meets_addition) == (
        "bn",
        "relu",
        ("blocks.0.conv1",),
        True,
    )
    assert (first.norm, first.activation, first.readers) == ("blocks.0.bn1", "relu", ("blocks.0.conv2",))
    assert not first.meets_addition
    # the sum is linear: the ReLU behind it is not this layer's
    assert (second.norm, second.activation, second.readers) == ("blocks.0.bn2", None, ())
    assert second.meets_addition
    assert layers["blocks.2.conv1"].positions == 16


def test_surroundings_in_other_nets() -> None:
    pre = traced("preactivation").layers
    assert (pre["stem"].norm, pre["stem"].activation) == (None, None), "an addition reads the stem too"
    assert pre["stem"].readers == ("conv1",)
    assert (pre["conv1"].norm, pre["conv1"].activation, pre["conv1"].readers) == ("bn2", "relu", ("conv2",))
    assert (pre["conv3"].norm, pre["conv3"].meets_addition) == (None, True)
    mobile = traced("mobile").layers
    assert mobile["expand1.0"].readers == ("project1.0",), "a depthwise convolution mixes nothing"
    assert [layer.kind for layer in mobile.values()][:3] == ["conv", "conv", "depthwise"]
    assert mobile["stem.0"].meets_addition
    assert mobile["project2"].activation == "hardswish"
    grouped = traced("grouped").layers
    assert grouped["layer1.0.conv2.0"].kind == "grouped"
    assert grouped["layer1.0.conv1.0"].readers == ("layer1.0.conv2.0",)
    assert traced("dense").layers["stem"].readers == ("convs.0",), "behind a concatenation the indices differ"
    assert traced("branches").layers["left"].readers == ()


def test_groups() -> None:
    option_a = [set(group) for group in traced("option A, both ends").groups() if len(group) > 1]
    assert option_a == [
        {"conv", "blocks.0.conv2", "blocks.1.conv2"},
        {"blocks.2.conv2", "blocks.3.conv2"},
    ]
    option_b = [set(group) for group in traced("option B").groups() if len(group) > 1]
    assert option_b == [
        {"conv", "blocks.0.conv2", "blocks.1.conv2"},
        {"blocks.2.conv2", "blocks.2.shortcut.0", "blocks.3.conv2"},
    ]
    chain = traced("chain").groups()
    assert chain == (("conv1",), ("conv2",), ("hidden",), ("out",))
    mobile = traced("mobile")
    assert ("stem.0", "project1.0") in mobile.groups()
    assert not any("depth" in name for group in mobile.groups() for name in group)


class Shared(nn.Module):
    """One convolution called twice, one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc, self.tied, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
        self.tied.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.twice(torch.relu(self.twice(self.stem(x)))))
        return self.out(self.tied(torch.relu(self.fc(x.mean((2, 3))))))


def test_why_not() -> None:
    graph = ChannelGraph.trace(Shared(), images(1))
    assert graph.why_not("out") == "its output is the output of the net"
    assert graph.why_not("twice") == "it is called 2 times"
    assert graph.why_not("tied") == "it shares its weights with fc"
    reason = graph.why_not("stem")
    assert reason is not None
    assert reason.startswith("its channels reach Conv2d 'twice' at ")
    assert "(it is called 2 times), which needs all of them" in reason
    # each once, as the real net has them
    assert graph.params(Plan()) == 16 + 20 + 16 + 10
    assert graph.macs(Plan()) == 64 * (12 + 16 + 16) + 16 + 16 + 8
    mobile, grouped = traced("mobile"), traced("grouped")
    assert "depthwise" in str(mobile.why_not("depth2"))
    assert mobile.why_not("expand1.0") is None
    assert "grouped convolution (2 groups)" in str(grouped.why_not("layer2.0.conv2.0"))
    assert "groups must stay of one size" in str(grouped.why_not("layer2.0.conv1.0"))
    assert grouped.why_not("layer2.0.conv3.0") is None


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({"conv11": (0,)}), "names 'conv11', which is no layer of the net; did you mean conv1"),
        (Plan({}, {"conv9": (0,)}), "names 'conv9'"),
        (Plan({"conv1": (0, 6)}), r"keep\['conv1'\] has channel 6, but the layer has only 6 \(outputs"),
        (Plan({}, {"conv1": (3,)}), r"inputs\['conv1'\] has channel 3, but the layer has only 3 \(inputs"),
        (Plan({"out": (0, 1)}), "layer 'out' cannot lose channels: its output is the output of the net"),
        (
            Plan({"conv2": ()}),
            "layer conv2 keeps no channel, or reads none, and no addition or concatenation bypass",
        ),
        (Plan({}, {"conv2": ()}), "layer conv2 keeps no channel, or reads none"),
        (Plan({"conv1": (), "hidden": (1,)}), "layer conv1 keeps no channel"),
        (Plan({"conv1": (0,)}, {"conv2": (1,)}), "layer conv2 keeps no channel, or reads none"),
    ],
)
def test_check(plan: Plan, message: str) -> None:
    graph = traced("chain")
    for refuse in (graph.check, graph.macs, graph.params):
        with pytest.raises(UserError, match=message):
            refuse(plan)


def test_check_accepts_what_changes_nothing() -> None:
    graph = traced("chain")
    graph.check(Plan({"out": (0, 1, 2, 3, 4)}))
    with pytest.raises(UserError, match="depthwise convolution and follows"):
        traced("mobile").check(Plan({"depth2": (0,)}))
    with pytest.raises(UserError, match="cannot select inputs: it is a grouped"):
        traced("grouped").check(Plan({}, {"layer1.0.conv2.0": (0,)}))


class Attention(nn.Module):
    """A product of two activations, and a hidden layer on tokens that can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.up, self.down = nn.Linear(6, 18), nn.Linear(6, 10), nn.Linear(10, 6)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = x + torch.matmul(torch.softmax(torch.matmul(q, k.transpose(1, 2)), -1), v)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.out(self.norm(x).mean(1))


def test_matrix_products_count() -> None:
    tokens = 7
    graph = ChannelGraph.trace(Attention(), torch.randn(1, tokens, 6))
    linear = tokens * (6 * 18 + 6 * 10 + 10 * 6) + 24
    products = 2 * tokens * tokens * 6
    assert graph.macs(Plan()) == linear + products
    assert graph.macs(Plan({"up": (0, 3, 4)})) == linear + products - tokens * 7 * 12
    assert graph.layers["up"].positions == tokens
    assert graph.why_not("up") is None
    assert graph.why_not("down") is None, "the stream that it is added to is complete"
    assert "'matmul'" in str(graph.why_not("qkv")), "its pieces are followed, a product of two of them is not"
