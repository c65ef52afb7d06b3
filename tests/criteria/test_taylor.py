from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.criteria.scorers import Criterion, look_at
from prunebench.criteria.taylor import Taylor, from_gradients, gate_gradients, in_batches, parameter_gradients
from prunebench.errors import UserError
from prunebench.methods.filter_pruning import FilterPruning
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.zero import zero
from tests.bare import bare_run


class Hand(nn.Module):
    """x -> ReLU(W1 x) -> W2 h, the net of the hand example."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3, bias=False), nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.one.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
            self.two.weight.copy_(torch.tensor([[1.0, 2.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)))


HAND = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([0.0, 1.0])


def squares(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (net(batch[0])[:, 0] - batch[1]).square().mean()


class Given:
    """Evidence of given samples."""

    device = torch.device("cpu")

    def __init__(self, net: nn.Module, batch: tuple[Tensor, Tensor], loss: Callable[..., Tensor] = squares) -> None:
        self.graph = ChannelGraph.trace(net, batch[0][:1])
        self.batch, self.loss = batch, loss

    def samples(self, purpose: str, number: int) -> list[tuple[Tensor, Tensor]]:
        return [tuple(part[:number] for part in self.batch)]  # type: ignore[list-item]


def scores(criterion: Criterion, net: nn.Module, given: Given, name: str, *group: str) -> list[float]:
    ready = criterion.prepare(net, given)
    return ready(look_at(name, net, given.graph, torch.Generator(), group=group)).tolist()


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("gate", [30.25, 144.0, 4.0]),
        ("per_example", [30.5, 208.0, 8.0]),
        ("weight", [30.25, 144.0, 10.0]),
        ("filter", [30.25, 144.0, 4.0]),
    ],
)
def test_by_hand(variant: str, expected: list[float]) -> None:
    net = Hand()
    assert squares(net, HAND).item() == 7.25
    assert scores(Taylor(variant=variant, num_samples=2), net, Given(net, HAND), "one") == expected


def test_gradients_by_hand() -> None:
    net = Hand()
    each = gate_gradients(net, {"one": net.one}, HAND, squares)["one"]
    assert (2 * each).tolist() == [[5.0, 20.0, 0.0], [6.0, 4.0, -4.0]]
    assert each.sum(0).tolist() == [5.5, 12.0, -2.0]
    assert from_gradients(torch.tensor([[1.0, 2.0], [3.0, 0.0]])).tolist() == [5.0, 2.0]


class Block(nn.Module):
    """Two convolutions with norms that meet in an addition, behind one with a norm that has random statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.plain = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(4, 3)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean = torch.randn(6)
            norm.running_var = torch.rand(6) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)) + x)
        return self.fc(F.relu(self.plain(x)).mean((2, 3)))


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 5, 5, generator=draws), torch.randint(0, 3, (8,), generator=draws)


def entropy(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


@pytest.mark.parametrize("train", [False, True])
def test_a_gate_is_scale_and_shift_of_the_norm(block: Block, batch: tuple[Tensor, Tensor], train: bool) -> None:
    """Also with an in-place activation behind it, and in training, where the statistics are those of the batch."""
    block.train(train).double()
    batch = batch[0].double(), batch[1]
    gates: dict[str, nn.Module] = {"conv1": block.norm1, "conv2": block.norm2, "plain": block.plain}
    places = {"conv1": "norm1", "conv2": "norm2", "plain": "plain"}
    names = {name: [f"{place}.weight", f"{place}.bias"] for name, place in places.items()}
    drawn = gate_gradients(block, gates, batch, entropy)
    found = parameter_gradients(block, names, batch, entropy, squared=False)
    for name, gradient in drawn.items():
        torch.testing.assert_close(gradient.sum(0), found[name][0], atol=1e-12, rtol=1e-9)


def test_a_gate_is_the_slope_of_the_loss(block: Block, batch: tuple[Tensor, Tensor]) -> None:
    """Central differences of the loss when the channel is scaled by 1 +- h."""
    block.eval().double()
    given = Given(block, (batch[0].double(), batch[1]), entropy)
    found = scores(Taylor(num_samples=8), block, given, "conv2")
    for channel, score in enumerate(found):
        values = []
        for step in (1e-4, -1e-4):
            scaled = copy.deepcopy(block)
            for parameter in (scaled.norm2.weight, scaled.norm2.bias):
                parameter.data[channel] *= 1 + step
            values.append(entropy(scaled, given.batch).item())
        assert score == pytest.approx(((values[0] - values[1]) / 2e-4) ** 2, rel=1e-4, abs=1e-14)


def test_layers_of_a_sum_share_one_gate(block: Block, batch: tuple[Tensor, Tensor]) -> None:
    given = Given(block, batch, entropy)
    rows = Taylor(num_samples=8).prepare(block, given).rows  # type: ignore[attr-defined]
    together = (rows["conv1"] + rows["conv2"])[0].square() / 2
    assert scores(Taylor(num_samples=8), block, given, "conv2", "conv1", "conv2") == pytest.approx(together.tolist())
    assert scores(Taylor(num_samples=8), block, given, "conv1", "conv1", "conv2") == pytest.approx(together.tolist())
    alone = scores(Taylor(num_samples=8), block, given, "conv2")
    assert alone == pytest.approx(rows["conv2"][0].square().tolist())


def test_the_net_comes_back_as_it_was(block: Block, batch: tuple[Tensor, Tensor]) -> None:
    before = copy.deepcopy(block.train().state_dict())
    Taylor(num_samples=8, statistics="batch").prepare(block, Given(block, batch, entropy))
    assert block.training and all(p.requires_grad and p.grad is None for p in block.parameters())
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_statistics_of_the_batch_are_those_of_training(block: Block, batch: tuple[Tensor, Tensor]) -> None:
    given = Given(block, batch, entropy)
    running, of_batch = (
        scores(Taylor(num_samples=8, statistics=s), block, given, "conv1") for s in ("running", "batch")
    )
    net = copy.deepcopy(block).train()
    expected = from_gradients(gate_gradients(net, {"conv1": net.norm1}, batch, entropy)["conv1"].sum(0, keepdim=True))
    assert of_batch == pytest.approx(expected.tolist(), rel=1e-4)
    assert of_batch != pytest.approx(running, rel=1e-2)


def test_mini_batches_are_cut_anew() -> None:
    values = torch.arange(11)
    parts = [(part, -part) for part in values.split(4)]
    sizes = [batch[0].tolist() for batch in in_batches(parts, 5)]
    assert sizes == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]]
    assert all(torch.equal(inputs, -labels) for inputs, labels in in_batches(parts, 5))


def test_smaller_batches_keep_what_larger_ones_cancel(block: Block, batch: tuple[Tensor, Tensor]) -> None:
    given = Given(block, batch, entropy)
    whole, single, each = (
        scores(Taylor(num_samples=8, batch_size=size, variant=variant), block, given, "conv1")
        for size, variant in ((8, "gate"), (1, "gate"), (8, "per_example"))
    )
    assert single == pytest.approx(each, rel=1e-4)
    assert all(one <= other + 1e-9 for one, other in zip(whole, single, strict=True))  # a mean's square is the smaller


def test_a_channel_without_effect_goes_first(block: Block) -> None:
    graph = ChannelGraph.trace(block, torch.zeros(1, 3, 5, 5))
    net = zero(block, graph, Plan(keep={"plain": (0, 2, 3)}))
    run = bare_run(net, torch.zeros(1, 3, 5, 5))
    method = FilterPruning(
        criterion=Taylor(num_samples=4), prune_ratio=0.25, layers=["plain"], scope="global", coupling="free"
    )
    method.check(net, run)
    run.note(method.prune(net, run))
    assert run.plan.keep == {"plain": (0, 2, 3)}


class Hidden(nn.Module):
    """Its norm has neither scale nor shift."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.conv(x)))).mean((2, 3))


def test_a_norm_without_parameters_has_gates_of_examples(batch: tuple[Tensor, Tensor]) -> None:
    net = Hidden()
    given = Given(net, batch, entropy)
    assert "criterion.variant=per_example" in str(Taylor(num_samples=8).refuses(given.graph.layers["conv"]))
    assert Taylor(num_samples=8, variant="per_example").refuses(given.graph.layers["conv"]) is None
    assert min(scores(Taylor(num_samples=8, variant="per_example"), net, given, "conv")) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "gates"}, r"variant must be one of gate, per_example.*did you mean gate"),
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, got 1.5"),
        ({"statistics": "own"}, "statistics must be one of running, batch, got 'own'"),
    ],
)
def test_bad_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Taylor(**options)  # type: ignore[arg-type]


def test_without_a_cut_there_is_no_score() -> None:
    run = bare_run(Block(), torch.zeros(1, 3, 5, 5), schedule="simultaneous")
    with pytest.raises(UserError, match="Taylor looks at data"):
        FilterPruning(criterion=Taylor(), prune_ratio=0.5).check(run.template, run)
