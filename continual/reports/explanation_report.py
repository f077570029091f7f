"""Section of a report on reasons: what actions hang on, and what was forgotten where."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from holdfast.continual.probes import frames
from holdfast.continual.probes.reasons import Explained, explain_record
from holdfast.continual.reports import axes
from holdfast.continual.reports.charts import WIDTH
from holdfast.continual.reports.probe_results import Found, gathered, labels
from holdfast.continual.reports.tables import head, over
from holdfast.continual.results.document import (
    Block,
    Bullets,
    Cell,
    Figure,
    Figures,
    Paragraph,
    Run,
    Section,
    Table,
    Text,
    given,
    na,
    paragraph,
    words,
)
from holdfast.continual.results.formatting import number, plural
from holdfast.continual.results.svg import element, picture
from holdfast.continual.run_folder.record import RunFolder

_SIDE, _LINE = 180.0, 18.0

MOST_BYTES = 200_000
"""Of the pictures of one section, as a page holds them."""


def explain_sections(cells: Sequence[RunFolder]) -> list[Section]:
    """Return the section on reasons; none where no cell was explained."""
    plan, found, notes = gathered(cells, explain_record)
    if plan is None:
        return []
    told = words(
        f"On {plan.states} states of each task's evaluation episodes, by the policy of the task's "
        "end. Hangs on: the entries of the observation, or the part of a picture, with the "
        "largest part of the integrated gradients (arXiv:1703.01365), from the task's mean "
        "observation. Check: how much further the policy's output moves where a quarter of the "
        "entries (of a picture a tenth of the pixels), those of highest attribution, are replaced "
        "by their means than where random ones are (divergence), with its 95% interval over "
        "states. Departs: the share of the states in which the most likely action is not that of "
        "the policy of the task's end. Means over seeds; intervals of each seed."
    )
    blocks: list[Block] = [Paragraph(told), *([Bullets(notes)] if notes else []), _reasons(found)]
    shows = "Orange over the task's mean picture: what the action hangs on."
    parts = _pictures("Maps of reasons", shows, _maps(found))
    if rows := list(_forgotten(found)):
        parts.append(_forgotten_section(found, rows))
    return [Section("Reasons", tuple(blocks), tuple(parts))]


def _reasons(found: Sequence[Found]) -> Table:
    rows = []
    for label in labels(found):
        own = [one for cell in found if cell.label == label for one in cell.results]
        for task, stage in dict.fromkeys((one.task, one.stage) for one in own):
            alike: list[Explained] = [one for one in own if one.place == (stage, task)]
            rows.append(
                (
                    given(label),
                    given(task),
                    Cell(str(stage), stage),
                    Cell(alike[0].hangs_on(np.mean([one.shares for one in alike], axis=0))),
                    Cell(", ".join(_check_of(one) for one in alike)),
                    over(one.departs for one in alike),
                )
            )
    return Table(head("method", "task", "stage", "hangs on", "check", "departs"), tuple(rows))


def _check_of(one: Explained) -> str:
    if one.more is None:
        return number(one.top - one.random)
    low, high = one.more
    return f"{number(one.top - one.random)} [{number(low)}, {number(high)}]"


def _maps(found: Sequence[Found]) -> Iterator[tuple[str, Pixels]]:
    """Yield the map of each method's first seed, when each task was learned and at the end."""
    for label in labels(found):
        first = next(cell for cell in found if cell.label == label)
        for task in dict.fromkeys(one.task for one in first.results):
            own = sorted((one for one in first.results if one.task == task), key=_stage)
            for one in own if len(own) < 2 else (own[0], own[-1]):
                heat = one.heat()
                if heat is not None:
                    told = (
                        f"stage {one.stage}",
                        f"seed {first.cell.seed}",
                        f"departs {one.departs:.2f}",
                    )
                    yield f"{label}, {task}", Pixels(frames.png(heat), told)


def _stage(one: Explained) -> int:
    return one.stage


# -- what was forgotten where ----------------------------------------------------------------------


def _forgotten_section(found: Sequence[Found], rows: Sequence[Any]) -> Section:
    shown = words(
        "States in which the last policy departs from that of the task's end, by kind (k-means, "
        "as many clusters as have the best silhouette; of pictures on the features that the policy "
        "of the task's end makes of them). Where: entries that are furthest from the task's mean, "
        "in standard deviations. Rest: the return from there on by the policy of the task's end."
    )
    titles = ("task", "seed", "states", "where", "step", "divergence", "rest")
    blocks: list[Block] = [Paragraph(shown)]
    if unseen := tuple(_unseen(found)):
        blocks.append(Bullets(unseen))
    blocks.append(Table(head("method", *titles), tuple(rows)))
    shows = "Of each kind the state that is nearest to its middle."
    frames_of_kinds = _pictures("Frames of forgotten states", shows, _framed(found))
    return Section("What was forgotten where", tuple(blocks), tuple(frames_of_kinds))


def _at_end(found: Found) -> Iterator[Explained]:
    """Yield what was found at the last stage, task by task."""
    last = max(one.stage for one in found.results)
    yield from (one for one in found.results if one.stage == last)


def _forgotten(found: Sequence[Found]) -> Iterator[Any]:
    """Yield a row for each cluster of states that the last policy has forgotten."""
    for cell in found:
        for one in _at_end(cell):
            for cluster in one.clusters:
                yield (
                    given(cell.label),
                    given(one.task),
                    Cell(str(cell.cell.seed), cell.cell.seed),
                    Cell(str(cluster.states), cluster.states),
                    Cell(cluster.where) if cluster.centre else na(),
                    Cell(f"{cluster.step:.0f}", cluster.step),
                    Cell(number(cluster.divergence), cluster.divergence),
                    Cell(number(cluster.rest), cluster.rest),
                )


def _framed(found: Sequence[Found]) -> Iterator[tuple[str, Pixels]]:
    """Yield the frame of each such cluster that has one."""
    for cell in found:
        for one in _at_end(cell):
            for cluster in one.clusters:
                if cluster.frame is not None:
                    told = (
                        f"seed {cell.cell.seed}, {plural(cluster.states, 'state')}",
                        f"mean step {cluster.step:.0f}",
                        f"divergence {number(cluster.divergence)}",
                        f"return to come {number(cluster.rest)}",
                    )
                    yield f"{cell.label}, {one.task}", Pixels(base64.b64decode(cluster.frame), told)


def _unseen(found: Sequence[Found]) -> Iterator[Text]:
    """Yield why frames lack, once for each reason of a task."""
    whys = {(one.task, one.unseen) for cell in found for one in _at_end(cell) if one.unseen}
    for task, why in sorted(whys):
        yield words("No frames of ", Run(task), ": ", Run(why))


def _pictures(title: str, told: str, shown: Iterator[tuple[str, Pixels]]) -> list[Section]:
    """Return a section of pictures below a text; none where there are none."""
    figures, left_out = _within(list(shown))
    if not figures:
        return []
    if left_out:
        told += f" {plural(left_out, 'picture')} more are left out, to keep this page small."
    return [Section(title, (paragraph(told), Figures(figures)), page_only=True)]


# -- pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pixels:
    """A picture, with what is told of it beside it.

    Attributes:
        png: The picture.
        told: Short lines.
    """

    png: bytes
    told: Sequence[str]

    @property
    def href(self) -> str:
        """The picture as an address that holds all of it."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    def drawn(self, title: str) -> Element:
        """Return it as an SVG."""
        place = {"x": 0, "y": 0, "width": _SIDE, "height": _SIDE}
        parts = [element("image", href=self.href, class_="pixels", **place)]
        parts += [
            axes.label(_SIDE + 12, 14 + row * _LINE, line, "value")
            for row, line in enumerate(self.told)
        ]
        return picture(WIDTH, _SIDE, title, *parts)


def _within(shown: Sequence[tuple[str, Pixels]]) -> tuple[tuple[Figure, ...], int]:
    """Return pictures as figures, and how many are left out to keep a page small.

    Args:
        shown: Each with its title; the first are kept.
    """
    figures, size = [], 0
    for title, one in shown:
        size += len(one.href)
        if size > MOST_BYTES:
            break
        figures.append(Figure(title, one))
    return tuple(figures), len(shown) - len(figures)
