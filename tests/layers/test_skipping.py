from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunebench.errors import UserError
from prunebench.layers.gated_conv import gated_layers
from prunebench.layers.saliency import recorded_decisions
from prunebench.layers.skipping import SkippingNet
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11
from tests.methods.gates import gate
from tests.surgery.nets import NETS, build, randomise


def same(gated: nn.Module, x: torch.Tensor) -> None:
    """Masks and skipping agree, sample by sample, on outputs and choices."""
    gated.eval()
    skipping = SkippingNet(gated)
    with torch.no_grad():
        for image in x.split(1):
            with recorded_decisions(gated) as decisions:
                masked = gated(image)
            skipped = skipping(image)
            assert float((masked - skipped).abs().max()) < 1e-5 * max(1.0, float(masked.abs().max()))
            chosen = {name: decision[0].nonzero().flatten().tolist() for name, decision in decisions.items()}
            assert skipping.kept() == chosen


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_residual_nets(shortcut: str) -> None:
    net = resnet20(width=8, shortcut=shortcut)
    randomise(net)
    same(gate(net, torch.zeros(1, 3, 32, 32), wild=True)[0], torch.randn(4, 3, 32, 32))


def test_a_plain_net() -> None:
    net = vgg11(norm_weight=1.0)
    same(gate(net, torch.zeros(1, 3, 32, 32), wild=True)[0], torch.randn(3, 3, 32, 32))


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_surroundings(name: str) -> None:
    net = build(name)
    try:
        gated, _ = gate(net, torch.zeros(1, 3, 8, 8), wild=True)
    except UserError as refused:
        pytest.skip(str(refused))
    same(gated, torch.randn(12, 3, 8, 8))


def test_layers_that_are_switched_off_whole() -> None:
    net = resnet20(width=8)
    randomise(net)
    gated, _ = gate(net, torch.zeros(1, 3, 32, 32), wild=True)
    off = ["layer1.0.conv1", "layer2.0.conv1", "layer2.1.conv2", "layer3.2.conv1", "layer3.2.conv2"]
    with torch.no_grad():
        for path in off:
            gated_layers(gated)[path].gate.excite.bias.fill_(-1e3)
    same(gated, torch.randn(2, 3, 32, 32))


def test_skipped_channels_cost_nothing_and_the_closed_form_says_so() -> None:
    net = resnet20(width=8)
    randomise(net)
    gated, method = gate(net, torch.zeros(1, 3, 32, 32), wild=True)
    gated.eval()
    skipping = SkippingNet(gated)
    assert method._form is not None
    spm = sum(layer.gate.excite.weight.numel() for layer in gated_layers(gated).values())
    for image in torch.randn(3, 3, 32, 32).split(1):
        with torch.no_grad(), recorded_decisions(gated) as decisions:
            gated(image)
        with FlopCounterMode(display=False) as counter:
            skipping(image)
        expected = method._form.by_layer(decisions).sum() + method._form.ungated
        assert 0 < expected < method._form.full
        # linear layers on one sample are counted as matrix products, too
        assert counter.get_total_flops() // 2 == int(expected) + spm


def test_batches_are_refused() -> None:
    gated, _ = gate(resnet20(width=8), torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match="one sample at a time, got a batch of 2"):
        SkippingNet(gated)(torch.zeros(2, 3, 32, 32))
