"""Sparse VD on small nets: what is removed, what is measured, what is stored."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunebench
from prunebench import rows
from prunebench.config import named
from prunebench.core.clock import Clock
from prunebench.core.task import Classification
from prunebench.errors import UserError
from prunebench.layers import kl
from prunebench.layers.gaussian_layers import GaussianLinear
from prunebench.layers.sampling import Ensemble
from prunebench.methods.bases.gaussian_nets import gaussian_layers, to_plain, with_spread
from prunebench.methods.sparse_variational_dropout import SparseVariationalDropout
from prunebench.models.resnet_cifar import resnet20
from prunebench.models.vgg_cifar import vgg16
from prunebench.run import assemble
from prunebench.surgery.dead import unread
from prunebench.surgery.graph import ChannelGraph
from prunebench.surgery.shrink import shrink
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

CONFORMANCE = {
    "sparse_variational_dropout": Conformance(
        options=("method.kl_start=0", "method.kl_warmup=0", "method.log_sigma2=-6", "method.threshold=1")
    )
}

NET = ("method=sparse_variational_dropout", "model=lenet300_100", "schedule=simultaneous", "dataset.augment.crop=0")
QUICK = (
    "method.kl_start=0", "method.kl_warmup=1", "method.log_sigma2=-6", "schedule.phases.train.epochs=5",
    "schedule.phases.train.lr=0.01", "schedule.phases.train.batch_size=20",
)  # fmt: skip


def method(**changes: Any) -> SparseVariationalDropout:
    settings: dict[str, Any] = {
        "log_sigma2": -10.0, "threshold": 3.0, "train_clip": False, "layers": ["*"], "kl_weight": 1.0, "kl_start": 0,
        "kl_warmup": 0, "num_samples": None,
    }  # fmt: skip
    return SparseVariationalDropout(**{**settings, **changes})


CLOCK = Clock.first(num_epochs=41, steps_per_epoch=3, lr=0.1)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(F.relu(self.one(x)))


def trained(**changes: Any) -> tuple[SparseVariationalDropout, nn.Module]:
    built = method(**changes)
    built.names, built.num_train = ["one", "two"], 50
    torch.manual_seed(0)
    return built, built.swap(Two())


def test_the_objective_is_the_bound_divided_by_the_training_set() -> None:
    built, net = trained(kl_weight=0.5)
    first = net.get_submodule("one")
    assert isinstance(first, GaussianLinear)
    first.weight = nn.Parameter(torch.tensor([[0.5, -0.1]] * 3))
    first.spread = nn.Parameter(torch.tensor([[-4.0, -1.0]] * 3))
    second = net.get_submodule("two")
    # KL of (0.5, -4) is 1.9031, of (-0.1, -1) 0.0139
    expected = 3 * (1.9031 + 0.0139) + kl.log_uniform(second.log_alpha()).sum().item()
    assert built.divergence(net).item() == pytest.approx(expected, abs=1e-3)
    built.start_epoch(net, CLOCK)
    batch = (torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
    terms = built.losses(net, batch, Classification(num_classes=2))
    assert terms["kl"].item() == pytest.approx(0.5 * expected / 50, rel=1e-3)


def test_the_weight_of_the_kl_follows_the_epochs() -> None:
    built, net = trained(kl_start=5, kl_warmup=15)
    seen = []
    for epoch in (0, 5, 10, 20, 40):
        built.start_epoch(net, CLOCK.at(3 * epoch))
        seen.append(round(built.kl_now.item(), 4))
    assert seen == [0.0, 0.0, 0.3333, 1.0, 1.0]
    assert "kl_now" in built.state_dict()  # a resumed run goes on with it


def test_weight_decay_is_not_for_random_weights() -> None:
    built, net = trained()
    config, _ = configure(Path("unused"), "schedule=simultaneous", "schedule.phases.train.weight_decay=0.1")
    job, _ = assemble.build(config, Path("unused"))
    groups = built.param_groups(nn.Sequential(net, nn.BatchNorm1d(2)), job.phases[0])
    decays = {id(p): group.get("weight_decay", 0.1) for group in groups for p in group["params"]}
    assert {decays[id(p)] for p in net.parameters()} == {0.0}
    assert len(decays) == len(list(net.parameters())) + 2


@torch.no_grad()
def test_a_small_gaussian_net_has_the_sliced_posterior() -> None:
    _, net = trained(num_samples=3, threshold=0.0)
    net.eval()
    first, second = net.get_submodule("one"), net.get_submodule("two")
    for layer in (first, second):
        layer.weight.fill_(1.0)
        layer.spread.fill_(-2.0)
    second.spread[:, 1] = 5.0  # hidden unit 1 is not read
    first.spread[2, 0] = 5.0  # one dead weight in unit 2
    graph = ChannelGraph.trace(Two(), torch.zeros(1, 2))
    sparse = to_plain(net)
    plan = unread(sparse, graph)
    assert plan.keep == {"one": (0, 2)}
    small = with_spread(shrink(sparse, graph, plan), net, graph, plan)
    x = torch.randn(6, 2)
    torch.testing.assert_close(small(x), net(x))
    layers = gaussian_layers(small)
    std = torch.e**-1
    torch.testing.assert_close(layers["one"].spread, torch.tensor([[std, std], [0.0, std]]))
    assert layers["one"].weight.tolist() == [[1.0, 1.0], [0.0, 1.0]]
    # the small net's predictions have the distribution of the large one's
    task, batch = Classification(num_classes=2), (x, torch.zeros(6, dtype=torch.long))
    means = [
        Ensemble(n, num_samples=800, seed=s).each(lambda drawn: task.probabilities(drawn, batch)).mean(0)
        for s, n in enumerate((small, net))
    ]
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=0.06)


def test_dead_weights_and_units_are_gone_and_the_output_is_the_same(tmp_path: Path) -> None:
    result, folder = run(tmp_path, *SHORT, *NET, *QUICK)
    budget, cost = result["budget"], result["cost"]
    assert budget["compression"] == pytest.approx(budget["weights"] / budget["weights_live"])
    assert budget["weights"] == 64 * 300 + 300 * 100 + 100 * 10
    assert 0 < budget["sparsity_per_layer"]["fc1"] < 1
    assert cost["final"]["macs"] < cost["dense"]["macs"]
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    net = prunebench.load(folder, trust=True)
    zeros = sum(int((p == 0).sum()) for p in net.parameters())
    assert cost["final"]["nonzero_params"] == cost["final"]["params"] - zeros
    # moving constants away can only kill more weights
    live = sum(int(torch.count_nonzero(net.get_parameter(f"{name}.weight"))) for name in ("fc1", "fc2", "fc3"))
    assert live <= budget["weights_live"]
    assert not any(isinstance(module, GaussianLinear) for module in net.modules())
    history = (folder / "metrics.csv").read_text().splitlines()[0]
    assert "method/weights_kept" in history and "method/kl_nats" in history
    assert result["guarantee"]["objective"] == "elbo"


def test_several_samples_are_averaged_and_counted(tmp_path: Path) -> None:
    result, folder = run(tmp_path, *SHORT, *NET, *QUICK, "method.num_samples=5", "ood=noise", "ood.num_pictures=200")
    final, alone = result["metrics"]["final"], result["metrics"]["saved_net"]
    assert (final["num_predictions"], alone["num_predictions"]) == (5, 1)
    assert final["uncertainty"]["mutual_information"] > 0
    assert 0 <= final["ood"]["auroc_mutual_information"] <= 1
    cost = result["cost"]["final"]
    assert cost["num_predictions"] == 5 and cost["macs_all_predictions"] == 5 * cost["macs"]
    net = prunebench.load(folder, trust=True)
    layers = gaussian_layers(net)
    assert layers and all(((layer.weight == 0) == (layer.spread == 0)).all() for layer in layers.values())
    # the saved net draws the run's predictions again
    config, _ = configure(tmp_path, *SHORT, *NET)
    data = named.build("dataset", config["dataset"])
    data.setup(Path("unused"), download=False)
    ensemble, hits = Ensemble(net, num_samples=5, seed=0), 0
    task = Classification(num_classes=10)
    with torch.no_grad():
        for batch in data.test():
            mean = ensemble.each(partial(task_probabilities, task, batch)).mean(0)
            hits += int((mean.argmax(1) == batch[1]).sum())
    assert hits == final["correct"]


def task_probabilities(task: Classification, batch: tuple[Tensor, Tensor], drawn: nn.Module) -> Tensor:
    return task.probabilities(drawn, batch)


def test_from_a_trained_net(tmp_path: Path) -> None:
    result, _ = run(tmp_path, *SHORT, *NET, "schedule=simultaneous_pretrained", "method.log_sigma2=-8")
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", "train"]
    assert "dense" in result["metrics"] and result["schedule"]["name"] == "simultaneous"
    assert result["phases"][1]["settings"]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_samples": 0}, "num_samples must be a whole number of at least 1 or null, got 0"),
        ({"kl_warmup": 1.5}, "kl_warmup must be a whole number of at least 0, got 1.5"),
        ({"kl_weight": -1}, "kl_weight must be a number of at least 0, got -1"),
        ({"log_sigma2": "small"}, "log_sigma2 must be a number"),
    ],
)
def test_bad_values_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        method(**changes)


def test_a_layer_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method.layers: 'fc9' matches no layer"):
        run(tmp_path, *SHORT, *NET, "method.layers=[fc9]")


def test_lenet5_loses_weights_of_convolutions_too(tmp_path: Path) -> None:
    words = ("method=sparse_variational_dropout", "model=lenet5", "dataset.size=16", "dataset.augment.crop=0")
    result, folder = run(tmp_path, *SHORT, *words, *QUICK)
    budget, cost = result["budget"], result["cost"]
    assert list(budget["sparsity_per_layer"]) == ["conv1", "conv2", "fc1", "fc2"]
    assert budget["weights"] == 25 * 20 + 25 * 20 * 50 + 50 * 500 + 500 * 10
    assert budget["sparsity_per_layer"]["conv2"] > 0.02 and budget["compression"] > 1
    assert result["equivalence"]["max_abs_diff"] < 1e-5
    assert cost["final"]["nonzero_params"] < cost["dense"]["nonzero_params"]
    net = prunebench.load(folder, trust=True)
    assert not any(isinstance(module, GaussianLinear) for module in net.modules())


@torch.no_grad()
@pytest.mark.parametrize("train_clip", [False, True])
def test_a_vgg_keeps_its_output_when_dead_weights_filters_and_units_go(train_clip: bool) -> None:
    """The paper's CIFAR net: 13 convolutions with batch norm, a hidden linear layer with one, all of them random."""
    torch.manual_seed(0)
    net = vgg16(width=4).eval()
    run = bare_run(net, schedule="simultaneous")
    built = method(log_sigma2=-15.0, train_clip=train_clip)
    built.check(net, run)
    assert len(built.names) == 15
    whole = built.attach(net, run)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(whole.eval()(images), net(images))  # nothing is dead yet
    for layer in gaussian_layers(whole).values():
        layer.spread[torch.rand_like(layer.spread) < 0.6] = 9.0  # ln alpha above the threshold
    first = gaussian_layers(whole)["features.3"]
    first.spread[:2] = 9.0  # two filters without a weight
    found = built.extract(whole, run)
    torch.testing.assert_close(found.net.eval()(images), whole.eval()(images), atol=1e-5, rtol=1e-4)
    assert found.plan is not None and len(found.plan.keep["features.3"]) == 2
    shares = found.achieved["sparsity_per_layer"]
    assert list(shares) == built.names and all(0.4 < share < 0.9 for share in shares.values())
    assert found.achieved["compression"] == pytest.approx(2.5, abs=0.2)


def test_the_row_of_the_vgg_starts_from_a_trained_net() -> None:
    config = rows.compose(rows.find("variational_dropout-abstract_vgg"))
    assert (config["model"]["name"], config["method"]["log_sigma2"]) == ("vgg16", -15.0)
    assert not config["method"]["train_clip"]
    phases = config["schedule"]["phases"]
    assert list(phases) == ["pretrain", "train"]
    assert (phases["train"]["epochs"], phases["train"]["lr"]) == (200, 1e-5)


def test_a_residual_net_that_draws_its_weights_keeps_the_partners_of_an_addition_equal() -> None:
    """Different sets would make the layers of the stream wide, and a layer that draws its weights has no wide form."""
    net, example = resnet20(in_channels=1, num_classes=4).eval(), torch.randn(2, 1, 8, 8)
    sparse_vd, bare = method(num_samples=3), bare_run(net, example, schedule="simultaneous")
    sparse_vd.check(net, bare)
    noisy = sparse_vd.attach(net, bare).eval()
    # what the first stage writes arrives in the middle of the second one, where nobody reads the channels 8 to 12
    stage2 = "layer2.1.conv1", "layer2.2.conv1", "layer3.0.conv1"
    stage3 = "layer3.1.conv1", "layer3.2.conv1", "linear"
    with torch.no_grad():
        for names, first in ((stage2, 8), (stage3, 8 + 16)):
            for name in names:
                gaussian_layers(noisy)[name].spread[:, first : first + 5] = 20.0  # log sigma^2: nothing but noise
    plan = unread(to_plain(noisy), bare.graph)
    assert len(plan.keep["layer2.0.conv2"]) == 27 and "conv1" not in plan.keep
    found = sparse_vd.extract(noisy, bare)
    assert found.plan is not None and len(found.plan.keep["layer2.0.conv2"]) == 32
    torch.testing.assert_close(found.net.eval()(example), to_plain(noisy)(example), rtol=1e-4, atol=1e-5)
    drawn = Ensemble(found.net, num_samples=2, seed=0).each(lambda net: net(example))
    assert drawn.shape == (2, 2, 4) and not torch.equal(drawn[0], drawn[1])
