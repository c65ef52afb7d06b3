"""SSS: the accelerated proximal step by hand, exact zeros, removal of blocks, channels and groups, published sizes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.errors import UserError
from prunebench.layers.structure_scale import accelerated_step, scaled_layers, soft_threshold
from prunebench.methods.sss import SparseStructureSelection, folded
from prunebench.models.preresnet import preresnet50
from prunebench.models.preresnet_cifar import CifarPreResNet
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.resnext_cifar import CifarResNeXt
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.plan import Plan
from prunebench.surgery.steps import PerChannel
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run

# strong enough that no scale is left in two epochs: a tiny one would leave no gradient behind it
CONFORMANCE = {"sss": Conformance(options=("method.penalty=1.0",))}

OFFICIAL: dict[str, Any] = {"lr": 0.1, "penalty": 0.01, "momentum": 0.9}


def test_three_steps_by_hand() -> None:
    scale, velocity = torch.ones(1, dtype=torch.double), torch.zeros(1, dtype=torch.double)
    seen = []
    for _ in range(3):
        scale, velocity = accelerated_step(scale, scale - 0.1 * 0.2, velocity, **OFFICIAL)
        seen.append((round(float(scale), 8), round(float(velocity), 8)))
    assert seen == [(0.9601, -0.021), (0.90319, -0.0399), (0.830971, -0.05691)]


def test_a_scale_without_gradient_becomes_exactly_zero_and_stays() -> None:
    scale, velocity = torch.tensor([0.01]), torch.zeros(1)
    seen = []
    for _ in range(8):
        scale, velocity = accelerated_step(scale, scale, velocity, **OFFICIAL)
        seen.append(float(scale))
    assert all(value > 0 for value in seen[:3]) and seen[3:] == [0.0] * 5


def test_the_threshold_is_soft() -> None:
    z = torch.tensor([-0.5, -0.2, -0.1, 0.0, 0.2, 0.3])
    torch.testing.assert_close(soft_threshold(z, 0.2), torch.tensor([-0.3, 0.0, 0.0, 0.0, 0.0, 0.1]))


def test_without_momentum_a_step_is_ista() -> None:
    before, gradient = torch.tensor([1.0, 0.5, 0.001]), torch.tensor([0.2, -0.3, 0.5])
    scale, _ = accelerated_step(before, before - 0.1 * gradient, torch.randn(3), lr=0.1, penalty=0.01, momentum=0.0)
    torch.testing.assert_close(scale, (before - 0.1 * gradient - 0.1 * 0.01).clamp_min(0))


def test_negative_scales_are_clipped_only_by_the_official_code() -> None:
    before = torch.tensor([0.1])
    # moved to -0.4, shrunk to -0.399; the velocity is -0.499
    for nonnegative, expected in ((True, 0.0), (False, -0.399 - 0.9 * 0.499)):
        scale, _ = accelerated_step(before, before - 0.5, torch.zeros(1), **OFFICIAL, nonnegative=nonnegative)
        assert float(scale) == pytest.approx(expected)


def small_resnet() -> nn.Module:
    return CifarResNet(blocks=2, num_classes=10, in_channels=3, shortcut="B", width=4)


def small_preresnet() -> nn.Module:
    return CifarPreResNet(blocks=2, num_classes=10, in_channels=3, width=4)


def small_resnext() -> nn.Module:
    return CifarResNeXt(blocks=1, cardinality=4, group_width=2, num_classes=10, in_channels=3)


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def attached(net: nn.Module, **settings: Any) -> tuple[SparseStructureSelection, Any, nn.Module]:
    bare = bare_run(net, torch.zeros(1, 3, 8, 8), schedule="simultaneous")
    method = SparseStructureSelection(**{"penalty": 0.01, **settings})
    method.check(net, bare)
    return method, bare, method.attach(net, bare)


def without_block(net: nn.Module, path: str) -> nn.Module:
    """The net whose block is its shortcut, by hand."""
    net = copy.deepcopy(net)
    shortcut = net.get_submodule(f"{path}.shortcut")
    act = nn.Identity() if isinstance(net, CifarPreResNet) else nn.ReLU()
    net.set_submodule(path, nn.Sequential(shortcut, act))
    return net


@pytest.mark.parametrize("build", [small_resnet, small_preresnet])
@pytest.mark.parametrize("path", ["layer1.1", "layer2.0"])
def test_a_block_with_the_scale_zero_is_its_shortcut(build: Any, path: str) -> None:
    net = build()
    _, _, scaled = attached(net)
    (layer,) = (layer for name, layer in scaled_layers(scaled).items() if name.startswith(path))
    nn.init.zeros_(layer.scale)
    expected = without_block(net, path)
    for training in (False, True):
        one, other = copy.deepcopy(scaled).train(training), copy.deepcopy(expected).train(training)
        with torch.no_grad():
            torch.testing.assert_close(one(IMAGES), other(IMAGES))


def test_the_stem_and_the_shortcuts_have_no_scale() -> None:
    _, _, scaled = attached(small_resnet())
    assert list(scaled_layers(scaled)) == [f"layer{s}.{b}.bn2" for s in (1, 2, 3) for b in (0, 1)]
    _, _, scaled = attached(small_preresnet())
    assert list(scaled_layers(scaled)) == [f"layer{s}.{b}.conv3" for s in (1, 2, 3) for b in (0, 1)]


@pytest.mark.parametrize(
    ("build", "structure"),
    [(small_resnet, "blocks"), (small_preresnet, "blocks"), (small_resnet, "channels"), (small_resnext, "groups")],
)
def test_what_is_extracted_computes_the_same(build: Any, structure: str) -> None:
    net = build()
    method, bare, scaled = attached(net, structure=structure)
    draws = torch.Generator().manual_seed(0)
    for layer in scaled_layers(scaled).values():
        nn.init.uniform_(layer.scale, 0.5, 2.0, generator=draws)
        layer.scale.data *= torch.rand(layer.scale.shape, generator=draws) > 0.4
    zeros = sum(int((layer.scale == 0).sum()) for layer in scaled_layers(scaled).values())
    found = method.extract(scaled, bare)
    achieved = found.achieved
    assert zeros > 0 and achieved["structures_kept"] == achieved["structures"] - zeros
    with torch.no_grad():
        torch.testing.assert_close(found.net.eval()(IMAGES), scaled.eval()(IMAGES))
        torch.testing.assert_close(folded(scaled).eval()(IMAGES), scaled(IMAGES))
    assert not scaled_layers(found.net) and achieved["macs_kept"] < 1
    assert sum(p.numel() for p in found.net.parameters()) < sum(p.numel() for p in net.parameters())


def test_groups_are_removed_whole() -> None:
    method, bare, scaled = attached(small_resnext(), structure="groups")
    layer = scaled_layers(scaled)["layer2.0.bn2"]
    layer.scale.data = torch.tensor([1.0, 0.0, 0.5, 0.0])
    nn.init.zeros_(scaled_layers(scaled)["layer3.0.bn2"].scale)
    small = method.extract(scaled, bare).net
    conv: Any = small.get_submodule("layer2.0.conv2")
    assert (conv.groups, conv.in_channels, conv.out_channels) == (2, 8, 8)
    assert small.get_submodule("layer2.0.conv3").in_channels == 8
    assert "layer3.0.conv3" not in dict(small.named_modules())  # no path is left: the whole branch goes
    assert small.get_submodule("layer1.0.conv2").groups == 4


def test_a_plan_cannot_take_a_part_of_a_group() -> None:
    graph = ChannelGraph.trace(small_resnext(), torch.zeros(1, 3, 8, 8))
    graph.check(Plan(keep={"layer2.0.conv1": tuple(range(4, 16))}))
    with pytest.raises(UserError, match="must read equally many channels, but under the plan they read 3, 4, 4, 4"):
        graph.check(Plan(keep={"layer2.0.conv1": tuple(range(1, 16))}))
    assert graph.why_not("layer2.0.conv1") is not None


def test_scales_move_by_the_accelerated_step_and_have_no_decay() -> None:
    method, _, net = attached(small_resnet(), penalty=0.1)
    phase = Phase(name="train", epochs=1, lr=0.1, weight_decay=0.5, momentum=0.9, nesterov=True)
    groups = method.param_groups(net, phase)
    assert (groups[-1]["weight_decay"], groups[-1]["momentum"], len(groups[-1]["params"])) == (0.0, 0.0, 6)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.5)
    expected = {
        name: (layer.scale.detach().clone(), layer.velocity.clone()) for name, layer in scaled_layers(net).items()
    }
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(IMAGES), torch.arange(6)).backward()
        for name, layer in scaled_layers(net).items():
            scale, velocity = expected[name]
            moved = scale - 0.1 * layer.scale.grad
            expected[name] = accelerated_step(scale, moved, velocity, lr=0.1, penalty=0.1, momentum=0.9)
        clock = Clock(step=step, num_steps=3, epoch=0, num_epochs=1, lr=0.1)
        method.before_step(net, clock)
        optimizer.step()
        method.after_step(net, clock)
    for name, layer in scaled_layers(net).items():
        torch.testing.assert_close(layer.scale.detach(), expected[name][0])
        torch.testing.assert_close(layer.velocity, expected[name][1])


BLOCKS = {  # kept blocks of the four stages, True with the first one, which has the projection
    "full": ((3, True), (4, True), (6, True), (3, True)),
    "ResNet-41": ((0, False), (4, True), (6, True), (3, True)),
    "ResNet-32": ((0, False), (4, True), (4, True), (2, True)),
    "ResNet-26": ((0, False), (1, False), (6, True), (1, True)),
    "Rethinking's ResNet-32": ((1, False), (4, True), (4, True), (1, True)),
    "Rethinking's ResNet-26": ((0, False), (2, False), (5, False), (1, True)),
}


@pytest.fixture(scope="module")
def imagenet() -> ChannelGraph:
    return ChannelGraph.trace(preresnet50(), torch.zeros(1, 3, 224, 224))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("full", 4.0892e9, 25.50e6),
        ("ResNet-41", 3.4726e9, 25.31e6),
        ("ResNet-32", 2.8175e9, 18.62e6),
        ("ResNet-26", 2.3294e9, 15.59e6),
        # the configurations of Rethinking's README have other sizes than the paper's nets
        ("Rethinking's ResNet-32", None, 14.2e6),
        ("Rethinking's ResNet-26", 2.278e9, 14.9e6),
    ],
)
def test_structures_of_the_paper(imagenet: ChannelGraph, name: str, macs: float | None, params: float) -> None:
    keep: dict[str, tuple[int, ...]] = {}
    for stage, ((count, first), total) in enumerate(zip(BLOCKS[name], (3, 4, 6, 3), strict=True), 1):
        kept = list(range(count)) if first else list(range(1, count + 1))
        keep |= {f"layer{stage}.{b}.conv3": () for b in range(total) if b not in kept}
    plan = Plan(keep=keep)
    sizes = without_norms(imagenet, plan)
    if macs is not None:
        assert imagenet.macs(plan) == pytest.approx(macs, rel=1e-4 if macs > 2.3e9 else 1e-3)
    assert sizes == pytest.approx(params, rel=4e-3)


def without_norms(graph: ChannelGraph, plan: Plan) -> int:
    """Parameters of convolutions and the classifier: those of the norms that still run are taken off."""
    live, _ = graph.live(plan)
    norms = sum(
        live[step.index].bit_count() * step.num_each
        for step, needed in zip(graph.steps, graph.needed(live), strict=True)
        if needed and isinstance(step, PerChannel) and step.is_norm
    )
    return graph.params(plan) - norms


def test_named_blocks_go_in_any_case() -> None:
    net = small_resnet()
    method, bare, scaled = attached(net, remove=["layer1.*", "layer3.1"])
    assert method.sizes_given and len(scaled_layers(scaled)) == 3
    found = method.extract(scaled, bare)
    assert set(found.plan.keep) == {"layer1.0.conv2", "layer1.1.conv2", "layer3.1.conv2"}
    assert all(kept == () for kept in found.plan.keep.values())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty": -1}, "penalty must be a number of at least 0, got -1"),
        ({"penalty": 0.1, "momentum": 2}, "momentum must be"),
        ({"penalty": 0.1, "structure": "layers"}, "structure must be"),
        ({"penalty": 0.1, "structure": "groups", "remove": ["layer1.0"]}, "method.remove names blocks"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SparseStructureSelection(**settings)


def test_a_net_without_such_structures_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="the net has no groups that scales could switch off"):
        attached(small_resnet(), structure="groups")
    with pytest.raises(UserError, match=r"method\.remove: 'layer9' matches no layer"):
        attached(small_resnet(), remove=["layer9"])


def test_a_dead_net_is_said() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 10, 6), nn.Flatten())
    method, bare, scaled = attached(net, structure="channels")
    for layer in scaled_layers(scaled).values():
        nn.init.zeros_(layer.scale)
    with pytest.raises(UserError, match="all scales of 0 are 0, and nothing bypasses it"):
        method.extract(scaled, bare)


def test_a_run_removes_blocks_and_says_which(tmp_path: Path) -> None:
    words = ("method=sss", "method.penalty=1.0", "model=resnet20", "model.width=4")
    result, _ = run(tmp_path, *SHORT, *words)
    budget = result["budget"]
    assert budget["structure"] == "blocks" and budget["structures"] == 9
    assert 0 <= budget["structures_kept"] < 9
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    assert [phase["name"] for phase in result["phases"]] == ["train"]
