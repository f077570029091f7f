"""Measure a run again: any of its policies in any of its tasks, with any number of episodes."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.results.curves import curves
from holdfast.continual.results.formatting import cut_note, number, plural
from holdfast.continual.results.statistics import student, wilson
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.files import csv_table
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario


@dataclass(frozen=True)
class Plan:
    """Settings of a measurement.

    Attributes:
        task: Name of the task; None for the one trained last.
        episodes: How many.
        seed: Of the episodes; None for the run's own, whose episodes are those of its record.
        deterministic: The most likely action rather than a sample; None for what the run did.
        stage: The policy at the end of this stage; None for the last one that was finished.
        env: Another environment in the task's place, with its changes and wrappers.
        kwargs: Arguments of its constructor; None for the task's own, or none with ``env``.
    """

    task: str | None = None
    episodes: int = 20
    seed: int | None = None
    deterministic: bool | None = None
    stage: int | None = None
    env: str | None = None
    kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Measured:
    """Results; ``episodes`` are as ``scores.jsonl`` holds them."""

    episodes: list[Episode]
    setting: str
    score: float

    @property
    def text(self) -> str:
        """The means, with their 95% intervals over episodes."""
        lines = [self.setting]
        for key in ("return", "length"):
            values = [float(episode[key]) for episode in self.episodes]
            lines.append(f"{key:<13} {_interval(float(np.mean(values)), *student(values))}")
        successes = [e["success"] for e in self.episodes if e["success"] is not None]
        if successes:
            rate = float(np.mean(successes))
            lines.append(f"{'success rate':<13} {_interval(rate, *wilson(rate, len(successes)))}")
        if not math.isnan(self.score):
            lines.append(f"{'score':<13} {number(self.score)}")
        if any(episode["unseen"] for episode in self.episodes):
            lines.append("The task has no head or column of its own yet: the newest one acted.")
        if note := cut_note(self.episodes):
            lines.append(note)
        return "\n".join(lines)

    @property
    def csv(self) -> str:
        """One row per episode."""
        rows, some_cut = [], any("cut" in episode for episode in self.episodes)
        for episode in self.episodes:
            agents = {f"return/{name}": own for name, own in episode.get("agents", {}).items()}
            named = {key: value for key, value in episode.items() if key != "agents"} | agents
            rows.append(named | ({"cut": "cut" in episode} if some_cut else {}))
        return csv_table(rows[0], [row.values() for row in rows])


def measure(run: Path, plan: Plan, *, trust_code: bool = False) -> Measured:
    """Return how a policy of a run does in a task; the run folder stays as it is.

    With the run's own seed and as many episodes as its ``evaluation`` has, these are the episodes
    that its record holds of that task boundary.

    Args:
        run: A cell's folder.
        plan: What is measured.
        trust_code: As of ``open_run``.

    Raises:
        UsageError: There is no such run, task or stage, or the environment does not fit.
        CheckpointUnusable: If the checkpoint cannot be read.
    """
    folder = open_run(run, trust_code=trust_code).folder
    scenario = folder.scenario
    named = None if plan.task is None else task_index(scenario, plan.task, str(run))
    stage = checkpoint.asked_stage(folder, plan.stage)
    index = scenario.stream_tasks[stage] if named is None else named
    from holdfast.continual.streams.evaluation import evaluate  # here: it imports torch

    restored = kind_of(scenario).restore(folder, stage)
    recorded = restored.scenario.evaluation
    wanted = recorded.deterministic if plan.deterministic is None else plan.deterministic
    changed = {"episodes": plan.episodes, "deterministic": wanted, "tasks": "all"}
    evaluation = recorded.model_copy(update=changed)
    asked = restored.scenario.model_copy(update={"evaluation": evaluation})
    asked = _elsewhere(asked, index, plan)
    experience = kind_of(asked).stream(folder.seed, restored.spaces).eval_stream[index]
    seed = folder.seed if plan.seed is None else plan.seed
    end = {"stage": stage + 1, "step": sum(scenario.stage_steps[: stage + 1])}
    with closing(experience):
        episodes = evaluate(restored.agent, [experience], evaluation, seed, **end)
    task = asked.tasks[index]
    score = float(curves(episodes, asked).values[0, index])
    setting = (
        f"{folder.scenario.name}/{folder.label}/{folder.path.name} after stage {stage}, in "
        f"{task.name} ({task.env or task.benchmark}): {plural(plan.episodes, 'episode')}, "
        f"{'most likely' if wanted else 'sampled'} actions, seed {seed}"
    )
    return Measured(episodes, setting, score if asked.score_of(index) is not None else math.nan)


def _elsewhere(scenario: Scenario, index: int, plan: Plan) -> Scenario:
    """Return the scenario with another environment in a task's place, where one is asked for.

    Raises:
        UsageError: It shows or takes other things than the task's own.
    """
    if plan.env is None and plan.kwargs is None:
        return scenario
    if why := kind_of(scenario).unmoved:
        raise UsageError(why)
    from holdfast.envs.make import make_env  # here: it imports gymnasium

    task, tasks = scenario.tasks[index], [*scenario.tasks]
    changed = {"kwargs": plan.kwargs or {}, "env": plan.env or task.env}
    tasks[index] = task.model_copy(update=changed)
    asked = scenario.model_copy(update={"tasks": tuple(tasks)})
    spaces = []
    for one in (task, tasks[index]):
        with closing(make_env(asked, one)) as env:
            spaces.append((env.observation_space, env.action_space))
    (seen, done), (shown, taken) = spaces
    if (seen.shape, seen.dtype, done) != (shown.shape, shown.dtype, taken):
        raise UsageError(
            f"--env {changed['env']}: it shows {shown} and takes {taken}; the policy knows {seen} "
            f"and {done} of task '{task.name}'"
        )
    return asked


def _interval(mean: float, low: float, high: float) -> str:
    if math.isnan(low):
        return number(mean)
    return f"{number(mean)} (95%: {number(low)} to {number(high)})"
