"""Squared gradients of single examples against automatic differentiation, one example after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunebench.criteria.per_example import squared_gradients


class Twice(nn.Module):
    """One layer, called two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))[:, :3]


NETS = {
    "logistic": (nn.Sequential(nn.Linear(6, 3)), (6,)),
    "perceptron": (nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), (6,)),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 2, groups=2, dilation=2, padding="same", padding_mode="circular"),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        (2, 7, 7),
    ),
    "positions": (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3)), (2, 4)),
    "twice": (Twice(), (6,)),
}


@pytest.mark.parametrize("name", NETS)
def test_each_example_has_its_own_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = NETS[name]
    net = copy.deepcopy(net).double().eval()
    torch.manual_seed(0)
    x, labels = torch.randn(5, *shape, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    expected = torch.zeros(sum(layer.weight.numel() for layer in layers), dtype=torch.float64)
    for one, label in zip(x, labels, strict=True):
        loss = F.cross_entropy(net(one[None]), label[None])
        slopes = torch.autograd.grad(loss, [layer.weight for layer in layers])
        expected += torch.cat([slope.flatten() for slope in slopes]).square()

    def log_likelihoods(logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, labels, reduction="none")

    torch.testing.assert_close(squared_gradients(net, layers, x, log_likelihoods), expected, rtol=1e-6, atol=1e-12)
    monkeypatch.setattr("prunebench.criteria.per_example.MAX_ELEMENTS", 1)  # one example at a time
    torch.testing.assert_close(squared_gradients(net, layers, x, log_likelihoods), expected, rtol=1e-6, atol=1e-12)
    net.requires_grad_(False)  # frozen weights have information too
    torch.testing.assert_close(squared_gradients(net, layers, x, log_likelihoods), expected, rtol=1e-6, atol=1e-12)


def test_the_square_of_the_mean_gradient_is_another_number() -> None:
    """Two examples with opposite gradients: their mean is 0, their information is not."""
    layer = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(layer.weight)
    x, labels = torch.ones(2, 1), torch.tensor([0, 1])
    found = squared_gradients(layer, [layer], x, lambda z: -F.cross_entropy(z, labels, reduction="none"))
    assert (found / 2).tolist() == pytest.approx([0.25, 0.25])  # (1 - 1/2)^2 each
    F.cross_entropy(layer(x), labels).backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs().max()) == 0.0
