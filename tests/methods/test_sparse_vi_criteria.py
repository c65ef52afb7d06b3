"""Pruning the posterior of any run: what is read from its folder, the curve, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import prunebench
from prunebench.core.context import Run
from prunebench.disk.tensors import write_tensors
from prunebench.errors import UserError
from prunebench.layers.sampling import sampling
from prunebench.measure.pruning_curve import Spread, safe_ratio
from prunebench.methods.bases.gaussian_nets import gaussian_layers, silenced, to_gaussian, to_plain
from prunebench.methods.bases.recorded_draws import Recorded
from prunebench.methods.bases.sparse_cost import sparse_macs
from prunebench.methods.bases.stored_posterior import read_posterior
from prunebench.methods.sparse_vi_criteria import SparseVICriteria
from tests.bare import bare_run
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

# without draws the saved net is an ordinary one, and no share can be sought by draws
CONFORMANCE = {
    "sparse_vi_criteria": Conformance(
        options=(
            "method.num_samples=null",
            "method.num_passes=2",
            "method.prune_ratio=0.5",
            "method.curve_ratios=[0,0.9]",
        )
    )
}

NET = ("model=lenet300_100",)
FEW = ("method.num_samples=4", "method.num_passes=3")
CURVE = ("method.curve_ratios=[0,0.5,0.9]", "method.curve_rankings=[snr,fisher]")


def method(**changes: Any) -> SparseVICriteria:
    settings: dict[str, Any] = {
        "posterior": None, "ranking": "snr", "prune_ratio": 0.5, "scope": "all", "prune_layers": ["*"],
        "fisher_share": 0.3, "fisher_source": "empirical", "fisher_samples": None, "fisher_draws": None,
        "magnitude_norm": "none", "curve_ratios": [], "curve_rankings": ["snr"], "num_passes": None,
        "num_samples": None, "prior": "gaussian", "prior_std": 0.1, "share": 0.5, "log_wide": -1.0,
        "log_narrow": -6.0, "spread": -3.0, "mean_range": None, "bias": True, "estimator": "weight",
        "layers": ["*"], "kl_weight": 1.0, "kl_start": 0, "kl_warmup": 0,
    }  # fmt: skip
    return SparseVICriteria(**{**settings, **changes})


Stored = Callable[..., Path]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """``stored(method, ...)``: the folder of a short run of it, made once."""
    outputs, made = tmp_path_factory.mktemp("outputs"), {}

    def folder(name: str, *words: str) -> Path:
        if (name, words) not in made:
            made[name, words] = run(outputs, *SHORT, *NET, f"method={name}", "schedule=simultaneous", *words)[1]
        return made[name, words]

    return folder


def pruned(tmp_path: Path, source: Path, *words: str) -> dict[str, Any]:
    asked = ("method=sparse_vi_criteria", f"method.posterior={source}", *FEW, *words)
    return run(tmp_path, *SHORT, *NET, *asked)[0]


SOURCES = [
    ("bbb", ("method.num_samples=3",)),
    ("js_bnn", ()),
    ("radio_vi", ("method.num_samples=2",)),
    ("variational_dropout", ()),
    ("variational_dropout", ("method.noise=B", "method.shape=weight")),
    ("sparse_variational_dropout", ()),
    ("swag", ("method.start=0", "method.collect_every=0.25", "method.num_samples=2")),
]


@pytest.mark.parametrize(("name", "words"), SOURCES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_posterior_of_any_run_is_pruned(name: str, words: tuple[str, ...], stored: Stored, tmp_path: Path) -> None:
    source = stored(name, *words)
    result = pruned(tmp_path, source, "method.prune_ratio=0.5", *CURVE)
    assert result["status"] == "complete" and result["phases"] == []
    final, points = result["metrics"]["final"]["method"], {point["name"]: point for point in result["points"]}
    total = 64 * 300 + 300 * 100 + 100 * 10
    assert final["weights"] == total
    assert points.keys() == {"unpruned", "snr_50", "snr_90", "fisher_50", "fisher_90"}
    # floor(p n), whatever is tied; a weight that was dead already is 0 too
    for share in (50, 90):
        for ranking in ("snr", "fisher"):
            own = points[f"{ranking}_{share}"]["metrics"]["method"]
            assert own["weights_removed"] >= total * share // 100
            assert own["sample_error_sd"] >= 0 and 0 <= own["error_at_mean"] <= 1
            assert own["macs_sparse"] == total - own["weights_removed"]  # each weight of a perceptron is used once
    # share 0 is the net of the other run: its mean, measured by both
    whole = points["unpruned"]["metrics"]
    assert {**whole} == {**result["metrics"]["before_cut"]}
    assert whole["method"]["uce"].keys() >= {"entropy", "mutual_information"}
    assert set(result["budget"]["safe_ratio"]) == {"snr", "fisher"}
    assert {"mean of fc weights"} < set(result["budget"]["distributions"])


def test_what_is_read_is_what_was_trained(stored: Stored) -> None:
    """Mean and softplus(spread) of the file, in each layer."""
    folder = stored("bbb", "method.num_samples=3")
    tensors = load_file(folder / "phases" / "train" / "weights.safetensors")
    layers = gaussian_layers(read(folder).net)
    assert len(layers) == 3
    for name, layer in layers.items():
        mean, std = layer.posterior()
        assert torch.equal(mean, tensors[f"net.{name}.weight"])
        torch.testing.assert_close(std, nn.functional.softplus(tensors[f"net.{name}.spread"]))
        bias_std = layer.bias_std()
        assert bias_std is not None and bool((bias_std > 0).all())


def test_iterates_give_their_mean_and_variance(stored: Stored) -> None:
    folder = stored("swag", "method.start=0", "method.collect_every=0.25", "method.num_samples=2")
    tensors = load_file(folder / "phases" / "train" / "weights.safetensors")
    state = {name.removeprefix("method.posterior."): value for name, value in tensors.items() if "posterior" in name}
    variance = state["square"] - state["mean"].square() + state["deviations"].double().square().sum(0) / 19
    size, layer = 64 * 300, next(iter(gaussian_layers(read(folder).net).values()))
    mean, std = layer.posterior()
    torch.testing.assert_close(mean.flatten(), state["mean"][:size].float())
    torch.testing.assert_close(std.flatten(), (0.5 * variance[:size]).sqrt().float(), rtol=1e-4, atol=1e-7)


def read(folder: Path, model: str = "lenet300_100") -> Any:
    net, bare = dense(model)
    return read_posterior(str(folder), net, bare)


def dense(model: str = "lenet300_100") -> tuple[nn.Module, Run]:
    from prunebench.nets.dense_net import make_net

    net = make_net(configure(Path("unused"), f"model={model}", "method=none")[0]["model"])
    return net, bare_run(net, torch.zeros(1, 1, 8, 8))


# -- what is refused


def test_a_folder_without_a_posterior_is_refused(stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no folder of a finished run"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is a run that has learned no distribution over weights"):
        read(stored("none"))
    with pytest.raises(UserError, match=r"is a run of another net: '.*' is missing or differs"):
        read(stored("bbb", "method.num_samples=3"), "mlp_2x400")
    swa = stored("swag", "method.start=0", "method.collect_every=0.25", "method.variant=swa")
    with pytest.raises(UserError, match=r"is a run without a variance"):
        read(swa)


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run whose result says something else, with checksums that fit."""
    from prunebench.core.result import sealed

    shutil.copytree(folder, to)
    result = json.loads((to / "result.json").read_text())
    change(result)
    (to / "result.json").write_text(json.dumps(sealed(result, files=result["files"])))
    return to


def test_a_strangers_folder_calls_nothing_but_methods(stored: Stored, tmp_path: Path) -> None:
    source = stored("bbb", "method.num_samples=3")

    def system(result: dict[str, Any]) -> None:
        result["method"]["settings"] = {"_target_": "os.system", "command": f"touch {tmp_path}/called"}

    def nothing(result: dict[str, Any]) -> None:
        result["method"]["settings"] = None

    def outside(result: dict[str, Any]) -> None:
        result["phases"][0]["name"] = "../../elsewhere"

    with pytest.raises(UserError, match=r"its method cannot be built \(os.system is not called for method"):
        read(changed(source, tmp_path / "one", system))
    assert not (tmp_path / "called").exists()
    with pytest.raises(UserError, match=r"does not say what its method was"):
        read(changed(source, tmp_path / "two", nothing))
    with pytest.raises(UserError, match=r"has a phase without a name"):
        read(changed(source, tmp_path / "three", outside))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_strangers_numbers_must_be_finite(value: float, stored: Stored, tmp_path: Path) -> None:
    to = tmp_path / "copy"
    shutil.copytree(stored("bbb", "method.num_samples=3"), to)
    file = to / "phases" / "train" / "weights.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("spread"))
    tensors[name].view(-1)[0] = value
    write_tensors(file, tensors)
    with pytest.raises(UserError, match=r"numbers that are not finite in '.*spread'"):
        read(to)
    file.write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"cannot be read \(.*\); run that run again"):
        read(to)


def test_the_content_of_the_folder_makes_the_run(stored: Stored, tmp_path: Path) -> None:
    from prunebench.config.identity import run_folder

    def place(folder: Path) -> Path:
        return run_folder(configure(tmp_path, "method=sparse_vi_criteria", f"method.posterior={folder}")[0])

    source = stored("bbb", "method.num_samples=3")
    moved = shutil.copytree(source, tmp_path / "moved")
    assert place(source) == place(moved)
    file = moved / "phases" / "train" / "weights.safetensors"
    write_tensors(file, {name: value + 1 for name, value in load_file(file).items()})
    assert place(source) != place(moved)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("method.prune_ratio=null", "dataset.validation=0"),
            "seeks the largest safe share by draws on the validation",
        ),
        (("method.scope=conv",), "method.scope=conv: the net has no such layer"),
        (("method.fisher_samples=100000", "method.ranking=fisher"), "method.fisher_samples must be at most the"),
        (("method.ranking=mag",), "ranking must be one of snr, fisher, magnitude, magnitude_fisher, fisher_mu2"),
        (("method.curve_ratios=[1.0]",), "curve_ratios"),
        (("method.posterior=/nowhere",), "method.posterior=/nowhere is no folder of a finished run"),
    ],
)
def test_what_cannot_work_is_refused_before_training(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        run(tmp_path, *SHORT, *NET, "method=sparse_vi_criteria", *words)


def test_moments_of_training_are_needed_for_the_adam_estimate(stored: Stored, tmp_path: Path) -> None:
    words = ("method.fisher_source=adam", "method.ranking=fisher", "method.prune_ratio=0.5", "method.curve_ratios=[]")
    with pytest.raises(UserError, match=r"method.fisher_source=adam needs the second moments of a training"):
        pruned(tmp_path, stored("bbb", "method.num_samples=3"), *words)
    source = stored("radio_vi", "method.num_samples=2")
    result = pruned(tmp_path, source, *words)
    assert result["budget"]["weights_live"] == 25_100
    # the same weights as that method itself removes by the same ranking
    own = run(
        tmp_path / "own", *SHORT, *NET, "method=radio_vi", "method.num_samples=2",
        "method.ranking=fisher", "method.prune_ratio=0.5",
    )[1]  # fmt: skip
    found = tmp_path / "runs"
    mine = next(found.glob("sparse_vi_criteria-*/*/seed_0"))
    kept = [
        [layer.posterior()[0] != 0 for layer in gaussian_layers(prunebench.load(folder, trust=True)).values()]
        for folder in (own, mine)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*kept, strict=True))


# -- Fisher information


def posterior_net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(*layers)
    names = [name for name, module in plain.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return to_gaussian(plain, names, scale="std", initial=0.1).eval()


def test_information_at_the_means_is_the_mean_over_single_samples() -> None:
    """Logistic loss of a linear model, by automatic differentiation of one example after the other."""
    net = posterior_net(nn.Linear(4, 3))
    built, bare = method(), bare_run(to_plain(net), torch.zeros(1, 4))
    built.pruned = ["0"]
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    found = built._fisher(net, [(x[:30], y[:30]), (x[30:], y[30:])], bare)
    weight = gaussian_layers(net)["0"].weight
    expected = torch.zeros(12)
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(net(one[None]), label[None])
        expected += torch.autograd.grad(loss, weight)[0].flatten().square() / 40
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_information_over_draws_and_at_drawn_labels() -> None:
    net = posterior_net(nn.Linear(4, 3))
    x, y = torch.randn(4000, 4), torch.zeros(4000, dtype=torch.long)
    bare = bare_run(to_plain(net), torch.zeros(1, 4))
    found = {}
    for source, draws in (("empirical", None), ("model", None), ("empirical", 3)):
        built = method(fisher_source=source, fisher_draws=draws)
        built.pruned = ["0"]
        found[source, draws] = built._fisher(net, [(x, y)], bare)
        assert torch.equal(found[source, draws], built._fisher(net, [(x, y)], bare))  # a function of the seed
    # true Fisher information of weight (k, j) is E[p_k (1 - p_k) x_j^2]
    probs = net(x).softmax(1).detach()
    expected = ((probs * (1 - probs)).T @ x.square() / len(x)).flatten()
    torch.testing.assert_close(found["model", None], expected, rtol=0.12, atol=0.01)
    assert not torch.allclose(found["empirical", None], expected, rtol=0.12, atol=0.01)
    with sampling(net):
        assert not torch.equal(net(x), net(x))
    assert not torch.equal(found["empirical", 3], found["empirical", None])


# -- the curve


@torch.no_grad()
def test_share_zero_changes_nothing_and_share_one_leaves_constants() -> None:
    net = posterior_net(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False))
    built = method()
    built.pruned = ["0", "2"]
    x = torch.randn(6, 4)

    def draws(found: nn.Module) -> torch.Tensor:
        return Recorded(found, num_samples=5, seed=1).each(lambda drawn: drawn(x).softmax(1))

    assert torch.equal(draws(silenced(net, built.weakest(net, "snr", 0.0))), draws(net))
    gone = draws(silenced(net, built.weakest(net, "snr", 1.0)))
    assert torch.equal(gone, torch.full_like(gone, 1 / 3))


@torch.no_grad()
def test_scaling_a_layer_changes_its_magnitudes_not_its_ratios() -> None:
    built, in_units = method(), method(magnitude_norm="layer_std")
    net = posterior_net(nn.Linear(4, 6), nn.Linear(6, 3))
    built.pruned = in_units.pruned = ["0", "1"]
    for layer in gaussian_layers(net).values():
        nn.init.uniform_(layer.spread, 0.05, 0.2)
    before = {kind: built.weakest(net, kind, 0.5) for kind in ("snr", "magnitude")}
    units = in_units.weakest(net, "magnitude", 0.5)
    layer = gaussian_layers(net)["0"]
    for values in (layer.weight, layer.spread):
        values *= 16.0
    after = {kind: built.weakest(net, kind, 0.5) for kind in ("snr", "magnitude")}
    assert all(torch.equal(before["snr"][name], after["snr"][name]) for name in ("0", "1"))
    assert int(after["magnitude"]["0"].sum()) < int(before["magnitude"]["0"].sum())
    assert all(torch.equal(units[name], in_units.weakest(net, "magnitude", 0.5)[name]) for name in units)


def test_a_weight_of_a_convolution_saves_its_positions() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    bare = bare_run(plain, torch.zeros(1, 1, 6, 6))
    net = to_gaussian(plain, ["0", "2"], scale="std", initial=0.1)
    whole = 2 * 9 * 16 + 32 * 3
    assert sparse_macs(net, bare) == bare.base.cost.macs == whole
    dead = {"0": torch.zeros(2, 1, 3, 3, dtype=torch.bool), "2": torch.zeros(3, 32, dtype=torch.bool)}
    dead["0"][0, 0, 1] = True
    dead["2"][1, :5] = True
    assert sparse_macs(silenced(net, dead), bare) == whole - 3 * 16 - 5


def test_one_word_trains_a_posterior_and_prunes_what_is_safe(tmp_path: Path) -> None:
    words = ("method.curve_ratios=[0,0.5,0.9]", "method.curve_rankings=[snr,magnitude_fisher]")
    result, folder = run(tmp_path, *SHORT, *NET, "method=sparse_vi_criteria", *FEW, *words)
    budget = result["budget"]
    assert budget["chosen_on"] == "validation"
    assert budget["weights"] - budget["weights_live"] == int(budget["prune_ratio"] * 50_200 + 1e-9)
    points = result["points"]
    assert points[0]["settings"] == {"prune_ratio": 0.0}
    for ranking, found in budget["safe_ratio"].items():
        mine = [p for p in points if p["settings"].get("ranking", ranking) == ranking]
        errors = [(p["settings"]["prune_ratio"], p["metrics"]["method"]) for p in mine]
        curve = [(ratio, Spread(own["sample_error"], own["sample_error_sd"])) for ratio, own in errors]
        assert found == safe_ratio(curve)
    stage = result["metrics"]["final"]
    assert stage["num_predictions"] == 4
    assert stage["method"]["uncertainties"]["mutual_information"] >= 0
    # its own folder has a posterior as well
    again = pruned(tmp_path, folder, "method.prune_ratio=0.5", "method.curve_ratios=[0]")
    assert again["points"][0]["metrics"]["nll"] == points[0]["metrics"]["nll"]


def test_convolutions_alone(tmp_path: Path) -> None:
    words = (
        "model=conv_bbb",
        "dataset.size=16",
        "method.scope=conv",
        "method.prune_ratio=0.5",
        "method.ranking=fisher",
    )
    few = ("method.fisher_samples=64", "method.curve_ratios=[]")
    result, _ = run(tmp_path, *SHORT, "method=sparse_vi_criteria", *FEW, *words, *few)
    assert {"fc1", "fc2", "fc3"} <= {entry["layer"] for entry in result["not_pruned"]}
    assert result["budget"]["weights_live"] == result["budget"]["weights"] - result["budget"]["weights"] // 2
    assert "mean of conv weights" in result["budget"]["distributions"]
