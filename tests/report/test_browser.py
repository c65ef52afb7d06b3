"""The page in a real browser: sort, filter, follow a point to its run, with and without a mouse."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from prunebench.measure.metrics import ACCURACY, metric_of
from prunebench.report import build
from tests.report.browser import chromium
from tests.report.conftest import Built
from tests.report.factory import make
from tests.report.test_published import store

NAME = "<script>alert(1)</script>"
CSS = By.CSS_SELECTOR


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Chrome, built: Built) -> Iterator[Chrome]:
    """The page, freshly opened; at the end the console must be empty."""
    browser.get("about:blank")
    browser.get((built.out / "index.html").as_uri())
    browser.execute_script("document.querySelector('#filter-fold').open = true")
    yield browser
    assert browser.get_log("browser") == []


def head(page: Chrome, table: str, title: str) -> WebElement:
    heads = page.find_elements(CSS, f"{table} thead tr:last-child th")
    return next(found for found in heads if found.text.split("\n")[0].strip("↕↑↓ ") == title)


def column(page: Chrome, table: str, title: str) -> list[str]:
    heads = page.find_elements(CSS, f"{table} thead tr:last-child th")
    index = heads.index(head(page, table, title))
    return [row.find_elements(CSS, "td")[index].text for row in page.find_elements(CSS, f"{table} tbody tr")]


def numbers(texts: list[str]) -> list[float]:
    return [float(text.split(" ")[0].replace("−", "-")) for text in texts if text != "–"]


def opened(page: Chrome, expected: bool = True) -> bool:
    """True as soon as the dialog is open, or is closed if that is expected; the address changes a moment later."""
    wait = WebDriverWait(page, 60)
    return wait.until(lambda found: found.execute_script("return document.querySelector('dialog').open") == expected)


def test_nothing_is_requested_and_no_script_of_a_name_runs(page: Chrome) -> None:
    requested: list[Any] = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert requested == []
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert.accept()
    link = next(found for found in page.find_elements(CSS, "#all tbody a") if found.text == NAME)
    page.execute_script("arguments[0].click()", link)
    assert opened(page)
    assert page.find_element(By.ID, "detail-title").text == NAME
    assert NAME in page.find_element(By.ID, "detail-subtitle").text
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert.accept()


def test_the_table_of_runs_sorts_both_ways(page: Chrome) -> None:
    for direction in ("descending", "ascending"):
        head(page, "#all", "Accuracy %").find_element(CSS, "button").click()
        assert head(page, "#all", "Accuracy %").get_attribute("aria-sort") == direction
        values = numbers(column(page, "#all", "Accuracy %"))
        assert len(values) == 50
        assert values == sorted(values, reverse=direction == "descending")
    assert len(page.find_elements(CSS, "#all th[aria-sort]")) == 1


def test_runs_without_a_number_come_last(page: Chrome) -> None:
    select(page, "schedule", "finetune")
    select(page, "dataset", "digits")
    for _ in range(2):
        head(page, "#all", "Accuracy %").find_element(CSS, "button").click()
        assert column(page, "#all", "Accuracy %")[-1] == "–"


def test_a_table_of_a_paper_sorts(page: Chrome) -> None:
    table = "#paper-l1norm .paper-table table"
    page.find_element(CSS, "#paper-l1norm > summary").click()
    head(page, table, "paper").find_element(CSS, "button").click()
    values = numbers([text.rstrip("SRAM") for text in column(page, table, "paper")])
    assert values == sorted(values)


def select(page: Chrome, name: str, value: str) -> None:
    page.execute_script("document.querySelector('#filter-fold').open = true")
    Select(page.find_element(CSS, f"#filters [name={name}]")).select_by_visible_text(value)


def test_filters_and_search_narrow_runs_and_plots(page: Chrome) -> None:
    total = page.find_element(By.ID, "count").text
    select(page, "dataset", "cifar10")
    select(page, "model", "resnet56")
    select(page, "method", "random")
    select(page, "seed", "1")
    assert {text.split("\n")[0] for text in column(page, "#all", "Net and data")} == {"resnet56 on cifar10"}
    assert set(column(page, "#all", "Seed")) == {"1"}
    assert page.find_element(By.ID, "count").text == f"5 of {total}"
    titles = [found.text for found in page.find_elements(CSS, "#subjects h4")]
    assert titles == ["resnet56 on cifar10, oneshot"]
    assert len(page.find_elements(CSS, "#subjects a.point")) == 3 * 5
    page.find_element(By.ID, "clear").click()
    assert page.find_element(By.ID, "count").text == total
    page.find_element(CSS, "#filters [name=search]").send_keys("FPGM 0.4")
    assert {text.split("\n")[0] for text in column(page, "#all", "Method")} == {"fpgm"}
    page.find_element(CSS, "#filters [name=search]").send_keys(" no such words")
    assert column(page, "#all", "Method") == []
    assert "No measured run fits" in page.find_element(By.ID, "subjects").text


def show_subject(page: Chrome, name: str) -> None:
    Select(page.find_element(By.ID, "on")).select_by_value(name)


def test_the_leaderboard_has_a_line_for_each_configuration_the_best_first(page: Chrome, built: Built) -> None:
    show_subject(page, "resnet56 on cifar10")
    select(page, "schedule", "oneshot")
    more = page.find_element(By.ID, "board-more")
    assert more.text == "Show 15 more"
    more.click()
    names = [text.split("\n")[0] for text in column(page, "#board", "Method")]
    accuracies = column(page, "#board", "Accuracy %")
    assert len(names) == 30  # six methods at five ratios
    assert numbers(accuracies) == sorted(numbers(accuracies), reverse=True)
    for name, text, nets in zip(names, accuracies, column(page, "#board", "Nets"), strict=True):
        assert ("±" in text, nets) == ((True, "3") if name.startswith("random") else (False, "1"))
    heads = [found.text.split("\n")[0].strip("↕↑↓ ") for found in page.find_elements(CSS, "#board thead th")]
    assert heads[:3] == ["Method", "Accuracy %", "MACs −%"]
    by_id: dict[str, list[float]] = {}
    for r in built.report.collection.records:
        if (r.method, r.schedule, r.model) == ("random", "oneshot", "resnet56"):
            by_id.setdefault(r.id, []).append(100 * r.numbers["final.accuracy"])
    expected = {f"{statistics.mean(v):.2f} ± {statistics.stdev(v):.2f}" for v in by_id.values()}
    assert {text for name, text in zip(names, accuracies, strict=True) if name.startswith("random")} == expected


def test_status_and_origin_stand_beside_the_name(page: Chrome) -> None:
    show_subject(page, "resnet20 on digits")
    lines = column(page, "#board", "Method")
    assert any("missed target" in line for line in lines)
    assert all("own" in line for line in lines)


def test_runs_that_end_with_the_same_net_are_one(browser: Chrome, tmp_path: Path) -> None:
    for seed, net in ((0, "a"), (1, "a"), (2, "b")):
        path = make(tmp_path / "runs", seed=seed) / "result.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        result["metrics"]["final"]["accuracy"] = {"a": 0.9, "b": 0.8}[net]
        path.write_text(json.dumps({**result, "net_sha256": net}), encoding="utf-8")
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())
    assert column(browser, "#board", "Nets") == ["2*"]
    assert column(browser, "#board", "Accuracy %") == ["85.00 ± 7.07"]


def test_a_view_is_in_the_address_and_opens_again(page: Chrome) -> None:
    select(page, "dataset", "cifar10")
    select(page, "method", "fpgm")
    show_subject(page, "resnet56 on cifar10")
    head(page, "#board", "MACs −%").find_element(CSS, "button").click()
    Select(page.find_element(By.ID, "clock")).select_by_value("batch_64_ms")
    Select(page.find_element(By.ID, "x-axis")).select_by_value("batch_1_ms")
    page.find_element(CSS, "#chart .legend button").click()
    head(page, "#all", "Seed").find_element(CSS, "button").click()
    address = page.current_url
    shown = [page.find_element(CSS, place).text for place in ("#board", "#all", "#board-count", "#count")]
    page.get("about:blank")
    page.get(address)
    assert [page.find_element(CSS, place).text for place in ("#board", "#all", "#board-count", "#count")] == shown
    assert Select(page.find_element(By.ID, "x-axis")).first_selected_option.get_attribute("value") == "batch_1_ms"
    assert Select(page.find_element(By.ID, "clock")).first_selected_option.get_attribute("value") == "batch_64_ms"
    assert "batch 64" in page.find_element(CSS, ".panels figure:last-child svg").text
    assert page.find_element(CSS, "#chart .legend button").get_attribute("aria-pressed") == "true"
    page.find_element(CSS, "#board tbody a").click()
    assert opened(page)
    assert "#run/" in page.current_url and "method=fpgm" in page.current_url
    page.find_element(By.ID, "close").click()
    assert opened(page, False)
    assert page.current_url == address


@pytest.mark.parametrize(
    "query", ["method=nothing&sort=x&x=y&columns=,a&only=b&range=3", "%%%", "search=%22%3E%3Cscript%3E"]
)
def test_an_address_that_means_nothing_empties_no_view(page: Chrome, built: Built, query: str) -> None:
    page.get("about:blank")
    page.get(f"{(built.out / 'index.html').as_uri()}#?{query}")
    assert bool(page.find_elements(CSS, "#board tbody tr")) == ("search" not in query)


def taken(page: Chrome, kind: str) -> str:
    """What the button copies; the clipboard itself is the machine's."""
    page.execute_script(
        "window.taken = null; Object.defineProperty(navigator, 'clipboard', "
        "{configurable: true, value: {writeText: async (text) => { window.taken = text; }}})"
    )
    page.execute_script(f"document.querySelector('[data-copy={kind}]').click()")
    text: str = WebDriverWait(page, 60).until(lambda found: found.execute_script("return window.taken"))
    return text


def test_what_is_shown_is_copied_with_the_chosen_columns_and_the_best_in_bold(page: Chrome) -> None:
    show_subject(page, "resnet20 on cifar10")
    select(page, "schedule", "oneshot")
    page.execute_script("document.querySelector('.picker').open = true")
    for label in page.find_elements(CSS, "#picker label"):
        if label.text in ("Params −%", "Δ dense"):
            page.execute_script("arguments[0].querySelector('input').click()", label)
            break
    latex, markdown = taken(page, "tex").splitlines(), taken(page, "md").splitlines()
    [heading] = [line for line in latex if line.startswith("Method &")]
    assert heading == "Method & Schedule & Setting & Accuracy \\% & MACs $-$\\% & $\\Delta$ dense & Nets \\\\"
    body = [line for line in latex if line.endswith("\\\\") and line != heading]
    assert len(body) == 30
    cells = [line.split(" & ")[3].removeprefix("\\textbf{").rstrip("}") for line in body]
    best = max(numbers([cell for cell in cells if "pm" not in cell]))
    assert [f"\\textbf{{{best:.2f}}}" in line for line in body] == [True, *[False] * 29]
    assert markdown[0] == "| Method | Schedule | Setting | Accuracy % | MACs −% | Δ dense | Nets |"
    assert markdown[2].split(" | ")[3] == f"**{best:.2f}**"
    rows = list(csv.DictReader(io.StringIO(taken(page, "csv"))))
    assert float(rows[0]["accuracy"]) == pytest.approx(best / 100)
    assert [row["accuracy_n"] for row in rows if row["method"] == "random"] == ["3"] * 5
    assert all(float(row["accuracy_sd"]) > 0 for row in rows if row["method"] == "random")


def test_the_legend_shows_a_method_alone_and_all_again(page: Chrome) -> None:
    show_subject(page, "resnet20 on cifar10")
    every = len(page.find_elements(CSS, "#chart a.point"))
    names = [found.text for found in page.find_elements(CSS, "#chart .legend button")]
    [place] = [i for i, name in enumerate(names) if name.startswith("l2norm")]
    page.find_elements(CSS, "#chart .legend button")[place].click()
    labels = [found.get_attribute("aria-label") or "" for found in page.find_elements(CSS, "#chart a.point")]
    assert 0 < len(labels) < every and all(label.startswith("l2norm") for label in labels)
    page.find_elements(CSS, "#chart .legend button")[place].click()
    assert len(page.find_elements(CSS, "#chart a.point")) == every


def test_each_schedule_has_its_own_plot(page: Chrome, built: Built) -> None:
    records = [
        r for r in built.report.collection.records if r.measured and (r.model, r.dataset) == ("resnet20", "digits")
    ]
    on_digits = len({r.id for r in records})
    show_subject(page, "resnet20 on cifar10")
    under = Select(page.find_element(By.ID, "under"))
    assert [option.text for option in under.options] == ["finetune (1)", "oneshot (30)"]
    assert under.first_selected_option.text == "oneshot (30)"
    assert len(page.find_elements(CSS, "#chart a.point")) == 30
    under.select_by_value("finetune")
    [point] = page.find_elements(CSS, "#chart a.point")
    assert "\nfinetune, " in (point.get_attribute("aria-label") or "")
    assert "under=finetune" in page.current_url
    show_subject(page, "resnet20 on digits")
    assert len(page.find_elements(CSS, "#chart a.point")) == on_digits
    for card in page.find_elements(CSS, "#subjects article"):
        schedule = card.find_element(CSS, "h4").text.rpartition(", ")[2]
        labels = [point.get_attribute("aria-label") or "" for point in card.find_elements(CSS, "a.point")]
        assert labels and all(f"\n{schedule}, MACs removed" in label for label in labels)


def test_a_caption_says_what_the_whiskers_are(page: Chrome) -> None:
    select(page, "method", "l2norm")  # one seed each
    sizes, _, times = page.find_elements(CSS, "#subjects article:first-child figure")
    assert sizes.find_elements(CSS, ".whisker") == []
    assert sizes.find_element(CSS, "figcaption").text == "one net each: no spread over nets is known"
    assert len(times.find_elements(CSS, ".whisker")) == len(times.find_elements(CSS, "a.point"))
    said = times.find_element(CSS, "figcaption").text
    assert said.startswith("one net each: no spread over nets is known; horizontal whiskers: spread of the repeated")


def test_columns_without_a_value_in_the_shown_runs_are_hidden(browser: Chrome, tmp_path: Path) -> None:
    make(tmp_path / "runs")
    path = make(tmp_path / "runs", method="l1norm") / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(result | {"latency": {}}), encoding="utf-8")
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())

    def shown() -> list[list[str]]:
        heads = [found.text.split("\n")[0].strip("↕↑↓ ") for found in browser.find_elements(CSS, "#all thead th")]
        return [[head, *column(browser, "#all", head)] for head in heads]

    every = shown()
    assert all(any(cell != "–" for cell in cells) for _, *cells in every)
    timed = [head for head, *cells in every if len(cells) == 2 and cells[1] == "–"]
    assert len(timed) == 4  # two batches, each with its time and its ratio
    select(browser, "method", "l1norm")
    assert [head for head, *_ in shown()] == [head for head, *_ in every if head not in timed]
    head(browser, "#all", "Accuracy %").find_element(CSS, "button").click()
    assert browser.switch_to.active_element.text.startswith("Accuracy %")
    select(browser, "method", "all")
    assert [head for head, *_ in shown()] == [head for head, *_ in every]


def test_a_chart_of_one_point_is_drawn(browser: Chrome, tmp_path: Path) -> None:
    path = make(tmp_path / "runs", schedule="finetune") / "metrics.csv"
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([head, rows[0]]), encoding="utf-8")  # a phase of one epoch
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())
    for chart in browser.find_elements(CSS, "#chart svg.plot, #subjects svg.plot"):
        [point] = chart.find_elements(CSS, "a.point .shape")
        box = point.rect
        assert box["width"] > 4 and box["height"] > 4
        assert len({text.text for text in chart.find_elements(CSS, "text")}) > 4  # its axes have numbers
    browser.find_element(CSS, "#board tbody a").click()
    assert opened(browser)
    figures = {found.find_element(CSS, "h4").text: found for found in browser.find_elements(CSS, "dialog figure")}
    assert figures["Learning rate"].find_elements(CSS, ".shape")
    assert browser.get_log("browser") == []


def test_failed_runs_are_listed_with_error_and_traceback(page: Chrome) -> None:
    [first, *_] = page.find_elements(CSS, "#failed-runs .failure")
    assert "the loss is not finite" in first.text
    page.execute_script("arguments[0].open = true", first)
    WebDriverWait(page, 60).until(lambda _: "…" in first.find_elements(CSS, "pre")[-1].text)


def test_a_point_leads_to_its_run_and_back(page: Chrome) -> None:
    point = page.find_element(CSS, "#subjects a.point")
    method, label = (point.get_attribute("aria-label") or "").split("\n")[0].split(" · ")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    page.execute_script("arguments[0].focus()", point)
    point.click()
    assert opened(page)
    assert page.find_element(By.ID, "detail-title").text == method
    assert page.find_element(By.ID, "detail-subtitle").text.endswith(label)
    body = page.find_element(By.ID, "detail-body").text
    for expected in ("Reliability", "Kept channels per layer", "python -m prunebench", "95 % interval", "Not pruned"):
        assert expected in body
    page.find_element(CSS, "body").send_keys(Keys.ESCAPE)
    assert opened(page, False)
    assert "#run" not in page.current_url


def test_the_points_are_reached_and_opened_with_the_keyboard(page: Chrome) -> None:
    first = page.find_element(CSS, "#subjects a.point")
    page.execute_script("arguments[0].focus()", first)
    label = first.get_attribute("aria-label")
    first.send_keys(Keys.ARROW_RIGHT)
    second = page.switch_to.active_element
    assert second.get_attribute("aria-label") != label
    assert page.find_element(CSS, ".tip").text == (second.get_attribute("aria-label") or "")
    second.send_keys(Keys.ENTER)
    assert opened(page)


def test_the_address_of_a_run_opens_it_and_its_seeds_are_links(page: Chrome, built: Built) -> None:
    record = next(r for r in built.report.collection.records if r.schedule == "finetune" and r.seed == 1)
    page.get("about:blank")
    page.get(f"{(built.out / 'index.html').as_uri()}#run/{record.id}/1")
    assert opened(page)
    assert page.find_element(CSS, ".seeds a[aria-current]").text == "1"
    assert "Losses" in page.find_element(By.ID, "detail-body").text
    page.find_elements(CSS, ".seeds a")[0].click()
    WebDriverWait(page, 60).until(lambda found: found.find_element(CSS, ".seeds a[aria-current]").text == "0")


def test_a_row_of_a_paper_is_shown_with_its_source(page: Chrome) -> None:
    link = page.find_element(CSS, '#papers a[href^="#run"]')
    page.execute_script("arguments[0].click()", link)
    assert opened(page)
    facts = page.find_element(CSS, "#detail .facts").text
    assert "secondary, in the units of the store:" in facts
    assert "accuracy 0.931" in facts


@pytest.mark.parametrize("kind", ["empty", "failed", "language"])
def test_reports_without_accuracies(browser: Chrome, tmp_path: Path, kind: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    if kind == "failed":
        make(runs, status="failed")
    if kind == "language":
        path = make(runs) / "result.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        result |= {"latency": {}, "guarantee": {}, "not_pruned": [], "metrics": {"final": {"bpc": 1.2345}}}
        path.write_text(json.dumps(result), encoding="utf-8")
    browser.get(build(runs, tmp_path / "out", pictures=False).page.as_uri())
    for link in browser.find_elements(CSS, "#all tbody a"):
        browser.execute_script("arguments[0].click()", link)
        assert opened(browser)
        assert ("1.2345" in browser.find_element(By.ID, "detail-body").text) == (kind == "language")
    assert browser.get_log("browser") == []


def test_what_a_method_reports_is_shown_under_its_own_name(browser: Chrome, tmp_path: Path) -> None:
    path = make(tmp_path / "runs") / "result.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    reported = {"uce": 0.0123456, "<b>width</b>": 12, "large": 1_234_567, "small": -0.00001234, "kept": [1, 2]}
    for stage in ("pruned", "final"):
        result["metrics"][stage] |= {"method": reported}
    path.write_text(json.dumps(result), encoding="utf-8")
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())
    assert column(browser, "#all", "uce") == ["0.01235"]
    browser.find_element(CSS, "#all tbody a").click()
    assert opened(browser)
    rows = [row.text for row in browser.find_elements(CSS, "#detail-body section table tr, #detail-body .scroll tr")]
    for name, value in reported.items():
        shown = metric_of(f"method.{name}").show(value) if isinstance(value, int | float) else ""
        assert (f"{name} – {shown} {shown}" in rows) == (name != "kept")
    assert f"Test accuracy % {' '.join(accuracies(result))}" in rows
    assert browser.get_log("browser") == []


def test_a_series_of_one_phase_is_no_error_in_the_others(browser: Chrome, tmp_path: Path) -> None:
    path = make(tmp_path / "runs", schedule="finetune") / "metrics.csv"
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    found = [f"{head},method/gates", *(f"{row},{2 if row.startswith('finetune') else ''}" for row in rows)]
    path.write_text("\n".join(found), encoding="utf-8")
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())
    browser.find_element(CSS, "#all tbody a").click()
    assert opened(browser)
    assert "method/gates" in browser.find_element(By.ID, "detail-body").text
    assert browser.get_log("browser") == []


def test_a_wild_loss_is_cut_off_and_said_but_no_learning_rate(browser: Chrome, tmp_path: Path) -> None:
    path = make(tmp_path / "runs", schedule="finetune") / "metrics.csv"
    epochs = "\n".join(f"finetune,{epoch},{0.1 if epoch else 900.0},{0.001 if epoch else 0.1}" for epoch in range(9))
    path.write_text(f"phase,epoch,train/ce,lr\n{epochs}", encoding="utf-8")
    browser.get(build(tmp_path / "runs", tmp_path / "out", pictures=False).page.as_uri())
    browser.find_element(CSS, "#all tbody a").click()
    assert opened(browser)
    figures = {found.find_element(CSS, "h4").text: found for found in browser.find_elements(CSS, "dialog figure")}
    assert "Cut off at 0.15; the highest value is 900." in figures["Losses"].text
    assert "Cut off" not in figures["Learning rate"].text and "0.100" in figures["Learning rate"].text


def accuracies(result: dict[str, Any]) -> list[str]:
    return [ACCURACY.show(result["metrics"][stage]["accuracy"]) for stage in ("dense", "pruned", "final")]


def test_a_failed_run_shows_its_error(page: Chrome) -> None:
    select(page, "status", "failed")
    page.find_element(CSS, "#all tbody a").click()
    assert opened(page)
    assert "the loss is not finite" in page.find_element(CSS, "#detail .alert").text


def test_rows_of_papers_are_filtered_by_state(page: Chrome) -> None:
    Select(page.find_element(By.ID, "paper-state")).select_by_visible_text("reproduced")
    rows = [row for row in page.find_elements(CSS, "tbody tr[data-state]") if row.is_displayed()]
    assert [row.get_attribute("data-state") for row in rows] == ["reproduced"]
    assert page.find_element(By.ID, "paper-count").text == "1 variant"


def test_every_control_has_a_name(page: Chrome) -> None:
    for found in page.find_elements(CSS, "button, select, input"):
        if found.is_displayed():  # inside of what is folded up there is no accessible name
            assert found.accessible_name.strip(), found.get_attribute("outerHTML")


@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_nothing_sticks_out(built: Built, dark: bool) -> None:
    with chromium(width=390, height=844, dark=dark) as phone:
        phone.get((built.out / "index.html").as_uri())
        assert phone.execute_script("return document.documentElement.scrollWidth") == 390
        background = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(14, 18, 22)" if dark else "rgb(247, 248, 250)")
        phone.find_element(CSS, "#all tbody a").send_keys(Keys.ENTER)
        assert opened(phone)
        dialog = phone.find_element(CSS, "dialog")
        assert phone.execute_script("return arguments[0].scrollWidth <= 390", dialog)
        phone.find_element(By.ID, "close").click()
        for expected in ("light", "dark", "system"):
            phone.find_element(By.ID, "theme").click()
            assert phone.find_element(By.ID, "theme-name").text == expected
        assert phone.get_log("browser") == []


def test_a_run_shows_its_pruning_curve_and_distributions(browser: Chrome, tmp_path: Path) -> None:
    folder = make(tmp_path / "runs")
    result = json.loads((folder / "result.json").read_text())
    result["points"] = [
        {
            "name": f"{ranking}_{ratio}",
            "settings": {"prune_ratio": ratio, **({"ranking": ranking} if ratio else {})},
            "metrics": {"accuracy": 0.9 - ratio, "method": {"sample_error": 0.1 + ratio, "sample_error_sd": 0.02}},
            "cost": {"macs": 1_000_000, "params": 1_000},
        }
        for ranking, ratio in (("snr", 0.0), ("snr", 0.5), ("fisher", 0.5), ("fisher", 0.8))
    ]
    drawn = {"edges": [-1.0, 0.0, 1.0], "counts": [3, 1], "cdf": [0.75, 1.0]}
    result["budget"] = {**(result.get("budget") or {}), "distributions": {"mean of fc weights": drawn}}
    (folder / "result.json").write_text(json.dumps(result))
    build(tmp_path / "runs", tmp_path / "out", pictures=False)
    browser.get("about:blank")
    browser.get(f"{(tmp_path / 'out' / 'index.html').as_uri()}#run/{result['run']['id']}/{result['run']['seed']}")
    assert opened(browser)
    titles = {found.text: found for found in browser.find_elements(CSS, "dialog figure h4")}
    names = ("Error of single draws over pruned weights", "Mean of fc weights")
    curve, bars = (titles[name].find_element(By.XPATH, "..") for name in names)
    assert [item.text for item in curve.find_elements(CSS, ".legend li")] == ["SNR", "Fisher"]
    assert len(curve.find_elements(CSS, "path.line")) == 2 and len(curve.find_elements(CSS, "rect.band")) == 1
    assert len(bars.find_elements(CSS, "rect.kept")) == 2
    assert browser.get_log("browser") == []


def test_the_nets_of_ones_own_runs_come_first(browser: Chrome, tmp_path: Path) -> None:
    """Not those of which most is published."""
    for method in ("fpgm", "l1norm", "random"):
        store(make(tmp_path / "others", method=method), tmp_path / "published")
    make(tmp_path / "runs", model="resnet56", method="taylor")
    pages = [
        build(runs, tmp_path / f"out{place}", pictures=False, published=tmp_path / "published").page
        for place, runs in enumerate((None, tmp_path / "runs"))
    ]
    shown = []
    for page in pages:
        browser.get("about:blank")
        browser.get(page.as_uri())
        shown.append([option.text for option in browser.find_elements(CSS, "#on option")][:2])
    assert shown[0][0].startswith("resnet20 on digits (3)")
    assert shown[1][0].startswith("resnet56 on digits (1)") and shown[1][1].startswith("resnet20 on digits (3)")
