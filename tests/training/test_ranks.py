"""Processes that train together must begin with the same net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from prunebench.training import lit
from tests.small_nets import small_resnet


def kept(*channels: int) -> dict[str, Tensor]:
    """The state of a small net whose first block keeps these channels inside."""
    torch.manual_seed(0)
    net = small_resnet(num_classes=10, in_channels=1)
    graph = ChannelGraph.trace(net, torch.zeros(1, 1, 8, 8))
    return shrink(net, graph, Plan(keep={"layer1.0.conv1": channels})).state_dict()


def beside(other: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a second rank hold ``other``."""

    def all_reduce(mine: Tensor, op: object) -> None:
        assert op == torch.distributed.ReduceOp.MIN
        theirs = lit.digest(other)
        mine.copy_(torch.minimum(mine, torch.tensor([theirs, -theirs])))

    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)


def test_the_same_cut_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    beside(kept(0, 3, 5), monkeypatch)
    lit._same_everywhere(kept(0, 3, 5))


@pytest.mark.parametrize("channels", [(0, 3, 6), (0, 3)], ids=["other channels, same shapes", "other shapes"])
def test_another_cut_is_refused(channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    beside(kept(*channels), monkeypatch)
    with pytest.raises(AssertionError, match="different nets"):
        lit._same_everywhere(kept(0, 3, 5))


def test_names_types_and_values_of_any_type_count() -> None:
    plain = {"a": torch.ones(2, 3), "b": torch.tensor(True), "c": torch.tensor(3)}
    others = [
        {**plain, "b": torch.tensor(False)},
        {**plain, "c": torch.tensor(4)},
        {**plain, "a": torch.ones(3, 2)},
        {**plain, "a": torch.ones(2, 3, dtype=torch.bfloat16)},
        {"x" if name == "a" else name: value for name, value in plain.items()},
    ]
    digests = [lit.digest(state) for state in (plain, *others)]
    assert len(set(digests)) == len(digests)
    # the order in memory is not a difference
    image = torch.randn(2, 3, 4, 4)
    assert lit.digest({"w": image}) == lit.digest({"w": image.contiguous(memory_format=torch.channels_last)})
