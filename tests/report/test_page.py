"""The file itself: closed against requests and against what configurations may hold, complete without JavaScript."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from prunebench.report.details import MAX_POINTS, curves, reliability, spread
from prunebench.report.page import embed
from tests.report.conftest import Built

NAME = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Elements with their attributes, and the content of scripts and styles."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.contents: list[tuple[str, dict[str, str | None], str]] = []
        self.cells: list[str] = []
        self._open: tuple[str, dict[str, str | None]] = ("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs))

    def handle_data(self, data: str) -> None:
        if self._open[0] in ("script", "style") and data:
            self.contents.append((*self._open, data))
        elif self._open[0] in ("td", "a"):
            self.cells.append(data.strip())

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", {})


@pytest.fixture(scope="module")
def page(built: Built) -> str:
    return (built.out / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def data(read: Reader) -> dict[str, Any]:
    [text] = [text for tag, attributes, text in read.contents if attributes.get("type") == "application/json"]
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def folded(read: Reader) -> dict[str, Any]:
    [text] = [text for _, attributes, text in read.contents if attributes.get("id") == "folded"]
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(text)))
    return found


def test_nothing_is_loaded_and_nothing_is_inline_but_what_the_policy_names(page: str, read: Reader) -> None:
    policy = next(a["content"] for tag, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    allowed = set(re.findall(r"'(sha256-[^']+)'", policy))
    used = {
        f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
        for tag, attributes, text in read.contents
        if attributes.get("type") not in ("application/json", "text/plain")
    }
    assert used == allowed
    for tag, attributes in read.elements:
        assert "src" not in attributes, tag
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        if tag == "link":
            assert attributes["href"] == "data:,"
        if tag == "a":
            assert str(attributes["href"]).startswith(("#", "https://", "tables/"))


def test_a_name_that_is_a_script_is_text(read: Reader, data: dict[str, Any]) -> None:
    assert sum(tag == "script" for tag, _ in read.elements) == 4
    assert NAME in data["words"]
    assert NAME in read.cells  # in the table of checks, which the page brings along


@pytest.mark.parametrize("text", ["</script><img src=x>", "<!--", "a & b", "\u2028\u2029", "]]>", "&lt;"])
def test_embedded_text_cannot_end_its_element(text: str) -> None:
    embedded = embed({"name": text})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {"name": text}


def test_the_data_are_those_of_the_results(built: Built, data: dict[str, Any]) -> None:
    records = built.report.collection.records
    assert len(data["runs"]) == len(records)
    column = data["names"].index("final.accuracy")
    by_key = {f"{run[0]}/{run[1]}": dict(enumerate(run[-1])).get(column) for run in data["runs"]}
    for record in records:
        expected = record.numbers.get("final.accuracy")
        assert by_key[record.key] == (None if expected is None else pytest.approx(expected, rel=1e-5))


def test_every_number_of_a_run_is_on_the_page_once(built: Built, data: dict[str, Any], folded: dict[str, Any]) -> None:
    assert not set(data["names"]) & set(folded["names"])
    for record, at_once, rest in zip(built.report.collection.records, data["runs"], folded["runs"], strict=True):
        found = dict(zip(data["names"], at_once[-1], strict=False)) | dict(zip(folded["names"], rest[-1], strict=False))
        shown = {name: value for name, value in found.items() if value is not None}
        assert shown == pytest.approx(dict(record.numbers), rel=1e-5)


def test_details_of_all_runs_of_a_small_report(built: Built, folded: dict[str, Any]) -> None:
    measured = [record.key for record in built.report.collection.records if record.measured]
    assert sorted(folded["details"]) == sorted(measured)


def test_links_lead_somewhere(built: Built, read: Reader) -> None:
    links = [str(attributes["href"]) for tag, attributes in read.elements if tag == "a"]
    files = {link for link in links if link.startswith("tables/")}
    assert {"tables/runs.csv", "tables/configurations.tex", "tables/fpgm-table_1.csv"} <= files
    assert all((built.out / link).is_file() for link in files)
    assert "https://arxiv.org/abs/1811.00250" in links  # FPGM
    names = {attributes.get("id") for _, attributes in read.elements}
    assert {link[1:] for link in links if link.startswith("#") and not link.startswith("#run/")} <= names


def test_reliability_of_fifteen_equal_bins(built: Built) -> None:
    record = next(r for r in built.report.collection.records if r.measured and r.dataset == "cifar10")
    with np.load(record.folder / "predictions.npz") as arrays:
        confidence, correct = arrays["confidence"].astype(float), arrays["correct"]
    expected = []
    for index in range(15):
        inside = (confidence >= index / 15) & ((confidence < (index + 1) / 15) | (index == 14))
        if inside.any():
            means = confidence[inside].mean(), correct[inside].mean()
            expected.append([index, inside.sum(), *(pytest.approx(mean, abs=1e-4) for mean in means)])
    assert len(expected) > 5
    assert reliability(record) == expected


def test_curves_have_a_phase_each_and_long_ones_are_thinned(built: Built) -> None:
    record = next(
        r for r in built.report.collection.records if r.measured and r.schedule == "finetune" and not r.checkpoint
    )
    found = curves(record)
    assert [(phase["phase"], len(phase["epochs"])) for phase in found] == [("pretrain", 30), ("finetune", 10)]
    assert set(found[0]["series"]) == {"lr", "train/ce", "val/accuracy", "val/nll"}
    kept = spread(1000)
    assert len(kept) == MAX_POINTS
    assert (kept[0], kept[-1]) == (0, 999)
    assert spread(3) == [0, 1, 2]


def test_papers_and_tests_are_readable_without_a_script(page: str) -> None:
    assert "fpgm-t1_resnet56_only40" in page
    assert "refused" in page
    assert "Below each accuracy: the places that the tests leave open" in page
    note = r"open: 1 of 3 nets; mean over 1 net of each with equal seeds; p after Holm [^\"]*"
    assert re.search(rf'<td[^>]* title="{note}">[+−]?\d+\.\d\d ○</td>', page)
    assert "in points: the mean over their common seeds" in page
    assert "is not a result of schema 1" in page


def test_colours_can_be_told_from_their_background(page: str) -> None:
    """Contrast of text (4.5:1) and of marks (3:1) in both themes, from the page's own colours."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", page)
    colours = {name: (light, dark) for name, light, dark in found}
    for theme in (0, 1):
        for back in ("bg", "surface", "sunken"):
            for name in ("text", "muted", "accent", "good", "warn", "bad"):
                assert contrast(colours[name][theme], colours[back][theme]) >= 4.5, (name, back, theme)
            # of marks, whose own colours may be as light as yellow
            assert contrast(colours["ink"][theme], colours[back][theme]) >= 3, (back, theme)


def test_marks_have_the_palette_of_okabe_and_ito(page: str) -> None:
    """Its eight colours differ for every kind of colour vision (Okabe and Ito 2008, Color Universal Design)."""
    palette = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"}
    found = dict(re.findall(r"--(c\d): light-dark\((#\w{6}), #\w{6}\)", page))
    assert set(found.values()) == palette


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
