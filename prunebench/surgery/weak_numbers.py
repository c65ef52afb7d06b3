"""Numbers for tensors and their memory that hold when addresses are used again."""

from __future__ import annotations

from collections.abc import MutableMapping
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary


class Numbers:
    """Gives each tensor and each memory a number of its own without keeping it alive."""

    def __init__(self) -> None:
        self._next = count()
        self._tensors: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
        self._memory: MutableMapping[Any, int] = WeakIdKeyDictionary()

    def tensor(self, tensor: Tensor) -> int:
        """Of the tensor itself: a view, or a detached one, is another tensor."""
        return _number(self._tensors, tensor, self._next)

    def memory(self, tensor: Tensor) -> int:
        """Of the memory that it uses, together with all its views; a sparse tensor counts for its memory itself."""
        if tensor.layout != torch.strided:
            return self.tensor(tensor)
        return _number(self._memory, tensor.untyped_storage(), self._next)


def _number(known: MutableMapping[Any, int], key: Any, numbers: count[int]) -> int:
    if key not in known:
        known[key] = next(numbers)
    return known[key]
