"""A character language model of Simple Recurrent Units, as FLOP prunes it.

Tao Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", EMNLP 2018, arXiv 1709.02755, in the
version of ``asappresearch/flop:examples/enwik8/train_enwik8.py``: the recurrent matrices are products of two factors.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from prunebench.config.arguments import validated
from prunebench.config.ranges import FiniteFloat, FractionBelowOne, PositiveInt
from prunebench.models.sru_recurrence import recurrence

INPUTS = 3  # vectors that the recurrence takes from the matrix: candidate, forget gate, reset gate


class SRULayer(nn.Module):
    """One layer, single direction (``asappresearch/sru:sru/ops.py:145-250``).

    Args:
        num_inputs: size of the input; if it is not ``width``, the matrix also makes the highway's values.
        width: size of state and output.
        rank: the matrix is a product ``up(down(x))`` of this rank; None = one matrix. A rank that is not below both
            sizes is no use, and one matrix is taken (official code: ``n_proj``).
        dropout: share of the outputs that are dropped in training, the same ones over a whole window.
        layer_norm: normalise what the matrix gets; the highway keeps the raw input (``sru/modules.py:255-281``).
        rescale: scale the highway so that variances stay (``sru/modules.py:164-233``).
        highway_bias: initial bias of the reset gate.
    """

    def __init__(
        self,
        *,
        num_inputs: int,
        width: int,
        rank: int | None,
        dropout: float,
        layer_norm: bool,
        rescale: bool,
        highway_bias: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.dropout = dropout
        self.highway_bias = highway_bias
        self.scale = math.sqrt(1 + 2 * math.exp(highway_bias)) if rescale else 1.0
        self.own_skip = num_inputs != width
        self.norm = nn.LayerNorm(num_inputs) if layer_norm else nn.Identity()
        num_outputs = width * (INPUTS + self.own_skip)
        if rank is None or rank >= min(num_inputs, width):
            self.project: nn.Module = nn.Linear(num_inputs, num_outputs, bias=False)
        else:
            down, up = nn.Linear(num_inputs, rank, bias=False), nn.Linear(rank, num_outputs, bias=False)
            self.project = nn.Sequential(OrderedDict(down=down, up=up))
        self.vector = nn.Parameter(torch.empty(2 * width))  # v_f, v_r
        self.bias = nn.Parameter(torch.empty(2 * width))  # b_f, b_r
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw ``vector`` and set ``bias``; the matrices keep PyTorch's own initialisation, as in FLOP's script."""
        nn.init.uniform_(self.vector, -math.sqrt(1.5), math.sqrt(1.5))  # U(+-sqrt 3) x sqrt 0.5
        with torch.no_grad():
            self.bias.zero_()
            self.bias[self.width :] = self.highway_bias

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` [time, streams, inputs] and ``state`` [streams, width] to outputs [time, streams, width] and state."""
        u = self.project(self.norm(x)).unflatten(-1, (-1, self.width))
        # under automatic mixed precision the products come in 16 bits, and a state summed in them would drift
        u = u.to(torch.promote_types(u.dtype, self.vector.dtype))
        skip = u[:, :, INPUTS] if self.own_skip else x * self.scale if self.scale != 1.0 else x
        mask = None
        if self.training and self.dropout:
            mask = torch.empty_like(state).bernoulli_(1 - self.dropout) / (1 - self.dropout)
        pair = (2, self.width)
        return recurrence(u[:, :, :INPUTS], skip, self.vector.view(pair), self.bias.view(pair), state, mask)


class SRULanguageModel(nn.Module):
    """Embedding, dropout, SRU layers, dropout, linear output; see ``prunebench.core.language`` for how it is called.

    Args:
        num_symbols: size of the vocabulary V.
        layers, width: of the recurrent part.
        rank: of the matrices of all layers but the first; None = full.
        embedding: size of a symbol's vector; None = the smaller of V and ``width``.
        dropout: of embedding and output, and in every layer but the last (``sru/modules.py:554``).
        layer_norm, rescale, highway_bias: see :class:`SRULayer`.

    Raises:
        UserError: a value is out of range.
    """

    memory = "recurrent state, carried from the beginning of the stream"

    def __init__(
        self,
        *,
        num_symbols: int,
        layers: int,
        width: int,
        rank: int | None,
        embedding: int | None,
        dropout: float,
        layer_norm: bool,
        rescale: bool,
        highway_bias: float,
    ) -> None:
        super().__init__()
        size = min(num_symbols, width) if embedding is None else embedding
        self.width = width
        self.embedding = nn.Embedding(num_symbols, size)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            SRULayer(
                num_inputs=width if i else size,
                width=width,
                rank=rank if i else None,
                dropout=dropout if i < layers - 1 else 0.0,
                layer_norm=layer_norm,
                rescale=rescale,
                highway_bias=highway_bias,
            )
            for i in range(layers)
        )
        self.output = nn.Linear(width, num_symbols)
        self.initialise(self)

    @staticmethod
    def initialise(net: nn.Module) -> None:
        """Embedding and output weights from U(+-sqrt(3 / V)), output bias 0 (``train_enwik8.py:45-105``)."""
        embedding, output = net.get_submodule("embedding"), net.get_submodule("output")
        assert isinstance(embedding, nn.Embedding) and isinstance(output, nn.Linear)
        bound = math.sqrt(3 / embedding.num_embeddings)
        nn.init.uniform_(embedding.weight, -bound, bound)
        nn.init.uniform_(output.weight, -bound, bound)
        nn.init.zeros_(output.bias)

    def forward(self, symbols: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next symbols.

        Args:
            symbols: int64 ``[streams, time]``.
            state: ``[layers, streams, width]``; None = zeros, the beginning of a text.

        Returns:
            Logits ``[streams, time, symbols]`` and the state behind the last symbol.
        """
        if state is None:
            weight = self.embedding.weight
            state = torch.zeros(len(self.layers), len(symbols), self.width, dtype=weight.dtype, device=symbols.device)
        x = self.dropout(self.embedding(symbols.t()))  # [time, streams, size]
        states = []
        for layer, before in zip(self.layers, state.unbind(0), strict=True):
            x, after = layer(x, before)
            states.append(after)
        return self.output(self.dropout(x)).transpose(0, 1), torch.stack(states)


@validated
def sru(
    *,
    num_symbols: PositiveInt = 205,
    layers: PositiveInt = 6,
    width: PositiveInt = 3056,
    rank: PositiveInt | None = 512,
    embedding: PositiveInt | None = None,
    dropout: FractionBelowOne = 0.1,
    layer_norm: bool = False,
    rescale: bool = False,
    highway_bias: FiniteFloat = -3.0,
) -> SRULanguageModel:
    """The SRU language model; the defaults are FLOP's for enwik8 (34.5 M parameters)."""
    return SRULanguageModel(
        num_symbols=num_symbols,
        layers=layers,
        width=width,
        rank=rank,
        embedding=embedding,
        dropout=dropout,
        layer_norm=layer_norm,
        rescale=rescale,
        highway_bias=highway_bias,
    )
