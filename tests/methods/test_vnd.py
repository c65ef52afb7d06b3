"""Variational nested dropout: the objective by hand, exact cuts and their published sizes, baselines, whole runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import prunebench
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers.gaussian_weights import GaussianWeights
from prunebench.layers.sampling import is_stochastic
from prunebench.measure import cost
from prunebench.methods.bases.gaussian_nets import gaussian_layers
from prunebench.methods.bases.ordered_nets import masks_of
from prunebench.methods.vnd import VND
from prunebench.models.mlp import mlp_784_500_300
from prunebench.models.preresnet_cifar import CifarPreResNet
from prunebench.models.resnet_cifar import CifarResNet
from prunebench.models.vgg11_wide import vgg11_wide
from prunebench.run.bare import BareRun
from prunebench.surgery.plan import Plan
from prunebench.surgery.shrink import shrink
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, run
from tests.surgery.kit import largest_difference
from tests.surgery.nets import randomise

CONFORMANCE = {"vnd": Conformance(options=("method.num_widths=3",))}

NET = ("model=custom", "model._target_=tests.small_nets.small_resnet", "model.name=small_resnet")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def method(**changes: Any) -> VND:
    settings: dict[str, Any] = {
        "width": 0.5, "num_widths": 16, "masks": "learned", "weight_noise": True, "num_blocks": 32, "frozen_blocks": 2,
        "mask_position": "post_act", "gumbel_input": "log_q", "temperature": 2.0, "prior_keep": 0.95,
        "keep_logit": 3.0, "log_alpha": -1.0, "scale_kept": True, "clamp_noise": False, "bn_images": None,
        "layers": ["*"], "plain": None, "kl_weight": 1e-5, "num_samples": 8,
    }  # fmt: skip
    return VND(**{**settings, **changes})


def small_vgg() -> nn.Module:
    """Channels 8, 16, 32, 32 and four times 64, a classifier 64-16-10; norms with values of their own."""
    torch.manual_seed(0)
    net = vgg11_wide(width=8, hidden=16).eval()
    randomise(net)
    return net


def attached(built: VND, net: nn.Module) -> tuple[nn.Module, BareRun]:
    bare = bare_run(net, schedule="simultaneous")
    built.check(net, bare)
    return built.attach(net, bare), bare


def clock() -> Clock:
    return Clock(step=0, num_steps=4, epoch=0, num_epochs=2, lr=0.1)


# -- what takes part


def test_the_first_convolution_is_plain_and_linear_layers_have_no_mask() -> None:
    built = method()
    net, _ = attached(built, small_vgg())
    assert type(net.get_submodule("features.0")) is nn.Conv2d
    assert len(masks_of(net)) == 7 and len(gaussian_layers(net)) == 9
    assert isinstance(net.get_submodule("classifier.0"), GaussianWeights)
    assert {entry["layer"] for entry in built.whole} == {"features.0", "classifier.0", "classifier.3"}
    assert built.attach(net, bare_run(small_vgg())) is net  # on resume nothing is put in twice
    assert [mask.blocks.num for mask in masks_of(net).values()] == [16, 32, 32, 32, 32, 32, 32]


def test_in_residual_nets_the_stream_stays_whole() -> None:
    net = CifarResNet(blocks=1, num_classes=10, in_channels=3, shortcut="A", width=8)
    built = method()
    attached(built, net)
    assert [name.split(".")[-1] for name in built.masked] == ["conv1"] * 3
    reasons = {entry["reason"] for entry in built.whole if entry["layer"].endswith("conv2")}
    assert reasons == {"its channels meet an addition, where other layers write them too"}


def test_a_norm_behind_an_activation_needs_the_official_position() -> None:
    """In conv, ReLU, norm a masked channel would come out as the norm's constant."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"no convolution of this net can be masked, for example 2: 4 would give its"):
        method().check(net, bare_run(net, schedule="simultaneous"))
    official = method(mask_position="pre_bn")
    attached(official, net)
    assert list(official.masked) == ["2"]


@torch.no_grad()
def test_preactivation_nets_are_masked_inside_their_blocks() -> None:
    torch.manual_seed(0)
    net = CifarPreResNet(blocks=1, num_classes=10, in_channels=3, width=4).eval()
    randomise(net)
    built = method(weight_noise=False)
    masked, bare = attached(built, net)
    assert list(built.masked) == [f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)]
    for path, mask in masks_of(masked).items():
        mask.kept = built.masked[built.places[path]].kept(0.3)
    sliced = shrink(net, bare.graph, built.plan(0.3))
    scale = 1 + float(net(IMAGES).abs().max())
    assert largest_difference(masked.eval(), sliced, IMAGES) < 1e-5 * scale


def test_a_net_without_convolutions_is_refused() -> None:
    net = mlp_784_500_300()
    bare = bare_run(net, torch.zeros(1, 1, 28, 28), schedule="simultaneous")
    with pytest.raises(UserError, match="no convolution of this net can be masked, for example fc1: it is a linear"):
        method().check(net, bare)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_blocks": 32}, "method.frozen_blocks=32 must be below method.num_blocks=32"),
        ({"frozen_blocks": 0}, "frozen_blocks must be a whole number"),
        ({"width": 1.5}, "width must be"),
        ({"prior_keep": 1.0}, "prior_keep must be"),
        ({"gumbel_input": "p"}, "gumbel_input must be one of log_q, q"),
        ({"mask_position": "post_bn"}, "mask_position must be one of post_act, pre_bn"),
    ],
)
def test_options_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        method(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": {"features.9": 0.5}}, "method.width: 'features.9' matches no layer"),
        ({"bn_images": 5}, "method.bn_images must be 1 to 4 training pictures or null, got 5"),
        ({"plain": ["nothing"]}, "method.plain: 'nothing' matches no layer"),
        ({"layers": ["classifier.*"]}, "no convolution of this net can be masked"),
    ],
)
def test_what_does_not_fit_the_net_is_refused_before_training(changes: dict[str, Any], message: str) -> None:
    net = small_vgg()
    with pytest.raises(UserError, match=message):
        method(**changes).check(net, bare_run(net, schedule="simultaneous"))


# -- the objective


def test_the_loss_by_hand() -> None:
    """CE + r (sum of KL_z + sum over filters of P(kept) times the MEAN of k over the filter)."""
    built = method(kl_weight=0.25)
    net, _ = attached(built, small_vgg())
    with torch.no_grad():
        for index, layer in enumerate(gaussian_layers(net).values()):
            layer.get_parameter("spread").fill_(-4.0 if index % 2 else -2.0)
    built.start_epoch(net, clock())
    labels = torch.tensor([1, 2])
    terms = built.losses(net.eval(), (IMAGES, labels), Classification(num_classes=10))
    assert terms.keys() == {"ce", "kl_masks", "kl_weights"}
    # KL_z of 30 betas is 0.0011472; of the 16-channel layer (15 betas) by the chain form
    beta, pi = 1 / (1 + math.exp(-3)), 0.95
    each = beta * math.log(beta / pi) + (1 - beta) * math.log((1 - beta) / (1 - pi))
    of_15 = each * sum(beta**k for k in range(15))
    assert float(terms["kl_masks"].detach()) == pytest.approx(0.25 * (6 * 0.0011472 + of_15), rel=1e-4)
    conv, linear = {-4: 2.000050, -2: 0.882854}, {-4: 1.984449}
    expected_30 = 2 + sum(beta**k for k in range(1, 31))  # blocks that stay, of 32
    expected_15 = 1 + sum(beta**k for k in range(1, 16))  # of 16
    filters = [expected_15, expected_30, expected_30, *[2 * expected_30] * 4]
    sums = sum(number * conv[-2 if index % 2 == 0 else -4] for index, number in enumerate(filters))
    sums += 16 * linear[-4]  # classifier.0 is the eighth layer
    (last,) = [layer for name, layer in gaussian_layers(net).items() if name == "classifier.3"]
    with torch.no_grad():
        last.get_parameter("spread").fill_(-4.0)
    terms = built.losses(net, (IMAGES, labels), Classification(num_classes=10))
    sums += 10 * linear[-4]
    assert float(terms["kl_weights"].detach()) == pytest.approx(0.25 * sums, rel=1e-4)


def test_weights_are_multiplicative_gaussians_by_local_reparameterisation() -> None:
    """y ~ N(conv(x, w), 1e-8 + conv(x^2, alpha w^2)): moments of 4,000 draws in a layer of the net."""
    built = method()
    net, _ = attached(built, small_vgg())
    layer = gaussian_layers(net)["features.4"].train()
    x = torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.manual_seed(0)
        drawn = layer(x.expand(4000, 8, 1, 1))[:, :, 0, 0]
        centre = layer.weight[:, :, 1, 1] @ x[0, :, 0, 0]
        variance = math.exp(-1.0) * layer.weight[:, :, 1, 1].square() @ x[0, :, 0, 0].square() + 1e-8
    standard = (drawn - centre) / variance.sqrt()
    assert float(standard.mean(0).abs().max()) < 0.07 and float((standard.var(0) - 1).abs().max()) < 0.1


def test_baselines_have_no_divergence_of_what_they_do_not_learn() -> None:
    nested = method(masks="prior", weight_noise=False)
    net, _ = attached(nested, small_vgg())
    assert nested.divergences(net) == {} and masks_of(net) and not gaussian_layers(net)
    assert float(next(iter(masks_of(net).values())).keep()[0]) == pytest.approx(0.95)
    alone = method(masks="none", weight_noise=False)
    net, _ = attached(alone, small_vgg())
    assert not is_stochastic(net)
    bayesian = method(masks="none")
    net, _ = attached(bayesian, small_vgg())
    assert bayesian.divergences(net).keys() == {"kl_weights"} and len(gaussian_layers(net)) == 9


# -- cuts


def test_the_official_cuts_have_the_specification_s_sizes() -> None:
    net = vgg11_wide()
    bare = bare_run(net, schedule="simultaneous")
    bare.carry_out = False
    built = method()
    built.check(net, bare)
    graph = bare.graph
    sizes = {32: (342_592_000, 20_946_890), 17: (109_219_840, 6_008_510), 2: (6_484_480, 109_730)}
    for width, blocks in ((1.0, 32), (0.5, 17), (0.0, 2)):
        plan = built.plan(width)
        assert (graph.macs(plan), graph.params(plan)) == sizes[blocks]
    assert sizes[17][0] / sizes[32][0] == pytest.approx(0.3188, abs=5e-5)
    small = cost.count(shrink(net, graph, built.plan(0.0)), torch.zeros(1, 3, 32, 32))
    assert (small.macs, small.params) == sizes[2]
    kept = [len(built.plan(1 - i / 15).keep.get("features.25", range(768))) * 32 // 768 for i in range(16)]
    assert kept == [32, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 7, 5, 3, 2]


@torch.no_grad()
@pytest.mark.parametrize("width", [1.0, 0.6, 0.2, 0.0])
def test_the_masked_net_and_the_sliced_one_agree(width: float) -> None:
    net = small_vgg()
    built = method()
    masked, bare = attached(built, net)
    for path, mask in masks_of(masked).items():
        mask.kept = built.masked[built.places[path]].kept(width)
    sliced = shrink(net, bare.graph, built.plan(width)) if built.plan(width).keep else net
    scale = 1 + float(net(IMAGES).abs().max())
    assert largest_difference(masked.eval(), sliced, IMAGES) < 1e-5 * scale


@torch.no_grad()
def test_in_front_of_the_norm_a_masked_channel_is_a_constant() -> None:
    net = small_vgg()
    built = method(mask_position="pre_bn", weight_noise=False)
    masked, bare = attached(built, net)
    for path, mask in masks_of(masked).items():
        mask.kept = built.masked[built.places[path]].kept(0.2)
    assert largest_difference(masked.eval(), shrink(net, bare.graph, built.plan(0.2)), IMAGES) > 1e-2


@torch.no_grad()
def test_a_smaller_net_is_part_of_every_larger_one() -> None:
    built = method()
    net, bare = attached(built, small_vgg())
    nets = [built._cut(net, bare, width).net for width in (1.0, 0.7, 0.3, 0.0)]
    for large, small in itertools.pairwise(nets):
        whole = dict(large.named_parameters())
        for name, parameter in small.named_parameters():
            part = whole[name][tuple(slice(0, size) for size in parameter.shape)]
            torch.testing.assert_close(part, parameter, msg=name)


@torch.no_grad()
def test_every_width_has_norms_of_its_own() -> None:
    """One pass over the training pictures: the first norm sees the plain convolution, whatever the width."""
    built = method(weight_noise=False)
    net, bare = attached(built, small_vgg())
    pictures = torch.cat([x for x, _ in bare.data.train(epoch=0, seed=0)])
    small = built._cut(net, bare, 0.2).net
    first = net.get_submodule("features.0")(pictures).transpose(0, 1).flatten(1)
    torch.testing.assert_close(small.get_buffer("features.1.running_mean"), first.mean(1), rtol=1e-4, atol=1e-4)
    other = built._cut(net, bare, 1.0).net
    deep = "features.12.running_var"
    assert not torch.allclose(small.get_buffer(deep), other.get_buffer(deep)[: len(small.get_buffer(deep))])


@torch.no_grad()
def test_fresh_norms_undo_the_scaling_by_chances() -> None:
    found = []
    for scaled in (True, False):
        built = method(weight_noise=False, scale_kept=scaled)
        net, bare = attached(built, small_vgg())
        found.append(built._cut(net, bare, 0.6).net)
    ratio = found[0].get_parameter("features.4.weight") / found[1].get_parameter("features.4.weight")
    beta = torch.tensor(3.0).sigmoid()
    expected = torch.cat([torch.ones(1), beta ** torch.arange(1, 10)])
    torch.testing.assert_close(ratio.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0](IMAGES), found[1](IMAGES), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_without_samples_there_is_no_noise_and_dead_weights_are_zero() -> None:
    built = method(num_samples=None)
    net, bare = attached(built, small_vgg())
    gaussian_layers(net)["features.4"].get_parameter("spread")[0, 0] = 3.0
    found = built.extract(net, bare)
    assert not is_stochastic(found.net)
    weight = found.net.get_parameter("features.4.weight")
    assert not weight[0, 0].any() and bool((weight[1:] != 0).all())
    assert found.max_abs_diff is not None and found.max_abs_diff < 1e-4


@torch.no_grad()
def test_the_official_evaluation_caps_the_noise() -> None:
    built = method(log_alpha=2.0, clamp_noise=True, scale_kept=False)
    net, bare = attached(built, small_vgg())
    layer = gaussian_layers(built._cut(net, bare, 1.0).net)["features.4"]
    torch.testing.assert_close(layer.posterior()[1], layer.weight.abs())  # alpha = 1


def test_widths_that_cut_no_further_are_no_points() -> None:
    built = method(num_blocks=4, frozen_blocks=1)
    attached(built, small_vgg())
    assert built.nested.points(built.num_widths) == pytest.approx([1.0, 1 - 1 / 15, 1 - 6 / 15, 1 - 11 / 15])
    assert len({built.plan(width).to_json() for width in built.nested.points(built.num_widths)}) == 4


def test_a_table_of_widths() -> None:
    built = method(width={"features.4": 0.0, "features.*": 1.0})
    attached(built, small_vgg())
    assert built.plan(built.width) == Plan(keep={"features.4": (0,)})


# -- whole runs


def test_a_run_has_a_curve_of_exact_small_nets(tmp_path: Path) -> None:
    words = ("method=vnd", "method.num_widths=3", "method.width=0.0", "ood=noise", "ood.num_pictures=64")
    result, folder = run(tmp_path, *SHORT, *NET, *words)
    assert [point["name"] for point in result["points"]] == ["width_1", "width_0.5", "width_0"]
    for point in result["points"]:
        metrics = point["metrics"]
        assert metrics["num_predictions"] == 8 and metrics["uncertainty"]["mutual_information"] > 0
        assert {"auroc_entropy", "auroc_confidence"} <= metrics["ood"].keys()
        assert {"logit_average_accuracy", "logit_average_batched_ece"} <= metrics["method"].keys()
    # the run's net is the last point, and the whole one is measured as before the cut
    first, _, last = result["points"]
    assert last["metrics"]["accuracy"] == result["metrics"]["final"]["accuracy"]
    assert last["cost"]["macs"] == result["cost"]["final"]["macs"]
    assert first["metrics"]["nll"] == result["metrics"]["before_cut"]["nll"]
    costs = [point["cost"]["macs"] for point in result["points"]]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 3
    # by hand: block i has convolutions in-width and width-width of C channels on P pixels, of which k are kept
    blocks = ((8, 8, 64, 1), (8, 16, 16, 1), (16, 32, 4, 2))
    expected = 9 * 8 * 64 + 320 + sum(9 * pixels * k * (ins + out) for ins, out, pixels, k in blocks)
    assert costs[-1] == expected
    assert result["equivalence"]["max_abs_diff"] < 1e-4
    weights = load_file(folder / "model" / "weights.safetensors")
    assert weights["layer1.0.conv1.weight"].shape[0] == 1 and "layer1.0.conv1.spread" in weights
    assert is_stochastic(prunebench.load(folder, trust=True))


@pytest.mark.parametrize("noise", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_independent_nets_are_trained_one_by_one(noise: bool, tmp_path: Path) -> None:
    words = ("method=vnd", "method.masks=none", f"method.weight_noise={str(noise).lower()}", "method.num_widths=2")
    result, folder = run(tmp_path, *SHORT, *NET, *words)
    assert [phase["name"] for phase in result["phases"]] == ["train_1", "train_0", "train"]
    whole, narrow = result["points"]
    assert whole["cost"]["macs"] == result["cost"]["dense"]["macs"]
    assert narrow["cost"]["macs"] < result["cost"]["final"]["macs"] < whole["cost"]["macs"]
    assert whole["metrics"].get("num_predictions", 1) == (8 if noise else 1)
    assert is_stochastic(prunebench.load(folder, trust=True)) == noise


def test_nested_dropout_with_the_official_position_and_draws(tmp_path: Path) -> None:
    words = ("method=vnd", "method.masks=prior", "method.weight_noise=false", "method.mask_position=pre_bn")
    result, folder = run(tmp_path, *SHORT, *NET, *words, "method.gumbel_input=q", "method.num_widths=2")
    assert [point["name"] for point in result["points"]] == ["width_1", "width_0"]
    assert result["metrics"]["final"]["num_predictions"] == 1
    terms = (folder / "metrics.csv").read_text().partition("\n")[0]
    assert "train/ce" in terms and "train/kl" not in terms and "method/expected_width" in terms
