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
from prunebench.surgery.zero import zero
from tests.surgery.kit import counted, images, largest_difference


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
    with pytest.raises(
        UserError, match=rf"{what} .*{line_of(net, text)} needs all channels .* cuts conv; leave that whole"
    ):
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


class Padded(Net):
    """A padded shortcut that ends in an operation on all channels: the dense net has zeros there too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 6, eps=1e-2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.pad(F.relu(self.conv(x)), (0, 0, 0, 0, 1, 1)))
        return self.fc(x.mean((2, 3)))


def test_padding_before_an_operation_on_all_channels() -> None:
    net, x = Padded().eval(), images(2)
    graph = ChannelGraph.trace(net, x)
    assert torch.allclose(shrink(net, graph, Plan())(x), net(x), atol=1e-6)
    assert "GroupNorm 'norm'" in str(graph.why_not("conv"))


class Sequence(nn.Module):
    """One dimension, and a linear layer on the last dimension of a tensor whose channels are in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Conv1d(6, 4, 1)
        self.time, self.fc = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.max_pool1d(F.relu(self.bn(self.conv1(x))), 2))
        return self.fc(torch.relu(self.time(x)).permute(0, 2, 1).mean(2))


def test_one_dimension() -> None:
    net, x = Sequence().eval(), torch.randn(2, 3, 8)
    graph = ChannelGraph.trace(net, x)
    plan = Plan({"conv1": (1, 4), "time": (0, 3)})
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    assert largest_difference(small, zeroed, x) < 1e-6
    assert (graph.macs(plan), graph.params(plan)) == counted(small, x)
    assert "Linear 'time'" in str(graph.why_not("conv2"))


class Standardised(nn.Conv2d):
    """Its weights depend on all of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class Named(nn.Conv2d):
    """Only the name differs."""


def test_subclasses_and_computed_weights() -> None:
    x = images(1)
    net = nn.Sequential(Named(3, 4, 3, padding=1), nn.ReLU(), Standardised(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    graph = ChannelGraph.trace(net, x)
    assert list(graph.layers) == ["0", "4"]
    assert graph.layers["0"].activation == "relu"
    assert "'conv2d' at" in str(graph.why_not("0")), "the subclass is followed into its own forward"
    assert (graph.macs(Plan()), graph.params(Plan())) == counted(shrink(net, graph, Plan()), x)
    log_probabilities = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 3), nn.LogSoftmax(1))
    layers = ChannelGraph.trace(log_probabilities, x).layers
    assert [layer.is_output for layer in layers.values()] == [False, True]
    computed = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), nn.Flatten()
    )
    graph = ChannelGraph.trace(computed, x)
    assert graph.unfollowed == {"1": "its weight is computed from other parameters"}
    assert "its weight is computed from other parameters" in str(graph.why_not("0"))


class Branching(Net):
    """A branch on the size of the image, one on the number of dimensions, one on the number of samples."""

    def __init__(self, *, batch: bool = False) -> None:
        super().__init__()
        self.batch, self.fc = batch, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or len(x.shape) != 4:
            raise ValueError("no image")
        x = F.relu(self.conv(x))
        if self.batch and x.shape[0] > 1:
            x = 2 * x
        if x.shape[-1] > 6 and x.dtype == torch.float32:
            x = F.max_pool2d(x, 2)
        return self.fc(x.flatten(start_dim=2).mean(2))


def test_branches_on_sizes_are_taken_and_kept_to() -> None:
    net, x = Branching().eval(), images(3)
    graph = ChannelGraph.trace(net, x)
    plan = Plan({"conv": (1, 2)})
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    assert largest_difference(small, zeroed, x) < 1e-6
    assert largest_difference(small, zeroed, torch.randn(1, 3, 12, 12)) < 1e-6
    assert largest_difference(small.double(), zeroed.double(), x.double()) > 0, "the branch of float32 was taken"
    with pytest.raises(UserError, match="takes another branch for inputs of these sizes"):
        small(torch.randn(2, 3, 5, 5).double())


def test_branches_on_the_number_of_samples() -> None:
    with pytest.raises(UserError, match="computes something else for a single sample; let it do the same"):
        ChannelGraph.trace(Branching(batch=True).eval(), images(3))
    inside = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1), Branching(batch=True)).eval()
    graph = ChannelGraph.trace(inside, images(3))
    assert list(graph.unfollowed) == ["3.conv", "3.fc"], "the module stays whole, the net is followed"
    assert graph.why_not("0") is None


class Repeated(Net):
    """A bias for each sample is repeated where there are several: the same for one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        shift = self.shift
        if x.shape[0] != shift.shape[0]:
            shift = shift.expand(x.shape[0], -1, -1, -1)
        x = F.relu(self.conv(x))
        several = [x] if isinstance(x, Tensor) and isinstance(x, int | Tensor) else []
        return self.fc((several[0] * shift).mean((2, 3)))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_what_is_only_repeated_for_several_samples(batch: int) -> None:
    net = Repeated().eval()
    graph = ChannelGraph.trace(net, images(1))
    plan, x = Plan({"conv": (0, 3)}), images(batch)
    small, zeroed = shrink(net, graph, plan), zero(net, graph, plan)
    with torch.no_grad():
        assert largest_difference(small, zeroed, x) < 1e-6 < float(zeroed(x).abs().max())
    assert graph.macs(plan) == counted(small, x)[0]


class Constants(Net):
    """The forward pass makes a tensor before it asks for a length."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tensor([0.5, 2.0]).repeat(2)[:, None, None]
        left, right = F.relu(self.conv(x) * scale).chunk(2, dim=1)
        return self.fc(torch.cat((right, left), 1).mean((2, 3)))


def test_a_constant_of_the_forward_pass_in_front_of_pieces() -> None:
    net, x = Constants().eval(), images(2)
    graph = ChannelGraph.trace(net, x)
    assert not graph.unfollowed
    plan = Plan({"conv": (0, 1, 3)})
    assert largest_difference(shrink(net, graph, plan), zero(net, graph, plan), x) < 1e-6
