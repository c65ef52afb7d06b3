"""Attention whose dropout follows the mode of the net."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """``F.scaled_dot_product_attention`` as a module.

    Args:
        dropout: share of the weights that is dropped in training.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """``[..., tokens, features]`` each; ``options`` as of torch's function."""
        dropout_p = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, **options)

    def extra_repr(self) -> str:
        """The share."""
        return f"dropout={self.dropout}"
