"""Nets that cannot be copied are refused in a sentence, and computed weights are told from own ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from prunebench.errors import UserError
from prunebench.layers.own_weight import check_copies, has_own_weight


class Caching(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.weight.exp()
        return nn.functional.linear(x, self.kept)


def called(layer: nn.Module, x: Tensor) -> nn.Module:
    layer(x)
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mask": (lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5), r"call torch\.nn\.utils\.prune\.remove"),
    "cache": (lambda: called(Caching(4, 3), torch.ones(2, 4)), "'kept', which was computed"),
    "lazy": (lambda: nn.LazyLinear(3), "has no sizes yet"),
    "weight norm": (lambda: weight_norm(nn.Linear(4, 3)), r"use torch\.nn\.utils\.parametrizations\.weight_norm"),
    "spectral norm": (lambda: spectral_norm(nn.Linear(4, 3)), r"parametrizations\.spectral_norm"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning", "ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, told = REFUSED[name]
    with pytest.raises(UserError, match=rf"layer '1' .*{told}"):
        check_copies(nn.Sequential(nn.Linear(4, 4), make()))


def test_own_weights() -> None:
    masked = prune.l1_unstructured(nn.Linear(4, 3), "weight", 0.5)
    net = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU())
    check_copies(net)
    assert [has_own_weight(module) for module in (*net, masked)] == [True, False, False, False]
    check_copies(prune.remove(masked, "weight"))
    assert has_own_weight(masked)
