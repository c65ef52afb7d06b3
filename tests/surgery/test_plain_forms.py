"""Operations that are two in one are followed as the two: exact, counted right, and every layer can be cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.surgery.properties import check_net

Compute = Callable[["Three", Tensor], Tensor]


class Three(nn.Module):
    """Three convolutions whose outputs ``compute`` brings together."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.compute(self, x).mean((2, 3)))


FORMS: dict[str, tuple[Compute, set[str]]] = {
    "a scaled summand": (lambda n, x: torch.add(n.a(x), n.b(n.a(x)), alpha=0.5), {"b"}),
    "scaled, as a method": (lambda n, x: (h := n.a(x).relu()).add(n.b(h), alpha=2), {"a", "b"}),
    "scaled, subtracted": (lambda n, x: torch.sub((h := n.a(x).relu()), n.b(h), alpha=3), {"a", "b"}),
    "scaled, by name": (lambda n, x: torch.add((h := n.a(x).relu()), other=n.b(h), alpha=0.5), {"a", "b"}),
    "sum of a stack": (lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h), n.c(h)]).sum(0), {"a", "b", "c"}),
    "mean of a stack": (lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h)], 1).mean(dim=1), {"a", "b"}),
    "stack, last dimension": (lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h)], -1).sum(-1), {"a", "b"}),
    "largest of a stack": (lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h)]).amax([0]), {"a", "b"}),
    "a stack, by name": (lambda n, x: torch.stack(tensors=[(h := n.a(x).relu()), n.b(h)], dim=0).sum(0), {"a", "b"}),
    "mean by axis": (lambda n, x: n.b(n.a(x).relu()).mean(axis=3, keepdim=True), {"a", "b"}),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_forms(form: str, tmp_path: Path) -> None:
    compute, cut = FORMS[form]
    torch.manual_seed(0)
    net, x = Three(compute).eval(), torch.randn(4, 3, 6, 6)
    graph = ChannelGraph.trace(net, x[:1])
    called = {name for name in graph.layers if name != "fc" and graph.why_not(name) is None}
    assert called == cut
    assert all(check_net(net, x, seed, tmp_path) for seed in range(3))


def test_what_is_written_between_a_stack_and_its_sum(tmp_path: Path) -> None:
    """The stack has copied its pieces before."""

    def compute(net: Three, x: Tensor) -> Tensor:
        h = net.a(x).relu()
        both = torch.stack([h, net.b(h)])
        h.mul_(2)
        return both.sum(0) + net.c(h)

    net, x = Three(compute).eval(), torch.randn(4, 3, 6, 6)
    assert ChannelGraph.trace(net, x[:1]).why_not("b") is None
    assert check_net(net, x, 0, tmp_path)


@pytest.mark.parametrize(
    "compute",
    [
        lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h)]).sum((0, 3), keepdim=True)[0],
        lambda n, x: torch.stack([(h := n.a(x).relu()), n.b(h)]).softmax(0).sum(0),
    ],
)
def test_a_stack_that_is_taken_together_otherwise_stays(compute: Compute, tmp_path: Path) -> None:
    net, x = Three(compute).eval(), torch.randn(4, 3, 6, 6)
    graph = ChannelGraph.trace(net, x[:1])
    assert "stack" in str(graph.why_not("b"))


SHAPED: dict[str, Compute] = {
    "ones": lambda n, x: (h := n.a(x).relu()) + torch.ones(h.shape),
    "a product": lambda n, x: (h := n.a(x).relu()) * torch.full(h.shape, 2.0),
    "new": lambda n, x: (h := n.a(x).relu()) + h.new_full(h.size(), 0.5),
    "part of a shape": lambda n, x: (h := n.a(x).relu()) + torch.ones(h.shape[1:]),
    "read singly": lambda n, x: (h := n.a(x).relu()) + torch.ones(1, h.shape[1], 1, 1).expand(*h.shape),
    "zeros": lambda n, x: torch.cat([(h := n.a(x).relu()), torch.zeros(h.shape)], 1)[:, :8],
}


@pytest.mark.parametrize("form", sorted(SHAPED))
def test_tensors_that_are_made_in_the_shape_of_a_cut_one(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Three(lambda n, x: n.b(SHAPED[form](n, x))).eval()
    assert all(check_net(net, torch.randn(4, 3, 6, 6), seed, tmp_path) for seed in range(4))


@pytest.mark.parametrize("divisor", [2, 3])
def test_a_size_as_a_condition(divisor: int, tmp_path: Path) -> None:
    """Not only ``if x.shape[3] % 2 == 1``."""

    def padded(net: Three, x: Tensor) -> Tensor:
        if x.shape[3] % divisor:
            x = nn.functional.pad(x, (0, 1))
        return net.b(net.a(x).relu())

    net, x = Three(padded).eval(), torch.randn(4, 3, 6, 6)
    graph = ChannelGraph.trace(net, x[:1])
    assert graph.why_not("a") is None
    assert check_net(net, x, 0, tmp_path)
    small = shrink(net, graph, Plan({"a": (0, 3)}))
    torch.save(small, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(again(x), small(x))
    with pytest.raises(UserError, match="another branch"):
        again(torch.zeros(2, 3, 6, 7))
