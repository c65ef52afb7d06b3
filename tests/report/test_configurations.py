"""Seeds are averaged, never picked; a label names what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prunebench.config.groups import conf_folder, options
from prunebench.report.collect import collect
from prunebench.report.configurations import Group, estimate, group, label
from prunebench.report.method_defaults import method_defaults
from prunebench.report.papers import views
from prunebench.report.summaries import configurations
from prunebench.report.untrusted import flat
from prunebench.rows import load_papers
from tests.report.factory import make


def test_mean_sd_and_interval_of_five_seeds() -> None:
    found = estimate([0.9358, 0.9341, 0.9377, 0.9360, 0.9349])
    assert found is not None
    assert found.mean == pytest.approx(0.9357)
    assert found.sd == pytest.approx(0.00135093, abs=1e-8)
    assert found.half_width == pytest.approx(0.00167740, abs=1e-8)
    assert found.count == 5


def test_one_seed_has_no_spread() -> None:
    found = estimate([0.9])
    assert found is not None
    assert (found.mean, found.sd, found.half_width, found.count) == (0.9, None, None, 1)
    assert estimate([]) is None


def groups_of(root: Path) -> list[Group]:
    return group(collect(root).records)


def test_seeds_of_one_configuration_are_one_group(tmp_path: Path) -> None:
    for seed in (2, 0, 1):
        make(tmp_path, seed=seed)
    make(tmp_path, seed=3, status="failed")
    [found] = groups_of(tmp_path)
    assert [record.seed for record in found.records] == [0, 1, 2]
    accuracies = [record.numbers["final.accuracy"] for record in found.records]
    mean = found.estimate("final.accuracy")
    assert mean is not None
    assert mean.mean == pytest.approx(sum(accuracies) / 3)
    assert mean.mean < max(accuracies)


def test_the_label_names_what_differs(tmp_path: Path) -> None:
    make(tmp_path, ratio=0.3)
    make(tmp_path, ratio=0.5)
    make(tmp_path, method="l1norm", ratio=0.5)
    labels = {(g.first.method, g.label) for g in groups_of(tmp_path)}
    assert labels == {("fpgm", "prune_ratio 0.3"), ("fpgm", "prune_ratio 0.5"), ("l1norm", "")}


def test_a_ratio_beside_a_target_has_no_say_and_no_place_in_the_label() -> None:
    varying = ["method.prune_ratio", "method.target_macs", "phases.finetune.lr"]
    given = {"method.prune_ratio": 0.3, "phases.finetune.lr": 0.1}
    assert label({**given, "method.target_macs": None}, varying).startswith("prune_ratio 0.3, ")
    assert label({**given, "method.target_macs": 0.5}, varying) == "target_macs 0.5, finetune.lr 0.1"


def test_a_setting_that_older_results_lack_is_the_default_and_no_label(tmp_path: Path) -> None:
    """``free_channels: false`` and ``batch: 64`` stand in the configuration of fpgm, ``round_to: 8`` does not."""
    make(tmp_path, ratio=0.3)
    make(tmp_path, ratio=0.5, more={"free_channels": False, "batch": 64})
    assert {found.label for found in groups_of(tmp_path)} == {"prune_ratio 0.3", "prune_ratio 0.5"}
    make(tmp_path, ratio=0.5, more={"free_channels": True, "round_to": 8})
    assert {found.label for found in groups_of(tmp_path)} == {
        "prune_ratio 0.3, round_to 1",
        "prune_ratio 0.5, round_to 1, free_channels False",
        "prune_ratio 0.5, round_to 8, free_channels True",
    }


def test_a_default_is_said_where_nothing_else_tells_two_configurations_apart(tmp_path: Path) -> None:
    make(tmp_path)
    make(tmp_path, more={"free_channels": False})
    assert {found.label for found in groups_of(tmp_path)} == {"", "free_channels False"}


def test_a_method_of_somebody_else_has_no_defaults(tmp_path: Path) -> None:
    make(tmp_path, method="theirs", ratio=0.3)
    make(tmp_path, method="theirs", ratio=0.3, more={"free_channels": False})
    assert {found.label for found in groups_of(tmp_path)} == {"", "free_channels False"}


@pytest.mark.parametrize("name", sorted(options("method")))
def test_the_defaults_of_a_method_are_what_hydra_composes(name: str) -> None:
    with initialize_config_dir(str(conf_folder()), version_base=None):
        config = compose("config", overrides=[f"method={name}"])
    composed = OmegaConf.to_container(config.method, resolve=False)
    assert isinstance(composed, dict)
    assert method_defaults(name) == dict(flat(composed, "method"))


def test_no_name_of_a_result_becomes_a_path() -> None:
    assert method_defaults("part/channels") == method_defaults("../config") == {}


def test_swept_numbers_are_rounded_unless_two_labels_would_be_one(tmp_path: Path) -> None:
    make(tmp_path, ratio=0.15227757982092444)
    make(tmp_path, ratio=0.5)
    assert {found.label for found in groups_of(tmp_path)} == {"prune_ratio 0.1523", "prune_ratio 0.5"}
    make(tmp_path, ratio=0.15227757982092445 + 1e-9)
    labels = {found.label for found in groups_of(tmp_path)}
    assert len(labels) == 3
    assert "prune_ratio 0.15227757982092444" in labels


def test_times_of_two_machines_are_not_averaged(tmp_path: Path) -> None:
    make(tmp_path, seed=0)
    path = make(tmp_path, seed=1) / "result.json"
    result = json.loads(path.read_text())
    result["latency"]["device_name"] = "another machine"
    path.write_text(json.dumps(result))
    [found] = groups_of(tmp_path)
    time, accuracy = found.estimate("final.batch_1_ms"), found.estimate("final.accuracy")
    assert time is not None
    assert accuracy is not None
    assert (time.count, accuracy.count) == (1, 2)


def test_the_drop_is_paired_within_runs(tmp_path: Path) -> None:
    for seed in range(2):
        make(tmp_path, seed=seed)
    [found] = groups_of(tmp_path)
    drop = found.drop()
    assert drop is not None
    pairs = [r.numbers["final.accuracy"] - r.numbers["dense.accuracy"] for r in found.records]
    assert drop.mean == pytest.approx(sum(pairs) / 2)


def test_masked_weights_are_called_so_in_every_table(tmp_path: Path) -> None:
    """Nine of ten weights are zero but still there: nothing was removed, and the tables say so."""
    row = {"id": "l1norm-t1_resnet56_a", "changed": []}
    folder = make(tmp_path, method="l1norm", model="resnet56", dataset="cifar10", row=row)
    result = json.loads((folder / "result.json").read_text())
    cost = result["cost"]
    cost["final"] = {**cost["dense"], "nonzero_params": cost["dense"]["params"] // 10}
    cost |= {"macs_removed": 0.0, "params_removed": 0.0}
    (folder / "result.json").write_text(json.dumps(result))
    make(tmp_path, method="fpgm", model="resnet56", dataset="cifar10")
    groups = groups_of(tmp_path)
    table = configurations(groups)
    place = [column.title for column in table.columns].index("Weights")
    assert sorted(line[place].text for line in table.rows) == ["masked, 90.0 % zero", "removed"]
    [view] = views(load_papers(papers=["l1norm"]), groups)
    shown = {cell.below for table, _ in view.tables for line in table.rows for cell in line}
    assert "masked, 90.0 % zero" in shown


def same_net(root: Path, nets: dict[int, str]) -> None:
    for seed, net in nets.items():
        path = make(root, seed=seed) / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "net_sha256": net}))


@pytest.mark.parametrize(
    ("nets", "seeds", "repeated"),
    [
        ({0: "a", 1: "a", 2: "a"}, [0], (1, 2)),
        ({0: "a", 1: "b", 2: "a"}, [0, 1], (2,)),
        ({0: "a", 1: "b", 2: "c"}, [0, 1, 2], ()),
        ({0: "", 1: "", 2: ""}, [0, 1, 2], ()),  # results that do not say
    ],
)
def test_the_same_net_is_one_sample(
    nets: dict[int, str], seeds: list[int], repeated: tuple[int, ...], tmp_path: Path
) -> None:
    same_net(tmp_path, nets)
    [found] = groups_of(tmp_path)
    assert [record.seed for record in found.records] == list(found.seeds) == seeds
    assert found.repeated == repeated
    accuracy = found.estimate("final.accuracy")
    assert accuracy is not None and accuracy.count == len(seeds)
    assert (accuracy.sd is None) == (len(seeds) == 1)
    level, missing = found.guarantee
    assert (level == "full") == (len(seeds) == 3)
    assert ("; ".join(missing) == "") == (len(seeds) == 3)
    if repeated:
        assert missing[-1].startswith("the same net again: seed") and f"{len(seeds)} of 3 seeds" in missing


def test_a_comparison_counts_a_net_once(tmp_path: Path) -> None:
    from prunebench.report.pairs import compare, read_correct

    same_net(tmp_path, {0: "a", 1: "a", 2: "a"})
    for seed in range(3):
        make(tmp_path, method="random", seed=seed)
    one, other = sorted(groups_of(tmp_path), key=lambda g: g.first.method)
    pair = compare(one, other, read_correct)
    assert (pair.nets, pair.over_seeds.sd) == (1, None)  # one net of each
