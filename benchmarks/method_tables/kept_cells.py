"""Finished cells on file: enough of a run folder to compute every table from it again.

``results/cells/`` has two compressed files for each scenario. ``<scenario>-runs.csv.xz`` has a line
per cell: its ``run.json`` and its ``scenario.yaml``. ``<scenario>-scores.csv.xz`` has a line per
cell, evaluation point and task: returns, lengths and successes of its episodes, with blanks
between. What is restored from them is read, reported and left alone by ``holdfast run`` like any
finished cell; it has no checkpoints, so that no policy can be loaded from it.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from holdfast.continual.results.study import CellResults
from holdfast.continual.run_folder.episodes import Episode

CELLS = Path(__file__).parents[1] / "results" / "cells"
RUN_COLUMNS = ("method", "seed", "run", "scenario")
SCORE_COLUMNS = (
    *("method", "seed", "stage", "step", "task", "unseen"),
    *("returns", "lengths", "successes", "cut"),
)
OF_ITS_MACHINE = ("source", "folder", "host")
"""Entries of ``run.json`` that name a place, which are not kept."""


def keep(cells: Iterable[CellResults], name: str, place: Path = CELLS) -> None:
    """Write the files of a scenario's finished cells; equal cells give equal bytes.

    Raises:
        ValueError: If an episode is one of a game or a team, for which there are no columns.
    """
    cells = list(cells)
    runs = (
        (cell.folder.label, cell.folder.seed, _run(cell), cell.folder.scenario.to_yaml())
        for cell in cells
    )
    scores = (
        (cell.folder.label, cell.folder.seed, *row) for cell in cells for row in _rows(cell.scores)
    )
    place.mkdir(parents=True, exist_ok=True)
    _write(place / f"{name}-runs.csv.xz", RUN_COLUMNS, runs)
    _write(place / f"{name}-scores.csv.xz", SCORE_COLUMNS, scores)


def restore(name: str, runs: Path, place: Path = CELLS) -> int:
    """Write the kept cells of a scenario as run folders where there are none; return how many."""
    if not (place / f"{name}-runs.csv.xz").exists():
        return 0
    lines: dict[tuple[str, str], list[str]] = {}
    for row in _read(place / f"{name}-scores.csv.xz"):
        lines.setdefault((row["method"], row["seed"]), []).extend(_episodes(row))
    restored = 0
    for row in _read(place / f"{name}-runs.csv.xz"):
        folder = runs / name / row["method"] / f"seed-{row['seed']}"
        if (folder / "scenario.yaml").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "scores.jsonl": "".join(lines[row["method"], row["seed"]]),
            "run.json": row["run"],
            "scenario.yaml": row["scenario"],
        }
        for file, text in content.items():
            (folder / file).write_text(text, encoding="utf-8")
        restored += 1
    return restored


def _run(cell: CellResults) -> str:
    kept = {key: value for key, value in cell.info.items() if key not in OF_ITS_MACHINE}
    return json.dumps(kept, ensure_ascii=False) + "\n"


def _rows(scores: Iterable[Episode]) -> Iterator[tuple[Any, ...]]:
    """Yield what a line holds beside method and seed."""
    for key, group in groupby(scores, itemgetter("stage", "step", "task", "unseen")):
        episodes = list(group)
        if [one["episode"] for one in episodes] != list(range(len(episodes))):
            raise ValueError("episodes are not in order")
        if strange := {*episodes[0]} - Episode.__required_keys__ - {"cut"}:
            raise ValueError(f"episodes with {', '.join(sorted(strange))} have no columns")
        cut = ["cut" in one for one in episodes]
        yield (
            *key,
            " ".join(repr(one["return"]) for one in episodes),
            " ".join(str(one["length"]) for one in episodes),
            " ".join(json.dumps(one["success"]) for one in episodes),
            " ".join(str(int(one)) for one in cut) if any(cut) else "",
        )


def _episodes(row: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a record that a row holds, as a run writes them."""
    returns, lengths, successes = (
        row[name].split() for name in ("returns", "lengths", "successes")
    )
    cut = row["cut"].split() or ["0"] * len(returns)
    for number, values in enumerate(zip(returns, lengths, successes, cut, strict=True)):
        episode = {
            "stage": int(row["stage"]),
            "step": int(row["step"]),
            "task": row["task"],
            "episode": number,
            "return": json.loads(values[0]),
            "length": int(values[1]),
            "success": json.loads(values[2]),
            "unseen": row["unseen"] == "True",
            **({"cut": True} if values[3] == "1" else {}),
        }
        yield json.dumps(episode, ensure_ascii=False) + "\n"


def _write(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    path.write_bytes(lzma.compress(text.getvalue().encode(), preset=9))


def _read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**30)
    return list(csv.DictReader(io.StringIO(lzma.decompress(path.read_bytes()).decode())))
