"""ANP-VS: where masks are, what moves which parameters, exact extraction, the paper's settings as modes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunebench
from prunebench.config import named
from prunebench.config.phase import Phase
from prunebench.core.clock import Clock
from prunebench.core.task import Batch, Classification
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.measure import cost
from prunebench.measure.attacks import Space
from prunebench.methods.anp import ANP, MASKS
from prunebench.methods.bases.attacked_batches import Attacker
from prunebench.methods.bases.unit_masks import mask_places, unit_masks
from prunebench.models.lenet import lenet5
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg_cifar import vgg16
from prunebench.run.bare import BareRun
from prunebench.surgery.graph import ChannelGraph
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run
from tests.small_nets import small_resnet

# two epochs move no rate down to 1e-3; some units of the start are at or below 0.68
CONFORMANCE = {"anp": Conformance(options=("method.threshold=0.68", "method.steps=2", "method.mask_lr=0.05"))}

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
TASK = Classification(num_classes=10)
CLOCK = Clock(step=0, num_steps=4, epoch=0, num_epochs=2, lr=0.1)


def method(mode: str = "anp_vs", **options: Any) -> ANP:
    settings = configure(Path("unused"), "method=anp")[0]["method"]
    settings |= {"eps": 0.1, "step": 0.03, "steps": 3, "suppression": 0.5, "mode": mode, **options}
    built: ANP = named.build("method", settings)
    return built


def attached(built: ANP, net: nn.Module, size: tuple[int, ...] = (1, 1, 28, 28)) -> tuple[nn.Module, BareRun]:
    """A masked net that knows the space of its pictures, and its run."""
    bare = bare_run(net.eval(), torch.zeros(size), schedule="simultaneous")
    net = built.attach(net, bare)
    built.attacker = Attacker(**built.reach, space=Space([0.25] * size[1], [0.5] * size[1]))
    built.num_train = 100
    return net, bare


def batch(size: tuple[int, ...] = (4, 1, 28, 28)) -> Batch:
    draws = torch.Generator().manual_seed(1)
    return (torch.rand(size, generator=draws) - 0.25) / 0.5, torch.randint(0, 10, size[:1], generator=draws)


def attacked(built: ANP, net: nn.Module, given: Batch) -> Tensor:
    assert built.attacker is not None
    return built.attacker(net, given, TASK)


def scatter_rates(net: nn.Module, seed: int = 0) -> None:
    """Some units of each mask below the threshold, the others anywhere."""
    draws = torch.Generator().manual_seed(seed)
    for mask in unit_masks(net).values():
        with torch.no_grad():
            mask.raw_a.copy_(4 * torch.randn(mask.raw_a.shape, generator=draws) - 4)
            mask.raw_b.copy_(torch.rand(mask.raw_b.shape, generator=draws))


def settle_norms(net: nn.Module, size: tuple[int, ...]) -> None:
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.randn(16, *size[1:]))
    net.eval()


# -- where masks are


def test_the_masks_of_the_papers_nets() -> None:
    graph = ChannelGraph.trace(lenet5(), torch.zeros(1, 1, 28, 28))
    places, refused = mask_places(graph, list(graph.layers), "post_act")
    assert {name: (p.units, p.in_front) for name, p in places.items()} == {
        "conv1": (20, False), "conv2": (50, False), "fc1": (800, True), "fc2": (500, True)
    }  # fmt: skip
    assert refused == {}
    graph = ChannelGraph.trace(vgg16(), torch.zeros(1, 3, 32, 32))
    for position, path in (("pre_bn", "features.0"), ("post_act", "features.1")):
        places, refused = mask_places(graph, list(graph.layers), position)
        assert sum(place.units for place in places.values()) == 5248 and refused == {}
        assert places["features.0"].path == path and places["classifier.3"].in_front


def test_a_residual_net_has_masks_inside_its_blocks_only() -> None:
    graph = ChannelGraph.trace(
        CifarResNet(blocks=2, num_classes=10, in_channels=3, shortcut="A", width=4), torch.zeros(1, 3, 32, 32)
    )
    places, refused = mask_places(graph, list(graph.layers), "post_act")
    assert set(places) == {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1)}
    assert all("addition" in reason for name, reason in refused.items() if name != "conv1")


def test_masks_start_as_in_the_official_nets() -> None:
    built = method(mask_position="pre_bn")
    net, _ = attached(built, vgg16(width=4), (1, 3, 32, 32))
    starts = {path: float(mask.raw_a[0].detach()) for path, mask in unit_masks(net).items()}
    assert starts["features.0"] == 2.0 and starts["classifier.0"] == starts["classifier.3"] == -1.0
    net, _ = attached(method(raw_a={"conv2": 0.5, "*": 1.5}), lenet5())
    starts = {path: float(mask.raw_a[0].detach()) for path, mask in unit_masks(net).items()}
    assert starts == {"conv1": 1.5, "conv2": 0.5, "fc1": 1.5, "fc2": 1.5}


# -- losses


def terms_by_hand(built: ANP, net: nn.Module, given: Batch) -> dict[str, Tensor]:
    """The raw terms, from the same draws as the method's."""
    torch.manual_seed(7)
    moved = attacked(built, net, given)
    clean, under = F.cross_entropy(net(given[0]), given[1]), F.cross_entropy(net(moved), given[1])
    total = sum(mask.divergence(1e-4) for mask in unit_masks(net).values())
    return {"clean": clean, "attacked": under, "kl": torch.as_tensor(total)}


def test_both_losses_by_hand() -> None:
    built = method("anp", kl_weight=4.0)
    net, _ = attached(built, lenet5())
    hand = terms_by_hand(built, net.train(), batch())
    torch.manual_seed(7)
    seen = updated(built, net, batch(), ())
    weights = (hand["clean"] + 2 * hand["attacked"]) / 3 + 4 * hand["kl"] / 100
    masks = hand["attacked"] + 4 * hand["kl"] / 100
    torch.testing.assert_close(seen["net"], weights.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[MASKS], masks.detach(), rtol=1e-5, atol=1e-6)


def test_without_attack_both_losses_are_the_same() -> None:
    built = method("bp", kl_weight=4.0)  # of which the official code makes 1
    net, _ = attached(built, lenet5())
    torch.manual_seed(7)
    expected = F.cross_entropy(net.train()(batch()[0]), batch()[1])
    expected = expected + sum(mask.divergence(1e-4) for mask in unit_masks(net).values()) / 100
    torch.manual_seed(7)
    seen = updated(built, net, batch(), ())
    assert seen.keys() == {"net", MASKS}
    for found in seen.values():
        torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize(
    ("mode", "terms", "groups"),
    [
        ("standard", {"ce"}, {"net"}),
        ("bp", {"ce", "kl"}, {"net", MASKS}),
        ("at", {"ce", "ce_attacked"}, {"net"}),
        ("at_vs", {"ce", "ce_attacked", "vulnerability"}, {"net"}),
        ("pretrained_at", {"ce", "ce_attacked"}, {"net"}),
        ("at_bnn", {"ce", "ce_attacked", "kl"}, {"net"}),
        ("anp", {"ce", "ce_attacked", "kl"}, {"net", MASKS}),
        ("anp_vs", {"ce", "ce_attacked", "kl", "vulnerability"}, {"net", MASKS}),
    ],
)
def test_what_each_mode_minimises(mode: str, terms: set[str], groups: set[str]) -> None:
    built = method(mode)
    net, _ = attached(built, lenet5())
    phase = Phase(name="train", epochs=1, lr=0.1)
    assert built.losses(net.train(), batch(), TASK).keys() == terms
    assert built.optimizers(net, phase).keys() == groups
    assert any(isinstance(m, GaussianWeights) for m in net.modules()) == (mode == "at_bnn")
    assert bool(unit_masks(net)) == (MASKS in groups)


def test_the_attack_sees_evaluation_and_changes_nothing_of_the_net() -> None:
    built = method()
    net, _ = attached(built, vgg16(width=4), (1, 3, 32, 32))
    settle_norms(net, (1, 3, 32, 32))
    given = batch((4, 3, 32, 32))
    net.train()
    net.get_submodule("features.1").eval()
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(3)
    found = attacked(built, net, given)
    assert net.training and not net.get_submodule("features.1").training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    torch.manual_seed(3)
    assert torch.equal(found, attacked(built, net.eval(), given)), "no mask noise and no batch statistics"
    pixels, moved = (0.25 + 0.5 * x for x in (given[0], found))
    assert 0 < float((moved - pixels).abs().max()) <= 0.1 + 1e-6
    assert float(moved.min()) >= -1e-6 and float(moved.max()) <= 1 + 1e-6


# -- which loss moves what


def updated(built: ANP, net: nn.Module, given: Batch, moving: tuple[str, ...]) -> dict[str, Tensor]:
    """One step of plain gradient descent of the optimisers ``moving``; the values that each was given."""
    phase = Phase(name="train", epochs=1, lr=0.1)
    groups = built.optimizers(net, phase)
    seen: dict[str, Tensor] = {}

    def minimise(terms: Any, optimizer: str = "net") -> None:
        params = [p for group in groups[optimizer] for p in group["params"]]
        total = torch.stack(list(terms.values())).sum()
        seen[optimizer] = total.detach()
        gradients = torch.autograd.grad(total, params)
        if optimizer in moving:
            with torch.no_grad():
                for p, g in zip(params, gradients, strict=True):
                    p.sub_(0.1 * g)

    built.update(net.train(), {"net": given}, TASK, minimise, CLOCK)
    return seen


def state(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters of the masks, and the others."""
    masks = {id(p) for mask in unit_masks(net).values() for p in mask.parameters()}
    both: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, parameter in net.named_parameters():
        both[id(parameter) not in masks][name] = parameter.detach().clone()
    return both


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_each_loss_moves_its_own_parameters() -> None:
    built = method()
    start, _ = attached(built, lenet5())
    after = {}
    for moving in (("net",), (MASKS,), ("net", MASKS)):
        net = copy.deepcopy(start)
        torch.manual_seed(5)
        updated(built, net, batch(), moving)
        after[moving] = state(net)
    masks, weights = state(start)
    assert same(masks, after[("net",)][0]) and not same(weights, after[("net",)][1])
    assert same(weights, after[(MASKS,)][1]) and not same(masks, after[(MASKS,)][0])
    # both gradients are taken before either step
    assert same(after[("net", MASKS)][0], after[(MASKS,)][0]) and same(after[("net", MASKS)][1], after[("net",)][1])


def test_suppression_moves_weights_and_no_mask() -> None:
    found = {}
    for suppression in (0.0, 1e6):
        built = method(suppression=suppression)
        torch.manual_seed(0)
        net, _ = attached(built, lenet5())
        torch.manual_seed(5)
        updated(built, net, batch(), ("net", MASKS))
        found[suppression] = state(net)
    assert same(found[0.0][0], found[1e6][0]) and not same(found[0.0][1], found[1e6][1])


def test_the_gradients_are_those_of_the_losses() -> None:
    built = method("anp")
    net, _ = attached(built, lenet5())
    before = state(net)
    torch.manual_seed(5)
    total = torch.stack(list(built.losses(copy.deepcopy(net).train(), batch(), TASK).values())).sum()
    twin = copy.deepcopy(net).train()
    torch.manual_seed(5)
    total = torch.stack(list(built.losses(twin, batch(), TASK).values())).sum()
    names = list(before[1])
    gradients = torch.autograd.grad(total, [twin.get_parameter(name) for name in names])
    torch.manual_seed(5)
    updated(built, net, batch(), ("net",))
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(net.get_parameter(name).detach(), before[1][name] - 0.1 * gradient)


# -- extraction


@pytest.mark.parametrize(
    ("make", "size", "position"),
    [
        (lenet5, (1, 1, 28, 28), "post_act"),
        (lenet5, (1, 1, 28, 28), "pre_bn"),
        (lambda: vgg16(width=8), (1, 3, 32, 32), "post_act"),
        (lambda: vgg16(width=8), (1, 3, 32, 32), "pre_bn"),
        (lambda: small_resnet(num_classes=10, in_channels=3), (1, 3, 32, 32), "post_act"),
    ],
)
def test_the_small_net_computes_what_the_masked_one_does(make: Any, size: tuple[int, ...], position: str) -> None:
    built = method(mask_position=position)
    net, bare = attached(built, make(), size)
    scatter_rates(net)
    settle_norms(net, size)
    found = built.extract(net, bare)
    x = torch.randn(8, *size[1:])
    with torch.no_grad():
        torch.testing.assert_close(found.net(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    units = sum(mask.num_active() for mask in unit_masks(net).values())
    assert found.achieved["kept_units"] == units < found.achieved["gated_units"]
    assert found.plan is not None and bare.graph.macs(found.plan) < bare.graph.macs(type(found.plan)())
    assert sum(p.numel() for p in found.net.parameters()) == bare.graph.params(found.plan)
    kept = {name: mask.rates().nonzero().flatten().tolist() for name, mask in unit_masks(net).items()}
    if position == "post_act":  # no more channels than the mask leaves
        for name, place in built.places.items():
            held = found.plan.inputs if place.in_front else found.plan.keep
            assert len(held.get(name, range(place.units))) <= len(kept[place.path]) or place.in_front


def test_lenet_loses_features_of_channels_and_features_alone() -> None:
    """A flattened feature stays if both its channel and itself do."""
    built = method()
    net, bare = attached(built, lenet5())
    masks = unit_masks(net)
    with torch.no_grad():
        for mask in masks.values():
            mask.raw_a.fill_(1.0)
        masks["conv2"].raw_a[3] = -9.0
        masks["fc1"].raw_a[[0, 5, 48, 700]] = -9.0  # 48 lies in channel 3
        masks["fc2"].raw_a[[7, 8]] = -9.0
    found = built.extract(net.eval(), bare)
    assert found.plan is not None
    assert set(range(50)) - set(found.plan.keep["conv2"]) == {3}
    assert set(range(800)) - set(found.plan.inputs["fc1"]) == {0, 5, *range(48, 64), 700}
    assert set(range(500)) - set(found.plan.keep["fc1"]) == {7, 8}
    assert found.achieved["kept_units"] == 1370 - 7
    active = built.metrics(found.net, bare)["active"]
    assert active == {"conv1": 20, "conv2": 49, "fc1": 796, "fc2": 498}, "each mask counts by itself"


def test_a_net_whose_masks_are_all_closed_is_constant_and_still_a_net() -> None:
    built = method()
    net, bare = attached(built, lenet5())
    for mask in unit_masks(net).values():
        nn.init.constant_(mask.raw_a, -9.5)
    found = built.extract(net.eval(), bare)
    with torch.no_grad():
        logits = found.net(torch.randn(3, 1, 28, 28))
    torch.testing.assert_close(logits, net.get_parameter("fc2.layer.bias").detach().expand(3, -1))
    assert built.metrics(found.net, bare)["speedup"] is None


def test_sizes_by_the_papers_formulas() -> None:
    built = method("standard")
    net, bare = attached(built, lenet5())
    assert built.metrics(net, bare) == {}, "a net that the method has not touched"
    assert built.extract(net, bare).net is net
    whole = {"speedup": 1.0, "memory_kept": 1.0, "unit_sparsity": 0.0, "active": {}}
    assert built.metrics(net, bare) == whole
    built = method("at_bnn")
    net, bare = attached(built, lenet5())
    small = built.extract(net, bare).net
    assert not any(isinstance(m, GaussianWeights) for m in small.modules())
    assert built.metrics(small, bare) == {"speedup": 0.5, "memory_kept": 2.0, "unit_sparsity": 0.0}
    built = method()
    net, bare = attached(built, lenet5())
    with torch.no_grad():
        for path, left in {"conv1": 6, "conv2": 12, "fc1": 120, "fc2": 80}.items():
            unit_masks(net)[path].raw_a[left:] = -9.0
    found = built.metrics(net.eval(), bare)
    assert found["speedup"] == pytest.approx(10.6720, abs=1e-4)
    assert found["memory_kept"] == pytest.approx(0.0763285, abs=1e-7)
    assert found["unit_sparsity"] == pytest.approx(0.840876, abs=1e-6)


# -- refusals


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("method.mode=trades",), r"method.mode must be one of standard, bp"),
        (("method.mode=pretrained_at", "schedule=simultaneous"), "starts from a pretrained net"),
        (("method.layers=[nope]",), r"method.layers: 'nope' matches no layer"),
        (("method.layers=[conv1]",), "no layer of this net can have a mask, for example conv1: its channels meet"),
        (("method.raw_a={nope: 1.0}",), r"method.raw_a: 'nope' matches no layer"),
        (("method.steps=0",), r"method.steps must be .*at least 1"),
        (("method.threshold=1",), r"method.threshold must be"),
        (("schedule=finetune",), "schedule=finetune is not supported"),
    ],
)
def test_what_cannot_work_is_refused_before_training(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        run(tmp_path, *SHORT, *NET, "method=anp", *words)
    assert not list(tmp_path.glob("runs/**/log.txt"))


def test_it_needs_pictures(tmp_path: Path) -> None:
    words = ("dataset=bytes", "model=sru_tiny", "dataset.batch_size=2", "dataset.window=8", "dataset.max_bytes=20000")
    with pytest.raises(UserError, match="attacks the pixels of pictures with labels"):
        run(tmp_path, "method=anp", *words)


# -- a whole run


def test_a_run_is_smaller_and_says_so(tmp_path: Path) -> None:
    words = ("method=anp", "method.steps=2", "method.raw_a=-4", "method.mask_lr=0.3", "attack=pgd", "attack.steps=3")
    result, folder = run(tmp_path, *SHORT, *NET, *words, "schedule.phases.train.epochs=4", "attack.num_samples=100")
    before, final = (result["metrics"][stage] for stage in ("before_cut", "final"))
    assert final["accuracy"] == before["accuracy"] and final["method"] == before["method"]
    assert final["nll"] == pytest.approx(before["nll"], abs=1e-5)
    assert final["robust"]["vulnerability"] == pytest.approx(before["robust"]["vulnerability"], rel=1e-3)
    own = final["method"]
    assert own["speedup"] > 1 > own["memory_kept"] and 0 < own["unit_sparsity"] < 1
    budget = result["budget"]
    assert 1 - budget["kept_units"] / budget["gated_units"] == pytest.approx(own["unit_sparsity"])
    net = prunebench.load(folder, trust=True)
    assert cost.count(net, torch.zeros(1, 1, 8, 8)).macs == result["cost"]["final"]["macs"]
    assert result["cost"]["macs_removed"] > 0 and result["equivalence"]["max_abs_diff"] < 1e-4


# -- both sides of the attack


@pytest.mark.slow
def test_lenet_is_robust_only_if_it_was_trained_so(tmp_path: Path, data_root: Path) -> None:
    """MNIST at eps 0.3: a LeNet of ordinary training falls below 10 %, one of short adversarial training does not."""
    words = ("dataset=mnist", "model=lenet5", "dataset.mean=[0]", "dataset.std=[1]", f"paths.data={data_root}")
    common = ("method=anp", "schedule=simultaneous", "latency=false", "trainer.progress=false")
    # five large steps in training are weaker than the paper's 20 and four times as fast
    attack = ("method.steps=5", "method.step=0.1", "attack=pgd", "attack.step=0.01", "attack.num_samples=500")
    train = "schedule.phases.train"
    found = {}
    for mode, length in MNIST.items():
        epochs, share = length
        lengths = (f"{train}.epochs={epochs}", f"{train}.epoch_share={share}")
        found[mode] = run(tmp_path, *words, *common, *attack, f"method.mode={mode}", *lengths)[0]["metrics"]["final"]
    standard, trained = found["standard"], found["at"]
    assert standard["accuracy"] > 0.95 and standard["robust"]["accuracy"] < 0.1
    assert trained["accuracy"] > 0.9 and trained["robust"]["accuracy"] > 0.3
    assert trained["robust"]["vulnerability"] < standard["robust"]["vulnerability"]


MNIST = {"standard": (3, 0.2), "at": (3, 0.2)}
"""Mode -> epochs, and the share of the training pictures in each."""
