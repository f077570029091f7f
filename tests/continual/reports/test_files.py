"""The numbers of a report as CSV and LaTeX."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holdfast.continual.reports.latex import latex
from holdfast.continual.reports.report import report
from holdfast.continual.results.document import (
    EMPTY,
    Bullets,
    Cell,
    Paragraph,
    Run,
    Section,
    Table,
    given,
    paragraph,
    read_section,
    saved,
    words,
)
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.svg import element, picture, png, svg_file
from holdfast.continual.run_folder.record import CROSS_PLAY, CROSS_PLAY_PAGE, RunFolder
from holdfast.errors import CheckpointUnusable


def test_every_number_is_in_the_csv(runs: Path) -> None:
    RunFolder(runs / "ewc" / "seed-1").update(status="failed")
    report(runs)
    with (runs / "report.csv").open(newline="") as file:
        found = list(csv.DictReader(file))

    def value(**keys: str) -> str:
        (row,) = [r for r in found if all(r[key] == wanted for key, wanted in keys.items())]
        return row["value"]

    cell = {"scenario": "demo", "method": "naive", "seed": "1", "statistic": "value"}
    assert float(value(**cell, task="", metric="average_performance/cw")) == 0.65
    assert float(value(**cell, task="left", metric="forgetting/cw")) == 0.4
    assert value(**cell, task="", metric="stability_gap/dense") == ""  # n/a, not zero
    assert float(value(**cell, task="", metric="wall_s")) == 101
    assert value(method="ewc", seed="1", statistic="missing") == ""
    means = {"method": "naive", "seed": "", "metric": "average_performance/cw"}
    of_seeds = {row["statistic"]: row for row in found if row.items() >= means.items()}
    assert list(of_seeds) == ["mean", "interquartile mean"]  # of .5 and .65: nothing to leave out
    for row in of_seeds.values():
        assert [float(row[key]) for key in ("value", "low", "high")] == [0.575, 0.5, 0.65]
    assert float(value(method="ewc", statistic="difference of means")) == pytest.approx(0.3)
    assert float(value(method="ewc", statistic="probability of improvement")) == 1
    with (runs / "report-points.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 5 * 3 * 2  # finished cells, points, tasks
    assert points[3] == {
        "scenario": "demo",
        "method": "naive",
        "seed": "0",
        "step": "10",
        "task": "right",
        "score": "0.1",
        "return": "10.0",
        "success": "",
    }


def test_the_latex_tables_are_well_formed(runs: Path) -> None:
    report(runs)
    text = (runs / "report.tex").read_text("utf-8")
    assert re.findall(r"\\label\{(.*?)\}", text) == [
        f"tab:demo-{name}" for name in ("summary", "means", "tasks", "costs")
    ]
    for table in text.split(r"\begin{table}")[1:]:
        columns = re.search(r"\\begin\{tabular\}\{(l r*|lr*)\}", table)
        assert columns is not None
        body = table.split(r"\toprule")[1].split(r"\bottomrule")[0]
        lines = [line for line in body.splitlines() if line.strip() and "rule" not in line]
        assert len(lines) == 4
        for line in lines:
            assert line.endswith(r" \\")
            cells = re.split(r"(?<!\\)&", line)
            assert len(cells) == len(columns[1])
        for brackets in ("{}", r"\begin \end"):
            opening, closing = brackets.split() if " " in brackets else brackets
            assert table.count(opening) == table.count(closing) + (opening == r"\begin") * -1
    assert r"0.57 $\pm$ 0.11" in text
    assert r"{$-$0.50 $\pm$ 0.14}" in text


def test_what_latex_would_read_is_escaped() -> None:
    head, *rows = (("a_b", "x^y~"), ("{c}", r"\d $e & f"), ("-g-1", "[0.1, -2]"))
    body = tuple(tuple(map(Cell, row)) for row in rows)
    odd = Table(tuple(map(Cell, head)), body, "odd", "100% of #1")
    text = latex([("my study", odd)])
    assert r"\caption{100\% of \#1}" in text
    assert r"\label{tab:my-study-odd}" in text
    assert r"{a\_b} & {x\textasciicircum{}y\textasciitilde{}} \\" in text
    assert r"{\{c\}} & {\textbackslash{}d \$e \& f} \\" in text
    assert r"{-g-1} & {[0.1, $-$2]} \\" in text


def test_the_figure_is_a_file_that_needs_no_page(runs: Path) -> None:
    report(runs)
    text = (runs / "report.svg").read_text("utf-8")
    assert "var(" not in text  # paper programs know no variables
    assert text.count("#0072b2") == 1  # in its own style sheet
    assert 'xmlns="http://www.w3.org/2000/svg"' in text.partition(">")[0]
    with Image.open(runs / "report.png") as drawn:
        assert drawn.size[0] == 2 * float(re.search(r' width="(\d+)"', text)[1])


def test_text_is_drawn_without_a_font_of_the_machine() -> None:
    drawn = picture(60, 20, "a", element("text", "words", x=5, y=15))
    with Image.open(io.BytesIO(png(svg_file(drawn, "text { font-size: 12px; }")))) as image:
        assert image.size == (60, 20)
        assert (np.asarray(image.convert("L")) < 100).sum() > 40


def test_one_section_in_markdown_by_hand() -> None:
    table = Table(
        (EMPTY, given("a|b")), ((given("x*"), Cell("0.50", 0.5, "strong")),), caption="C."
    )
    inner = Section("Inner", (Bullets((words("`a` is ", Run("<b>")),)), table))
    made = Section("Outer", (paragraph("One `code[0]`."),), (inner,))
    assert markdown([made], 2) == (
        "## Outer\n\nOne `code[0]`.\n\n### Inner\n\n- `a` is &lt;b>\n\n"
        "|  | a\\|b |\n| --- | ---: |\n| x\\* | **0.50** |\n\nC.\n"
    )
    assert markdown([Section("Charts", (Paragraph(("a",)),), page_only=True)]) == "\n"


@pytest.mark.thorough
def test_a_section_is_read_as_it_was_saved(runs: Path) -> None:
    table = Table((EMPTY, given("a")), ((given("b"), Cell("0.50 ± 0.10", 0.5)),))
    inner = Section("Inner", (paragraph("By ", Run("*b*"), "."), table))
    made = Section("Cross-play: demo", (paragraph("One."),), (inner,))
    (runs / CROSS_PLAY_PAGE).write_text("of an older version")
    assert "An older version wrote `cross-play.md`" in report(runs).markdown
    (runs / CROSS_PLAY).write_bytes(saved(made))
    assert read_section(runs / CROSS_PLAY) == made
    text = report(runs).markdown
    assert "An older version" not in text
    assert text.endswith("| b | 0.50 ± 0.10 |\n")
    (runs / CROSS_PLAY).write_text('[["a", [{"text": 3}]]]')
    with pytest.raises(CheckpointUnusable, match=r"cross-play\.json cannot be read"):
        report(runs)


def test_an_overview_has_no_details(runs: Path) -> None:
    RunFolder(runs / "ewc" / "seed-1").update(status="failed")
    text = report(runs).overview
    titles = ["Results", "Means and deviations", "Costs", "Not in these numbers"]
    assert re.findall("^## (.*)", text, flags=re.M) == titles
