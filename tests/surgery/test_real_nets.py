"""What public nets do beside layers and additions: extremes, maps, loops over pieces, norms under other classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunebench import budget
from prunebench.errors import UserError
from prunebench.measure.soft_macs import SoftMacs
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_forms import is_norm_with_parts
from prunebench.surgery.plan import Plan
from prunebench.surgery.sample_drops import is_sample_drop
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import zero
from tests.surgery.kit import images
from tests.surgery.nets import randomise
from tests.surgery.test_split_rules import carried_out


class NormAct(nn.BatchNorm2d):
    """A norm whose forward adds a dropout and an activation, and writes the norm out."""

    def __init__(self, width: int, act: nn.Module) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), act

    def forward(self, input: Tensor) -> Tensor:
        share = self.momentum or 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        found = functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, share, self.eps
        )
        return self.act(self.drop(found))


class Backwards(NormAct):
    """The activation comes first."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.BatchNorm2d.forward(self, self.act(input))


class Net(nn.Module):
    """Two convolutions of 6 channels, statements between them and a last one."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.left, self.right = nn.Conv2d(6, 1, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(4, 3, 1)
        self.norm = norm or nn.BatchNorm2d(6)
        self.last, self.out, self.middle = nn.Conv2d(6, 4, 3), nn.Linear(4, 5), middle
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.relu(self.last(self.middle(self, x))).mean((2, 3)))
        return logits


def gate(net: Net, x: Tensor) -> Tensor:
    """As in bottleneck attention modules."""
    y = net.a(x)
    channels = net.b(x).mean((2, 3)).unsqueeze(2).unsqueeze(3).expand_as(y)
    return y * (1 + torch.sigmoid(channels * net.one(y).expand_as(y)))


def loop(net: Net, x: Tensor) -> Tensor:
    """As in nets that mix kernel sizes."""
    pieces = zip((net.left, net.right), torch.split(net.a(x), [2, 4], dim=1), strict=True)
    return torch.cat([layer(piece) for layer, piece in pieces], 1)


def chunks(net: Net, x: Tensor) -> Tensor:
    return torch.cat([piece + 2 * piece for piece in net.a(x).chunk(3, 1)], 1)


def flat(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return y * y.flatten(2).mean(2)[:, :, None, None]


def resized(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return y + functional.interpolate(net.b(functional.avg_pool2d(x, 2)), size=y.shape[-2:], mode="bilinear")


def bounded(net: Net, x: Tensor) -> Tensor:
    """As nets guard their half-precision numbers."""
    y = net.a(x)
    most = torch.finfo(y.dtype).max - 1000
    return y / most


def made(net: Net, x: Tensor) -> Tensor:
    """Layers without weights that are made where they are called."""
    return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))(net.a(x)) + nn.ReLU6()(net.b(functional.avg_pool2d(x, 2)))


def unflattened(net: Net, x: Tensor) -> Tensor:
    """Pictures in patches, which a function and a layer take apart."""
    y = net.a(x).unflatten(-1, (-1, 2)).mean(-1)
    z = nn.Unflatten(2, (-1, 2))(net.b(x)).amax(3)
    return y[:, :, ::2] + z[..., ::2]


FOLLOWED: dict[str, tuple[Callable[[Net, Tensor], Tensor], set[str]]] = {
    "max": (lambda net, x: torch.max(net.a(x), net.b(x)), {"a", "b"}),
    "minimum": (lambda net, x: net.a(x).minimum(net.b(x)), {"a", "b"}),
    "map": (lambda net, x: net.a(x) * torch.sigmoid(net.one(net.b(x))), {"a", "b"}),
    "gate": (gate, {"a"}),
    "repeated": (lambda net, x: (lambda y: y * torch.relu(y).amax((2, 3), True).expand_as(y))(net.a(x)), {"a"}),
    "loop": (loop, {"a", "left", "right"}),
    "chunks": (chunks, {"a"}),
    "flat": (flat, {"a"}),
    "resized": (resized, {"a", "b"}),
    "rolled": (lambda net, x: torch.roll(net.a(x), (1, 2), dims=(2, 3)) + net.b(x).flip(3), {"a", "b"}),
    "rolled on": (lambda net, x: torch.roll(torch.flip(net.a(x), [2]), 1, -1) + net.b(x).flip((2, 3)), {"a", "b"}),
    "unflattened": (unflattened, {"a", "b"}),
    "made": (made, {"a", "b"}),
    "bounded": (bounded, {"a"}),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_followed(name: str) -> None:
    torch.manual_seed(0)
    middle, cut = FOLLOWED[name]
    net = Net(middle)
    graph = ChannelGraph.trace(net, images(1))
    scores = {layer: torch.rand(graph.layers[layer].out_channels) for layer in graph.layers if layer != "out"}
    for coupling in ("free", "aligned"):
        choice = budget.choose(scores, graph, prune_ratio=0.5, coupling=coupling)
        assert {*choice.plan.keep} == cut | {"last"}
        small = carried_out(net, graph, choice.plan)
        small(torch.randn(3, 3, 10, 12)).square().sum().backward()  # another size
        assert all(p.grad is None or p.grad.isfinite().all() for p in small.parameters())


@pytest.mark.parametrize("function", [torch.max, torch.minimum])
def test_an_extreme_of_a_layer_that_is_gone(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(lambda net, x: function(net.a(x), net.b(x)))
    graph = ChannelGraph.trace(net, images(1))
    for plan in (Plan({"a": (), "b": (1, 3)}), Plan({"a": (0, 5), "b": ()})):
        assert not hasattr(carried_out(net, graph, plan), "ab"[bool(plan.keep["a"])])


@pytest.mark.parametrize("act", [nn.ReLU(), nn.SiLU(), nn.Identity()])
def test_a_norm_with_an_activation_is_a_norm(act: nn.Module) -> None:
    net = Net(lambda net, x: net.norm(net.a(x)) + net.b(x), NormAct(6, act))
    graph = ChannelGraph.trace(net, images(1))
    assert graph.layers["a"].norm == "norm"
    for plan in (Plan({"a": (0, 2, 5), "b": (1, 2)}), Plan({"a": (0, 4), "b": (0, 4)})):
        small = carried_out(net, graph, plan)
        again = Net(net.middle, NormAct(6, act))
        other = carried_out(again, ChannelGraph.trace(again, images(1)), plan)
        other.load_state_dict(small.state_dict())
        x = images()
        assert torch.equal(other(x), small(x))


class DropPath(nn.Module):
    """Stochastic depth as it is usually written."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.share)
        return x * kept / (1 - self.share)


class Same(DropPath):
    """One number for all samples and channels, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.share


class Channels(DropPath):
    """Whole channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty(*x.shape[:2], 1, 1).bernoulli_(1 - self.share) if self.training else x


class Raised(DropPath):
    """Numbers above a bound stay as they are, others do not."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x.clamp(min=0.3)


class Noise(DropPath):
    """A number that is added."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(x.shape[0], *[1] * (x.dim() - 1)) if self.training else x


def test_stochastic_depth() -> None:
    net = Net(lambda net, x: net.norm(net.a(x)) + net.b(x))
    net.norm = nn.Sequential(nn.BatchNorm2d(6), DropPath()).eval()
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("a") is graph.why_not("b") is None
    for plan in (Plan({"a": (0, 2, 5), "b": (1, 2)}), Plan({"a": (0, 4), "b": (0, 4)})):
        zeroed, small = zero(net, graph, plan).train(), shrink(net, graph, plan).train()
        for seed in range(3):
            torch.manual_seed(seed)
            expected = zeroed(images())
            torch.manual_seed(seed)
            torch.testing.assert_close(small(images()), expected)
        carried_out(net, graph, plan)
    assert is_sample_drop(DropPath()) and is_sample_drop(nn.Sequential(DropPath())[0])
    assert not any(is_sample_drop(module) for module in (Same(), Channels(), Noise(), Raised(), nn.Dropout()))


def test_a_module_that_was_changed_is_looked_at_anew() -> None:
    """What it was when the net was followed before says nothing."""
    net = Net(lambda net, x: net.norm(net.a(x)) + net.b(x), NormAct(6, nn.ReLU()))
    assert ChannelGraph.trace(net, images(1)).layers["a"].norm == "norm"
    net.norm.act = nn.Sigmoid()
    assert ChannelGraph.trace(net, images(1)).layers["a"].norm is None


def test_norms_that_are_no_such_thing() -> None:
    assert is_norm_with_parts(NormAct(6, nn.ReLU()))
    assert not is_norm_with_parts(NormAct(6, nn.Sigmoid())), "a dead channel is no longer dead"
    assert not is_norm_with_parts(NormAct(6, nn.PReLU())), "it has a state of its own"
    assert not is_norm_with_parts(Backwards(6, nn.ReLU()))
    assert not is_norm_with_parts(nn.BatchNorm2d(6))
    assert not is_norm_with_parts(OfSeries(6)), "it takes no pictures"


class OfSeries(nn.BatchNorm2d):
    """A norm whose forward pass refuses what its class is made for."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError("a series is expected")
        return super().forward(x[..., None])[..., 0]


class DropOfSmall(DropPath):
    """Drops pictures up to six pixels wide, and cannot say what it would do with others."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 6 and self.training:
            raise ValueError("too large")
        return super().forward(x)


class NormOfSmall(NormAct):
    """Is another function for pictures of more than six pixels."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found + found.mean(1, keepdim=True) if x.shape[-1] > 6 else found


@pytest.mark.parametrize(("size", "cut"), [(6, True), (8, False)])
@pytest.mark.parametrize("kind", ["norm", "series"])
def test_norms_are_known_at_the_sizes_they_get(kind: str, size: int, cut: bool) -> None:
    """What is not known any more is followed as any module, or listed with a reason; nothing else happens."""

    def middle(net: Net, x: Tensor) -> Tensor:
        h = net.a(x)
        return net.norm(h) if kind == "norm" else net.norm(h.flatten(2)).view_as(h)

    net = Net(middle, NormOfSmall(6, nn.ReLU()) if kind == "norm" else OfSeries(6))
    graph = ChannelGraph.trace(net, torch.zeros(1, 3, size, size))
    why = graph.why_not("a")
    assert (why is None) == (cut and kind == "norm")
    assert why is None or "which needs all of them" in why


def test_a_drop_that_refuses_the_size_it_gets_is_said() -> None:
    net = Net(lambda net, x: net.norm(net.a(x)))
    net.norm = nn.Sequential(nn.BatchNorm2d(6), DropOfSmall())
    assert is_sample_drop(DropOfSmall())
    assert ChannelGraph.trace(net, torch.zeros(1, 3, 6, 6)).why_not("a") is None
    with pytest.raises(UserError, match="fails in training mode: too large"):
        ChannelGraph.trace(net, torch.zeros(1, 3, 8, 8))


class Decoder(nn.Module):
    """Two stages down, two up with transposed convolutions, a shortcut between; a picture comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.up, self.norm = nn.ConvTranspose2d(8, 6, 2, 2), nn.BatchNorm2d(6)
        self.last = nn.ConvTranspose2d(12, 2, 3, padding=1, bias=False)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.down(x))
        up = torch.relu(self.norm(self.up(torch.relu(self.deep(first)))))
        picture: Tensor = self.last(torch.cat([first, up], 1))
        return picture


def test_transposed_convolutions_read_what_is_left() -> None:
    net = Decoder()
    graph = ChannelGraph.trace(net, images(1))
    assert graph.why_not("down") is graph.why_not("deep") is graph.why_not("up") is None
    assert graph.layers["up"].kind == "transposed"
    assert str(graph.why_not("last")) == "its output is the output of the net"
    both = Plan({"down": (0, 2, 5), "deep": (1, 2, 6)})
    for plan in (Plan(), both, Plan({"deep": ()}), Plan({"down": (3,)}), Plan({"up": (1, 4)}), Plan({"up": ()})):
        small = carried_out(net, graph, plan)
        small(torch.randn(3, 3, 12, 10)).square().sum().backward()
    small = carried_out(net, graph, Plan({"down": (0, 2, 5), "deep": (1, 2, 6)}))
    assert small.get_submodule("last").weight.shape == (9, 2, 3, 3)
    assert small.get_submodule("up").weight.shape == (3, 6, 2, 2)
    small = carried_out(net, graph, Plan({"down": (0, 2, 5), "deep": (1, 2, 6), "up": (0, 1, 3, 5)}))
    up = small.get_submodule("up")
    assert isinstance(up, nn.ConvTranspose2d)
    assert (up.in_channels, up.out_channels, tuple(up.weight.shape)) == (3, 4, (3, 4, 2, 2))
    shares = {"down": torch.tensor([1.0, 0, 1, 0, 0, 1]), "deep": torch.tensor([0, 1.0, 1, 0, 0, 0, 1, 0])}
    shares["up"] = torch.tensor([0.0, 1, 1, 1, 0, 1])
    plan = Plan({name: tuple(int(c) for c in share.nonzero().flatten()) for name, share in shares.items()})
    soft = SoftMacs(graph)
    assert (float(soft(shares)), float(soft.params(shares))) == (graph.macs(plan), graph.params(plan))


def test_a_layer_with_weights_that_is_made_where_it_is_called_is_refused() -> None:
    with pytest.raises(UserError, match="not installed as a submodule"):
        ChannelGraph.trace(Net(lambda net, x: nn.Conv2d(3, 6, 1)(x)), images(1))


def test_group_norm() -> None:
    """Statistics of single channels do not change with others; those of several do."""
    net = Net(lambda net, x: net.norm(net.a(x)), nn.GroupNorm(6, 6))
    graph = ChannelGraph.trace(net, images(1))
    small = carried_out(net, graph, Plan({"a": (0, 2, 5)}))
    norm = small.get_submodule("norm")
    assert isinstance(norm, nn.GroupNorm)
    assert (norm.num_groups, norm.num_channels) == (3, 3)
    graph = ChannelGraph.trace(Net(lambda net, x: net.norm(net.a(x)), nn.GroupNorm(3, 6)), images(1))
    assert "GroupNorm 'norm'" in str(graph.why_not("a"))
