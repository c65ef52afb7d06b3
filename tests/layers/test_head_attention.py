"""The attention whose heads can be cut, against torch's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.layers.head_attention import HeadAttention

KINDS: dict[str, dict[str, Any]] = {
    "same widths": {},
    "other widths": {"kdim": 6, "vdim": 5},
    "no bias": {"bias": False},
}


def pair(*, batch_first: bool, **options: Any) -> tuple[nn.MultiheadAttention, HeadAttention]:
    torch.manual_seed(0)
    original = nn.MultiheadAttention(16, 4, batch_first=batch_first, **options).eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.5)
    return original, HeadAttention(original)


def masks() -> list[tuple[Tensor | None, Tensor | None]]:
    """For two queries' worth of samples: masks of the scores, masks of the keys."""
    barred = torch.rand(7, 5) > 0.7
    each = torch.rand(3 * 4, 7, 5) > 0.7
    barred[:, 0], each[..., 0] = False, False
    padding = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    return [(None, None), (torch.randn(7, 5), None), (barred, None), (each, padding), (None, padding)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_torch_computes(kind: str, batch_first: bool) -> None:
    original, ours = pair(batch_first=batch_first, **KINDS[kind])
    query = torch.randn(3, 7, 16)
    key, value = (torch.randn(3, 5, KINDS[kind].get(name, 16)) for name in ("kdim", "vdim"))
    inputs = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    for (mask, padding), weights, mean in itertools.product(masks(), (True, False), (True, False)):
        options: dict[str, Any] = {"need_weights": weights, "average_attn_weights": mean}
        options |= {"attn_mask": mask, "key_padding_mask": padding}
        expected, found = original(*inputs, **options), ours(*inputs, **options)
        torch.testing.assert_close(found[0], expected[0])
        if weights:
            torch.testing.assert_close(found[1], expected[1])
        else:
            assert found[1] is expected[1] is None
    alone = [x.select(0 if batch_first else 1, 1) for x in inputs]
    for one, other in zip(original(*alone), ours(*alone), strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_go_both_ways(kind: str) -> None:
    original, ours = pair(batch_first=True, **KINDS[kind])
    state = dict(ours.state_dict())
    ours.to_written(state, "")
    torch.testing.assert_close(state, dict(original.state_dict()), rtol=0, atol=0)
    nn.init.normal_(original.out_proj.weight)
    state = {f"block.{name}": tensor for name, tensor in original.state_dict().items()}
    ours.from_written(state, "block.")
    ours.load_state_dict({name.removeprefix("block."): tensor for name, tensor in state.items()})
    x = torch.randn(2, 4, 16)
    if kind != "other widths":
        torch.testing.assert_close(ours(x, x, x)[0], original(x, x, x)[0])


def test_dropout_is_of_the_weights_and_in_training_only() -> None:
    ours = HeadAttention(nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=True))
    x = torch.randn(2, 4, 16)
    for weights in (True, False):
        assert not torch.equal(ours.train()(x, x, x, need_weights=weights)[0], ours(x, x, x, need_weights=weights)[0])
        assert torch.equal(ours.eval()(x, x, x, need_weights=weights)[0], ours(x, x, x, need_weights=weights)[0])


def test_it_draws_no_random_numbers_as_it_is_made() -> None:
    original = nn.MultiheadAttention(16, 4)
    before = torch.get_rng_state()
    HeadAttention(original)
    assert torch.equal(before, torch.get_rng_state())


def test_what_it_stands_for() -> None:
    class Own(nn.MultiheadAttention):
        pass

    assert HeadAttention.fits(nn.MultiheadAttention(8, 2))
    for other in (
        Own(8, 2),
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        nn.MultiheadAttention(8, 2, add_zero_attn=True),
    ):
        assert not HeadAttention.fits(other)
    hooked = nn.MultiheadAttention(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert not HeadAttention.fits(hooked)
