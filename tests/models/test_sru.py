"""The SRU language model against the paper's equations, the official counts and a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.models.sru import SRULayer, sru
from prunebench.models.sru_recurrence import recurrence


def plain(u: Tensor, skip: Tensor, vector: Tensor, bias: Tensor, c: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's equations, one step at a time, differentiated by autograd."""
    outputs = []
    for u_t, x_t in zip(u, skip, strict=True):
        f = torch.sigmoid(u_t[:, 1] + vector[0] * c + bias[0])
        r = torch.sigmoid(u_t[:, 2] + vector[1] * c + bias[1])
        c = f * c + (1 - f) * u_t[:, 0]
        outputs.append(x_t + (c - x_t) * mask * r)
    return torch.stack(outputs), c


@pytest.fixture
def inputs() -> list[Tensor]:
    time, streams, width = 6, 2, 3
    shapes = [(time, streams, 3, width), (time, streams, width), (2, width), (2, width), (streams, width)]
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("block", [1, 12, 10**9])
@pytest.mark.parametrize("dropped", [False, True])
def test_outputs_and_gradients_are_those_of_a_plain_loop(
    inputs: list[Tensor], block: int, dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunebench.models.sru_recurrence.BLOCK", block)
    mask = (
        torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]], dtype=torch.float64) if dropped else torch.ones(2, 3).double()
    )
    projected, x, vector, bias, start = inputs
    ours = recurrence(projected, x, vector, bias, start, mask if dropped else None)
    expected = plain(projected, x, vector, bias, start, mask)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)
    weights = [torch.randn_like(value) for value in expected]
    grads = [
        torch.autograd.grad([(w * v).sum() for w, v in zip(weights, values, strict=True)], inputs)
        for values in (ours, expected)
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_the_steps_of_the_specification() -> None:
    u = torch.tensor([[1.0, 0.5, -0.5], [0.5, -1.0, 1.0], [-1.0, 0.0, 0.0]]).view(3, 1, 3, 1)
    vector, bias = torch.tensor([[0.3], [-0.2]]), torch.tensor([[0.0], [-3.0]])
    x = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    h, c = recurrence(u, x, vector, bias, torch.zeros(1, 1), None)
    assert h.flatten().tolist() == pytest.approx([0.9817543, 1.8287656, 2.8603742], abs=1e-6)
    assert float(c) == pytest.approx(-0.2169621, abs=1e-6)
    cells = [float(recurrence(u[:n], x[:n], vector, bias, torch.zeros(1, 1), None)[1]) for n in (1, 2)]
    assert cells == pytest.approx([0.3775407, 0.4642684], abs=1e-6)
    h, _ = recurrence(u, math.sqrt(1 + 2 * math.exp(-3)) * x, vector, bias, torch.zeros(1, 1), None)
    assert h.flatten().tolist() == pytest.approx([1.0289354, 1.9151382, 2.9998627], abs=1e-6)


def test_flops_parameters_and_macs() -> None:
    with torch.device("meta"):
        net, normed = sru(), sru(layer_norm=True)
    assert sum(p.numel() for p in net.parameters()) == 34_541_414
    assert sum(p.numel() for p in normed.parameters()) == 34_572_384
    prunable = sum(p.numel() for name, p in net.named_parameters() if ".project" in name)
    assert prunable == 33_799_360
    # the settings of the official README, counts from the official classes
    for sizes, expected in (
        ({"layers": 8, "width": 1312, "rank": None}, 37_577_238),
        ({"layers": 10, "width": 1152, "rank": None}, 37_100_918),
        ({"layers": 8, "width": 3056, "rank": 512}, 47_083_238),
        ({"layers": 12, "width": 2048, "rank": 512, "embedding": 256}, 48_805_325),
    ):
        with torch.device("meta"):
            assert sum(p.numel() for p in sru(**sizes).parameters()) == expected
    parts = {"embedding": 42_025, "layers.0.project": 2_505_920, "layers.3.project": 6_258_688, "output": 626_685}
    for name, expected in parts.items():
        assert sum(p.numel() for p in net.get_submodule(name).parameters()) == expected, name


def test_macs_of_one_symbol_are_the_weights_of_the_matrices() -> None:
    net = sru(num_symbols=50, layers=3, width=32, rank=8, embedding=16, dropout=0.2)
    first, other, last = 16 * 4 * 32, 32 * 8 + 8 * 3 * 32, 32 * 50
    for window in (12, 5):
        counted = cost.count(net, torch.zeros(1, window, dtype=torch.long), samples=window)
        assert counted.macs == first + 2 * other + last
        assert sum(row["macs"] for row in counted.per_layer) == counted.macs


def test_a_window_in_two_parts_is_the_same_window() -> None:
    net = sru(num_symbols=9, layers=3, width=8, rank=4).eval()
    symbols = torch.randint(0, 9, (2, 11))
    whole, last = net(symbols)
    first, state = net(symbols[:, :4])
    second, again = net(symbols[:, 4:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(again, last)
    assert last.shape == (3, 2, 8)
    # no symbol sees a later one
    changed = symbols.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 9
    assert torch.equal(net(changed)[0][:, :6], whole[:, :6])


def test_layer_norm_sees_what_the_matrix_gets_and_not_the_highway() -> None:
    layer = SRULayer(num_inputs=4, width=4, rank=None, dropout=0.0, layer_norm=True, rescale=False, highway_bias=-100.0)
    x = torch.randn(5, 2, 4)
    output, _ = layer(x, torch.zeros(2, 4))
    torch.testing.assert_close(output, x)  # the reset gate is shut: all that is left is the raw input


def test_dropout_is_constant_over_the_window_and_absent_in_the_last_layer() -> None:
    layer = SRULayer(num_inputs=6, width=6, rank=None, dropout=0.5, layer_norm=False, rescale=False, highway_bias=0.0)
    x = torch.randn(7, 3, 6)
    output, _ = layer(x, torch.zeros(3, 6))
    passed = (output - x).abs() < 1e-12  # a dropped unit lets only the highway through
    assert torch.equal(passed.all(0), passed.any(0)) and 0 < int(passed[0].sum()) < 18
    net = sru(num_symbols=9, layers=3, width=8, rank=4, dropout=0.3)
    assert [layer.dropout for layer in net.layers] == [0.3, 0.3, 0.0]


def test_initial_weights() -> None:
    net = sru(num_symbols=300, layers=2, width=400, rank=100)
    assert float(net.embedding.weight.detach().abs().max()) == pytest.approx(0.1, rel=1e-3)  # sqrt(3 / 300)
    assert not net.output.bias.any()
    layer = net.layers[1]
    assert torch.equal(layer.get_parameter("bias"), torch.cat((torch.zeros(400), torch.full((400,), -3.0))))
    assert float(layer.vector.detach().abs().max()) == pytest.approx(math.sqrt(1.5), rel=1e-2)


def test_mixed_precision_keeps_the_state_in_full() -> None:
    net = sru(num_symbols=9, layers=2, width=8, rank=4)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = net(torch.randint(0, 9, (2, 5)))
    assert logits.dtype == torch.bfloat16 and state.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width must be a whole number of at least 1, got 0"),
        ({"rank": 0}, "rank must be a whole number"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_bad_sizes_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        sru(**settings)  # type: ignore[arg-type]
