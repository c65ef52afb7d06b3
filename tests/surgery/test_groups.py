"""Grouped convolutions: cut equally in all groups, left out group by group, or whole with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.measure.soft_macs import SoftMacs
from prunebench.surgery.equality import same
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.narrow import narrow
from prunebench.surgery.plan import Plan
from prunebench.surgery.sets import to_indices
from prunebench.surgery.shrink import shrink
from prunebench.surgery.zero import restore, zero
from tests.surgery.kit import images
from tests.surgery.nets import randomise


class Net(nn.Module):
    """A ResNeXt block: 1x1 to 12 channels, 3x3 in ``groups``, 1x1 back to the stream, and what else is asked for."""

    def __init__(self, *, groups: int = 3, parts: Sequence[str] = ()) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.g, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(12)
        self.b, self.h = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.three = nn.Conv2d(12, 12, 1, groups=3)
        self.two, self.six = nn.Conv2d(12, 12, 1, groups=2), nn.Conv2d(12, 18, 1, groups=6)
        self.out = nn.Linear(8, 5)
        self.parts, self.groups = tuple(parts), groups
        if "six" in parts:
            self.b = nn.Conv2d(18, 8, 1)
        randomise(self)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.norm2(self.g(torch.relu(self.norm(self.a(x))))))
        if "shuffle" in self.parts:
            batch, width, height, length = y.size()
            y = y.view(batch, self.groups, width // self.groups, height, length).transpose(1, 2)
            y = y.contiguous().view(batch, width, height, length)
        if "two" in self.parts:
            y = self.two(y)
        if "three" in self.parts:
            y = self.three(y)
        if "six" in self.parts:
            y = self.six(y)
        x = x + self.b(y)
        if "stream" in self.parts:
            x = torch.relu(self.h(x))
        return self.out(x.mean((2, 3)))


def traced(**options: object) -> tuple[Net, ChannelGraph]:
    torch.manual_seed(0)
    net = Net(**options)  # type: ignore[arg-type]
    return net, ChannelGraph.trace(net, images(1))


def carried_out(net: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """The small net, compared with the zeroed one in both modes, with the counts, and with itself written back."""
    x, small, zeroed = images(4), shrink(net, graph, plan), zero(net, graph, plan)
    same(zeroed, small, x, lambda net, x: net(x))
    same(restore(net, graph, plan, small), small, x, lambda net, x: net(x))
    counted = cost.count(small, x)
    assert (graph.macs(plan), graph.params(plan)) == (counted.macs, counted.params)
    zeroed, trained = zero(net, graph, plan).double().train(), shrink(net, graph, plan).double().train()
    same(zeroed, trained, x.double(), lambda net, x: net(x))
    return small


def scores_of(graph: ChannelGraph) -> dict[str, Tensor]:
    return {name: torch.rand(layer.out_channels) for name, layer in graph.layers.items() if not layer.is_output}


@pytest.mark.parametrize("parts", [(), ("shuffle",), ("stream",), ("two",), ("shuffle", "three"), ("six", "stream")])
@pytest.mark.parametrize("coupling", ["free", "aligned"])
def test_groups_are_cut_equally(parts: tuple[str, ...], coupling: str) -> None:
    net, graph = traced(parts=parts)
    scores = scores_of(graph)
    for ratio, options in ((0.3, {}), (0.5, {"scope": "global"}), (0.8, {}), (0.6, {"round_to": 4})):
        choice = budget.choose(scores, graph, prune_ratio=ratio, coupling=coupling, **options)
        small = carried_out(net, graph, choice.plan)
        layer = small.get_submodule("g")
        assert isinstance(layer, nn.Conv2d)
        assert layer.groups == 3
        assert {"a", "g"} <= {*choice.plan.keep, *(entry["layer"] for entry in choice.not_pruned)}
    choice = budget.choose(scores, graph, target_macs=0.6, coupling=coupling)
    assert choice.achieved["reached"] == pytest.approx(0.6, abs=0.06)
    carried_out(net, graph, choice.plan)


def test_the_lowest_of_each_group_go() -> None:
    _, graph = traced()
    scores = {"a": torch.tensor([1.0, 9, 8, 7, 30, 20, 40, 50, 5, 4, 3, 2])}
    assert budget.choose(scores, graph, prune_ratio=0.25).plan.keep == {"a": (1, 2, 3, 4, 6, 7, 8, 9, 10)}
    assert budget.choose(scores, graph, prune_ratio=0.49).plan.keep == {"a": (1, 2, 3, 4, 6, 7, 8, 9, 10)}, "3 or 6 go"
    assert budget.choose(scores, graph, prune_ratio=0.5).plan.keep == {"a": (1, 2, 6, 7, 8, 9)}
    assert budget.choose(scores, graph, prune_ratio=0.9).plan.keep == {"a": (1, 7, 8)}
    assert budget.choose(scores, graph, prune_ratio=0.3, count="keep_floor").plan.keep == {"a": (1, 2, 6, 7, 8, 9)}
    order = budget.removal_order(scores["a"], cells=((0b1111, 0b11110000, 0b111100000000),))
    assert order == [0, 11, 5, 10, 3, 4, 9, 2, 6, 8, 1, 7]


def test_cells() -> None:
    """Groups of two convolutions, or of one behind a shuffle, share out the channels together."""
    _, graph = traced()
    assert graph.equal_cells([("a",), ("g",)]) == (dict.fromkeys(("a", "g"), ((0xF, 0xF0, 0xF00),)), {})
    _, graph = traced(groups=2, parts=("shuffle", "two"))
    cells, whole = graph.equal_cells([("a",), ("g",), ("two",)])
    halves = [list(range(start, start + 3)) for start in (0, 3, 6, 9)]
    assert not whole
    assert [sorted(map(to_indices, way)) for way in cells["g"]] == [halves]


def test_groups_in_front_of_a_shuffle_and_behind_it() -> None:
    """Four channels of each group cannot go evenly to three others, but three at a time can: one from and to each."""
    net, graph = traced(parts=("shuffle", "three"))
    cells, whole = graph.equal_cells([("a",), ("g",), ("three",)])
    assert not whole
    before, behind = cells["g"]
    assert [to_indices(cell) for cell in before] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [to_indices(cell) for cell in behind] == [[0, 1, 4, 8], [2, 5, 6, 9], [3, 7, 10, 11]]
    for seed in range(5):
        order = budget.removal_order(torch.rand(12, generator=torch.Generator().manual_seed(seed)), cells=cells["g"])
        for start in range(0, 12, 3):
            channels = order[start : start + 3]
            assert all(sum(cell >> channel & 1 for channel in channels) == 1 for way in cells["g"] for cell in way)
    for kept in ((0, 5, 10), (1, 2, 3, 4, 6, 7, 8, 9, 10)):
        carried_out(net, graph, Plan({"g": kept}))


def test_what_cannot_be_shared_out_stays_whole() -> None:
    """Three groups of four channels are two groups of six only if some go two and two."""
    net, graph = traced(parts=("two",))
    choice = budget.choose(scores_of(graph), graph, prune_ratio=0.5)
    listed = {entry["layer"]: entry["reason"] for entry in choice.not_pruned}
    assert list(listed) == ["g"]
    assert "cannot be cut equally" in listed["g"]
    carried_out(net, graph, choice.plan)


def test_a_stream_needs_one_set() -> None:
    """What a sum of two layers leaves of each group is known only if both keep the same."""
    _, graph = traced(parts=("stream",))
    free = budget.choose(scores_of(graph), graph, prune_ratio=0.5)
    assert {entry["layer"] for entry in free.not_pruned} == {"stem", "b"}
    aligned = budget.choose(scores_of(graph), graph, prune_ratio=0.5, coupling="aligned")
    assert not aligned.not_pruned
    assert aligned.plan.keep["stem"] == aligned.plan.keep["b"]


def test_unequal_groups_are_refused_and_named() -> None:
    _, graph = traced()
    with pytest.raises(
        UserError, match=r"groups of Conv2d 'g' at .* must read equally many .* they read 3, 4, 4; keep"
    ):
        graph.check(Plan({"a": tuple(range(1, 12))}))
    with pytest.raises(UserError, match=r"groups of Conv2d 'g' at .* must write equally many .* they write 4, 4, 3"):
        graph.check(Plan({"g": tuple(range(11))}))


def test_a_group_without_inputs_or_outputs_goes() -> None:
    net, graph = traced()
    for plan in (
        Plan({"a": tuple(range(4, 12))}),
        Plan({"g": tuple(range(4, 12))}),
        Plan({"a": (0, 1, 4, 5), "g": (4, 8)}),
        Plan({"a": (0, 1, 4, 5), "g": (8,), "b": ()}),
    ):
        small = carried_out(net, graph, plan)
    assert not hasattr(small, "g"), "it has nothing to read, and the shortcut is left"


def test_who_does_not_count_by_groups_leaves_the_layers_whole() -> None:
    _, graph = traced()
    assert "groups must stay of one size" in str(graph.why_not("a"))
    assert "grouped convolution (3 groups)" in str(graph.why_not("g"))
    assert graph.why_not("a", equally=True) is graph.why_not("g", equally=True) is graph.why_not("b") is None


def test_shares_of_channels_count_as_the_plan_does() -> None:
    _, graph = traced(parts=("shuffle",))
    for keep in ({"a": (0, 1, 4, 5, 8, 9)}, {"a": (0, 4, 8), "g": (1, 2, 6, 7, 8, 9)}, {"a": (4, 5, 8, 9)}):
        shares = {name: torch.zeros(12).index_fill(0, torch.tensor(kept), 1.0) for name, kept in keep.items()}
        soft, plan = SoftMacs(graph), Plan(keep)
        assert (float(soft(shares)), float(soft.params(shares))) == (graph.macs(plan), graph.params(plan))


def test_groups_are_narrowed_in_place() -> None:
    net, graph = traced()
    before, after = Plan({"a": (0, 1, 4, 5, 8, 9)}), Plan({"a": (1, 4, 9), "g": (0, 1, 5, 6, 9, 10)})
    small, wanted = shrink(net, graph, before), shrink(net, graph, after)
    narrow(small.get_submodule, graph, before=before, after=after)
    x = images(3)
    with torch.no_grad():
        assert torch.equal(small(x), wanted(x))
    layer = small.get_submodule("g")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.groups, layer.in_channels, layer.out_channels) == (3, 3, 6)
