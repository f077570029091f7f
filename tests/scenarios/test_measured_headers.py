"""What the headers of shipped scenarios say was measured is in the files of results."""

from __future__ import annotations

import re

import numpy as np
import pytest
from result_tables import cells_of, short

from holdfast.scenarios.shipped import shipped

AVERAGE, FORGETTING = "average_performance/cw", "forgetting/cw"

Rows = list[dict[str, str]]


def header_of(name: str) -> str:
    """Return the comments above a shipped scenario, in one line."""
    lines = shipped()[name].read_text("utf-8").splitlines()
    comments = [line[1:].strip() for line in lines[: lines.index(f"name: {name}")]]
    return re.sub(r"\s+", " ", " ".join(comments))


def by_method(name: str) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in cells_of(f"{name}.csv"):
        found.setdefault(row["method"], []).append(row)
    return found


def mean(rows: Rows, column: str) -> float:
    return float(np.mean([float(row[column]) for row in rows]))


def spread(rows: Rows, column: str, digits: int) -> str:
    """Return mean and standard deviation over seeds as headers have them."""
    deviation = np.std([float(row[column]) for row in rows], ddof=1)
    return f"{short(mean(rows, column), digits)} ±{short(deviation, digits)}"


@pytest.mark.parametrize("name", ["quickstart", "spread-wirings"])
def test_average_performance_and_forgetting(name: str) -> None:
    header = header_of(name)
    for method, rows in by_method(name).items():
        told = f"{method} {spread(rows, AVERAGE, 2)} / {spread(rows, FORGETTING, 2)}"
        assert told in header, told


@pytest.mark.parametrize("name", ["spread-teams", "tag-roles", "partners", "pursuit-layouts"])
def test_returns_at_the_end_of_the_stream(name: str) -> None:
    header = header_of(name)
    for method, rows in by_method(name).items():
        columns = [column for column in rows[0] if column.startswith("final ")]
        told = f"{method} {', '.join(spread(rows, column, 1) for column in columns)}"
        assert told in header, told


@pytest.mark.parametrize("name", ["methods-continuous", "split-digits"])
def test_average_performance(name: str) -> None:
    header = header_of(name)
    for method, rows in by_method(name).items():
        told = f"{method} {short(mean(rows, AVERAGE))}"
        assert told in header, told


def test_the_return_while_learning() -> None:
    """A score of 1 is 400 steps, one of 0 is 22."""
    header = header_of("continual-control")
    for method, rows in by_method("continual-control").items():
        told = f"{method} {22 + 378 * mean(rows, 'auc/cw'):.0f}"
        assert told in header, told


def test_the_points_of_continual_control() -> None:
    means: dict[str, list[str]] = {}
    for label, rows in by_method("continual-control-tuning").items():
        method = re.split(r"-(?=[a-z_]+=)", label)[0]
        means.setdefault(method, []).append(f"{22 + 378 * mean(rows, 'auc/cw'):.0f}")
    header = header_of("continual-control-tuning")
    for method, points in means.items():
        assert f"{method} {' '.join(points)}" in header, method


@pytest.mark.parametrize(
    "name", ["methods-continuous-tuning", "methods-discrete-tuning", "cw10-lite-tuning"]
)
def test_the_best_and_the_worst_strength(name: str) -> None:
    means: dict[str, list[float]] = {}
    for label, rows in by_method(name).items():
        means.setdefault(label.split("-")[0], []).append(mean(rows, AVERAGE))
    header = header_of(name)
    for method, points in means.items():
        best, worst = (re.escape(short(of(points))) for of in (max, min))
        assert re.search(rf"{method} {best} \([^)]*\), {worst}\b", header), method
