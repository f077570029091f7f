"""Evaluation by a frozen agent, on fixed seeds, with random state of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np

from holdfast import seeding
from holdfast.continual.results.record import Episode
from holdfast.errors import EnvironmentFailed
from holdfast.scenarios.schema.scenario import Evaluation

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Act, Agent, Observations
    from holdfast.continual.streams.data_stream import DataEvalExperience
    from holdfast.continual.streams.pooled_evaluation import PooledEvalExperience
    from holdfast.continual.streams.task_stream import EvalExperience

GAME = "game"
"""Key of an info at a game's end: who was the opponent, and where the learner sat."""

LONGEST_EPISODE = 100_000
"""Steps after which an episode is taken to never end."""


class Played(NamedTuple):
    """One finished episode; of a team, also the return of each agent; of a game, who played."""

    total: float
    length: int
    success: float | None
    agents: dict[str, float] | None = None
    game: dict[str, str] | None = None


def evaluate(
    agent: Agent,
    tasks: Iterable[EvalExperience | PooledEvalExperience | DataEvalExperience],
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
        seeds = [
            seeding.derive(seed, "evaluation", index, episode) for episode in range(plan.episodes)
        ]
        with (
            seeding.isolated(seeding.derive(seed, "evaluation", index), *agent.random_spaces),
            agent.view(index) as act,
        ):
            experience.show_task(shown)
            experience.show_step(step)
            played = experience.play(act, seeds, plan.deterministic)
        scores += [
            {
                "stage": stage,
                "step": step,
                "task": experience.task.name,
                "episode": episode,
                "return": result.total,
                "length": result.length,
                "success": result.success,
                "unseen": unseen,
            }
            for episode, result in enumerate(played)
        ]
        for row, result in zip(scores[-len(played) :], played, strict=True):
            if result.agents is not None:
                row["agents"] = result.agents
            if result.game is not None:
                row["opponent"], row["seat"] = result.game["opponent"], result.game["seat"]
    return scores


def play(
    envs: list[gym.Env[Any, Any]],
    act: Act,
    seeds: list[int],
    deterministic: bool,
    *,
    options: Sequence[dict[str, Any] | None] = (),
) -> list[Played]:
    """Return one episode per seed, played side by side in the first environments of the list.

    Args:
        envs: Environments of one task.
        act: The policy.
        seeds: Of the episodes.
        deterministic: The most likely action rather than a sample.
        options: What each reset is given; by default nothing.

    Raises:
        EnvironmentFailed: If an episode does not end.
    """
    envs = envs[: len(seeds)]
    options = options or [None] * len(envs)
    observations = [
        env.reset(seed=seed, options=given)[0]
        for env, seed, given in zip(envs, seeds, options, strict=True)
    ]
    totals, lengths = np.zeros(len(envs)), np.zeros(len(envs), dtype=int)
    successes: list[float | None] = [None] * len(envs)
    games: list[dict[str, str] | None] = [None] * len(envs)
    running = np.ones(len(envs), dtype=bool)
    state, starts = None, np.ones(len(envs), dtype=bool)
    masked = "action_masks" if _has_masks(envs[0]) else None
    while running.any():
        masks = np.stack([env.get_wrapper_attr(masked)() for env in envs]) if masked else None
        # The batch keeps its size to the end, so that no episode depends on the length of another.
        actions, state = act(
            _stack(observations), state, starts, deterministic=deterministic, action_masks=masks
        )
        starts = np.zeros(len(envs), dtype=bool)
        for i in np.flatnonzero(running):
            observation, reward, terminated, truncated, info = envs[i].step(actions[i])
            observations[i] = observation
            totals[i] += float(reward)
            lengths[i] += 1
            successes[i] = _best(successes[i], info.get("is_success", info.get("success")))
            games[i] = info.get(GAME)
            running[i] = not (terminated or truncated)
        if lengths.max() >= LONGEST_EPISODE:
            raise never_ends()
    return [
        Played(float(total), int(length), success, game=game)
        for total, length, success, game in zip(totals, lengths, successes, games, strict=True)
    ]


def never_ends() -> EnvironmentFailed:
    """Return the error of an evaluation episode that is longer than ``LONGEST_EPISODE``."""
    return EnvironmentFailed(
        f"an evaluation episode did not end within {LONGEST_EPISODE:,} steps; give the "
        "task a time limit (changes: {time_limit: steps})"
    )


def _best(before: float | None, now: object) -> float | None:
    """Return whether the episode succeeded so far: once is enough, as in Continual World."""
    if now is None:
        return before
    return max(before or 0.0, float(now))  # type: ignore[arg-type]  # a bool or a number


def _has_masks(env: gym.Env[Any, Any]) -> bool:
    return env.has_wrapper_attr("action_masks")


def _stack(observations: list[Any]) -> Observations:
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)
