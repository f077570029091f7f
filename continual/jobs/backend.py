"""Settle ``backend: auto`` before a run: what the run folders have, or else the faster one."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from holdfast.continual.run_folder.cells import cells_in
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, HoldfastError
from holdfast.scenarios.checks.backend import cannot_take, is_installed
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Side = Literal["gymnasium", "envpool"]
SIDES: tuple[Side, ...] = ("gymnasium", "envpool")
MEASURED_S = 1.0
"""Seconds of stepping for each backend, over all tasks."""
_AT_ONCE = 20  # steps between looks at the clock


class Settled(NamedTuple):
    """A scenario whose backend is one of the two, and why; empty where nothing was to choose."""

    scenario: Scenario
    reason: str


def settle(scenario: Scenario, runs: Path, *, overwrite: bool = False) -> Settled:
    """Return the scenario with ``backend: auto`` replaced by what its cells shall use.

    Cells that are there already decide, so that a resumed run goes on as it began. Otherwise both
    step with random actions, through what training would use, and the faster one is taken. A
    scenario's cells all have the same backend.

    Args:
        scenario: Any; one that names its backend comes back as it is.
        runs: The folder of all results.
        overwrite: Existing cells will be deleted, and do not count.
    """
    if scenario.backend != "auto":
        return Settled(scenario, "")
    side, reason = (None, "") if overwrite else _of_existing(runs / scenario.name)
    if side is None:
        side, reason = _forced(scenario) or _faster(scenario)
    chosen = scenario.model_copy(update={"backend": side})
    return Settled(chosen, f"backend: {side}, because {reason}")


def _of_existing(root: Path) -> tuple[Side | None, str]:
    for place in cells_in(root, "*/seed-*", 2):
        with suppress(CheckpointUnusable):  # prepare tells about it
            backend = RunFolder(place).scenario.backend
            if backend != "auto":
                return backend, f"{place} has it"
    return None, ""


def _forced(scenario: Scenario) -> tuple[Side, str] | None:
    """Return the only backend that can make every task, if there is but one."""
    if not is_installed():
        return "gymnasium", "EnvPool is not installed"
    for task in scenario.tasks:
        finding = next(cannot_take(task.model_dump()), None)
        if finding is not None:
            return "gymnasium", f"of task '{task.name}': {finding.message.partition(';')[0]}"
    return None


def _faster(scenario: Scenario) -> tuple[Side, str]:
    seconds = dict.fromkeys(SIDES, 0.0)  # that the whole stream's steps would take
    steps = sum(task.steps for task in scenario.tasks)
    spaces: dict[Side, list[Any]] = {side: [] for side in SIDES}
    for index, task in enumerate(scenario.tasks):
        for side in SIDES:
            other: Side = SIDES[1 - SIDES.index(side)]
            try:
                speed, found = _steps_per_s(scenario, index, side, MEASURED_S / len(scenario.tasks))
            except HoldfastError as error:
                return other, f"{side} cannot make it: {str(error).splitlines()[0]}"
            seconds[side] += task.steps / speed
            spaces[side].append(found)
    for task, one, two in zip(scenario.tasks, *spaces.values(), strict=True):
        if one != two:
            text = f"task '{task.name}' has other spaces in EnvPool, so it is not the same: "
            return "gymnasium", f"{text}{two} and not {one}"
    faster: Side = min(SIDES, key=lambda side: seconds[side])
    measured = " and ".join(f"{side} {steps / seconds[side]:,.0f}" for side in SIDES)
    return faster, f"random actions measured {measured} steps/s with n_envs {scenario.n_envs}"


def _steps_per_s(
    scenario: Scenario, index: int, side: Side, seconds: float
) -> tuple[float, list[Any]]:
    """Return environment steps per second of a task alone, and the forms of its spaces."""
    # Here: they import torch.
    from holdfast.envs.make import stream_spaces
    from holdfast.envs.vector import pooled, task_env, vectorize

    task = scenario.tasks[index]
    stream = scenario.stream.model_copy(update={"order": None, "steps": None, "max_tasks": None})
    alone = scenario.model_copy(update={"backend": side, "tasks": (task,), "stream": stream})
    spaces = stream_spaces(alone)
    envs: VecEnv
    if side == "envpool":
        envs = pooled(alone, 0, spaces, scenario.n_envs, seed=0)
    else:
        envs = vectorize(lambda: task_env(alone, 0, spaces), scenario.n_envs, seed=0)
    with closing(envs):
        envs.action_space.seed(0)
        actions = [
            np.stack([envs.action_space.sample() for _ in range(scenario.n_envs)])
            for _ in range(_AT_ONCE)
        ]
        envs.reset()
        envs.step(actions[0])  # the first one may compile, allocate, open
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds:
            for batch in actions:
                envs.step(batch)
            count += _AT_ONCE * scenario.n_envs
        speed = count / (time.perf_counter() - began)
    return speed, [_form(spaces.observation), _form(spaces.action)]


def _form(space: Any) -> str:
    """Return a space's kind, shape and sort of numbers; bounds and precision may differ."""
    if hasattr(space, "spaces"):
        return str({key: _form(sub) for key, sub in space.spaces.items()})
    count = f", {space.n}" if hasattr(space, "n") else ""
    return f"{type(space).__name__}({space.shape}{count}, {np.dtype(space.dtype).kind})"
