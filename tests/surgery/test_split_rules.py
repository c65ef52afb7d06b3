"""Differences, splits and slices along the channels: followed like sums and the inverse of concatenations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.surgery.align import align
from prunebench.surgery.equality import same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import images
from tests.surgery.nets import randomise

Middle = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """Two convolutions of 6 channels, statements between them and a last one that reads ``width`` channels."""

    def __init__(self, middle: Middle, width: int = 6) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(4, 3, 1)
        self.last, self.out, self.middle = nn.Conv2d(width, 4, 1), nn.Linear(4, 5), middle
        self.register_buffer("means", torch.rand(1, 6, 1, 1))
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.last(self.middle(self, x))).mean((2, 3)))


def traced(middle: Middle, width: int = 6) -> tuple[Net, ChannelGraph]:
    torch.manual_seed(0)
    net = Net(middle, width)
    return net, ChannelGraph.trace(net, images(1))


def carried_out(net: nn.Module, graph: ChannelGraph, plan: Plan, x: Tensor | None = None) -> nn.Module:
    """The small net, compared with the zeroed one, with the counts, and with itself written back."""
    x, small = images(4) if x is None else x, shrink(net, graph, plan)
    same(zero(net, graph, plan), small, x, lambda net, x: net(x))
    same(restore(net, graph, plan, small), small, x, lambda net, x: net(x))
    counted = cost.count(small, x)
    assert (graph.macs(plan), graph.params(plan)) == (counted.macs, counted.params)
    return small


def refused(graph: ChannelGraph, plan: Plan) -> str | None:
    try:
        graph.check(plan)
    except UserError as error:
        return str(error)
    return None


def minus(net: Net, x: Tensor) -> Tensor:
    return net.a(x) - net.b(x)


def minus_in_place(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    y -= net.b(x)
    return y


DIFFERENCES = [
    minus,
    minus_in_place,
    lambda net, x: torch.sub(net.a(x), net.b(x)),
    lambda net, x: torch.subtract(net.a(x), other=net.b(x)),
    lambda net, x: net.a(x).sub_(net.b(x)),
]
SETS = {
    "equal": Plan({"a": (1, 4), "b": (1, 4)}),
    "left inside": Plan({"a": (1, 4), "b": (0, 1, 4)}),
    "right inside": Plan({"a": (0, 1, 4), "b": (1, 4)}),
    "crossed": Plan({"a": (0, 4), "b": (1, 4)}),
    "no common one": Plan({"a": (0, 2), "b": (1, 3)}),
    "no left": Plan({"a": (), "b": (1, 3)}),
    "no right": Plan({"a": (0, 5), "b": ()}),
}


@pytest.mark.parametrize("middle", DIFFERENCES)
def test_a_difference_is_followed_like_a_sum(middle: Middle) -> None:
    net, graph = traced(middle)
    assert graph.why_not("a") is graph.why_not("b") is None
    assert set(graph.groups()[0]) == {"a", "b"}
    assert graph.layers["a"].meets_addition
    for plan in SETS.values():
        carried_out(net, graph, plan)


def test_a_difference_scatters_where_layers_have_no_wide_form() -> None:
    """The padding of a shortcut cannot compute in the width of the union."""

    def shortcut(net: Net, x: Tensor) -> Tensor:
        y = net.a(x)
        return y - nn.functional.pad(torch.relu(y[:, 1:5]), (0, 0, 0, 0, 1, 1))

    net, graph = traced(shortcut)
    for kept in ((0, 2), (1, 5), (5,), (0,)):
        carried_out(net, graph, Plan({"a": kept}))


def test_aligned_differences_have_equal_sets() -> None:
    net, graph = traced(minus)
    scores = {"a": torch.tensor([6.0, 5, 4, 3, 2, 1]), "b": torch.zeros(6)}
    choice = budget.choose(scores, graph, prune_ratio=0.5, coupling="aligned")
    assert choice.plan.keep["a"] == choice.plan.keep["b"] == (0, 1, 2)
    assert align(graph, SETS["crossed"]).keep == {"a": (0, 1, 4), "b": (0, 1, 4)}
    small = carried_out(net, graph, choice.plan)
    assert type(small.a) is nn.Conv2d


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: net.a(x) - net.means,
        lambda net, x: nn.functional.max_pool2d(torch.sub(net.a(x), 1), 3, 1, 1),
        lambda net, x: net.a(x) - net.b(x).mean(1, keepdim=True),
    ],
)
def test_a_dead_channel_minus_a_constant_is_not_dead(middle: Middle) -> None:
    net, graph = traced(middle)
    assert "'sub' at" in str(graph.why_not("a"))
    with pytest.raises(UserError, match="needs all channels of its input, but the plan cuts a"):
        graph.check(Plan({"a": (0, 2)}))
    carried_out(net, graph, Plan({"last": (1, 2)}))


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: net.a(x) - 0,
        lambda net, x: 0 - net.a(x),
        lambda net, x: (lambda y: y - y.mean((2, 3), keepdim=True))(net.a(x)),
        lambda net, x: (lambda y: torch.relu(y) + y.amax((2, 3), keepdim=True))(net.a(x)),
    ],
)
def test_what_maps_a_dead_channel_to_zero_is_followed(middle: Middle) -> None:
    net, graph = traced(middle)
    carried_out(net, graph, Plan({"a": (0, 2, 5)}))


def test_other_shapes_of_other_layers_stay_whole() -> None:
    _, graph = traced(lambda net, x: net.a(x) - net.b(x).mean((2, 3), keepdim=True))
    assert "'sub' at" in str(graph.why_not("a"))


def halves(net: Net, x: Tensor) -> Tensor:
    left, right = torch.split(net.a(x), [2, 4], dim=1)
    return torch.cat([net.right(right), net.left(left)], 1)


def by_size(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    pieces = y.split(y.shape[1] // 3, 1)
    return torch.cat([pieces[-1], pieces[0], pieces[1]], 1)


def chunks(net: Net, x: Tensor) -> Tensor:
    one, two, three = net.a(x).chunk(3, dim=1)
    return torch.cat([one + two, three, net.b(x)[:, :2]], dim=1)


def slices(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    return torch.cat([net.left(y[:, :2, 1:-1]), net.right(y[:, y.size(1) - 4 :, 1:-1])[..., 0:8]], 1)


def shuffle(net: Net, x: Tensor) -> Tensor:
    """Half of the stream goes past the branch."""
    kept, taken = net.a(x).tensor_split((4,), 1)
    return torch.cat((kept, net.left(taken)[:, 1:]), 1)


def of_a_product(net: Net, x: Tensor) -> Tensor:
    y = torch.relu(net.a(x))
    left, right = (y * torch.tanh(y)).split([2, 4], 1)
    return torch.cat([net.left(left), net.right(right)], 1)


def of_a_concatenation(net: Net, x: Tensor) -> Tensor:
    y = torch.cat([net.a(x), net.b(x)], 1)[:, 4:10]
    return torch.cat([net.left(y[:, 1:3]), net.right(y[:, 2:])], 1)


def along_the_image(net: Net, x: Tensor) -> Tensor:
    top, bottom = net.a(x).chunk(2, dim=2)
    return torch.relu(top) - bottom


def a_part_of_the_image(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    upper, _ = y.split(y.shape[2] // 2, dim=2)
    return torch.cat([net.left(y[:, :2, : y.shape[2] // 2, 1:]), net.right(upper[:, 2 : y.shape[1], ..., 1:])], 1)


SPLITS = [
    halves,
    by_size,
    chunks,
    slices,
    shuffle,
    of_a_product,
    of_a_concatenation,
    along_the_image,
    a_part_of_the_image,
]


@pytest.mark.parametrize("middle", SPLITS)
def test_splits_are_followed(middle: Middle) -> None:
    net, graph = traced(middle)
    assert graph.why_not("a") is None
    kept = [(0, 1, 2, 4, 5), (1, 2, 5), (0, 4, 5), (1, 3, 4)]
    both: dict[str, tuple[int, ...]] = {name: (1, 4) for name in ("a", "b") if name in graph.layers}
    for plan in [Plan(), *(Plan({"a": indices}) for indices in kept), Plan(both)]:
        why = refused(graph, plan)
        if why is None:
            carried_out(net, graph, plan)
        else:
            assert "keeps no channel, or reads none" in why


@pytest.mark.parametrize("middle", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_each_piece_keeps_a_channel(middle: Middle, seed: int) -> None:
    net, graph = traced(middle)
    torch.manual_seed(seed)
    names = [name for name in graph.layers if name != "out"]
    scores = {name: torch.rand(graph.layers[name].out_channels) for name in names}
    for ratio in (0.5, 0.9):
        for options in ({}, {"scope": "global"}, {"coupling": "aligned"}, {"min_channels": 0}):
            choice = budget.choose(scores, graph, prune_ratio=ratio, **options)
            assert "a" in choice.plan.keep
            carried_out(net, graph, choice.plan)


def test_the_best_channel_of_a_piece_is_the_one_that_stays() -> None:
    _, graph = traced(halves)
    assert graph.pieces("a") == (0b000011, 0b111100)
    scores = {"a": torch.tensor([1.0, 2, 10, 20, 30, 40])}
    assert budget.choose(scores, graph, prune_ratio=0.5).plan.keep["a"] == (1, 4, 5)
    assert budget.choose(scores, graph, prune_ratio=0.9).plan.keep["a"] == (1, 5)
    assert budget.removal_order(scores["a"], pieces=graph.pieces("a")) == [0, 2, 3, 4, 1, 5]


def test_a_piece_without_channels_is_refused_unless_bypassed() -> None:
    net, graph = traced(halves)
    small = carried_out(net, graph, Plan({"a": (2, 3)}))  # the concatenation does without the left branch
    assert not hasattr(small, "left")
    alone, graph = traced(lambda net, x: net.left(net.a(x)[:, :2]), width=3)
    with pytest.raises(UserError, match="layer a keeps no channel, or reads none"):
        graph.check(Plan({"a": (2, 3)}))
    carried_out(alone, graph, Plan({"a": (0, 3)}))


def factors(net: Net, x: Tensor) -> Tensor:
    return net.left((net.a(x) * torch.tanh(net.b(x)))[:, :2])


def test_factors_lose_the_same_channels_and_leave_one_of_each_piece() -> None:
    net, graph = traced(factors, width=3)
    scores = {"a": torch.tensor([1.0, 2, 3, 9, 9, 9]), "b": torch.tensor([1.0, 3, 3, 0, 0, 0])}
    choice = budget.choose(scores, graph, prune_ratio=0.5)
    # the sums are 2, 5, 6, 9, 9, 9; of the piece 0, 1 the better one stays
    assert choice.plan.keep == dict.fromkeys(("a", "b"), (1, 4, 5))
    carried_out(net, graph, choice.plan)
    choice = budget.choose(scores, graph, prune_ratio=0.5, fixed=("b",))
    assert "b" not in choice.plan.keep


def test_a_piece_that_might_be_empty_keeps_its_layers_whole() -> None:
    """Two factors that meet in a sum too have no common sets."""

    def middle(net: Net, x: Tensor) -> Tensor:
        y, z = net.a(x), net.b(x)
        return net.left((y * torch.tanh(z))[:, :2]) + (y + z)[:, 2:5]

    _, graph = traced(middle, width=3)
    scores = {"a": torch.rand(6), "b": torch.rand(6)}
    choice = budget.choose(scores, graph, prune_ratio=0.5)
    assert len(choice.plan.keep) == 1, "one factor may be cut if the other is whole"
    assert all("multiplied" in entry["reason"] for entry in choice.not_pruned)


@pytest.mark.parametrize(
    ("middle", "name"),
    [
        (lambda net, x: net.a(x)[:, ::2], "getitem"),
        (lambda net, x: net.a(x)[:, : x.shape[2] // 2], "getitem"),
        (lambda net, x: torch.cat(net.a(x).split(2, 1)[::-1], 1), "split"),
        (lambda net, x: torch.stack(net.a(x).chunk(2, 1)).sum(0), "chunk"),
        (lambda net, x: net.a(x)[:, [0, 2]], "getitem"),
    ],
)
def test_what_cannot_be_followed_is_listed(middle: Middle, name: str) -> None:
    width = {"chunk": 3}.get(name, 6)
    try:
        net, graph = traced(middle, width)
    except UserError:
        net, graph = traced(middle, int(middle(Net(middle), images(1)).shape[1]))
    assert f"'{name}' at" in str(graph.why_not("a"))
    carried_out(net, graph, Plan({"last": (0, 2)}))


def test_pieces_of_padded_channels() -> None:
    """A piece that is nothing but padding is complete in the dense net, and read as such."""
    net, graph = traced(lambda net, x: nn.functional.pad(net.a(x), (0, 0, 0, 0, 2, 2))[:, :6])
    for kept in ((0, 1), (1, 3), (0, 1, 2, 3)):
        carried_out(net, graph, Plan({"a": kept}))
    net, graph = traced(lambda net, x: nn.functional.pad(net.a(x), (0, 0, 0, 0, 2, 2)).split([2, 6, 2], 1)[1])
    assert "'split' at" in str(graph.why_not("a"))
    carried_out(net, graph, Plan())


@pytest.mark.parametrize(
    "middle",
    [
        lambda net, x: net.a(x) ** 2,
        lambda net, x: torch.pow(net.a(x), exponent=3),
        lambda net, x: nn.functional.pad(net.a(x), (1, 1, 1, 1), mode="circular"),
        lambda net, x: nn.functional.pad(net.a(x), (1, 1, 0, 0), mode="reflect"),
        lambda net, x: (lambda y: nn.functional.interpolate(y[..., ::2], size=y.shape[2:]))(net.a(x)),
    ],
)
def test_powers_borders_and_sizes_of_the_image_are_followed(middle: Middle) -> None:
    net, graph = traced(middle)
    carried_out(net, graph, Plan({"a": (0, 2, 5)}))


@pytest.mark.parametrize("middle", [lambda net, x: net.a(x) ** 0, lambda net, x: 2 ** net.a(x)])
def test_powers_that_are_not_zero_go_into_the_bias(middle: Middle) -> None:
    net, graph = traced(middle)
    carried_out(net, graph, Plan({"a": (0, 2, 5)}))


@pytest.mark.parametrize("bias", [True, False])
def test_a_depthwise_layer_behind_padded_channels(bias: bool) -> None:
    """There it writes its bias, which no plan may take away."""

    class Padded(Net):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net.each(nn.functional.pad(net.a(x), (0, 0, 0, 0, 1, 1))), width=16)
            self.each = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=bias)

    torch.manual_seed(0)
    net = Padded().eval()
    graph = ChannelGraph.trace(net, images(1))
    same(net, zero(net, graph, Plan()), images(4), lambda net, x: net(x))
    carried_out(net, graph, Plan())
    assert (graph.why_not("a") is None) is not bias
    if not bias:
        carried_out(net, graph, Plan({"a": (0, 2, 5)}))
