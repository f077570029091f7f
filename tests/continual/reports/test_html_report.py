"""The page of a report, opened in a browser as its reader does: from disk, without a network."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Visit
from study import write_study

from holdfast.continual.reports.html import LEVELS, heat_style, html
from holdfast.continual.reports.report import Study, build, report
from holdfast.continual.reports.summary import summarize
from holdfast.continual.run_folder.record import RunFolder

METHODS = ["naive", "ewc", "isolated"]
SEEDS = TASKS = 3
POINTS = 60  # 20 inside each task
WINDOW = 2  # a tenth of them
HOSTILE = "<script>window.harm = 1</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(
        tmp_path_factory.mktemp("runs"),
        methods=len(METHODS),
        seeds=SEEDS,
        tasks=TASKS,
        points=POINTS,
        description=f"{HOSTILE} <b>bold</b> [link](javascript:harm) ![x](http://localhost/x.png)",
    )
    RunFolder(folder / "isolated" / "seed-2").update(status="failed", reason=f"{HOSTILE}\x1b[31m")
    report(folder)
    return folder


@pytest.fixture(scope="module")
def visit(browser, study: Path) -> Visit:
    """The page in a light window of 1280 pixels."""
    opened = Visit(browser, color_scheme="light", viewport={"width": 1280, "height": 900})
    opened.page.goto((study / "report.html").as_uri())
    return opened


def successes(study: Path, method: str, seed: int) -> np.ndarray:
    """Return the mean success of each point and task, shape (points + 1, tasks), by hand."""
    (folder,) = study.glob(f"{method}*/seed-{seed}")
    found: dict[tuple[int, str], list[float]] = {}
    for line in (folder / "scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault((row["step"], row["task"]), []).append(row["success"])
    steps, names = sorted({step for step, _ in found}), sorted({name for _, name in found})
    return np.array([[np.mean(found[step, name]) for name in names] for step in steps])


def cells(visit: Visit, table: str) -> list[list[str]]:
    """Return the text of a table's body, row by row."""
    return visit.page.eval_on_selector(
        table, "t => [...t.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent))"
    )


@pytest.mark.thorough
def test_it_asks_for_nothing_and_has_no_problems(visit: Visit, study: Path) -> None:
    assert visit.problems == []
    assert visit.requests == [(study / "report.html").as_uri()]
    text = (study / "report.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!#)|url\(|@import", text)
    assert len(text.encode()) < 200_000


def test_the_matrices_hold_the_numbers_of_the_scores(visit: Visit, study: Path) -> None:
    tables = visit.page.query_selector_all("table.heat")
    assert [table.query_selector("caption").inner_text() for table in tables] == [
        "naive",
        "ewc",
        "isolated",
    ]
    for method, table in zip(METHODS, tables, strict=True):
        seeds = range(SEEDS - (method == "isolated"))
        boundaries = [successes(study, method, seed)[:: POINTS // TASKS] for seed in seeds]
        shown = [
            [cell.inner_text() for cell in row.query_selector_all("td")]
            for row in table.query_selector_all("tbody tr")
        ]
        assert shown == [[f"{value:.2f}" for value in row] for row in np.mean(boundaries, axis=0)]


def test_the_results_hold_the_numbers_of_the_scores(visit: Visit, study: Path) -> None:
    rows = {row[0]: row[1:] for row in cells(visit, "#results + .scroll table")}
    inside = POINTS // TASKS
    for method, label in zip(METHODS, rows, strict=True):
        curves = [successes(study, method, seed) for seed in range(SEEDS - (method == "isolated"))]
        of_seeds = []  # (seeds, 4): performance and forgetting, each in the window and without
        for curve in curves:
            ends = [inside * (i + 1) for i in range(TASKS)]
            final, at_last = curve[-WINDOW:].mean(axis=0), curve[-1]
            own = [curve[end - WINDOW + 1 : end + 1, i].mean() for i, end in enumerate(ends)]
            at_own = curve[ends, range(TASKS)]
            shown = (final, at_last, own - final, at_own - at_last)
            of_seeds.append([values.mean() for values in shown])
        for values, text in zip(np.transpose(of_seeds), rows[label][1:5], strict=True):
            assert float(text.partition(" [")[0]) == pytest.approx(values.mean(), abs=0.0051)
            low, high = (float(end) for end in re.findall(r"-?[\d.]+", text.partition(" [")[2]))
            assert values.min() - 0.006 <= low <= values.mean() + 0.006 <= high + 0.012
            assert high <= values.max() + 0.006
    assert rows["isolated"][0] == "2 of 3"


def test_what_is_missing_is_said(visit: Visit) -> None:
    page = visit.page
    assert page.inner_text(".callout").startswith("Incomplete. 1 of 9 cells is not in these")
    assert page.inner_text("td.missing >> nth=0") == "2 of 3"
    assert "failed: <script>window.harm = 1</script>[31m" in page.inner_text("main")
    assert "isolated\n2 of 3 seeds" in page.inner_text("main")


def test_every_curve_is_drawn(visit: Visit) -> None:
    page = visit.page
    figures = page.query_selector_all("figure:has(svg .strip)")
    assert len(figures) == len(METHODS)
    for figure in figures:
        boxes = figure.eval_on_selector_all(
            "g.line > path:not(.band)",
            "them => them.map(p => [p.getBBox().width, p.getBBox().height])",
        )
        assert len(boxes) == TASKS
        assert all(width > 200 and height > 3 for width, height in boxes)
        bands = figure.eval_on_selector_all(
            "path.band", "them => them.map(p => p.getBBox().height)"
        )
        assert len(bands) == TASKS
        assert min(bands) > 3
        spans = figure.eval_on_selector_all(
            "rect.trained", "them => them.map(r => [r.getBBox().x, r.getBBox().width])"
        )
        assert len(spans) == TASKS
        starts, widths = np.array(spans).T
        assert np.ptp(widths) == pytest.approx(0, abs=0.1)
        assert np.diff(starts) == pytest.approx(widths[:-1], abs=0.1)
    compared = page.query_selector_all("#methods-compared ~ .grid figure")[: TASKS + 1]
    lines = [len(figure.query_selector_all("g.line")) for figure in compared]
    assert lines == [len(METHODS)] * (TASKS + 1)  # the first is of the mean of all tasks
    profiles = page.query_selector("figure:has-text('Performance profiles')")
    assert len(profiles.query_selector_all("g.line")) == len(METHODS)
    marks = page.query_selector_all("figure:has-text('Forgetting against plasticity') .mark")
    assert len(marks) == len(METHODS)
    assert len(page.query_selector_all("#costs ~ .grid >> nth=0 >> rect.bar")) >= 3 * len(METHODS)


def test_every_picture_says_what_it_is(visit: Visit) -> None:
    pictures = visit.page.query_selector_all("svg:not([aria-hidden])")
    assert len(pictures) > 12
    assert all(p.get_attribute("role") == "img" and p.get_attribute("aria-label") for p in pictures)
    assert visit.page.get_attribute("html", "lang") == "en"
    assert visit.page.eval_on_selector_all("th:not([scope])", "them => them.length") == 0


def test_names_of_points_cover_no_other(visit: Visit) -> None:
    boxes = visit.page.eval_on_selector_all(
        "figure:has(.halo.name) .halo.name",
        "them => them.map(t => {const b = t.getBBox(); return [b.x, b.y, b.width, b.height]})",
    )
    assert len(boxes) == len(METHODS)
    for place, (x, y, width, height) in enumerate(boxes):
        for a, b, c, d in boxes[place + 1 :]:
            assert x + width <= a or a + c <= x or y + height <= b + 4 or b + d <= y + 4


def test_dark_and_print(browser, study: Path) -> None:
    colours = {}
    for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
        opened = Visit(browser, color_scheme=scheme, viewport={"width": 1280, "height": 900})
        opened.page.emulate_media(color_scheme=scheme, media=media)
        opened.page.goto((study / "report.html").as_uri())
        colours[scheme, media] = opened.page.evaluate(
            "() => [document.body, document.querySelector('.line path:not(.band)')].flatMap("
            "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color, "
            "getComputedStyle(e).stroke])"
        )
        assert opened.problems == []
    light, dark = colours["light", "screen"], colours["dark", "screen"]
    assert light != dark
    assert contrast(light[0], light[1]) > 10
    assert contrast(dark[0], dark[1]) > 10
    assert light[-1] != dark[-1]
    assert contrast(dark[0], dark[-1]) > 4
    assert colours["dark", "print"][-1] == light[-1]  # paper is white


def test_every_cell_of_a_matrix_can_be_read(visit: Visit) -> None:
    pairs = visit.page.eval_on_selector_all(
        "table.heat tbody td",
        "them => them.map(t => [getComputedStyle(t).backgroundColor, getComputedStyle(t).color])",
    )
    assert len(pairs) == len(METHODS) * TASKS * (TASKS + 1)
    assert min(contrast(*pair) for pair in pairs) >= 4.5
    rules = re.findall(r"background:#(\w+);fill:#\w+;color:#(fff|000)", heat_style())
    assert len(rules) == LEVELS
    for ground, ink in rules:
        parts = ",".join(str(int(ground[k : k + 2], 16)) for k in (0, 2, 4))
        assert contrast(parts, "255,255,255" if ink == "fff" else "0,0,0") >= 4.5


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast of two computed colours, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_it_fits_a_telephone(browser, study: Path) -> None:
    opened = Visit(browser, viewport={"width": 400, "height": 800})
    opened.page.goto((study / "report.html").as_uri())
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 400
    small = opened.page.eval_on_selector_all(
        "figure svg text", "them => Math.min(...them.map(t => t.getBoundingClientRect().height))"
    )
    assert small > 9


def test_a_click_sorts_and_a_press_highlights(browser, study: Path) -> None:
    opened = Visit(browser)
    opened.page.goto((study / "report.html").as_uri())
    table, heading = "#results + .scroll table", "#results + .scroll th >> nth=3 >> button"
    opened.page.click(heading)
    falling = [float(row[3].partition(" ")[0]) for row in cells(opened, table)]
    assert falling == sorted(falling, reverse=True)
    opened.page.click(heading)
    assert [float(row[3].partition(" ")[0]) for row in cells(opened, table)] == falling[::-1]
    assert opened.page.get_attribute("#results + .scroll th >> nth=3", "aria-sort") == "ascending"
    opened.page.click("#results + .scroll th >> nth=-1 >> button")
    assert cells(opened, table)[-1][0] == "naive"  # it is not compared with itself
    opened.page.click("#costs + .scroll th >> nth=1 >> button")  # by the time, not by its text
    assert [row[0] for row in cells(opened, "#costs + .scroll table")] == METHODS[::-1]
    opened.page.click(".legend button >> nth=1")
    dimmed = "them => [...new Set(them.map(g => g.dataset.method))].sort()"
    assert opened.page.eval_on_selector_all(".dim", dimmed) == ["0", "2"]
    opened.page.click(".legend button >> nth=1")
    assert opened.page.eval_on_selector_all(".dim", dimmed) == []
    assert opened.problems == []


@pytest.mark.thorough
def test_names_are_text_everywhere(browser, study: Path, tmp_path: Path) -> None:
    made = report(study, into=tmp_path).studies[0]
    results, nasty = made.results, '</title></style><img src=x onerror="window.harm=1">&amp;\x00"\''
    tasks = tuple(
        task.model_copy(update={"name": f"{nasty}{k}"})
        for k, task in enumerate(results.scenario.tasks)
    )
    scenario = results.scenario.model_copy(update={"name": nasty, "tasks": tasks})
    methods = tuple(replace(method, label=f"{nasty}{method.label}") for method in results.methods)
    results = replace(results, scenario=scenario, methods=methods)
    nasty_one = Study(results, summarize(results))
    (tmp_path / "nasty.html").write_text(html(build([nasty_one, made], tmp_path)), encoding="utf-8")
    opened = Visit(browser)
    opened.page.goto((tmp_path / "nasty.html").as_uri())
    assert opened.problems == []
    assert opened.page.evaluate("window.harm") is None
    assert opened.page.query_selector("img, a[href^=javascript]") is None
    shown = nasty.replace("\x00", "")
    assert opened.page.title().startswith(shown)
    assert opened.page.inner_text("h1 >> nth=1") == shown
    assert opened.page.inner_text("table.heat caption >> nth=0") == f"{shown}naive"
    assert opened.page.inner_text("table.heat tbody th >> nth=1") == f"after 1: {shown}0"
    links = opened.page.eval_on_selector_all("nav a", "them => them.map(a => a.hash)")
    assert len(links) == 3  # side by side, then each scenario
    for link in links:
        assert opened.page.query_selector(link)


@pytest.mark.thorough
def test_a_page_without_a_finished_cell(browser, study: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=3, seeds=1, tasks=2, points=2, episodes=1)
    for cell in folder.glob("*/seed-0"):
        RunFolder(cell).update(status="running")
    report(folder)
    opened = Visit(browser)
    opened.page.goto((folder / "report.html").as_uri())
    assert opened.problems == []
    assert "3 of 3 cells are not in these numbers" in opened.page.inner_text("main")
    assert opened.page.query_selector("figure") is None
