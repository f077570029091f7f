"""Detections of a run beside the true changes, which only the evaluation knows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from holdfast.scenarios.schema.scenario import Scenario, Task


class Outcome(NamedTuple):
    """What a detector made of the changes of a stream.

    Attributes:
        delays: Steps from each change to the first detection before the next; None where it was
            missed.
        false_alarms: All other detections.
        phases: Steps from each change to the next, or to the end.
    """

    delays: list[int | None]
    false_alarms: int
    phases: list[int]

    @property
    def missed(self) -> int:
        """How many changes were missed."""
        return sum(delay is None for delay in self.delays)

    @property
    def counted(self) -> list[int]:
        """The delays, a missed change counted as its phase's length."""
        pairs = zip(self.delays, self.phases, strict=True)
        return [phase if delay is None else delay for delay, phase in pairs]


def outcome(changes: Sequence[int], detected: Sequence[int], end: int) -> Outcome:
    """Return which detections count for which changes.

    A detection counts for a change if it is the first at or after it and before the next; all
    others are false alarms.

    Args:
        changes: Steps of the stream at which it changed, in order.
        detected: Steps at which a test told of a change, in order.
        end: Steps of the stream so far.

    >>> outcome([100, 200], [50, 120, 130], 300)
    Outcome(delays=[20, None], false_alarms=2, phases=[100, 100])
    """
    changes = [change for change in changes if change < end]
    ends = [*changes[1:], end] if changes else []
    inside = [
        [step for step in detected if change <= step < after or step == after == end]
        for change, after in zip(changes, ends, strict=True)
    ]
    delays = [
        found[0] - change if found else None for change, found in zip(changes, inside, strict=True)
    ]
    hits = sum(delay is not None for delay in delays)
    phases = [after - change for change, after in zip(changes, ends, strict=True)]
    return Outcome(delays, len(detected) - hits, phases)


class Recognition(NamedTuple):
    """What a detector that takes up slots again made of worlds that come again.

    Attributes:
        revisits: Changes to a world that was there before.
        recognised: Those whose first detection took up a slot that had begun in that world.
        false: Slots that were taken up in another world than they had begun in.
    """

    revisits: int
    recognised: int
    false: int


def recognition(
    changes: Sequence[int],
    detected: Sequence[tuple[int, int]],
    end: int,
    world: Callable[[int], object],
) -> Recognition:
    """Return how many worlds that came again were recognised.

    Args:
        changes: Steps of the stream at which it changed, in order.
        detected: Steps at which a test told of a change, in order, each with the number of the slot
            that began; -1 where none has.
        end: Steps of the stream so far.
        world: What the world is at a step.

    >>> recognition([10, 20, 30], [(12, 1), (22, 0), (31, 0)], 40, lambda step: "abab"[step // 10])
    Recognition(revisits=2, recognised=1, false=1)
    """
    starts = [0, *(change for change in changes if change < end)]
    began: dict[int, object] = {0: world(0)}  # where each slot did
    false, right = 0, []
    for step, slot in detected:
        is_again, now = slot in began, world(step)
        if slot >= 0:
            began.setdefault(slot, now)
        is_right = is_again and began[slot] == now
        false += is_again and not is_right
        right.append(is_right)
    revisits = recognised = 0
    for place, (start, after) in enumerate(pairwise([*starts, end])):
        if world(start) in [world(before) for before in starts[:place]]:
            inside = [start <= step < after or step == after == end for step, _ in detected]
            revisits += 1
            recognised += inside.count(True) > 0 and right[inside.index(True)]
    return Recognition(revisits, recognised, false)


def recognition_of(
    scenario: Scenario, detected: Sequence[tuple[int, int]], end: int
) -> Recognition:
    """Return how many worlds of a cell's stream that came again were recognised.

    Args:
        scenario: Of the cell.
        detected: As for ``recognition``.
        end: Steps of the stream so far.
    """

    def world(step: int) -> object:
        """What drifts counts with its value: worlds that differ by a little are two."""
        firsts = [0, *accumulate(scenario.stage_steps)][: len(scenario.stream_tasks)]
        stage = bisect_right(firsts, step) - 1
        task = scenario.tasks[scenario.stream_tasks[stage]]
        inside = step - firsts[stage]
        return _fixed(task), {n: d.at(inside, task.steps) for n, d in task.drift.items()}

    return recognition(changes_of(scenario), detected, end, world)


def changes_of(scenario: Scenario) -> list[int]:
    """Return the steps of a cell's stream at which its world changes from one step to the next.

    Those are boundaries between tasks that differ in more than name, score and steps, and the jumps
    of a drift. What drifts by and by (``linear``, ``sine``, ``points``) has no such step.
    """
    worlds = list(_worlds(scenario))
    return [step for (_, before), (step, world) in pairwise(worlds) if world != before]


def _worlds(scenario: Scenario) -> Iterator[tuple[int, object]]:
    """Yield every step at which something may change, with what the world is from there on."""
    first = 0
    for index, steps in zip(scenario.stream_tasks, scenario.stage_steps, strict=True):
        task = scenario.tasks[index]
        fixed = _fixed(task)
        for step in _places(task, steps):
            jumped = {
                name: drift.at(step, task.steps)
                for name, drift in task.drift.items()
                if drift.jumps is not None
            }
            yield first + step, (fixed, jumped)
        first += steps


def _fixed(task: Task) -> object:
    """Return what a task is that does not drift."""
    return task.model_dump(exclude={"name", "score", "steps", "sample"})


def _places(task: Task, steps: int) -> list[int]:
    """Return the steps of a stage at which it begins, or a drift may jump."""
    found = {0}
    for drift in task.drift.values():
        if drift.jumps is not None:
            count, period = len(drift.jumps), drift.period or task.steps
            places = (
                -(-period * number // count) for number in range(1, steps * count // period + 1)
            )
            found |= {place for place in places if place < steps}
    return sorted(found)
