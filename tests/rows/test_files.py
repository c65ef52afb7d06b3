"""The rows files: complete, strict, and with the numbers of the papers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from prunebench import rows
from prunebench.config.groups import conf_folder, options
from prunebench.errors import UserError
from prunebench.rows.fields import FIELDS
from prunebench.rows.read_yaml import read_rows

PAPERS = options("rows")
"""Rows file -> its first line, which ends with the number of lines of the tables that it holds."""
every = pytest.mark.parametrize("paper", PAPERS)

HEAD = """
title: A
authors: B
venue: C
convention: conv_linear
tolerance: 0.005
provenance: {source: official-repo, file: README.md}
deviations: {ours: D}
recipes: {short: {method: none, schedule: simultaneous, schedule.phases.train: {epochs: 1, lr: 0.1}}}
rows:
"""
GOOD = "- {id: one, table: T, dataset: digits, model: resnet20, kind: own, reported: {accuracy: 0.9}"


def read(tmp_path: Path, text: str, name: str = "paper") -> list[rows.Row]:
    (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return rows.load(tmp_path)


OFFICIAL_STD = [0.2023, 0.1994, 0.2010]
"""By which the CIFAR scripts of these three official codes divide (network-slimming, main.py:73)."""


@pytest.mark.parametrize(
    ("paper", "methods"),
    [
        ("rethinking", ("l1norm", "magnitude", "slimming")),
        ("pruning_from_scratch", ("none", "pruning_from_scratch")),
    ],
)
def test_cifar_rows_of_an_official_code_normalise_as_it_does(paper: str, methods: tuple[str, ...]) -> None:
    ready = [part.overrides for part in parts_of(paper) if part.overrides and part.overrides["method"] in methods]
    found = [overrides for overrides in ready if overrides["dataset"].startswith("cifar")]
    assert found and all(overrides.get("dataset.std") == OFFICIAL_STD for overrides in found)


def parts_of(paper: str) -> list[rows.Row]:
    return [part for row in rows.load(papers=[paper]) for part in row.parts]


@every
def test_no_row_is_missing(paper: str) -> None:
    """The number was taken from the paper's specification, not from the rows below it."""
    said = re.search(r": (\d+) rows?$", PAPERS[paper])
    assert said, "the first line of the file must end with the number of its rows"
    assert len(rows.load(papers=[paper])) == int(said[1])


def test_names_are_unique_and_fit_into_a_folder() -> None:
    names = [part.name for row in rows.load() for part in row.parts]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 60


@every
def test_every_row_runs_or_says_why_not(paper: str) -> None:
    for part in parts_of(paper):
        assert (part.overrides is None) == bool(part.pending), part.name
        if part.kind == "quoted":
            assert part.overrides is None, part.name


def test_links_lead_somewhere() -> None:
    every = rows.load()
    names = {part.name for row in every for part in (row, *row.arms)}
    assert {row.same_as for row in every if row.same_as} <= names


@every
def test_rows_choose_existing_options(paper: str) -> None:
    known = {group: options(group) for group in ("method", "model", "dataset", "schedule")}
    for part in parts_of(paper):
        for group, found in known.items():
            assert part.overrides is None or part.overrides[group] in found, part.name


def named(reason: str) -> set[str]:
    """Methods, nets and data sets that ``reason`` calls not built, although they are options."""
    if "not built" not in reason:
        return set()
    plain = reason.replace("ImageNet model ", "ImageNet_")  # the CIFAR net of the same name is another one
    words = {re.sub(r"[^a-z0-9]", "", word.lower()) for word in plain.split()}
    known = {option for group in ("method", "model", "dataset") for option in options(group)}
    return {option for option in known if option.replace("_", "") in words}


@every
def test_what_is_pending_is_not_built(paper: str) -> None:
    """A method, net or data set that exists is no reason to wait."""
    for part in parts_of(paper):
        assert not named(part.pending or ""), f"{part.name}: {part.pending}"


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("the net Transformer-XL is not built yet", {"transformer_xl"}),
        ("the method fpgm and the data set Galaxies are not built yet", {"fpgm"}),
        ("the data set (CIFAR-10) is not built yet", {"cifar10"}),
        ("the ImageNet model vgg16 is not built yet", set()),
        ("method=fpgm has no published length", set()),
    ],
)
def test_reasons_that_are_out_of_date_are_seen(reason: str, found: set[str]) -> None:
    assert named(reason) == found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # FPGM Table 1: 93.59 (+-0.58) -> 92.93 (+-0.49), 5.94e7, 52.6 %
        (
            "fpgm-t1_resnet56_only40",
            {"dense_accuracy": 0.9359, "accuracy": 0.9293, "accuracy_sd": 0.0049, "macs": 59_400_000}
            | {"macs_removed": 0.526, "accuracy_drop": 0.0066},
        ),
        # Li et al. Table 1: errors 6.96 and 6.94, 1.25e8 -> 9.09e7 MACs, 8.5e5 -> 7.3e5 parameters
        (
            "l1norm-t1_resnet56_b",
            {"dense_accuracy": 0.9304, "accuracy": 0.9306, "macs": 90_900_000, "macs_removed": 1 - 90.9 / 125}
            | {"params_removed": 1 - 73 / 85},
        ),
        # Network Slimming Table 1a: 2 FLOPs a MAC, error 6.20
        ("slimming-t1a_vgg19_70", {"flops": 391_000_000, "accuracy": 0.938, "macs_removed": 1 - 3.91 / 7.97}),
        # Rethinking Table 1, Scratch-B of ResNet-110-B
        ("rethinking-t1_resnet110_b-scratch_b", {"accuracy": 0.936, "dense_accuracy": 0.9314, "accuracy_sd": 0.0025}),
        # three seeds in the log
        ("ss_ig-cifar10_resnet20_ssig", {"accuracy": (0.9276 + 0.9292 + 0.93) / 3}),
        ("magnitude-t1_lenet5", {"accuracy": 0.9923, "compression": 431 / 36}),
    ],
)
def test_values_are_in_our_units(name: str, expected: dict[str, float]) -> None:
    row = rows.find(name)
    assert {key: row.value(key) for key in expected} == pytest.approx(expected)


def test_recalled_numbers_carry_their_mark() -> None:
    recalled = [part for row in rows.load() for part in row.parts if part.source == "recall"]
    assert len(recalled) > 100
    assert all("recall" in part.mark and "confidence" in part.mark for part in recalled)


@every
def test_a_value_that_follows_is_not_typed_twice(paper: str) -> None:
    for row in rows.load(papers=[paper]):
        assert not row.printed.keys() & row.reported.keys(), row.name
        assert row.reported.keys() | row.printed.keys() <= FIELDS.keys()


def test_unknown_row() -> None:
    with pytest.raises(
        UserError, match=r"there is no row fpgm-t1_resnet56_only41; did you mean fpgm-t1_resnet56_only40"
    ):
        rows.find("fpgm-t1_resnet56_only41")
    with pytest.raises(UserError, match=r"no rows of the paper fpgn; there are those of .*fpgm.*; did you mean fpgm"):
        rows.load(papers=["fpgn"])


def test_a_small_file(tmp_path: Path) -> None:
    (row,) = read(tmp_path, HEAD + GOOD + ", overrides: {use: short, schedule.phases.train: {lr: 0.2}}}")
    assert row.name == "paper-one"
    assert row.overrides == {
        "dataset": "digits",
        "model": "resnet20",
        "method": "none",
        "schedule": "simultaneous",
        "schedule.phases.train": {"epochs": 1, "lr": 0.2},
    }


def test_text_is_data(tmp_path: Path) -> None:
    (row,) = read(tmp_path, HEAD + GOOD + ", setting: '<script>${oc.env:HOME}</script>', pending: '???!'}")
    assert row.setting == "<script>${oc.env:HOME}</script>"


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (", pending: x, acuracy: 0.9}", "paper-one.acuracy is an unknown key"),
        (", pending: x, printed: {acuracy: 0.9}}", "no known value; did you mean accuracy"),
        (", pending: x, printed: {top5: 92.2}}", r"printed.top5 must be a number in \[0, 1\] \(fraction\), got 92.2"),
        (", pending: x, printed: {macs: 1.5e+6}}", None),
        (", pending: x, misprints: {macs: a slip}}", None),
        (", pending: x, misprints: {makes: a slip}}", "misprints.makes is an unknown key; did you mean"),
        (", pending: x, misprints: {macs: 3}}", "misprints.macs must be a text, got 3"),
        (", pending: x, printed: {macs: '3'}}", r"macs must be a number in \[0, 1e\+15\] \(count\), got '3'"),
        (", pending: x, convention: flops}", "convention must be one of conv_linear"),
        (", pending: x, source: recall}", "a confidence"),
        (", pending: x, source: memory}", "source must be one of official-repo"),
        (
            ", pending: x, tolerance: 0.5}",
            r"tolerance must be a number in \(0, 0.1\) \(an accuracy difference\), got 0.5",
        ),
        (", pending: x, baseline: two}", "no row two for its baseline"),
        (", pending: x, overrides: {use: short}}", "leave out one of them"),
        (", overrides: {use: shorts}}", "the recipe shorts, which does not exist"),
        (", overrides: {method: none}}", r"overrides.schedule must be a text, got None"),
        ("}", "neither overrides nor a reason in pending"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rest: str, message: str | None) -> None:
    if message is None:
        assert read(tmp_path, HEAD + GOOD + rest)
        return
    with pytest.raises(UserError, match=message):
        read(tmp_path, HEAD + GOOD + rest)


@every
def test_a_file_says_what_omegaconf_reads_in_it(paper: str) -> None:
    """The fast reader knows the numbers, merges and texts that other configurations have."""
    path = conf_folder() / "rows" / f"{paper}.yaml"
    assert repr(read_rows(path)) == repr(OmegaConf.to_container(OmegaConf.load(path), resolve=False))


def test_numbers_and_texts_are_those_of_omegaconf(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{a: 1e-3, b: 1.5e+6, c: 2019-01-01, d: .5, e: '${f}', f: 1e5x, g: [-2E3, 0x10]}")
    assert read_rows(tmp_path / "a.yaml") == {
        "a": 0.001,
        "b": 1.5e6,
        "c": "2019-01-01",
        "d": 0.5,
        "e": "${f}",
        "f": "1e5x",
        "g": [-2000.0, 16],
    }
    (tmp_path / "a.yaml").write_text("a: 1\nb: {c: 1, c: 2}")
    with pytest.raises(UserError, match=r"a.yaml cannot be read: found duplicate key c"):
        read_rows(tmp_path / "a.yaml")


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"paper.yaml cannot be read"):
        read(tmp_path, "rows: [")
    (tmp_path / "paper.yaml").unlink()
    with pytest.raises(UserError, match=r"other.deviations is missing"):
        read(tmp_path, HEAD.replace("deviations", "phases"), "other")


def test_an_id_names_one_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the id one names two rows"):
        read(tmp_path, HEAD + f"{GOOD}, pending: x}}\n{GOOD}, pending: x}}")
