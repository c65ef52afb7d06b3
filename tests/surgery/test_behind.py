"""Which activation stands behind a layer: however it is written, and never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.config import named
from prunebench.core.method import Method
from prunebench.surgery.behind import UNKNOWN
from prunebench.surgery.graph import ChannelGraph
from tests.bare import bare_run
from tests.kit import configure


class Net(nn.Module):
    """A convolution and its norm, ``between``, and a convolution that reads the result."""

    def __init__(self, between: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 3), norm or nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.norm(self.a(x))))


class NormAndActivation(nn.BatchNorm2d):
    """As timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


def traced(net: nn.Module) -> ChannelGraph:
    return ChannelGraph.trace(net.eval(), torch.zeros(1, 3, 12, 12))


@pytest.mark.parametrize(
    ("between", "activation"),
    [
        (F.relu, "relu"),
        (nn.Sequential(nn.Identity(), nn.ReLU()), "relu"),
        (nn.Sequential(nn.Dropout(0.2), nn.ReLU()), "relu"),
        (lambda x: F.relu(F.dropout(x, 0.0)), "relu"),
        (nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), "relu"),
        (lambda x: F.relu(F.max_pool2d(x, 2)), "relu"),
        (lambda x: F.relu(x) + F.relu(x), "relu"),
        (nn.SiLU(), "silu"),
        (lambda x: x, None),
        (lambda x: x + 1.0 * F.avg_pool2d(x, 1), None),
        (nn.AvgPool2d(2), None),
        (lambda x: x * torch.sigmoid(x), UNKNOWN),
        (nn.Sigmoid(), UNKNOWN),
        (F.softplus, UNKNOWN),
        (lambda x: x**2, UNKNOWN),
        (lambda x: F.relu(x) + x, UNKNOWN),
        (lambda x: torch.maximum(x, 0.5 * x), UNKNOWN),
        (lambda x: x - F.avg_pool2d(x, 1), None),
        (nn.Sequential(nn.AvgPool2d(2), nn.ReLU()), None),
    ],
)
def test_activations(between: Callable[[Tensor], Tensor], activation: str | None) -> None:
    layer = traced(Net(between)).layers["a"]
    assert (layer.norm, layer.activation) == ("norm", activation)


def test_a_norm_with_an_activation_inside() -> None:
    assert traced(Net(lambda x: x, NormAndActivation(8))).layers["a"].activation == UNKNOWN


def test_a_criterion_that_needs_the_activation_gives_one_value_for_one_function_and_none_for_an_unknown() -> None:
    def scores(between: Callable[[Tensor], Tensor]) -> list[float] | list[str]:
        torch.manual_seed(0)
        net = Net(between).eval()
        with torch.no_grad():
            net.norm.weight.uniform_(0.5, 1.5)
            net.norm.bias.normal_()
        config, _ = configure(Path("unused"), "method=bn_importance", "method.layers=[a]", "model=resnet20")
        method = named.build("method", config["method"], expects=Method)
        run = bare_run(net, torch.zeros(1, 3, 12, 12))
        return method.scores(net, run)["a"].tolist()

    plain = scores(F.relu)
    assert scores(nn.Sequential(nn.Identity(), nn.ReLU())) == scores(lambda x: F.relu(x) + F.relu(x)) == plain
    assert scores(lambda x: x) != plain
    with pytest.raises(Exception, match="no closed form for the activation unknown"):
        scores(lambda x: x * torch.sigmoid(x))
