"""Evaluation by a frozen agent, on fixed seeds, with random state of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.agents.base.agent import Act, Agent, Observations
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.streams.experience import MeasuredExperience, Played
from holdfast.errors import EnvironmentFailed
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Evaluation


class Stepped(NamedTuple):
    """Results of one step of some copies of a task, one entry for each.

    Attributes:
        rewards: float64.
        is_over: Whether the episode has ended.
        successes: Success reported with this step, never below 0; NaN where none was.
        costs: Cost of the step; NaN where the task has none.
        games: Of each that is over, who played; None where the task is no game.
    """

    rewards: NDArray[np.float64]
    is_over: NDArray[np.bool_]
    successes: NDArray[np.float64]
    costs: NDArray[np.float64]
    games: list[dict[str, str] | None]


class Copies(Protocol):
    """Copies of one task in which episodes have begun."""

    def observations(self) -> Observations:
        """Return the latest observation of every copy."""

    def masks(self) -> NDArray[np.bool_] | None:
        """Return the allowed actions of every copy; None where the task has no masks."""

    def step(self, actions: NDArray[np.float64], ids: NDArray[np.int32]) -> Stepped:
        """Step some of the copies.

        Args:
            actions: One for every copy.
            ids: Which copies take theirs.
        """


def evaluate(
    agent: Agent,
    tasks: Iterable[MeasuredExperience],
    plan: Evaluation,
    seed: int,
    *,
    stage: int,
    step: int,
) -> list[Episode]:
    """Return the scores of one evaluation point; training goes on as if it had not happened.

    Every call starts each task's episodes from the same seeds, whatever was measured before.

    Args:
        agent: The learner; its random state is put back afterwards.
        tasks: The tasks to measure.
        plan: How many episodes, and whether the likeliest action is taken.
        seed: The cell's seed.
        stage: Tasks of the stream finished so far.
        step: Environment steps of the stream so far.
    """
    scores: list[Episode] = []
    for experience in tasks:
        index = experience.task_index
        shown, unseen = agent.shown_task(index)
        numbers = range(plan.episodes)
        seeds = [seeding.derive(seed, "evaluation", index, number) for number in numbers]
        with (
            seeding.isolated(seeding.derive(seed, "evaluation", index), *agent.random_spaces),
            agent.view(index) as act,
        ):
            experience.show_task(shown)
            experience.show_step(step)
            played = experience.play(act, seeds, plan.deterministic)
        for episode, result in enumerate(played):
            row: Episode = {
                "stage": stage,
                "step": step,
                "task": experience.task.name,
                "episode": episode,
                "return": result.total,
                "length": result.length,
                "success": result.success,
                "unseen": unseen,
            }
            if result.agents is not None:
                row["agents"] = result.agents
            if result.game is not None:
                row["opponent"], row["seat"] = result.game["opponent"], result.game["seat"]
            if result.is_cut:
                row["cut"] = True
            if result.cost is not None:
                row["cost"] = result.cost
            scores.append(row)
    return scores


def check_success(scenario: Scenario, scores: Iterable[Episode]) -> None:
    """Raise unless tasks that are scored by their successes tell any.

    Raises:
        EnvironmentFailed: No episode of such a task told whether it succeeded.
    """
    told: dict[str, bool] = {}
    for score in scores:
        told[score["task"]] = told.get(score["task"], False) or score["success"] is not None
    for index, task in enumerate(scenario.tasks):
        if not told.get(task.name, True) and scenario.score_of(index) == "success":
            raise EnvironmentFailed(
                f"task '{task.name}': score: success, and no episode told whether it succeeded; "
                'let step() put True or False into info["is_success"], or write score: {random: '
                "20, reference: 500}, which are returns"
            )


def play(
    copies: Copies, act: Act, count: int, *, deterministic: bool, most_steps: int
) -> list[Played]:
    """Return one episode of each copy, played side by side.

    Args:
        copies: Of one task.
        act: The policy.
        count: How many copies there are.
        deterministic: The most likely action rather than a sample.
        most_steps: Steps after which an episode is cut.
    """
    totals, lengths = np.zeros(count), np.zeros(count, dtype=int)
    costs = np.zeros(count)
    successes, running = np.full(count, np.nan), np.ones(count, dtype=bool)
    games: list[dict[str, str] | None] = [None] * count
    state, starts = None, np.ones(count, dtype=bool)
    while running.any():
        # The policy sees all to the end, so that no episode depends on the length of another; what
        # is over keeps its last observation and is not stepped.
        seen, masks = copies.observations(), copies.masks()
        actions, state = act(seen, state, starts, deterministic=deterministic, action_masks=masks)
        starts = np.zeros(count, dtype=bool)
        ids = np.flatnonzero(running).astype(np.int32)
        stepped = copies.step(actions, ids)
        totals[ids] += stepped.rewards
        lengths[ids] += 1
        costs[ids] += stepped.costs
        # Once is enough, as in Continual World.
        successes[ids] = np.fmax(successes[ids], stepped.successes)
        for i, game in zip(ids, stepped.games, strict=True):
            games[i] = game
        running[ids] = ~stepped.is_over
        if lengths[ids[0]] >= most_steps:  # what runs has run equally long
            break
    return [
        Played(
            float(totals[i]),
            int(lengths[i]),
            None if np.isnan(successes[i]) else float(successes[i]),
            game=games[i],
            is_cut=bool(running[i]),
            cost=None if np.isnan(costs[i]) else float(costs[i]),
        )
        for i in range(count)
    ]
