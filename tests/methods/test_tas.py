"""The search end to end, where it is steered to, what is trained of what it finds, and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunebench
from prunebench.core.method import NET
from prunebench.errors import UserError
from prunebench.measure import cost
from prunebench.methods.bases.shape_supernet import ShapeSuperNet
from prunebench.methods.tas import ARCH, TAS
from prunebench.run import assemble
from prunebench.run.job import Job
from prunebench.run.reevaluate import reevaluate
from prunebench.training.lit import Lit
from tests.conformance.settings import Conformance
from tests.kit import SHORT, configure, run

SMALL = ("model=custom", "model._target_=tests.small_nets.small_shaped_resnet", "model.name=small_shaped_resnet")
# two epochs of ten steps: larger ones, so that the interval is reached
QUICK = ("method.search_epochs=2", "method.arch_lr=0.01")
CONFORMANCE = {"tas": Conformance(options=(*SMALL[1:], *QUICK), may_miss=True)}

METHOD = (*SHORT, *SMALL, "method=tas", *QUICK)
IMAGE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def searched(outputs: Path) -> tuple[dict[str, Any], Path]:
    """Result and folder of one search, with the dense net as the teacher of what it finds."""
    return run(outputs, *METHOD, "method.search_epochs=4", "method.tolerance=0.1")


def built(outputs: Path, *overrides: str) -> tuple[Job, nn.Module, TAS]:
    config, _ = configure(outputs, *METHOD, *overrides)
    job, net = assemble.build(config, outputs / "run")
    assert isinstance(job.method, TAS)
    return job, net, job.method


def supernet(job: Job, method: TAS) -> ShapeSuperNet:
    job.phase = method.search
    net = method.attach(job.dense.fresh("search"), job)
    assert isinstance(net, ShapeSuperNet)
    assert method.attach(net, job) is net
    return net


def test_the_search_ends_inside_its_interval(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    budget = result["budget"]
    assert result["status"] == "complete"
    assert budget["interval"] == pytest.approx([0.4, 0.5]) and 0.4 <= budget["reached"] <= 0.5
    net = prunebench.load(folder, trust=True)
    assert cost.count(net, IMAGE).macs == result["cost"]["final"]["macs"]
    assert result["cost"]["final"]["macs"] / result["cost"]["dense"]["macs"] == pytest.approx(budget["reached"])
    assert result["cost"]["macs_removed"] == pytest.approx(1 - budget["reached"])
    assert result["cost"]["base"]["model"]["widths"] == budget["widths"]
    assert all(again.same for again in reevaluate(folder, trust=True))
    main = [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert [conv.out_channels for conv in main] == budget["widths"]


def test_the_found_net_alone_is_taught(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", "search", "scratch"]
    head, *lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    terms = {
        phase: {key for key in head if key.startswith("train/") and any(r[key] for r in rows if r["phase"] == phase)}
        for phase in ("pretrain", "search", "scratch")
    }
    assert terms == {
        "pretrain": {"train/ce"},
        "search": {"train/ce", "train/arch_ce", "train/cost"},
        "scratch": {"train/ce", "train/distillation"},
    }
    taus = [float(row["method/tau"]) for row in rows if row["phase"] == "search"]
    assert taus == pytest.approx([5.0, 4.282412, 2.55, 0.817588], abs=1e-5)
    compute = result["budget"]["search"]
    search = result["phases"][1]
    assert search["train_macs"] == compute["train_macs"]
    # each sample meets a net that is no larger than the whole one, in 3 passes or in 2
    whole = result["cost"]["dense"]["macs"] * result["data"]["num_train"] * search["epochs"]
    assert 0.3 * 2.5 * whole < search["train_macs"] < 2.5 * whole


@pytest.mark.parametrize(("low", "high", "direction"), [(0.0, 0.2, 1.0), (0.999, 1.0, -1.0), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("lean", [0, 2, 4])
def test_the_cost_leads_into_the_interval(lean: int, low: float, high: float, direction: float, tmp_path: Path) -> None:
    """One step of the cost alone: down from above, up from below, and nowhere from inside."""
    job, _, method = built(tmp_path)
    net = supernet(job, method)
    method.low, method.high = low, high
    assert net.width_logits is not None and net.depth_logits is not None
    with torch.no_grad():
        net.width_logits[:, lean] += 0.1
        net.depth_logits[:, min(lean, 1)] += 0.1
    if lean == 0 and direction == 1.0:
        method.high = 0.5 * net.sizes.built(net.shape()) / job.dense.cost.macs
    assert method.direction(net) == direction
    before = net.expected_macs()
    grads = torch.autograd.grad(method.cost_weight * method.direction(net) * before.div(1e6).log(), net.logits())
    if direction == 0:
        assert not any(grad.any() for grad in grads)
        return
    with torch.no_grad():
        for logits, grad in zip(net.logits(), grads, strict=True):
            logits.sub_(0.1 * grad)
        assert direction * float(net.expected_macs()) < direction * float(before)


@pytest.mark.parametrize(
    ("options", "interval"),
    [
        ({"target_macs": 0.47}, (0.42, 0.47)),
        ({"target_macs": 0.47, "cost_loss": "paper"}, (0.4465, 0.4935)),
        ({"target_macs": 0.6, "tolerance": 0.1}, (0.5, 0.6)),
    ],
)
def test_intervals(options: dict[str, Any], interval: tuple[float, float]) -> None:
    method = TAS(**options)
    assert (method.low, method.high) == pytest.approx(interval)


def test_weights_and_chances_learn_from_their_own_half(tmp_path: Path) -> None:
    """A step moves the weights by the first stream's loss alone and the chances by the second's and the cost."""
    job, _, method = built(tmp_path)
    net = supernet(job, method)
    groups = method.optimizers(net, method.search)
    weights, chances = ({id(p) for group in groups[name] for p in group["params"]} for name in (NET, ARCH))
    assert weights | chances == {id(p) for p in net.parameters()} and not weights & chances
    assert chances == {id(p) for p in net.logits()}
    (arch,) = groups[ARCH]
    assert (arch["optimizer"], arch["betas"], arch["lr"], arch["weight_decay"]) == ("adam", (0.5, 0.999), 0.01, 1e-3)
    streams = method.streams(job)
    pictures = {name: torch.cat([x for x, _ in batches(0)]) for name, batches in streams.items()}
    assert sum(map(len, pictures.values())) == job.data.num_train
    seen: list[tuple[str, set[str]]] = []

    def minimise(terms: Any, optimizer: str = NET) -> None:
        seen.append((optimizer, set(terms)))

    batches = {name: next(iter(stream(0))) for name, stream in streams.items()}
    torch.manual_seed(0)
    terms = method.update(net.train(), batches, job.task, minimise, job.clock())
    assert seen == [(NET, {"ce"}), (ARCH, {"arch_ce", "cost"})]
    torch.manual_seed(0)
    torch.testing.assert_close(terms["ce"], job.task.losses(net, batches[NET])["ce"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms["arch_ce"], job.task.losses(net, batches[ARCH])["ce"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("search", ["depth", "width"])
def test_depth_or_width_alone(search: str, outputs: Path) -> None:
    result, _ = run(outputs, *METHOD, "schedule=scratch", f"method.search={search}", "method.tolerance=0.3",
                    "method.target_macs=0.8")  # fmt: skip
    budget = result["budget"]
    whole = [6] * 5 + [12] * 4 + [24] * 4
    if search == "depth":
        assert budget["blocks"] != [2, 2, 2]
        assert budget["widths"] == [6] * (1 + 2 * budget["blocks"][0]) + [12] * (2 * budget["blocks"][1]) + [24] * (
            2 * budget["blocks"][2]
        )
    else:
        assert budget["blocks"] == [2, 2, 2] and budget["widths"] != whole
    assert [phase["name"] for phase in result["phases"]] == ["search", "train"]  # nobody teaches
    assert "teacher" not in result


def test_a_known_shape_is_trained_without_a_search(outputs: Path) -> None:
    widths = [4, 3, 5, 12, 12, 12, 9, 20, 24]
    known = (f"method.widths={widths}", "method.blocks=[1,2,1]", "teacher=dense")
    result, folder = run(outputs, *METHOD, *known)
    assert [phase["name"] for phase in result["phases"]] == ["pretrain", "scratch"]
    assert result["budget"]["widths"] == widths and "target" not in result["budget"]
    net = prunebench.load(folder, trust=True)
    assert net.widths == tuple(widths) and net.blocks == (1, 2, 1)
    assert result["phases"][1]["teacher_macs"] > 0


def test_the_random_control_is_inside_the_same_interval(outputs: Path, searched: tuple[dict[str, Any], Path]) -> None:
    shapes = []
    for seed in (0, 1):
        result, _ = run(outputs, *METHOD, "method.structure=random", "method.tolerance=0.1", f"seed={seed}")
        assert [phase["name"] for phase in result["phases"]] == ["pretrain", "scratch"]
        assert 0.4 <= result["budget"]["reached"] <= 0.5 and result["status"] == "complete"
        assert result["teacher"] == searched[0]["teacher"]
        shapes.append((result["budget"]["widths"], result["budget"]["blocks"]))
    assert shapes[0] != shapes[1]


def test_an_interrupted_search_finds_the_same_shape(
    tmp_path: Path, searched: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    straight, _ = searched
    command = (*METHOD, "method.search_epochs=4", "method.tolerance=0.1")
    original = Lit.training_step

    def cut_power(self: Lit, batch: Any, batch_idx: int) -> torch.Tensor | None:
        if self.phase.name == "search" and self.current_epoch == 2 and batch_idx == 1:
            raise PowerCut
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Lit, "training_step", cut_power)
    with pytest.raises(PowerCut):
        run(tmp_path, *command)
    monkeypatch.setattr(Lit, "training_step", original)
    resumed, _ = run(tmp_path, *command)
    without_time = [{k: v for k, v in r["budget"].items() if k != "search"} for r in (resumed, straight)]
    assert without_time[0] == without_time[1]
    assert resumed["phases"][1]["train_macs"] == straight["phases"][1]["train_macs"]
    assert resumed["metrics"] == straight["metrics"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_macs": 1.0}, r"target_macs must be a number in \(0, 1\), got 1.0"),
        ({"target_macs": 0.04}, r"method.tolerance=0.05 must be below method.target_macs=0.04"),
        ({"search": "all"}, "search must be one of both, depth, width, got 'all'"),
        ({"cost_loss": "official "}, "cost_loss must be one of official, paper"),
        ({"widths": [0, 3]}, "widths"),
    ],
)
def test_options_outside_their_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TAS(**{"target_macs": 0.5, **options})


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("method.target_macs=0.02", "method.tolerance=0.01"),
            r"at most 0.0200 of the MACs .* the smallest shape has 0\.\d+",
        ),
        (("model=resnet20",), "use model=shaped_resnet20 or another shaped_resnet, got resnet20"),
        (("+model.blocks=[1,1,1]",), "leave out model.widths and model.blocks"),
        (("method.blocks=[3,1,1]",), r"model.blocks must have 3 numbers, of at most \[2, 2, 2\]"),
        (("method.search=depth", "method.tolerance=0.001"), "no combination of depths has between"),
        (("schedule=finetune",), "schedule=finetune is not supported"),
        (("schedule=scratch", "teacher=dense"), "teacher=dense needs a trained dense net"),
    ],
)
def test_refusals_before_any_training(command: tuple[str, ...], message: str, tmp_path: Path) -> None:
    net = () if command[0].startswith("model=") else SMALL
    with pytest.raises(UserError, match=message):
        run(tmp_path, *SHORT, "method=tas", *net, *command)
    assert not (tmp_path / "runs").exists()
