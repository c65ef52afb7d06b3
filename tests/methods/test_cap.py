"""CAP: masks, their groups, the folding, the cost of shares, and that nothing of them is shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunebench
from prunebench.core.task import Classification
from prunebench.criteria.complexity import complexity, instance_weights
from prunebench.data.digits import Digits
from prunebench.errors import UserError
from prunebench.layers.scatter import ScatterAdd
from prunebench.methods.bases.masked_groups import MaskedGroups
from prunebench.methods.bases.sample_memory import SampleMemory
from prunebench.methods.bases.soft_masks import MaskGenerator, SoftMask, add_masks, folded, masks_of, recorded_masks
from prunebench.methods.cap import CAP
from prunebench.models.resnet import Bottleneck, ResNet
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.run.bare import BareRun
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

CONFORMANCE = {
    # of the small net half cannot be met without single channels of two of its three layers
    "cap": Conformance(options=("method.mask_epochs=2", "method.target_macs=0.7"), may_miss=True)
}

PICTURE = torch.zeros(1, 3, 8, 8)
NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
BATCH = (torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 4, 5]))


def small(shortcut: str = "B") -> CifarResNet:
    return CifarResNet(blocks=2, num_classes=10, in_channels=3, shortcut=shortcut, width=8)


def masked(method: CAP, net: nn.Module) -> tuple[nn.Module, BareRun]:
    bare = bare_run(net, PICTURE)
    method.check(bare.template, bare)
    bare.phase = method.masks
    return method.attach(bare.template, bare), bare


# -- masks


def test_generators_start_nearly_open_and_have_the_given_sizes() -> None:
    torch.manual_seed(0)
    generator = MaskGenerator(channels=64)
    assert (generator.squeeze.out_features, MaskGenerator(channels=16).squeeze.out_features) == (16, 8)
    assert float(generator.excite.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    masks = generator(torch.randn(5, 64, 3, 3))
    assert masks.shape == (5, 64) and masks.mean().item() == pytest.approx(0.88, abs=0.01)
    x = torch.randn(5, 64, 3, 3)
    mask = SoftMask(channels=64)
    assert torch.allclose(mask(x), x * mask.generator(x)[:, :, None, None])


def test_a_mask_that_is_the_same_for_all_samples_can_be_folded() -> None:
    """Masks of the constant s give what s in the norms gives; where s is 0 the channels can go."""
    net = small().eval()
    with torch.no_grad():
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_(), norm.running_mean.normal_()
    bare = bare_run(net, PICTURE)
    norms = {
        name: str(layer.norm) for name, layer in bare.graph.layers.items() if name.endswith("conv1") and layer.norm
    }
    with_masks = add_masks(net, list(norms.values())).eval()
    draws = torch.Generator().manual_seed(1)
    scales = {norm: torch.rand(bare.graph.layers[name].out_channels, generator=draws) for name, norm in norms.items()}
    for scale in scales.values():
        scale[::3] = 0
    for path, mask in masks_of(with_masks).items():
        constant = scales[path]
        mask.generator.register_forward_hook(lambda m, a, out, s=constant: s.expand_as(out))
    static = folded(with_masks, scales)
    x = BATCH[0]
    with torch.no_grad():
        assert not masks_of(static) and static.state_dict().keys() == net.state_dict().keys()
        assert (with_masks(x) - static(x)).abs().max() < 1e-5
        assert (net(x) - static(x)).abs().max() > 1e-2
        plan = Plan({name: tuple(scales[norm].nonzero().flatten().tolist()) for name, norm in norms.items()})
        assert (shrink(static, bare.graph, plan)(x) - static(x)).abs().max() < 1e-5


def test_only_what_meets_no_addition_has_masks_unless_widths_go() -> None:
    net, _ = masked(CAP(target_macs=0.7), small())
    assert set(masks_of(net)) == {f"layer{i}.{j}.bn1" for i in (1, 2, 3) for j in (0, 1)}
    net, _ = masked(CAP(target_macs=0.7, prune_residual_width=True), small())
    assert len(masks_of(net)) == 15  # 13 convolutions of ResNet-14 and two projections
    net, _ = masked(CAP(target_macs=0.7), bottlenecks())
    assert not any("bn3" in path or "downsample" in path for path in masks_of(net))
    assert {path for path in masks_of(net) if path.startswith("layer1")} == {"layer1.0.bn1", "layer1.0.bn2"}


def bottlenecks() -> nn.Module:
    return ResNet(block=Bottleneck, expansion=Bottleneck.expansion, blocks=(1, 1, 1, 1), num_classes=10, in_channels=3)


def test_layers_that_share_channels_share_the_mean_importance() -> None:
    bare = bare_run(small(), PICTURE)
    names = [name for name, layer in bare.graph.layers.items() if layer.norm]
    groups = MaskedGroups.of(bare.graph, names, whole=(), aligned=True)
    of = {name: set(group) for group in groups.groups for name in group}
    assert of["layer2.0.conv2"] == {"layer2.0.conv2", "layer2.0.shortcut.0", "layer2.1.conv2"}
    given = {name: torch.rand(bare.graph.layers[name].out_channels) for name in names}
    shares = groups.shares(given)
    mean = torch.stack([given[name] for name in of["layer2.0.conv2"]]).mean(0)
    assert all(torch.allclose(shares[name], mean) for name in of["layer2.0.conv2"])
    assert torch.equal(shares["layer2.0.conv1"], given["layer2.0.conv1"])
    scores = groups.scores(shares)
    assert torch.allclose(torch.stack([scores[name] for name in of["layer2.0.conv2"]]).sum(0), mean)
    assert len(groups.apart(shares)) == len(groups.groups) == 9
    one_whole = MaskedGroups.of(bare.graph, names, whole=("layer2.1.conv2",), aligned=True)
    assert of["layer2.0.conv2"].isdisjoint(one_whole.norms) and len(one_whole.groups) == 8


# -- the phase with masks


def test_the_terms_of_the_loss() -> None:
    method = CAP(target_macs=0.5, cost=5.0, polarise=2.0)
    net, bare = masked(method, small())
    method.start_epoch(net, bare.clock())
    assert float(method.losses(net, BATCH, bare.task)["polarisation"].detach()) == 0.0
    method._rise(8, 10)  # after the ramp of a fifth
    with recorded_masks(net) as masks:
        terms = method.losses(net, BATCH, bare.task)
        probabilities = torch.softmax(net(BATCH[0]), 1)
    assert list(terms) == ["ce", "polarisation", "cost"]
    weights = 1 - probabilities[torch.arange(6), BATCH[1]]
    weights = (weights / weights.sum()).detach()
    shares = [weights @ mask for mask in masks.values()]
    variance = torch.stack([share.var(correction=0) for share in shares]).mean()
    assert float(terms["polarisation"].detach()) == pytest.approx(-2 * float(variance.detach()), rel=1e-4)
    dense = bare.graph.dense_macs
    inner = dense - bare.graph.macs(Plan(dict.fromkeys(method._groups.norms, ())))
    # in a block both convolutions fall with the share, by its mean
    widths = [float(share.detach().mean()) for share in shares]
    assert float(terms["cost"].detach()) == pytest.approx(
        5 * (1 - inner / dense * (1 - sum(widths) / 6) - 0.5) ** 2, rel=0.02
    )
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for m in masks_of(net).values() for p in m.parameters())


def test_the_ramp_rises_in_a_fifth_of_the_phase() -> None:
    method = CAP(target_macs=0.5)
    net, bare = masked(method, small())
    clock = bare.clock()
    bare_clock = replace(clock, num_steps=20, num_epochs=10)
    method.start_epoch(net, bare_clock)
    seen = [method._risen]
    for step in range(5):
        method.after_step(net, bare_clock.at(step))
        seen.append(method._risen)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    method.start_epoch(net, bare_clock.at(2))  # a run that goes on from its second epoch
    assert method._risen == 0.5


def test_generators_have_a_rate_of_their_own_and_no_decay() -> None:
    method = CAP(target_macs=0.5, generator_lr=0.07)
    net, _ = masked(method, small())
    groups = method.param_groups(net, method.masks)
    own = [p for mask in masks_of(net).values() for p in mask.parameters()]
    assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in own}
    assert (groups[-1]["lr"], groups[-1]["weight_decay"]) == (0.07, 0.0)
    assert len({id(p) for group in groups for p in group["params"]}) == len(list(net.parameters()))
    assert method.masks.nesterov and method.masks.lr_schedule == "cosine"


def test_attach_acts_in_its_phase_alone_and_once() -> None:
    method = CAP(target_macs=0.5)
    net, bare = masked(method, small())
    assert method.attach(net, bare) is net
    again, _ = masked(CAP(target_macs=0.5), small())
    assert all(
        torch.equal(a, b)
        for one, other in zip(masks_of(net).values(), masks_of(again).values(), strict=True)
        for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    bare.phase = bare.phases[0]
    plain = bare.template
    assert method.attach(plain, bare) is plain
    assert list(method.losses(plain, BATCH, bare.task)) == ["ce"]


@pytest.mark.parametrize("kind", ["focal", "uniform"])
def test_importances_are_weighted_means_over_the_training_set(kind: str) -> None:
    method = CAP(target_macs=0.5, instance_complexity=kind)
    net, bare = masked(method, small())
    found = method._over_training_set(net, bare)
    batches = list(bare.data.train_eval())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad(), recorded_masks(net) as masks:
        logits = net.eval()(images)
    weights = instance_weights(complexity(logits, labels, kind=kind).double())
    for name, norm in method._groups.norms.items():
        assert torch.allclose(found[name], weights @ masks[norm].double(), atol=1e-7)
        if kind == "uniform":
            assert torch.allclose(found[name], masks[norm].double().mean(0), atol=1e-7)


def parted(method: CAP) -> tuple[BareRun, dict[str, Tensor]]:
    """Importances around 0.1 and 0.9 in turn."""
    bare = bare_run(small(), PICTURE)
    method._follow(bare.graph)
    found = {}
    for name in method._groups.norms:
        width = bare.graph.layers[name].out_channels
        found[name] = torch.where(torch.arange(width) % 4 == 0, 0.1, 0.9) + 0.01 * torch.arange(width) / width
    return bare, found


def test_the_gap_is_where_the_channels_part() -> None:
    method = CAP(target_macs=0.5, threshold="gap")
    bare, found = parted(method)
    choice = method._decide(found, bare.graph)
    assert {len(kept) / bare.graph.layers[n].out_channels for n, kept in choice.plan.keep.items()} == {0.75}
    assert all(0 not in kept and 4 not in kept for kept in choice.plan.keep.values())
    assert choice.achieved["target"] is None and choice.achieved["gap"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("widths", [False, True])
def test_the_budget_is_met_and_every_layer_keeps_a_channel(widths: bool) -> None:
    method = CAP(target_macs=0.6, prune_residual_width=widths)
    bare, found = parted(method)
    choice = method._decide(found, bare.graph)
    assert choice.achieved["reached"] == pytest.approx(0.6, abs=0.01)
    assert all(choice.plan.keep.values())
    small_net = shrink(bare.template, bare.graph, choice.plan)
    if widths:  # all members of a sum keep the same channels
        assert not any(isinstance(module, ScatterAdd) for module in small_net.modules())
        assert choice.plan.keep["layer1.0.conv2"] == choice.plan.keep["conv1"]


# -- samples that are remembered


def test_a_sample_s_complexity_is_averaged_over_epochs() -> None:
    config = configure(Path("unused"))[0]["dataset"]
    settings = {key: value for key, value in config.items() if key not in ("_target_", "epochs", "recipe")}
    data = Digits(**settings)
    data.setup(Path("unused"), download=False)
    memory = SampleMemory(data, seed=3, batch_size=64, share=0.9)
    place = {}
    for epoch in range(2):
        memory.start_epoch(epoch)
        for number, index in enumerate(data.train(epoch=epoch, seed=3, batch_size=64).chunks):  # type: ignore[attr-defined]
            values = index.float() + 100 * epoch
            found = memory.update(values)
            assert torch.allclose(found, index.float() + 10 * epoch)  # 0.9 x + 0.1 (x + 100)
            place[epoch, number] = index
    assert not torch.equal(place[0, 0], place[1, 0])
    assert int((memory.values >= 0).sum()) >= data.num_train - 64


def test_memory_needs_batches_that_say_what_they_hold() -> None:
    bare = bare_run(small(), PICTURE)
    with pytest.raises(UserError, match=r"does not say which samples a batch holds.*method.memory=0"):
        CAP(target_macs=0.7, memory=0.9).check(bare.template, bare)


# -- whole runs


def test_the_saved_net_has_no_masks(tmp_path: Path) -> None:
    words = ("method=cap", "method.mask_epochs=2", "method.target_macs=0.7", "method.memory=0.9")
    result, folder = run(tmp_path, *SHORT, *NET, *words)
    assert {"dense", "before_cut", "pruned", "final"} <= result["metrics"].keys()
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", "masks", "finetune"]
    net = prunebench.load(folder, trust=True)
    assert not masks_of(net) and not any("generator" in name for name in net.state_dict())
    assert result["cost"]["params_removed"] > 0
    history = (folder / "metrics.csv").read_text(encoding="utf-8")
    assert "train/polarisation" in history and "train/cost" in history and "method/macs_ratio" in history


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_macs": 0}, r"target_macs must be a number in \(0, 1\]"),
        ({"target_macs": 0.5, "threshold": "median"}, "threshold must be one of budget, gap"),
        ({"target_macs": 0.5, "instance_complexity": "loss"}, "instance_complexity must be one of focal, ce, uniform"),
        ({"target_macs": 0.5, "polarisation": "l1"}, "polarisation must be one of variance, bernoulli, zhuang"),
        ({"target_macs": 0.5, "memory": 1.0}, r"memory must be a number in \[0, 1\), got 1.0"),
        ({"target_macs": 0.5, "cost": -1}, "cost must be a number of at least 0, got -1"),
        ({"target_macs": 0.5, "mask_epochs": 0}, "mask_epochs must be a whole number of at least 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CAP(**options)


def test_what_cannot_work_is_refused_before_training() -> None:
    bare = bare_run(small(), PICTURE)
    with pytest.raises(UserError, match=r"target_macs=0.01 is out of reach"):
        CAP(target_macs=0.01).check(bare.template, bare)
    without = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    bare = bare_run(without, PICTURE)
    with pytest.raises(UserError, match="no plain batch norm of its own follows it"):
        CAP(target_macs=0.5).check(bare.template, bare)
    bare = bare_run(small(), PICTURE, schedule="simultaneous")
    with pytest.raises(UserError, match="schedule=simultaneous is not supported"):
        CAP(target_macs=0.5).check(bare.template, bare)
    bare = bare_run(small(), PICTURE)
    bare.data.task = "language_modelling"  # type: ignore[misc]
    with pytest.raises(UserError, match="weighs samples by their labels, and made_up has none"):
        CAP(target_macs=0.5).check(bare.template, bare)
    assert isinstance(bare.task, Classification)
