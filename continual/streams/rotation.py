"""Rotation: which tasks are measured at an evaluation point."""

from __future__ import annotations

from itertools import accumulate

from holdfast import seeding
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Sample


class Rotation:
    """Tells which tasks are measured at each point, from the scenario and the seed alone.

    A run that is continued therefore measures what it would have measured. Of a sample, the task
    that is being learned (at a boundary, that was) is always one. The others go around all other
    tasks in an order drawn from the seed, so that each has its turn equally often.

    Args:
        scenario: Of one cell.
        seed: Of the cell.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._plan, self._every = scenario.evaluation.tasks, scenario.evaluation.every
        self._order, self._tasks = scenario.stream_tasks, len(scenario.tasks)
        steps = scenario.stage_steps
        self._starts = (0, *accumulate(steps))
        points = [(own - 1) // self._every + 1 if self._every else 1 for own in steps]
        self._points = (0, *accumulate(points))
        drawn = seeding.generator(seed, "evaluation", "turns").permutation(self._tasks)
        self._turns: list[int] = drawn.tolist()

    def at(self, stages: int, step: int) -> list[int]:
        """Return the tasks that are measured, ascending.

        Args:
            stages: Stages of the stream that are finished.
            step: Environment steps of the stream so far.
        """
        is_boundary = step == self._starts[stages]
        current = self._order[max(stages - 1, 0) if is_boundary else stages]
        if self._plan == "all" or (isinstance(self._plan, Sample) and self._is_whole(stages, step)):
            return list(range(self._tasks))
        if not isinstance(self._plan, Sample):
            return sorted({*self._order[:stages], current})
        inside = step - self._starts[stages]
        number = self._points[stages] + (inside // self._every if self._every else 0)
        turn = self._plan.sample - 1
        start = number * turn % self._tasks
        around = self._turns[start:] + self._turns[:start]
        others = [task for task in around[:turn] if task != current]
        if len(others) < turn:  # it would have been its turn: another one stands in, not always one
            others.append(around[turn + stages % (self._tasks - turn)])
        return sorted([current, *others])

    def _is_whole(self, stages: int, step: int) -> bool:
        """Return whether a sample is of all tasks at this point."""
        assert isinstance(self._plan, Sample)
        is_boundary = step == self._starts[stages]
        if is_boundary and (self._plan.boundaries == "all" or stages == len(self._order)):
            return True
        return self._plan.sample >= self._tasks

    def total(self) -> int:
        """Return how many times a task is measured over the whole stream."""
        count = len(self.at(0, 0))
        for stage in range(len(self._order)):
            if inside := self._points[stage + 1] - self._points[stage] - 1:
                assert self._every is not None
                count += inside * len(self.at(stage, self._starts[stage] + self._every))
            count += len(self.at(stage + 1, self._starts[stage + 1]))
        return count
