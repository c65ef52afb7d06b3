"""What cannot be followed is refused before training, with file and line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.nets import images


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.norm: nn.Module = nn.GroupNorm(2, 4)


class DataDependent(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.sum() > 0:  # the line that the message names
            x = -x
        return self.fc(x.mean((2, 3)))


class ByMode(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.batch_norm(x, torch.zeros(4), torch.ones(4), training=self.training)
        return self.fc(x.mean((2, 3)))


class BranchByMode(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        return self.fc(x) if self.training else self.fc(x).softmax(1)


class OneSample(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)).view(1, 4))


class Grouped(Net):
    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        x = self.norm(self.conv(x)) * scale
        if mask is not None:
            x = x * mask
        return self.fc(x.mean((2, 3)))


class Exponential(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.conv(x) + 1).mean((2, 3)))


def line_of(kind: type[nn.Module], text: str) -> str:
    import inspect

    lines, first = inspect.getsourcelines(kind)
    return f"test_trace.py:{next(first + place for place, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize(
    ("net", "text", "message"),
    [
        (DataDependent, "if x.sum()", r"cannot follow the channels of DataDependent through .*{line}: symbolically"),
        (ByMode, "F.batch_norm", r"depends on self.training at .*{line}; put what differs into a module"),
        (BranchByMode, "softmax", r"depends on self.training at .*{line}"),
        (OneSample, "view(1", r"forward pass failed in .*{line} for 2 samples"),
    ],
)
def test_not_traceable(net: type[nn.Module], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.format(line=line_of(net, text))):
        ChannelGraph.trace(net(), images(1))


@pytest.mark.parametrize(
    ("net", "text", "what"),
    [(Grouped, "self.norm(", "GroupNorm 'norm' at"), (Exponential, "+ 1", "'add' at")],
)
def test_operations_that_need_all_channels(net: type[nn.Module], text: str, what: str) -> None:
    x = images(2)
    dense = net().eval()
    graph = ChannelGraph.trace(dense, x)
    assert torch.allclose(shrink(dense, graph, Plan())(x), dense(x))
    with pytest.raises(UserError, match=rf"{what} .*{line_of(net, text)} needs all channels .* cuts conv; leave"):
        graph.check(Plan({"conv": (0, 2)}))
    reason = graph.why_not("conv")
    assert reason is not None
    assert reason.startswith(f"its channels reach {what}")


def test_the_net_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x, state = images(1), torch.get_rng_state()
    ChannelGraph.trace(net, x)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
