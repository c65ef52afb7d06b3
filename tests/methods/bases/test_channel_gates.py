from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunebench.methods.bases.channel_gates import ChannelGate, add_gates, density_penalty, gates_of
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg11
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink


def norms(net: nn.Module, kind: type[nn.Module] = nn.BatchNorm2d) -> list[str]:
    return [path for path, module in net.named_modules() if isinstance(module, kind)]


def lively(net: nn.Module) -> nn.Module:
    """Norm layers as after some training: neither scale nor shift nor statistics at their defaults."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.3, 1.2)
    return net


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("build", [resnet20, vgg11])
def test_gates_of_one_change_nothing(build, training: bool, examples: Tensor) -> None:
    net = lively(build(width=8)).train(training)
    gated = add_gates(net, norms(net))
    assert len(gates_of(gated)) == len(norms(net))
    assert torch.equal(gated(examples), net(examples))
    assert not gates_of(net)
    assert all(module.training == training for module in gated.modules())
    # the copy shares nothing with the net
    gated.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_gate_of_zero_is_a_channel_that_is_not_there(examples: Tensor) -> None:
    net = lively(vgg11(width=8)).eval()
    graph = ChannelGraph.trace(net, examples[:1])
    pairs = {layer.norm: name for name, layer in graph.layers.items() if layer.norm}
    gated = add_gates(net, list(pairs))
    plan = {}
    with torch.no_grad():
        for norm, name in pairs.items():
            gate = gated.get_parameter(f"{norm}.gate.gate")
            gate.copy_((torch.rand(len(gate)) < 0.6).float())
            gate[0] = 1
            plan[name] = tuple(gate.nonzero().flatten().tolist())
    torch.testing.assert_close(gated(examples), shrink(net, graph, Plan(plan))(examples))

    # whatever the filter holds: nothing of it arrives
    before = gated(examples)
    dead = int((gates_of(gated)[2].gate == 0).nonzero()[0])
    with torch.no_grad():
        gated.get_submodule(list(pairs.values())[2]).weight[dead] = 100.0
    assert torch.equal(gated(examples), before)


def test_penalty_and_its_gradient() -> None:
    gates = torch.full((8,), 0.5, requires_grad=True)
    penalty = density_penalty(gates, density=0.2, balance=0.5)
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5 * 0.3**2)
    torch.testing.assert_close(gates.grad, torch.full((8,), 0.3 / 8))
    met = torch.tensor([0.0, 0.1, 0.5], requires_grad=True)
    penalty = density_penalty(met, density=0.2, balance=0.5)
    penalty.backward()
    assert penalty.item() == pytest.approx(0, abs=1e-12)
    assert met.grad.abs().max() < 1e-7


def test_gates_are_clamped_and_keep_the_type_of_what_they_multiply() -> None:
    gate = ChannelGate(channels=3)
    with torch.no_grad():
        gate.gate.copy_(torch.tensor([-0.5, 0.25, 1.5]))
    gate.clamp(0.0, 1.0)
    assert gate.gate.tolist() == [0.0, 0.25, 1.0]
    x = torch.ones(2, 3, 4, 4, dtype=torch.bfloat16)
    assert gate(x).dtype == torch.bfloat16
    assert gate(x)[0, :, 0, 0].tolist() == [0.0, 0.25, 1.0]
    assert gate(torch.ones(2, 3)).shape == (2, 3)
    assert isinstance(ChannelGate(**gate.config()), ChannelGate)
