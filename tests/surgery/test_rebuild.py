from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunebench.errors import UserError
from prunebench.layers.around import Around
from prunebench.surgery.rebuild import describe, rebuild


class Scaled(nn.Module):
    """A linear layer of a method: not a subclass of the one it replaces."""

    def __init__(self, *, in_features: int, out_features: int, temperature: float) -> None:
        super().__init__()
        self.in_features, self.out_features, self.temperature = in_features, out_features, temperature
        self.inner = nn.Linear(in_features, out_features)

    def config(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "temperature": self.temperature,
        }

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.inner(x) / self.temperature
        return scaled


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))


def test_a_net_with_other_layers_comes_back_from_plain_data() -> None:
    net = dense()
    # narrower than the dense net's: the arguments of the layer decide, not those of the one it replaces
    net[0] = Scaled(in_features=4, out_features=2, temperature=0.5)
    net[2] = Scaled(in_features=2, out_features=2, temperature=2.0)
    table = describe(net)
    assert list(table) == ["0", "2"]
    assert table["0"]["arguments"] == {"in_features": 4, "out_features": 2, "temperature": 0.5}

    again = rebuild(dense(), table, trust=True)
    again.load_state_dict(net.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=0)


def test_a_plain_net_has_nothing_to_describe() -> None:
    net = dense()
    assert describe(net) == {}
    assert rebuild(net, {}) is net


def test_only_layers_of_this_package_are_called_without_trust() -> None:
    with pytest.raises(UserError, match=r"os\.system is not called for layers\.0"):
        rebuild(dense(), {"0": {"target": "os.system", "arguments": {"command": "true"}}})
    with pytest.raises(UserError, match=r"Scaled is not called for layers\.0.*give trust=True"):
        rebuild(dense(), describe(nn.Sequential(Scaled(in_features=4, out_features=2, temperature=0.5))))


class Doubled(Around):
    """Twice what the layer in its place computes."""

    def config(self) -> dict[str, Any]:
        return {}

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_that_holds_the_net_s_own_is_put_around_it() -> None:
    net = dense()
    net[0] = Doubled().around(net[0])
    table = describe(net)
    assert table["0"]["arguments"] == {}  # what is inside comes from the net
    fresh = dense()
    again = rebuild(fresh, table, trust=True)
    assert isinstance(fresh[0], nn.Linear)  # stays as it is
    again.load_state_dict(net.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(again(x), net(x))
