"""Evaluation episodes, the lines of ``scores.jsonl``: their form, and what is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from holdfast.continual.run_folder.readers import LARGEST, MOST_TEXT, beyond_bounds
from holdfast.errors import CheckpointUnusable
from holdfast.scenarios.schema.scenario import Scenario

Episode = TypedDict(
    "Episode",
    {
        "stage": int,
        "step": int,
        "task": str,
        "episode": int,
        "return": float,
        "length": int,
        "success": float | None,
        "unseen": bool,
        "agents": NotRequired[dict[str, float]],
        "opponent": NotRequired[str],
        "seat": NotRequired[str],
        "cut": NotRequired[bool],
        "cost": NotRequired[float],
    },
)
Episode.__doc__ = """One line of ``scores.jsonl``: one evaluation episode.

``stage`` counts the stages of the stream that were finished, ``step`` the environment steps taken
over the stream; (0, 0) is before any learning. ``unseen`` marks a task without a head or column of
its own yet. ``agents`` holds the return of each agent of a team, whose ``return`` is their mean.
In a game, ``success`` is 1 for a win, 0.5 for a draw and 0 for a loss, and ``opponent`` and
``seat`` say against whom and in which seat the learner played. ``cut`` marks an episode that did
not end by itself and was cut after ``evaluation.most_steps``; where it ended, the key is not there.
``cost`` is there where the task has a ``cost:``, as a sum over the episode.
"""


_INTEGERS = itemgetter("stage", "step", "episode", "length")


_NUMBERS = (int, float)


LARGEST_RETURN = 1e100
"""Of an episode: sums and squares of such numbers are numbers still."""


def _fault(found: Any) -> str:
    """Return the fault of a line of the record, empty for an episode."""
    if not isinstance(found, dict):
        return f"holds {type(found).__name__}, not a JSON object"
    if lacking := Episode.__required_keys__ - found.keys():
        return f"lacks {', '.join(sorted(lacking))}"
    success = found["success"]
    if (
        {*map(type, _INTEGERS(found))} == {int}
        and type(found["task"]) is str
        and type(found["return"]) in _NUMBERS
        and (success is None or type(success) in _NUMBERS)
        and type(found["unseen"]) is bool
        and (len(found) == len(Episode.__required_keys__) or _is_more(found))
    ):
        return ""
    return "a value is of another type than an episode's"


def _is_more(found: dict[str, Any]) -> bool:
    """Return whether what an episode has beside the required is of the right types."""
    agents = found.get("agents", {})
    return (
        type(agents) is dict
        and all(type(value) in _NUMBERS for value in agents.values())
        and all(type(found.get(name, "")) is str for name in ("opponent", "seat"))
        and type(found.get("cut", True)) is bool
        and type(found.get("cost", 0)) in _NUMBERS
        and not beyond_bounds(found)
    )


def _is_beyond(found: Sequence[Any]) -> bool:
    """Return whether a number of any episode is beyond the bounds."""
    for name in ("stage", "step", "episode", "length"):
        values = [*map(itemgetter(name), found)]
        if min(values, default=0) < 0 or max(values, default=0) >= LARGEST:
            return True
    returns = [*map(itemgetter("return"), found)]
    returns += [value for value in map(itemgetter("success"), found) if value is not None]
    return (
        max(map(abs, returns), default=0) > LARGEST_RETURN
        or max(map(len, map(itemgetter("task"), found)), default=0) > MOST_TEXT
    )


def episodes(lines: Sequence[bytes], path: Path) -> list[Episode]:
    """Return the episodes in whole lines of a record.

    Raises:
        CheckpointUnusable: If a line is no episode; the text names file and line.
    """
    try:  # all lines at once: six times as fast as one by one
        found: list[Episode] = json.loads(b"[%s]" % b",".join(lines), parse_constant=_refuse)
    except (ValueError, RecursionError):
        found = []
    if len(found) == len(lines) and not any(map(_fault, found)) and not _is_beyond(found):
        return found
    faults = enumerate(map(_fault_of_line, lines), start=1)
    number, fault = next(one for one in faults if one[1])
    raise CheckpointUnusable(
        f"{path}:{number}: {fault}; the scores are damaged: start the cell again with --overwrite"
    )


def misfit(found: Sequence[Episode], scenario: Scenario) -> str:
    """Return what of a record cannot be of a scenario; empty where all can."""
    names = [task.name for task in scenario.tasks]
    if strange := {*map(itemgetter("task"), found)}.difference(names):
        return f"no task {min(strange)[:100]!r}"
    points = sorted({*map(itemgetter("stage", "step"), found)})
    last = 0
    for stage, step in points:
        if stage > len(scenario.stream_tasks) or not last <= step <= scenario.total_steps:
            return f"no evaluation at stage {stage}, step {step}"
        last = step
    return ""


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _fault_of_line(line: bytes) -> str:
    try:
        found = json.loads(line, parse_constant=_refuse)
    except ValueError as error:
        return f"not JSON ({str(error)[:200]})"
    except RecursionError:
        return "nested too deeply"
    return _fault(found) or ("a number is too large, or below 0" if _is_beyond([found]) else "")
