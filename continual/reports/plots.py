"""The figure of a report: every task's curve over the stream.

Drawn by matplotlib's Agg, without pyplot: no display, no global state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from holdfast.continual.results.curves import Span

# Okabe and Ito, told apart by colour-blind readers too; their yellow is too light for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_GREY = "#666666"
_DPI = 150


@dataclass(frozen=True)
class Panel:
    """One method's curves.

    Attributes:
        title: The method, and how many seeds.
        steps: Shape (points,), environment steps over the stream.
        mean: Shape (points, tasks), mean over the seeds; NaN is left out.
        deviation: Shape (points, tasks), standard deviation over the seeds; NaN draws no band.
    """

    title: str
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def curves_figure(
    panels: Sequence[Panel], *, tasks: Sequence[str], spans: Sequence[Span], unit: str
) -> bytes:
    """Return a PNG with one panel per method, one line per task, training spans shaded.

    Args:
        panels: The methods, drawn from top to bottom.
        tasks: Name of each task.
        spans: When each task is trained.
        unit: Label of the vertical axis; lines at 0 and 1 are drawn for ``score``.
    """
    names = _span_names(tasks, spans)
    keys = list(tasks) if names else [f"{task + 1}: {name}" for task, name in enumerate(tasks)]
    columns = max(1, min(len(tasks), 105 // (max(map(len, keys)) + 5)))
    height = 0.85 + 0.2 * math.ceil(len(tasks) / columns) + 1.75 * len(panels)
    figure = Figure(figsize=(9.0, height), layout="constrained", dpi=_DPI)
    axes: list[Axes] = list(
        figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    )
    for ax, panel in zip(axes, panels, strict=True):
        _shade(ax, spans)
        _draw(ax, panel)
        _style(ax, unit)
        # Above the first panel the names of the tasks stand between the axes and the title.
        pad = 17 if ax is axes[0] else 4
        ax.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", pad=pad)
    _name_spans(axes[0], names or [str(span.task + 1) for span in spans], spans)
    axes[-1].set_xlabel("environment steps over the stream", color=_GREY)
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [
        Line2D([], [], label=key, color=_colour(task), linestyle=_dashes(task))
        for task, key in enumerate(keys)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _colour(task: int) -> str:
    return _COLOURS[task % len(_COLOURS)]


def _dashes(task: int) -> Literal["-", "--", ":", "-."]:
    return _DASHES[task // len(_COLOURS) % len(_DASHES)]


def _shade(ax: Axes, spans: Sequence[Span]) -> None:
    for span in spans:
        ax.axvspan(
            span.start, span.end, color=_colour(span.task), alpha=0.10, linewidth=0, zorder=0
        )
        ax.axvline(span.end, color="white", linewidth=1.5, zorder=0.5)


def _draw(ax: Axes, panel: Panel) -> None:
    for task in range(panel.mean.shape[1]):
        known = np.isfinite(panel.mean[:, task])
        steps, mean = panel.steps[known], panel.mean[known, task]
        band = np.nan_to_num(panel.deviation[known, task])
        colour = _colour(task)
        ax.plot(steps, mean, color=colour, linestyle=_dashes(task), linewidth=1.8, zorder=3)
        ax.fill_between(
            steps, mean - band, mean + band, color=colour, alpha=0.18, linewidth=0, zorder=2
        )


def _style(ax: Axes, unit: str) -> None:
    ax.set_ylabel(unit, color=_GREY)
    ax.margins(x=0)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5, min_n_ticks=3))
    ax.tick_params(colors=_GREY, labelsize=8, length=3)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#bbbbbb")
    if unit == "score":
        for level in (0.0, 1.0):
            ax.axhline(level, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)


def _room(span: Span, spans: Sequence[Span]) -> float:
    """Return how many characters of 8 points fit above a span."""
    return 105 * (span.end - span.start) / spans[-1].end


def _span_names(tasks: Sequence[str], spans: Sequence[Span]) -> list[str]:
    """Return the name of each span's task, or nothing where one does not fit: numbers do then."""
    names = [tasks[span.task] for span in spans]
    fit = all(len(name) <= _room(span, spans) for name, span in zip(names, spans, strict=True))
    return names if fit else []


def _name_spans(ax: Axes, names: Sequence[str], spans: Sequence[Span]) -> None:
    """Write above the axes which task is trained when, where there is room for it."""
    for name, span in zip(names, spans, strict=True):
        if len(name) <= _room(span, spans):
            ax.annotate(
                name,
                ((span.start + span.end) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_colour(span.task),
            )
