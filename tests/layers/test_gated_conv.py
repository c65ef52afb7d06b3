from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from prunebench.layers.gated_conv import GatedConv, gated_layers, why_not
from prunebench.layers.saliency import recorded_decisions
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11
from tests.methods.gates import all_on, gate
from tests.surgery.nets import randomise


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_gates_held_open_give_the_net_itself_bit_for_bit(shortcut: str) -> None:
    net = resnet20(width=8, shortcut=shortcut)
    randomise(net)
    x = torch.randn(3, 3, 32, 32)
    gated, method = gate(net, x[:1])
    all_on(gated)
    with recorded_decisions(gated.eval()) as decisions:
        out = gated(x)
    assert torch.equal(out, net.eval()(x))
    # and in training, where the norms' statistics are those of the whole convolution
    assert torch.equal(gated.train()(x), net.train()(x))
    moved = dict(gated.named_buffers())
    assert torch.equal(moved["layer3.0.conv1.norm.running_mean"], net.get_buffer("layer3.0.bn1.running_mean"))
    assert method._form is not None
    assert torch.equal(method._form.ratios(decisions), torch.ones(3, dtype=torch.float64))


def test_the_mask_comes_after_the_norm_and_saliency_scales_what_stays() -> None:
    conv, norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
    nn.init.normal_(norm.bias)
    layer = GatedConv.around(conv, norm, gate={}, reads=[(None, 3)], narrow=False).eval()
    nn.init.normal_(layer.gate.excite.weight, std=2.0)
    nn.init.zeros_(layer.gate.excite.bias)
    x = torch.randn(8, 3, 5, 5)
    saliency, decisions = layer.gate(x)
    assert 0.2 < float(decisions.mean()) < 0.8
    out = layer(x)
    plain = norm(conv(x))
    for i in range(8):
        for c in range(6):
            expected = plain[i, c] * saliency[i, c] if saliency[i, c] >= 0.5 else torch.zeros(5, 5)
            torch.testing.assert_close(out[i, c], expected)


def test_a_sample_is_decided_on_alone() -> None:
    net = resnet20(width=8)
    randomise(net)
    x = torch.randn(6, 3, 32, 32)
    gated, _ = gate(net, x[:1], wild=True)
    gated.eval()
    with torch.no_grad(), recorded_decisions(gated) as together:
        logits = gated(x)
    patterns = {tuple(torch.cat([d[i] for d in together.values()]).tolist()) for i in range(6)}
    assert len(patterns) == 6  # samples do differ
    for i in range(6):
        with torch.no_grad(), recorded_decisions(gated) as alone:
            torch.testing.assert_close(gated(x[i : i + 1])[0], logits[i], atol=1e-5, rtol=1e-5)
        assert all(torch.equal(alone[name][0], together[name][i]) for name in together)


def test_config_is_plain_data_that_rebuilds_the_layer() -> None:
    net = vgg11()
    gated, _ = gate(net, torch.zeros(1, 3, 32, 32), wild=True, hidden_ratio=4)
    layer = gated_layers(gated)["features.11"]
    again = GatedConv(**json.loads(json.dumps(layer.config())))
    assert [(n, t.shape) for n, t in again.state_dict().items()] == [
        (n, t.shape) for n, t in layer.state_dict().items()
    ]
    again.load_state_dict(layer.state_dict())
    x = torch.randn(2, 256, 4, 4)
    assert torch.equal(again.eval()(x), layer.eval()(x))
    assert again.reads == layer.reads and again.narrow == layer.narrow and again.config() == layer.config()
    copy.deepcopy(layer)


def test_what_cannot_be_gated_says_why() -> None:
    assert why_not(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)) is None
    assert why_not(nn.Conv2d(2, 2, 3), None) is None
    assert "Conv1d" in str(why_not(nn.Conv1d(2, 2, 3), None))
    assert "'reflect'" in str(why_not(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), None))
    assert "GroupNorm" in str(why_not(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2)))
    assert "BatchNorm2d" in str(why_not(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, affine=False)))
