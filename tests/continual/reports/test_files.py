"""The numbers of a report as CSV and LaTeX."""

import csv
import re
from pathlib import Path

from holdfast.continual.reports.latex import latex
from holdfast.continual.reports.report import report
from holdfast.continual.results.document import Cell, Table
from holdfast.continual.results.record import RunFolder


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
    (mean,) = [row for row in found if row.items() >= means.items()]
    assert mean["statistic"] == "interquartile mean"
    assert [float(mean[key]) for key in ("value", "low", "high")] == [0.55, 0.5, 0.65]
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
