"""Figures: every task's curve over the stream, and the score matrix as a heat map.

Drawn by matplotlib's Agg, without pyplot: no display, no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from holdfast.continual.metrics import Span

# Okabe and Ito, told apart by colour-blind readers too; their yellow is too light for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", ":", "-.")
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
    figure = Figure(figsize=(9.0, 1.0 + 1.75 * len(panels)), layout="constrained", dpi=_DPI)
    axes: list[Axes] = list(
        figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    )
    for ax, panel in zip(axes, panels, strict=True):
        _shade(ax, spans)
        _draw(ax, panel)
        _style(ax, panel.title, unit)
    _name_spans(axes[0], tasks, spans)
    axes[-1].set_xlabel("environment steps over the stream", color=_GREY)
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [Line2D([], [], label=name, **_line(task)) for task, name in enumerate(tasks)]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(tasks), 5),
        frameon=False,
        fontsize=9,
    )
    return _png(figure)[0]


def heat_map(
    values: ArrayLike, *, rows: Sequence[str], columns: Sequence[str]
) -> tuple[bytes, int, int]:
    """Return a PNG of a score matrix with its numbers in the cells, and its width and height.

    Args:
        values: Shape (rows, columns); NaN is left blank.
        rows: What each row was measured after.
        columns: Names of the tasks.
    """
    scores = np.asarray(values, dtype=np.float64)
    longest = max((len(name) for name in rows), default=0)
    size = 1.2 + 0.09 * longest + 0.9 * len(columns), 1.1 + 0.45 * len(rows)
    figure = Figure(figsize=size, layout="constrained", dpi=_DPI)
    ax = figure.subplots()
    known = scores[np.isfinite(scores)]
    low, high = min(0.0, known.min(initial=0.0)), max(1.0, known.max(initial=1.0))
    image = ax.imshow(scores, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        if np.isfinite(score):
            dark = score < low + 0.6 * (high - low)
            text = f"{score:.2f}" if abs(score) < 100 else f"{score:.0f}"
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=10,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=9)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, fraction=0.05).outline.set_visible(False)
    return _png(figure)


def _line(task: int) -> dict[str, str]:
    dashes = _DASHES[task // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[task % len(_COLOURS)], "linestyle": dashes}


def _shade(ax: Axes, spans: Sequence[Span]) -> None:
    for span in spans:
        colour = _COLOURS[span.task % len(_COLOURS)]
        ax.axvspan(span.start, span.end, color=colour, alpha=0.10, linewidth=0, zorder=0)
        ax.axvline(span.end, color="white", linewidth=1.5, zorder=0.5)


def _draw(ax: Axes, panel: Panel) -> None:
    for task in range(panel.mean.shape[1]):
        known = np.isfinite(panel.mean[:, task])
        steps, mean = panel.steps[known], panel.mean[known, task]
        band = np.nan_to_num(panel.deviation[known, task])
        look = _line(task)
        ax.plot(steps, mean, **look, linewidth=1.8, solid_capstyle="round", zorder=3)
        ax.fill_between(
            steps, mean - band, mean + band, color=look["color"], alpha=0.18, linewidth=0, zorder=2
        )


def _style(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=4)
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


def _name_spans(ax: Axes, tasks: Sequence[str], spans: Sequence[Span]) -> None:
    """Write above the first panel which task is trained when, where there is room for it."""
    total = spans[-1].end
    for span in spans:
        name = tasks[span.task]
        room = 105 * (span.end - span.start) / total  # characters of 8 points over the axes' width
        if len(name) <= room:
            ax.annotate(
                name,
                ((span.start + span.end) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=_COLOURS[span.task % len(_COLOURS)],
            )


def _png(figure: Figure) -> tuple[bytes, int, int]:
    canvas = FigureCanvasAgg(figure)
    file = BytesIO()
    canvas.print_png(file, metadata={"Software": None})
    return file.getvalue(), *canvas.get_width_height()
