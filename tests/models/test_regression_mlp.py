from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.errors import UserError
from prunebench.models.regression_mlp import regression_mlp

FACTS: dict[str, Any] = {"num_inputs": 2, "num_outputs": 1, "noise_std": 0.1, "target_std": 2.0}


def test_sizes_and_formula() -> None:
    net = regression_mlp(**FACTS)
    assert sum(p.numel() for p in net.parameters()) == 2 * 20 + 20 + 20 + 1
    x = torch.randn(3, 2)
    torch.testing.assert_close(net(x), net.out(torch.sigmoid(net.hidden[0](x))))
    deep = regression_mlp(**{**FACTS, "num_inputs": 20}, hidden_layers=2, activation="tanh")
    assert [layer.in_features for layer in deep.hidden] == [20, 20]
    torch.testing.assert_close(deep(x := torch.randn(3, 20)), deep.out(deep.hidden[1](deep.hidden[0](x).tanh()).tanh()))


@pytest.mark.parametrize(("noise", "std"), [("known", 0.1), ("learned", 2.0)])
def test_noise_starts_where_the_data_say(noise: str, std: float) -> None:
    net = regression_mlp(**FACTS, noise=noise)
    assert net.log_noise_std.item() == pytest.approx(math.log(std))
    assert isinstance(net.log_noise_std, nn.Parameter) == (noise == "learned")
    net.log_noise_std.data.fill_(7.0)
    net.initialise(net)
    assert net.log_noise_std.item() == pytest.approx(math.log(std))


def test_bad_values_are_refused() -> None:
    with pytest.raises(UserError, match="noise must be one of known, learned, got 'none'"):
        regression_mlp(**FACTS, noise="none")
    with pytest.raises(UserError, match="hidden_layers must be a whole number of at least 1, got 0"):
        regression_mlp(**FACTS, hidden_layers=0)
