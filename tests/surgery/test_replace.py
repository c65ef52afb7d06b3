from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.surgery.replace import replace


class Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))


def test_by_function_keeps_the_parameters_and_the_net() -> None:
    dense, x = net(), torch.randn(5, 3)
    before = dense(x)
    seen: list[str] = []

    def make(path: str, module: nn.Module) -> nn.Module | None:
        seen.append(path)
        return Doubled(module) if path == "1.1" else None

    gated = replace(dense.eval(), make)
    assert seen == ["0", "1", "1.0", "1.1"]
    assert torch.allclose(gated(x), 2 * before)
    assert torch.equal(dense(x), before)
    assert not gated.get_submodule("1.1").training
    assert list(gated.state_dict()) == ["0.weight", "0.bias", "1.1.inner.weight", "1.1.inner.bias"]


def test_by_table_does_not_look_inside() -> None:
    swapped = replace(net(), {"1": nn.Linear(4, 7), "1.1": nn.Linear(1, 1)})
    assert isinstance(swapped[1], nn.Linear)
    assert swapped(torch.randn(2, 3)).shape == (2, 7)


def test_shared_modules_stay_shared() -> None:
    layer = nn.Linear(3, 3)
    swapped = replace(
        nn.Sequential(layer, nn.ReLU(), layer), lambda _, m: Doubled(m) if m.__class__ is nn.Linear else None
    )
    assert swapped[0] is swapped[2]
    assert isinstance(swapped[0], Doubled)


def test_mistakes() -> None:
    with pytest.raises(UserError, match=r"'1.2': the net has no module of that name; did you mean"):
        replace(net(), {"1.2": nn.ReLU()})
    with pytest.raises(UserError, match="no module of Sequential was replaced; its paths are 0, 1"):
        replace(net(), lambda path, module: None)
