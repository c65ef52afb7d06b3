"""The forward passes of torch's own transformer layers, written so that they can be followed.

Torch's ask for shapes and for a fused kernel; what they compute without it is this. The graph is compared with the net
afterwards, as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def followed(module: nn.Module) -> Callable[..., Any] | None:
    """The forward pass to follow in place of the module's own; None for anything else than torch's layers."""
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    found = next((rule for kind, rule in _FORWARDS.items() if type(module).forward is kind.forward), None)
    return None if found is None or hooked else lambda *args, **kwargs: found(module, *args, **kwargs)


def _encoder(module: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: Any = None) -> Any:
    for layer in module.layers:  # the mask says all that ``is_causal`` says
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if module.norm is None else module.norm(src)


def _encoder_layer(
    module: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: Any = False
) -> Any:
    attend = _attention(module.self_attn, module.dropout1, src_mask, src_key_padding_mask)
    return _blocks(module, src, [(module.norm1, lambda x: attend(x, x)), (module.norm2, _feed(module, "dropout2"))])


def _decoder(
    module: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: Any = None,
    memory_is_causal: Any = False,
) -> Any:
    for layer in module.layers:
        tgt = layer(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
        )
    return tgt if module.norm is None else module.norm(tgt)


def _decoder_layer(
    module: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: Any = False,
    memory_is_causal: Any = False,
) -> Any:
    own = _attention(module.self_attn, module.dropout1, tgt_mask, tgt_key_padding_mask)
    other = _attention(module.multihead_attn, module.dropout2, memory_mask, memory_key_padding_mask)
    parts = [(module.norm1, lambda x: own(x, x)), (module.norm2, lambda x: other(x, memory))]
    return _blocks(module, tgt, [*parts, (module.norm3, _feed(module, "dropout3"))])


def _attention(attention: Any, dropout: Any, mask: Any, padding: Any) -> Callable[[Any, Any], Any]:
    def attend(x: Any, memory: Any) -> Any:
        options = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": False}
        return dropout(attention(x, memory, memory, **options)[0])

    return attend


def _feed(module: Any, dropout: str) -> Callable[[Any], Any]:
    def feed(x: Any) -> Any:
        hidden = module.dropout(module.activation(module.linear1(x)))
        return getattr(module, dropout)(module.linear2(hidden))

    return feed


def _blocks(module: Any, x: Any, parts: list[tuple[Any, Callable[[Any], Any]]]) -> Any:
    """Residual branches with the norm in front of each, or behind its sum."""
    for norm, part in parts:
        x = x + part(norm(x)) if module.norm_first else norm(x + part(x))
    return x


_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.TransformerEncoder: _encoder,
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerDecoder: _decoder,
    nn.TransformerDecoderLayer: _decoder_layer,
}
