"""A table of methods, from the file of its cells: what each gains over ``naive``, and what is sure.

A method is compared with ``naive`` of the same seed: the mean of the differences in average
performance, with Student's 95% interval, and one test for the table, corrected by Holm for all
comparisons in it. Forgetting is that at the task boundaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from holdfast.continual.reports.tables import p_value, possible
from holdfast.continual.results.statistics import compare, holm
from holdfast.scenarios.schema.method_spec import MethodPart

PERFORMANCE, FORGETTING = "average_performance/cw", "forgetting/boundary"


class Row(NamedTuple):
    """One method over its seeds.

    Attributes:
        label: The method's label.
        performance: Average performance, or what else is compared, per seed.
        forgetting: Forgetting at the boundaries, per seed.
        gain: Mean difference in performance to ``naive`` of the same seed.
        interval: Half the width of its 95% interval.
        p: Of the test against ``naive``, uncorrected.
    """

    label: str
    performance: NDArray[np.float64]
    forgetting: NDArray[np.float64]
    gain: float
    interval: float
    p: float


def rows(cells: Sequence[dict[str, str]], measure: str = PERFORMANCE) -> list[Row]:
    """Return the table of one scenario's cells."""
    labels = dict.fromkeys(cell["method"] for cell in cells)
    return [_row(label, cells, measure) for label in labels]


def _row(label: str, cells: Sequence[dict[str, str]], measure: str) -> Row:
    own = [cell for cell in cells if cell["method"] == label]
    naive = {cell["seed"]: float(cell[measure]) for cell in cells if cell["method"] == "naive"}
    performance, forgetting = (column(own, name) for name in (measure, FORGETTING))
    theirs = np.array([naive[cell["seed"]] for cell in own])
    p = float("nan") if label == "naive" else compare(performance, theirs).p
    return Row(label, performance, forgetting, *paired(performance - theirs), p)


def column(cells: Sequence[dict[str, str]], name: str) -> NDArray[np.float64]:
    """Return a column of cells, as numbers."""
    return np.array([float(cell[name]) for cell in cells])


def paired(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and half the width of Student's 95% interval of it.

    >>> gain, half = paired(np.array([0.0, 1.0, 2.0]))
    >>> gain, round(half, 3)  # t(.975, 2) = 4.303 times 1 / sqrt(3)
    (1.0, 2.484)
    """
    n = len(differences)
    error = float(differences.std(ddof=1)) / np.sqrt(n) if n > 1 else float("nan")
    return float(differences.mean()), float(t.ppf(0.975, n - 1) * error) if n > 1 else error


def markdown(table: Sequence[Row]) -> str:
    """Return the table as the docs show it, and what its test can find."""
    lines = [
        "| method | seeds | average performance | forgetting | gain over naive, 95% | p (Holm) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, p in zip(table, holm([row.p for row in table]), strict=True):
        is_naive = row.label == "naive"
        low, high = row.gain - row.interval, row.gain + row.interval
        cells = (
            row.label,
            str(len(row.performance)),
            *(spread(values) for values in (row.performance, row.forgetting)),
            "" if is_naive else f"{row.gain:+.2f} ({low:+.2f} to {high:+.2f})",
            "" if is_naive else p_value(float(p)).text,
        )
        lines.append(f"| {' | '.join(cells)} |")
    tested = [len(row.performance) for row in table if np.isfinite(row.p)]
    return "\n".join([*lines, "", possible(tested)])


def spread(values: NDArray[np.float64], digits: int = 2) -> str:
    """Return mean and standard deviation.

    >>> spread(np.array([-0.001, 0.0])), spread(np.array([1.0, 3.0]), 0)
    ('0.00 ± 0.00', '2 ± 1')
    """
    mean = round(float(values.mean()), digits) + 0.0  # no negative zero
    return f"{mean:.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def tuned(
    cells: Sequence[dict[str, str]], methods: Mapping[str, MethodPart], measure: str = PERFORMANCE
) -> dict[str, tuple[str, float]]:
    """Return the point of each method with the greatest mean, and that mean.

    Args:
        cells: Of points, by their labels.
        methods: The method of each label.
        measure: What is averaged.
    """
    best: dict[str, tuple[str, float]] = {}
    for label, part in methods.items():
        mean = float(column([cell for cell in cells if cell["method"] == label], measure).mean())
        if part.name not in best or mean > best[part.name][1]:
            best[part.name] = label, mean
    return best
