"""Transformer-XL against a double loop over queries and keys, the official counts and the paper's equivalence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.models.transformer_xl import RelativeAttention, relative_shift, sinusoids, transformer_xl, unseen

SMALL: dict[str, Any] = {
    "num_symbols": 11, "layers": 3, "width": 8, "heads": 2, "head_size": 4, "inner": 16, "mem_length": 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_symbols": 204}, 41_055_436),
        ({"num_symbols": 205}, 41_055_949),
        (
            {"num_symbols": 204, "layers": 24, "width": 1024, "heads": 8, "head_size": 128, "inner": 3072},
            277_231_820,
        ),
    ],
)
def test_parameters_of_the_official_classes(settings: dict[str, int], expected: int) -> None:
    with torch.device("meta"):
        net = transformer_xl(**settings)  # type: ignore[arg-type]
    assert sum(p.numel() for p in net.parameters()) == expected
    if len(net.layers) == 12:
        attention, feed_forward = (net.get_submodule(f"layers.0.{name}") for name in ("attention", "feed_forward"))
        assert sum(p.numel() for p in attention.parameters()) == 1_311_744
        assert sum(p.numel() for p in feed_forward.parameters()) == 2_100_736


def test_shift_by_hand() -> None:
    assert relative_shift(torch.tensor([[0, 1, 2], [10, 11, 12]])).tolist()[0][:2] == [1, 2]
    assert relative_shift(torch.tensor([[0, 1, 2], [10, 11, 12]])).tolist()[1] == [10, 11, 12]
    rows = torch.tensor([[0, 1, 2, 3, 4], [10, 11, 12, 13, 14], [20, 21, 22, 23, 24]])
    assert relative_shift(rows).tolist() == [[2, 3, 4, 0, 10], [11, 12, 13, 14, 0], [20, 21, 22, 23, 24]]


def test_attention_is_the_double_loop() -> None:
    layer = RelativeAttention(width=6, heads=2, head_size=3, dropout=0.0, attention_dropout=0.0).double()
    queries, past = 4, 3
    x, memory = torch.randn(2, queries, 6).double(), torch.randn(2, past, 6).double()
    u, v = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    table = sinusoids(past + queries, 6, None, x)
    # the scores are taken in float32 for mixed precision; here only the shape of the sum is in question
    ours = layer(x, memory, table, unseen(queries, past + queries, None, x.device), u, v)

    joined = torch.cat((memory, x), 1)
    wq, wk, wv = layer.qkv.weight.view(3, 2, 3, 6)
    wr = layer.position.weight.view(2, 3, 6)
    expected = torch.empty_like(x)
    for b in range(2):
        for i in range(queries):
            heads = []
            for h in range(2):
                q = wq[h] @ x[b, i]
                scores, values = [], []
                for j in range(i + past + 1):
                    distance = i + past - j
                    p = wr[h] @ table[past + queries - 1 - distance]
                    scores.append(((q + u[h]) @ (wk[h] @ joined[b, j]) + (q + v[h]) @ p) / math.sqrt(3))
                    values.append(wv[h] @ joined[b, j])
                heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
            expected[b, i] = layer.norm(x[b, i] + layer.out.weight @ torch.cat(heads))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_sinusoids() -> None:
    table = sinusoids(4, 4, None, torch.zeros(1))
    assert table[3].tolist() == [0, 0, 1, 1]  # distance 0
    expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    assert table[0].tolist() == pytest.approx(expected, abs=1e-6)
    clamped = sinusoids(4, 4, 1, torch.zeros(1))
    assert torch.equal(clamped[0], clamped[2]) and not torch.equal(clamped[2], clamped[3])


def test_every_query_sees_the_same_number_of_keys() -> None:
    hidden = unseen(4, 9, 5, torch.device("cpu"))
    assert hidden[0].nonzero().flatten().tolist() == [0, 6, 7, 8]
    assert hidden[3].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert (~hidden).sum(1).tolist() == [5, 5, 5, 5]


def test_a_memory_of_a_window_makes_two_windows_one() -> None:
    net = transformer_xl(**SMALL).double().eval()
    symbols = torch.randint(0, 11, (2, 12))
    whole, _ = net(symbols)
    _, state = net(symbols[:, :6])
    second, after = net(symbols[:, 6:], state)
    torch.testing.assert_close(second, whole[:, 6:], atol=1e-5, rtol=1e-5)
    assert state.shape == after.shape == (3, 2, 6, 8)
    # no symbol sees a later one
    changed = symbols.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    torch.testing.assert_close(net(changed)[0][:, :9], whole[:, :9])


def test_evaluation_may_remember_longer() -> None:
    net = transformer_xl(**SMALL, eval_mem_length=9, eval_clamp=4, same_length=True)
    symbols = torch.randint(0, 11, (1, 5))
    for training, expected in ((True, 6), (False, 9)):
        net.train(training)
        state = None
        for _ in range(3):
            logits, state = net(symbols, state)
        assert state.shape[2] == expected and torch.isfinite(logits).all()
    assert net.memory == "the last 9 outputs of each layer, distances clamped at 4, same_length True"


def test_output_and_embedding_share_their_table() -> None:
    net = transformer_xl(**SMALL).eval()
    logits, _ = net(torch.zeros(1, 3, dtype=torch.long))
    F.cross_entropy(logits.flatten(0, 1), torch.tensor([1, 2, 3])).backward()
    grad = net.embedding.weight.grad
    assert (grad.abs().sum(1) > 0).all()  # symbols that were not read have a gradient as outputs
    assert float(net.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.4)


def test_macs_of_a_first_window() -> None:
    window, width, inner, heads_size = 10, 8, 16, 8
    counted = cost.count(transformer_xl(**SMALL), torch.zeros(1, window, dtype=torch.long))
    keys = window
    layer = keys * width * 3 * heads_size + window * heads_size * width + 2 * window * width * inner
    layer += 3 * window * keys * heads_size + keys * width * heads_size
    assert counted.macs == 3 * layer + window * width * 11


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 7}, "width must be even"),
        ({"mem_length": 0}, "mem_length must be a whole number of at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_bad_sizes_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        transformer_xl(**settings)
