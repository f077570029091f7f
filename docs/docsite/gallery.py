"""A page for each shipped scenario: what it asks, what was measured, and its file."""

from __future__ import annotations

import csv
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.stats import t

from holdfast.continual.reports import charts
from holdfast.continual.results.formatting import fenced, number
from holdfast.continual.results.svg import markup
from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.shipped import FAMILIES, FOLDER, shipped

ROOT = Path(__file__).resolve().parents[2]
Numbers = NDArray[np.float64]
RESULTS = Path("benchmarks/results")
MEASURES = {"continual-control": "auc/cw", "continual-control-tuning": "auc/cw"}
"""Metrics that scenarios are compared by; the others are by average performance."""
PERFORMANCE = "average_performance/cw"
_AXES = {PERFORMANCE: "average performance", "auc/cw": "mean score while learning"}


@cache
def _loaded(file: Path) -> Scenario:
    """Return a shipped scenario, without partners where their runs are not there yet."""
    try:
        return load(file)
    except ScenarioError:
        count = len(yaml.safe_load(file.read_text("utf-8"))["tasks"])
        return load(file, [f"tasks[{index}].partners={{}}" for index in range(count)])


def is_shipped(file: Path) -> bool:
    """Return whether a file is a scenario that has a page in the gallery."""
    return file.suffix == ".yaml" and file.resolve() in _pages()


def scenario_pages() -> dict[str, str]:
    """Return the page of each scenario, by its path."""
    return {f"{path}.md": _page(file) for file, path in _pages().items()}


@cache
def _pages() -> dict[Path, str]:
    return {file: f"scenarios/{file.relative_to(FOLDER).as_posix()}" for file in shipped().values()}


def overview() -> str:
    """Return the gallery: scenarios by family, what each is about, and what was measured."""
    lines: list[str] = []
    for family, about in FAMILIES.items():
        lines += [f"## {about.rstrip('.')}", "", "| scenario | about | steps a cell | measured |"]
        lines += ["| --- | --- | ---: | --- |"]
        for file, path in _pages().items():
            if file.parent == FOLDER / family:
                scenario = _loaded(file)
                cells = _cells(file.stem)
                told = f"{len({c['method'] for c in cells})} methods, " if cells else ""
                told += f"{len({c['seed'] for c in cells})} seeds" if cells else ""
                about_it = " ".join(scenario.description.split())
                link = f"[{file.stem}](../{path}.md)"
                lines.append(f"| {link} | {about_it} | {scenario.total_steps:,} | {told} |")
        lines.append("")
    return "\n".join(lines)


def style_sheet() -> str:
    """Return the style of charts, with their colours on light and on dark pages."""
    texts = Path(charts.__file__).parent / "texts"
    light, dark = re.findall(r":root \{(.*?)\}", (texts / "page.css").read_text("utf-8"), re.S)
    light, dark = (re.sub(r"color-scheme: [^;]*;", "", colours) for colours in (light, dark))
    chart = (texts / "chart.css").read_text("utf-8")
    return f":root {{{light}}}\n[data-md-color-scheme=slate] {{{dark}}}\n{chart}"


def _page(file: Path) -> str:
    scenario, text = _loaded(file), file.read_text("utf-8")
    lines = [
        "---",
        f"title: {file.stem}",
        "---",
        f"# {file.stem}",
        "",
        " ".join(scenario.description.split()),
        "",
    ]
    lines += [fenced(f"holdfast run {file.stem}"), "", *_facts(scenario), ""]
    lines += _header(text)
    cells = _cells(file.stem)
    if cells:
        lines += ["## Measured", "", *_measured(file.stem, cells), ""]
    lines += ["## The file", "", fenced(_body(text), "yaml"), ""]
    return "\n".join(lines)


def _facts(scenario: Scenario) -> list[str]:
    labels = dict.fromkeys(cell.label for cell in scenario.cells())
    facts = {
        "tasks": ", ".join(task.name for task in scenario.tasks),
        "steps a cell": f"{scenario.total_steps:,}",
        "agent": f"{scenario.agent.algorithm} ({scenario.agent.engine})",
        "methods": ", ".join(labels),
        "seeds": ", ".join(str(seed) for seed in scenario.seeds),
    }
    return [f"- **{name}:** {value}" for name, value in facts.items()]


def _comment(text: str) -> list[str]:
    """Return the lines of the comment at the head of a scenario, without that for editors."""
    head = re.match(r"(?:#.*\n)*", text)
    lines = head[0].splitlines() if head else []
    return [line[1:].removeprefix(" ") for line in lines if "yaml-language-server" not in line]


def _body(text: str) -> str:
    return re.sub(r"\A(?:#.*\n)*", "", text).rstrip()


def _header(text: str) -> list[str]:
    """Return the head of a file: paragraphs, and as they stand those with columns."""
    lines: list[str] = []
    for block in "\n".join(_comment(text)).strip().split("\n\n"):
        has_columns = re.search(r"^ |\S   +\S", block, re.M) is not None
        lines += [fenced(block) if has_columns else _prose(block), ""]
    return lines


def _prose(block: str) -> str:
    """Return a comment as a paragraph whose signs mean nothing to markdown."""
    return re.sub(r"([\\`*_<>\[\]|])", r"\\\1", " ".join(block.split()))


def _cells(name: str) -> list[dict[str, str]]:
    """Return the measured cells of a scenario; none where no file has its metrics by cell."""
    file = ROOT / RESULTS / f"{name}.csv"
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        cells = list(csv.DictReader(line for line in opened if not line.startswith("#")))
    return cells if cells and PERFORMANCE in cells[0] else []


def _measured(name: str, cells: list[dict[str, str]]) -> list[str]:
    """Return a chart and a table of what each method reached."""
    measure = MEASURES.get(name, PERFORMANCE)
    forgetting = next(c for c in ("forgetting/boundary", "forgetting/cw") if c in cells[0])
    points = []
    lines = [
        f"| method | seeds | {_AXES[measure]} | forgetting |",
        "| --- | ---: | ---: | ---: |",
    ]
    for index, label in enumerate(dict.fromkeys(cell["method"] for cell in cells)):
        own = [cell for cell in cells if cell["method"] == label]
        scores, lost = (
            np.array([float(c[column]) for c in own]) for column in (measure, forgetting)
        )
        points.append(charts.Point(label, index, interval(scores)))
        lines.append(f"| {label} | {len(own)} | {_spread(scores)} | {_spread(lost)} |")
    return [
        _chart(points, measure),
        "",
        f"Mean and 95% interval (Student's) over seeds of the {_AXES[measure]}; in the table mean "
        "± standard deviation. 0 and 1 are what `score:` in the file says. "
        f"[Every cell](../{'../' if _depth(name) else ''}{RESULTS.as_posix()}/{name}.csv), "
        "with the command that made it.",
        "",
        *lines,
    ]


def _depth(name: str) -> int:
    return _pages()[shipped()[name]].count("/") - 1


def interval(scores: Numbers) -> tuple[float, float, float]:
    """Return mean, lower and upper end of Student's 95% interval; NaN ends for one seed.

    >>> interval(np.array([1.0, 3.0]))[0], interval(np.array([1.0]))
    (2.0, (1.0, nan, nan))
    """
    mean = float(scores.mean())
    if len(scores) < 2:
        return mean, math.nan, math.nan
    half = float(t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / np.sqrt(len(scores)))
    return mean, mean - half, mean + half


def _spread(values: Numbers) -> str:
    mean = number(float(values.mean()))
    return mean if len(values) < 2 else f"{mean} ± {values.std(ddof=1):.2f}"


def _chart(points: list[charts.Point], measure: str) -> str:
    """Return an SVG in the page, in the colours of the page."""
    drawn = charts.Intervals(points, _AXES[measure], least=(0.0, 1.0)).drawn(_AXES[measure])
    return f'<div class="chart">{markup(drawn)}</div>'
