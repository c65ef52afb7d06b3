"""The threshold through all scales: the official rule, several passes, floors, targets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.budget.by_scales import Amount, choose_by_scales
from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.norm_scales import norm_scales
from prunebench.surgery.plan import Plan


class Two(nn.Module):
    """Two convolutions with norms, of 3 and 4 channels by default."""

    def __init__(self, first: int = 3, second: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first)
        self.conv2, self.bn2 = nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second)
        self.fc = nn.Linear(second, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def cut(one: list[float], two: list[float], amount: Amount, **how_far) -> Plan:
    graph = ChannelGraph.trace(Two(len(one), len(two)), torch.zeros(1, 3, 8, 8))
    values = {"bn1": torch.tensor(one), "bn2": torch.tensor(two)}
    return choose_by_scales(values, norm_scales(graph)[0], graph, amount, **how_far).plan


def test_hand_example() -> None:
    # T = 7, int(7 * 0.4) = 2, the third smallest is 0.2: three channels go, though 0.4 * 7 = 2.8
    plan = cut([0.9, -0.1, 0.5], [0.3, 0.05, -0.7, 0.2], Amount(prune_ratio=0.4))
    assert plan.keep == {"conv1": (0, 2), "conv2": (0, 2)}


def test_ties_with_the_threshold_go_too() -> None:
    plan = cut([0.9, 0.2, 0.2], [0.2, 0.2, 0.7, 0.8], Amount(prune_ratio=0.1))
    assert plan.keep == {"conv1": (0,), "conv2": (2, 3)}


def test_a_count_is_whole_up_to_float_noise() -> None:
    # 10 * 0.3 = 3.0000000000000004 or 2.9999999999999996: y[3] in any case
    values = [i / 10 for i in range(1, 11)]
    plan = cut(values[:5], values[5:], Amount(prune_ratio=0.3))
    assert plan.keep == {"conv1": (4,)}


def test_ratio_zero_cuts_nothing() -> None:
    assert cut([0.9, 0.1, 0.5], [0.3, 0.0, 0.7, 0.2], Amount(prune_ratio=0.0)) == Plan()


def test_a_layer_keeps_its_largest_scale() -> None:
    plan = cut([0.01, -0.03, 0.02], [0.5, 0.6, 0.7, 0.8], Amount(prune_ratio=0.5))
    assert plan.keep["conv1"] == (1,)
    plan = cut([0.01, -0.03, 0.02], [0.5, 0.6, 0.7, 0.8], Amount(prune_ratio=0.5, min_channels=2))
    assert plan.keep["conv1"] == (1, 2)


def test_passes_take_equal_shares_of_what_is_left() -> None:
    one, two = [0.1, 0.2, 0.3, 0.4], [0.15, 0.25, 0.35, 0.45]
    amount = Amount(prune_ratio=0.75)  # two passes of one half
    first = cut(one, two, amount, done=0.0, fraction=0.5)
    assert first.keep == {"conv1": (3,), "conv2": (2, 3)}  # y[4] = 0.3, strictly above
    # the first pass's channels do not count, whatever their scales are: T = 3, y[1]
    second = cut([9, 9, 9, 0.4], [9, 9, 0.35, 0.45], amount, done=0.5, fraction=1.0, within=first)
    assert second.keep == {"conv1": (3,), "conv2": (3,)}  # conv1's only channel stays


def test_a_pass_takes_at_most_a_share_of_each_layer() -> None:
    one, two = [0.1, 0.1, 0.2, 0.2], [1.0, 1.1, 1.2, 1.3]
    assert cut(one, two, Amount(prune_ratio=0.4)).keep == {"conv1": (3,)}
    amount = Amount(prune_ratio=0.4, max_layer_ratio=0.5)
    assert cut(one, two, amount).keep == {"conv1": (2, 3)}
    again = cut(one, two, amount, done=0.0, fraction=1.0, within=Plan({"conv1": (2, 3)}))
    assert again.keep == {"conv1": (3,), "conv2": (1, 2, 3)}  # T = 6, y[2] = 1.0; half of the two that are left


def test_a_share_of_each_layer() -> None:
    # the paper's MNIST net: 80 % of each layer, 784-500-300-10 becomes 784-100-60-10
    one, two = torch.rand(500).tolist(), torch.rand(300).tolist()
    plan = cut(one, two, Amount(prune_ratio=0.8, scope="layer"))
    assert [len(plan.keep[name]) for name in ("conv1", "conv2")] == [100, 60]
    assert min(one[i] for i in plan.keep["conv1"]) >= max(set(one) - {one[i] for i in plan.keep["conv1"]})


@pytest.mark.parametrize("what", ["macs", "params"])
def test_a_target_is_met(what: str) -> None:
    torch.manual_seed(0)
    graph = ChannelGraph.trace(Two(40, 60), torch.zeros(1, 3, 8, 8))
    values = {"bn1": torch.rand(40), "bn2": torch.rand(60)}

    def amount(share: float) -> Amount:
        return Amount(target_macs=share) if what == "macs" else Amount(target_params=share)

    choice = choose_by_scales(values, norm_scales(graph)[0], graph, amount(0.3))
    size = graph.macs if what == "macs" else graph.params
    assert size(choice.plan) / size(Plan()) == pytest.approx(0.3, abs=0.006)  # one channel is 0.01
    assert choice.achieved["reached"] == size(choice.plan) / size(Plan())
    with pytest.raises(UserError, match="out of reach"):
        choose_by_scales(values, norm_scales(graph)[0], graph, amount(1e-6))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prune_ratio": 1.0}, r"prune_ratio must be a number in \[0, 1\)"),
        ({"prune_ratio": 0.5, "target_macs": 0.5}, "exactly one"),
        ({}, "exactly one"),
        ({"prune_ratio": {"conv1": 0.5}}, r"prune_ratio must be a number in .* got \{\'conv1\': 0.5\}"),
        ({"prune_ratio": 0.5, "scope": "globe"}, "did you mean global"),
        ({"prune_ratio": 0.5, "min_channels": 0}, "min_channels"),
        ({"prune_ratio": 0.5, "max_layer_ratio": 0}, "max_layer_ratio"),
        ({"prune_ratio": 0.5, "round_to": 0}, "round_to"),
    ],
)
def test_bad_amounts_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Amount(**settings)


def test_scales_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="scales of bn1 are not finite"):
        cut([float("nan"), 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], Amount(prune_ratio=0.4))
