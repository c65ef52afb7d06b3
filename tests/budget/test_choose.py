from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from prunebench import budget
from prunebench.budget import choose
from prunebench.budget.counts import Floor, step_ratio
from prunebench.budget.units import comparable
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.ties import Tie


@dataclass
class FakeLayer:
    out_channels: int
    macs: int  # of the dense layer
    reads: str | None = None
    is_output: bool = False


@dataclass
class FakeGraph:
    """A chain with the counts of a chain: a layer costs (kept / out) * (what its input keeps) of its dense MACs."""

    layers: dict[str, FakeLayer]
    together: tuple[tuple[str, ...], ...] = ()
    bypassed: tuple[str, ...] = ()
    num_counted: int = 0
    ties: tuple[Tie, ...] = ()
    sum_ties: tuple[Tie, ...] = ()

    @property
    def hidden(self) -> dict[str, int]:
        return {name: layer.out_channels for name, layer in self.layers.items() if not layer.is_output}

    def groups(self) -> tuple[tuple[str, ...], ...]:
        grouped = {name for group in self.together for name in group}
        return self.together + tuple((name,) for name in self.layers if name not in grouped)

    def pieces(self, layer: str) -> tuple[int, ...]:
        return ()

    def _share(self, plan: Plan, name: str | None) -> float:
        if name is None or name not in plan.keep:
            return 1.0
        return len(plan.keep[name]) / self.layers[name].out_channels

    def macs(self, plan: Plan) -> int:
        self.num_counted += 1
        parts = [
            layer.macs * self._share(plan, name) * self._share(plan, layer.reads) for name, layer in self.layers.items()
        ]
        return round(sum(parts))

    def params(self, plan: Plan) -> int:
        return sum(round(layer.out_channels * self._share(plan, n)) for n, layer in self.layers.items())

    @property
    def dense_macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())

    @property
    def dense_params(self) -> int:
        return self.params(Plan())

    def must_stay(self, names: list[str], tied: Collection[Tie] = ()) -> dict[str, str]:
        return {}

    def equal_cells(self, groups: list[tuple[str, ...]]) -> tuple[dict[str, tuple[()]], dict[str, str]]:
        return {}, {}

    def why_not(self, name: str, *, equally: bool = False) -> str | None:
        return "its output is the output of the net" if self.layers[name].is_output else None

    def check(self, plan: Plan) -> None:
        for name, kept in plan.keep.items():
            if not kept and name not in self.bypassed:
                raise UserError(f"layer {name} keeps no channel")
            assert list(kept) == sorted(set(kept))
            assert max(kept, default=0) < self.layers[name].out_channels


class Excited(nn.Module):
    """A branch with a squeeze-excitation of two channels, beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        scale = self.up(self.down(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head(x + y * scale)


def chain(*widths: int, macs: int = 10**6) -> FakeGraph:
    names = [f"conv{place}" for place in range(len(widths))]
    layers = {
        name: FakeLayer(width, macs, reads=names[place - 1] if place else None)
        for place, (name, width) in enumerate(zip(names, widths, strict=True))
    }
    layers["fc"] = FakeLayer(10, 1000, reads=names[-1], is_output=True)
    return FakeGraph(layers)


def drawn(graph: FakeGraph, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(width, generator=generator) for name, width in graph.hidden.items()}


def pick(scores: dict[str, Tensor], graph: FakeGraph, **options) -> budget.Choice:
    return choose(scores, graph, **options)  # type: ignore[arg-type]


def kept(choice: budget.Choice, graph: FakeGraph) -> list[int]:
    return [len(choice.plan.keep.get(name, range(width))) for name, width in graph.hidden.items()]


class TestCounts:
    @pytest.mark.parametrize(
        ("ratio", "counts"),
        [(0.4, [6, 12, 25, 51, 102, 204]), (0.3, [4, 9, 19, 38, 76, 153])],
    )
    def test_prune_floor(self, ratio: float, counts: list[int]) -> None:
        assert [budget.prune_floor(n, ratio) for n in (16, 32, 64, 128, 256, 512)] == counts

    @pytest.mark.parametrize(
        ("width", "ratio", "stay"),
        [
            *[(16, 0.1, 14), (32, 0.1, 28), (64, 0.1, 57), (64, 0.3, 44), (128, 0.3, 89), (256, 0.3, 179)],
            *[(128, 0.6, 51), (256, 0.4, 153), (512, 0.5, 256), (16, 0.6, 6), (16, 0.5, 8), (32, 0.4, 19)],
        ],
    )
    def test_keep_floor(self, width: int, ratio: float, stay: int) -> None:
        assert width - budget.keep_floor(width, ratio) == stay

    def test_float_noise_decides_nothing(self) -> None:
        for width in range(1, 300):
            for percent in range(100):
                exact = width * percent
                assert budget.prune_floor(width, percent / 100) == exact // 100
                assert width - budget.keep_floor(width, percent / 100) == (width * (100 - percent)) // 100

    def test_mixed_floor_takes_two_floors(self) -> None:
        assert [budget.mixed_floor(0.1)(n, 0.4) for n in (16, 32, 64)] == [5, 12, 25]
        assert [budget.mixed_floor(0.3)(n, 0.4) for n in (16, 32, 64)] == [5, 12, 25]
        assert budget.mixed_floor(0.3)(16, 0.2) == 3  # less than the norm's share: all by norm
        ratios = [place / 500 for place in range(500)]
        counts = [budget.mixed_floor(0.1)(37, ratio) for ratio in ratios]
        assert counts == sorted(counts)

    def test_geometric_steps(self) -> None:
        assert step_ratio(0.4, 1.0) == 0.4
        left = [1 - step_ratio(0.488, fraction) for fraction in (1 / 3, 2 / 3, 1.0)]
        assert left == pytest.approx([0.8, 0.64, 0.512])

    def test_table(self) -> None:
        names = ["layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"]
        table = budget.ratio_table({"layer1.1.conv1": 0.0, "layer1.*": 0.6}, names)
        assert table == {"layer1.0.conv1": 0.6, "layer1.1.conv1": 0.0}
        with pytest.raises(UserError, match=r"'layer1.9.conv1', which matches none .* did you mean layer1"):
            budget.ratio_table({"layer1.9.conv1": 0.1}, names)
        with pytest.raises(UserError, match=r"ratios\.layer1\.\* must be a number in \[0, 1\) .*, got 1.5"):
            budget.ratio_table({"layer1.*": 1.5}, names)

    def test_floor_rounds_up_but_not_above_the_width(self) -> None:
        assert [Floor(round_to=8).keep(20, wanted) for wanted in (1, 8, 9, 17)] == [8, 8, 16, 20]
        assert Floor(min_channels=3).keep(10, 0) == 3
        assert Floor(protect=0.3).keep(10, 1) == 3
        assert Floor(protect=1.0).keep(10, 1) == 10


class TestUniform:
    def test_lowest_go_ties_by_index(self) -> None:
        graph = chain(6)
        choice = pick({"conv0": torch.tensor([5.0, 1, 1, 0, 9, 1])}, graph, prune_ratio=0.5)
        assert choice.plan.keep == {"conv0": (0, 4, 5)}
        assert choice.not_pruned == []

    def test_achieved_shares(self) -> None:
        graph = chain(10, 10)
        choice = pick(drawn(graph), graph, prune_ratio=0.5)
        assert choice.achieved["channels_kept"] == 0.5
        assert choice.achieved["macs_kept"] == pytest.approx((0.5e6 + 0.25e6 + 500) / 2_001_000, abs=1e-5)
        assert choice.achieved["params_kept"] == 20 / 30
        assert choice.achieved["target"] is None

    def test_only_scored_layers_are_asked(self) -> None:
        graph = chain(8, 8)
        choice = pick({"conv1": torch.arange(8.0)}, graph, prune_ratio=0.25)
        assert choice.plan.keep == {"conv1": (2, 3, 4, 5, 6, 7)}

    def test_each_uncut_layer_has_a_reason(self) -> None:
        graph = chain(2, 8, 20)
        scores = drawn(graph) | {"fc": torch.rand(10)}
        choice = pick(scores, graph, prune_ratio=0.4, round_to=8)
        reasons = {entry["layer"]: entry["reason"] for entry in choice.not_pruned}
        assert reasons == {
            "conv0": "it has 2 channels and min_channels=1, protect=0, round_to=8 keep them all",
            "conv1": "it has 8 channels and min_channels=1, protect=0, round_to=8 keep them all",
            "fc": "its output is the output of the net",
        }
        assert kept(choice, graph) == [2, 8, 16]
        few = pick(drawn(graph), graph, prune_ratio=0.1)
        assert [entry["reason"] for entry in few.not_pruned] == ["its prune ratio of 0.1 takes no whole channel"] * 2
        none = pick(drawn(graph), graph, prune_ratio=0.0)
        assert {entry["reason"] for entry in none.not_pruned} == {"its prune ratio is 0"}
        assert none.plan == Plan(keep={})

    def test_table_and_counts(self) -> None:
        graph = chain(64, 64, 64)
        table = {"conv0": 0.3, "conv[01]": 0.5}
        choice = pick(drawn(graph), graph, prune_ratio=table, count="keep_floor")
        assert kept(choice, graph) == [44, 32, 64]
        assert choice.not_pruned == [{"layer": "conv2", "reason": "the table has no ratio for it"}]
        own = pick(drawn(graph), graph, prune_ratio=0.4, count=budget.mixed_floor(0.1))
        assert kept(own, graph) == [39, 39, 39]

    def test_floors(self) -> None:
        graph = chain(10)
        assert kept(pick(drawn(graph), graph, prune_ratio=0.99), graph) == [1]
        assert kept(pick(drawn(graph), graph, prune_ratio=0.99, min_channels=3), graph) == [3]
        assert kept(pick(drawn(graph), graph, prune_ratio=0.9, protect=0.25), graph) == [3]
        assert kept(pick(drawn(graph), graph, prune_ratio=0.9, min_channels=99), graph) == [10]

    def test_layers_vanish_only_where_something_bypasses_them(self) -> None:
        graph = FakeGraph(chain(10, 10, 10).layers, bypassed=("conv1",))
        assert kept(pick(drawn(graph), graph, prune_ratio=0.99, min_channels=0), graph) == [1, 1, 1]
        low = {"conv0": torch.arange(10.0), "conv1": -torch.ones(10), "conv2": 20 + torch.arange(10.0)}
        choice = pick(low, graph, prune_ratio=2 / 3, min_channels=0, scope="global")
        assert kept(choice, graph) == [1, 0, 10]

    @pytest.mark.parametrize("seed", range(5))
    def test_what_a_branch_has_within_it_vanishes_with_the_branch_or_not_at_all(self, seed: int) -> None:
        graph = ChannelGraph.trace(Excited(), torch.zeros(1, 8, 4, 4))
        draw = torch.Generator().manual_seed(seed)
        scores = {name: torch.rand(graph.layers[name].out_channels, generator=draw) for name in ("conv", "down")}
        scores["down"] /= 1000
        choice = choose(scores, graph, prune_ratio=0.7, scope="global", min_channels=0, normalise="none")
        graph.check(choice.plan)
        assert [len(choice.plan.keep[name]) for name in scores] == [3, 1]

    def test_rounding_keeps_the_best(self) -> None:
        graph = chain(16)
        choice = pick({"conv0": torch.arange(16.0).flip(0)}, graph, prune_ratio=0.7, round_to=4)
        assert choice.plan.keep == {"conv0": tuple(range(8))}  # 5 wanted, 8 kept, the first ones are the best


class TestAligned:
    graph = FakeGraph(chain(4, 4, 4).layers, together=(("conv0", "conv2"),))
    scores = {
        "conv0": torch.tensor([0.0, 3, 2, 9]),
        "conv1": torch.tensor([0.0, 1, 2, 3]),
        "conv2": torch.tensor([9.0, 3, 1, 0]),
    }

    def test_members_share_the_sum(self) -> None:
        choice = pick(self.scores, self.graph, prune_ratio=0.5, coupling="aligned")
        assert choice.plan.keep == {"conv0": (0, 3), "conv1": (2, 3), "conv2": (0, 3)}
        free = pick(self.scores, self.graph, prune_ratio=0.5, coupling="free")
        assert free.plan.keep == {"conv0": (1, 3), "conv1": (2, 3), "conv2": (0, 1)}

    def test_normalise_weighs_members_alike(self) -> None:
        scores = self.scores | {"conv0": 1000 * self.scores["conv0"]}
        choice = pick(scores, self.graph, prune_ratio=0.5, coupling="aligned")
        assert choice.plan.keep["conv0"] == (1, 3)
        choice = pick(scores, self.graph, prune_ratio=0.5, coupling="aligned", normalise="max")
        assert choice.plan.keep["conv0"] == (0, 3)

    def test_members_without_scores_follow(self) -> None:
        choice = pick({"conv2": self.scores["conv2"]}, self.graph, prune_ratio=0.5, coupling="aligned")
        assert choice.plan.keep == {"conv0": (0, 1), "conv2": (0, 1)}

    def test_one_member_that_stays_whole_keeps_all(self) -> None:
        scores = {name: self.scores[name] for name in ("conv1", "conv2")}
        choice = pick(scores, self.graph, prune_ratio=0.5, coupling="aligned", fixed=["conv0"])
        assert list(choice.plan.keep) == ["conv1"]
        reason = "it shares its channels with conv0: it is to stay whole"
        assert choice.not_pruned == [{"layer": "conv2", "reason": reason}]
        with pytest.raises(UserError, match=f"nothing to prune: conv2 stays whole, since {reason}; name layers"):
            pick({"conv2": self.scores["conv2"]}, self.graph, prune_ratio=0.5, coupling="aligned", fixed=["conv0"])
        stuck = FakeGraph(chain(10).layers, together=(("conv0", "fc"),))
        with pytest.raises(UserError, match="it shares its channels with fc: its output is the output of the net"):
            pick(drawn(stuck), stuck, prune_ratio=0.5, coupling="aligned")

    def test_different_ratios_in_one_group_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"share their channels .* conv0: 0.5, conv2: 0.25"):
            pick(self.scores, self.graph, prune_ratio={"conv0": 0.5, "conv2": 0.25}, coupling="aligned")
        choice = pick(self.scores, self.graph, prune_ratio={"conv2": 0.25}, coupling="aligned")
        assert choice.plan.keep == {"conv0": (0, 1, 3), "conv2": (0, 1, 3)}


class TestGlobal:
    def test_one_threshold(self) -> None:
        graph = chain(4, 4)
        scores = {"conv0": torch.tensor([1.0, 2, 3, 10]), "conv1": torch.tensor([4.0, 5, 6, 7])}
        choice = pick(scores, graph, prune_ratio=0.5, scope="global")
        assert choice.plan.keep == {"conv0": (3,), "conv1": (1, 2, 3)}

    def test_floor_is_not_made_up_for(self) -> None:
        graph = chain(4, 4)
        scores = {"conv0": torch.tensor([1.0, 2, 3, 3.5]), "conv1": torch.tensor([4.0, 5, 6, 7])}
        choice = pick(scores, graph, prune_ratio=0.5, scope="global", min_channels=2)
        assert choice.plan.keep == {"conv0": (2, 3)}
        assert choice.not_pruned == [{"layer": "conv1", "reason": "its channels rank above the global threshold"}]

    def test_normalisation_undoes_the_scale_of_a_layer(self) -> None:
        graph = chain(8, 8)
        scores = drawn(graph)
        scaled = scores | {"conv1": 1000 * scores["conv1"]}
        for how in ("mean", "max", "l2", "ranks"):
            first = pick(scores, graph, prune_ratio=0.5, scope="global", normalise=how)
            assert pick(scaled, graph, prune_ratio=0.5, scope="global", normalise=how).plan == first.plan
        assert pick(scaled, graph, prune_ratio=0.5, scope="global").plan.keep.keys() == {"conv0"}

    @pytest.mark.parametrize(("how", "loser"), [("mean", "narrow"), ("max", "narrow"), ("l2", "wide")])
    def test_only_the_l2_norm_looks_at_the_width(self, how: str, loser: str) -> None:
        """Scores of about 1 everywhere, the two lowest in the narrow layer: divided by 2 and by sqrt(8)."""
        scores = {"conv0": torch.tensor([1.0, 1, 0.9, 0.9]), "conv1": torch.ones(8)}
        choice = pick(scores, chain(4, 8), prune_ratio=2 / 12, scope="global", normalise=how)
        assert choice.plan.keep == ({"conv0": (0, 1)} if loser == "narrow" else {"conv1": (2, 3, 4, 5, 6, 7)})

    def test_ranks_by_hand(self) -> None:
        """Means are 1.5 and 33.25, so that the order of all is conv1's first three, conv0's two, conv1's last."""
        scores = {"conv0": torch.tensor([1.0, 2]), "conv1": torch.tensor([10.0, 11, 12, 100])}
        found = comparable(scores, "ranks")
        torch.testing.assert_close(found["conv0"], torch.tensor([1 / 4 + 7 / 12, 3 / 4 + 9 / 12]) / 2)
        expected = torch.tensor([1 / 8 + 1 / 12, 3 / 8 + 3 / 12, 5 / 8 + 5 / 12, 7 / 8 + 11 / 12]) / 2
        torch.testing.assert_close(found["conv1"], expected)

    def test_ranks_keep_the_order_in_a_layer(self) -> None:
        scores = drawn(chain(8, 16, 5))
        for name, values in comparable(scores, "ranks").items():
            assert values.argsort().tolist() == scores[name].argsort().tolist()
            assert ((values > 0) & (values < 1)).all()

    def test_a_group_counts_once(self) -> None:
        graph = FakeGraph(chain(4, 4, 4).layers, together=(("conv0", "conv2"),))
        scores = {"conv0": torch.arange(4.0), "conv1": 100 + torch.arange(4.0), "conv2": torch.arange(4.0)}
        choice = pick(scores, graph, prune_ratio=0.25, scope="global", coupling="aligned")
        assert choice.plan.keep == {"conv0": (2, 3), "conv2": (2, 3)}


class TestTarget:
    widths = (16,) * 19 + (32,) * 18 + (64,) * 18

    @pytest.mark.parametrize("scope", ["layer", "global"])
    @pytest.mark.parametrize("target", [0.95, 0.5, 0.26, 0.1])
    def test_nearest_on_a_deep_net(self, scope: str, target: float) -> None:
        graph = chain(*self.widths)
        choice = pick(drawn(graph), graph, target_macs=target, scope=scope)
        assert choice.achieved["macs_kept"] == pytest.approx(target, abs=0.002)
        assert graph.num_counted < 40
        assert choice.achieved["target"] == target
        assert choice.achieved["reached"] == choice.achieved["macs_kept"]

    def test_uniform_up_to_one_channel(self) -> None:
        graph = chain(*[64] * 20)
        counts = kept(pick(drawn(graph), graph, target_macs=0.5), graph)
        assert max(counts) - min(counts) <= 1

    def test_params(self) -> None:
        graph = chain(*self.widths)
        assert pick(drawn(graph), graph, target_params=0.37).achieved["params_kept"] == pytest.approx(0.37, abs=0.001)

    def test_few_channels_use_the_mixture_that_is_nearest(self) -> None:
        graph = chain(6, 16, 40)
        shares = [pick(drawn(graph), graph, target_macs=t).achieved["macs_kept"] for t in (0.3, 0.45, 0.6, 0.77)]
        assert shares == pytest.approx([0.3, 0.45, 0.6, 0.77], abs=0.011)

    def test_rounding_and_grouping_hold_under_a_target(self) -> None:
        layers = chain(*[32] * 30).layers
        graph = FakeGraph(layers, together=(tuple(f"conv{i}" for i in range(0, 30, 3)),))
        choice = pick(drawn(graph), graph, target_macs=0.5, round_to=8, coupling="aligned")
        assert set(kept(choice, graph)) <= {8, 16, 24, 32}
        assert len({choice.plan.keep.get(f"conv{i}") for i in range(0, 30, 3)}) == 1
        assert choice.achieved["macs_kept"] == pytest.approx(0.5, abs=0.05)

    def test_all_stay_at_one(self) -> None:
        graph = chain(8, 8)
        choice = pick(drawn(graph), graph, target_macs=1.0)
        assert choice.plan == Plan(keep={})
        assert {entry["reason"] for entry in choice.not_pruned} == {"the target is met without it"}

    def test_out_of_reach_names_what_can_be_reached(self) -> None:
        graph = chain(8, 8)
        with pytest.raises(UserError, match=r"target_macs=0.05 is out of reach: .* at their floor (0\.\d+) of"):
            pick(drawn(graph), graph, target_macs=0.05, protect=0.5)
        least = math.ceil(1e4 * (0.5e6 + 0.25e6 + 500) / 2_001_000) / 1e4
        with pytest.raises(UserError, match=f"{least:g} of"):
            pick(drawn(graph), graph, target_macs=0.05, protect=0.5)
        assert kept(pick(drawn(graph), graph, target_macs=least, protect=0.5), graph) == [4, 4]


class TestIterative:
    @pytest.mark.parametrize("scope", ["layer", "global"])
    def test_dead_channels_stay_dead(self, scope: str) -> None:
        graph = chain(40, 40)
        plan: Plan | None = None
        for step in range(1, 4):
            scores = drawn(graph, seed=step)
            choice = pick(scores, graph, prune_ratio=0.488, scope=scope, fraction=step / 3, within=plan)
            if plan is not None:
                for name, before in plan.keep.items():
                    assert set(choice.plan.keep[name]) <= set(before)
            plan = choice.plan
        assert choice.achieved["channels_kept"] == pytest.approx(0.512, abs=0.03)

    def test_target_steps(self) -> None:
        graph = chain(*TestTarget.widths)
        scores, plan, shares = drawn(graph), None, []
        for step in (1, 2):
            choice = pick(scores, graph, target_macs=0.25, fraction=step / 2, within=plan)
            plan = choice.plan
            shares.append(choice.achieved["macs_kept"])
        assert shares == pytest.approx([0.5, 0.25], abs=0.003)

    def test_what_the_earlier_plan_says_of_other_layers_stays(self) -> None:
        graph = chain(4, 4)
        before = Plan(keep={"conv1": (0, 2)}, inputs={"conv1": (1, 3)})
        choice = pick({"conv0": torch.arange(4.0)}, graph, prune_ratio=0.5, within=before)
        assert choice.plan == Plan(keep={"conv0": (2, 3), "conv1": (0, 2)}, inputs={"conv1": (1, 3)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio must be a number in \[0, 1\) \(the share that goes\) or .*, got 1.0"),
        ({"prune_ratio": -0.1}, "got -0.1"),
        ({}, "exactly one of prune_ratio, target_macs, target_params and target_latency .* got none"),
        ({"prune_ratio": 0.5, "target_macs": 0.5}, "got prune_ratio=0.5 and target_macs=0.5"),
        (
            {"target_macs": 1.2},
            r"target_macs must be a number in \(0, 1\] \(the share of the dense net that stays\) or null, got 1.2",
        ),
        ({"target_params": 0.0}, r"target_params .* got 0.0"),
        (
            {"prune_ratio": 0.5, "scope": "globl"},
            "scope must be one of layer, global, got 'globl'; did you mean global",
        ),
        ({"prune_ratio": 0.5, "coupling": "alined"}, "coupling must be one of free, aligned"),
        ({"prune_ratio": 0.5, "normalise": "l1"}, "normalise must be one of none, mean, max, l2, ranks"),
        ({"prune_ratio": 0.5, "count": "round"}, "count must be one of prune_floor, keep_floor"),
        ({"prune_ratio": 0.5, "round_to": 0}, "round_to must be a whole number of at least 1, got 0"),
        ({"prune_ratio": 0.5, "min_channels": -1}, "min_channels must be a whole number of at least 0, got -1"),
        ({"prune_ratio": 0.5, "protect": 1.5}, r"protect must be a number in \[0, 1\], got 1.5"),
        ({"prune_ratio": 0.5, "fraction": 0.0}, r"fraction must be a number in \(0, 1\], got 0.0"),
        ({"prune_ratio": {"conv0": 0.5}, "scope": "global"}, "a table of ratios needs scope=layer"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    graph = chain(8, 8)
    with pytest.raises(UserError, match=message):
        pick(drawn(graph), graph, **options)


def test_bad_scores() -> None:
    graph = chain(4)
    with pytest.raises(UserError, match="scores of layer conv0 are not finite"):
        pick({"conv0": torch.tensor([1.0, float("nan"), 2, 3])}, graph, prune_ratio=0.5)
    with pytest.raises(UserError, match="'conv9', which is no layer of the net; did you mean conv0"):
        pick({"conv9": torch.ones(4)}, graph, prune_ratio=0.5)
    with pytest.raises(UserError, match="nothing to prune"):
        pick({}, graph, prune_ratio=0.5)
    with pytest.raises(ValueError, match=r"conv0 has 4 channels but scores of shape \(5,\)"):
        pick({"conv0": torch.ones(5)}, graph, prune_ratio=0.5)
