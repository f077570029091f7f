"""Probes of a running environment: values, reused arrays, repeatability, speed."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from holdfast.envs.checks.check_result import CheckResult, Level, crashes_at, form
from holdfast.envs.wrappers.guard import bad_entries
from holdfast.scenarios.source.bounds import EPISODE_STEPS

_PROBE_STEPS = 300  # for determinism
_VALUE_STEPS = 1000  # for values and aliasing: what is wrong late in training is looked for
_LIMIT_STEPS = 2000  # an episode longer than this gets the advice to limit it
_PROBE_S = 10.0  # a robot in real time is not moved for longer
_SPEED_S = 1.0
_SLOW_STEPS_PER_S = 200.0


def check_values(env: gym.Env[Any, Any], result: CheckResult) -> None:
    """Say where observations leave their space, where NaN appears, and where arrays are reused."""
    with crashes_at("reset(seed=1)"):
        observation, _ = env.reset(seed=1)
    env.action_space.seed(1)
    longest = length = step = 0
    ended = False
    start = time.perf_counter()
    _check_observation(observation, env.observation_space, "the observation of reset()", result)
    for step in range(1, _LIMIT_STEPS + 1):
        kept, value = observation, copy.deepcopy(observation)
        action = env.action_space.sample()
        place = f"step {step}, action {action}"
        with crashes_at(place):
            observation, reward, terminated, truncated, _ = env.step(action)
        length += 1
        longest = max(longest, length)
        _check_aliasing(kept, value, observation, result)
        _check_observation(
            observation, env.observation_space, f"the observation of {place}", result
        )
        _check_reward(reward, place, result)
        if not result.ok:
            return
        if terminated or truncated:
            ended, length = True, 0
            with crashes_at("reset()"):
                observation, _ = env.reset()
        wall_s = time.perf_counter() - start
        if wall_s > _PROBE_S or (ended and step >= _VALUE_STEPS):
            break
    result.add("ok", "observations lie in their space, are finite, and are new arrays at each step")
    if ended:
        result.add("ok", f"episodes end (longest with random actions: {longest} steps)")
    else:
        result.add("advice", never_ended(step, _spec_limit(env)))


def never_ended(steps: int, limit: int = 0, *, is_team: bool = False) -> str:
    """Return that no episode ended while so many steps were taken, and what evaluation does then.

    Args:
        steps: How many.
        limit: The time limit that the environment's spec states, 0 for none.
        is_team: Whether it has many agents, whose tasks take no time limit.
    """
    if limit:
        return f"no episode ended in {steps:,} steps; its time limit ends it after {limit:,}"
    mend = "its own kwargs" if is_team else "`changes: {time_limit: ...}`"
    return (
        f"no episode ended in {steps:,} steps, and nothing says how long one lasts: evaluation "
        f"cuts it after {EPISODE_STEPS:,}; limit it by {mend}, or write "
        "`evaluation: {most_steps: ...}`"
    )


def _spec_limit(env: gym.Env[Any, Any]) -> int:
    return (env.spec.max_episode_steps if env.spec is not None else None) or 0


def _check_observation(
    observation: Any, space: gym.Space[Any], name: str, result: CheckResult
) -> None:
    """Add an error for the first key of an observation that does not belong to its space."""
    for key, text in bad_entries(observation, "observation"):
        result.add("error", f"{name} is not finite: {key} is {text}")
        return
    if space.contains(observation):
        return
    if isinstance(space, spaces.Dict) and isinstance(observation, dict):
        for key in sorted(space.spaces.keys() ^ observation.keys()):
            what = "is missing" if key in space.spaces else "is not in its space"
            result.add("error", f"{name}: key '{key}' {what}")
        for key in space.spaces.keys() & observation.keys():
            _check_observation(observation[key], space[key], f"{name}, key '{key}'", result)
        return
    result.add("error", f"{name} is outside its space: {_difference(observation, space)}")


def _difference(observation: Any, space: gym.Space[Any]) -> str:
    if not isinstance(space, spaces.Box):
        return f"{observation!r} is not in {space}"
    if not isinstance(observation, np.ndarray):
        return f"it is {form(observation)}, not an array"
    if observation.shape != space.shape:
        return f"its shape is {observation.shape}, the space's is {space.shape}"
    if not np.can_cast(observation.dtype, space.dtype):
        return (
            f"its dtype is {observation.dtype}, the space's is {space.dtype}; "
            f"return `observation.astype(np.{space.dtype})`"
        )
    outside = np.argwhere((observation < space.low) | (observation > space.high))
    lines = [
        f"[{', '.join(map(str, where))}] is {observation[tuple(where)]:g}, allowed "
        f"{space.low[tuple(where)]:g} to {space.high[tuple(where)]:g}"
        for where in outside[:5]
    ]
    more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
    return "; ".join(lines) + more


def _check_reward(reward: Any, place: str, result: CheckResult) -> None:
    if wrong := reward_fault(reward):
        result.add("error", f"the reward of {place} is {wrong}")
    elif isinstance(reward, np.ndarray):
        result.add("advice", "rewards are arrays without a dimension; return `float(reward)`")


def reward_fault(reward: Any) -> str:
    """Return what is wrong with a reward, empty for one that can be learned from.

    >>> reward_fault(np.array([1.0, 2.0]))
    'array([1., 2.]), an array of shape (2,); it must be one number: return `float(reward.sum())`'
    >>> reward_fault(1), reward_fault(np.array(1.0))
    ('', '')
    """
    if isinstance(reward, np.ndarray) and reward.ndim:
        mend = "float(reward.item())" if reward.size == 1 else "float(reward.sum())"
        shown = f"{reward!r}"[:200]
        return f"{shown}, an array of shape {reward.shape}; it must be one number: return `{mend}`"
    if not isinstance(reward, int | float | np.integer | np.floating | np.bool_ | np.ndarray):
        return f"{reward!r}; it must be one number: return `float(...)`"
    return "" if np.isfinite(reward) else f"{reward}; it must be finite"


def _check_aliasing(before: Any, value: Any, after: Any, result: CheckResult) -> None:
    """Add an error if an observation changed, or could change, when the next one was made."""
    for key, old, copied, new in _leaves("observation", before, value, after):
        if not np.array_equal(old, copied, equal_nan=np.issubdtype(old.dtype, np.inexact)):
            text = f"it was {copied.tolist()} and became {old.tolist()} in the next step"
        elif np.shares_memory(old, new):
            text = "two steps return the same memory"
        else:
            continue
        result.add(
            "error",
            f"{key} is an array that is reused between steps: {text[:300]}; agents keep "
            "observations, so return a copy (`observation.copy()`)",
        )


def _leaves(
    key: str, before: Any, value: Any, after: Any
) -> Iterator[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() & after.keys():
            yield from _leaves(f"{key}['{name}']", before[name], value[name], after[name])
    elif isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        yield key, before, value, after


def check_seeding(env: gym.Env[Any, Any], result: CheckResult, *, is_robot: bool) -> None:
    """Say whether the same seed and actions give the same episode, and another seed another.

    A robot never repeats itself to the last bit, which is no mistake of its author's.
    """
    first, second = _rollout(env, 7), _rollout(env, 7)
    for step, (one, two) in enumerate(zip(first, second, strict=False)):
        if difference := _unequal(one, two):
            when = "after reset(seed=7)" if step == 0 else f"at step {step} after reset(seed=7)"
            may = is_robot or (env.spec is not None and env.spec.nondeterministic)
            level: Level = "advice" if may else "error"
            result.add(
                level,
                f"not repeatable: {when}, the same actions gave {difference}. Draw random numbers "
                "from self.np_random and call super().reset(seed=seed); a simulator that cannot "
                "repeat itself, or a robot, still trains, but its runs cannot be repeated",
            )
            return
    steps = min(len(first), len(second)) - 1
    result.add("ok", f"the same seed gives the same {steps} steps")
    if not _unequal(first[0], _rollout(env, 8)[0]):
        result.add("advice", "another seed gives the same first observation")


def check_rebuilding(make: Callable[[], gym.Env[Any, Any]], result: CheckResult) -> None:
    """Say whether an environment that is built again repeats itself under the same seed."""
    runs = []
    for _ in range(2):
        with crashes_at("building it again"):
            env = make()
        try:
            runs.append(_rollout(env, 7))
        finally:
            with contextlib.suppress(Exception, SystemExit):  # said of the first one
                env.close()
    for step, (one, two) in enumerate(zip(*runs, strict=False)):
        if difference := _unequal(one, two):
            result.add(
                "advice",
                f"built again, it does not repeat itself: at step {step} after reset(seed=7), the "
                f"same actions gave {difference}. A run that goes on from a checkpoint inside a "
                "task will not equal one that was never interrupted",
            )
            return
    result.add("ok", "built again, it repeats itself: checkpoints inside tasks are exact")


def _rollout(env: gym.Env[Any, Any], seed: int) -> list[tuple[Any, ...]]:
    """Return (observation, reward, terminated, truncated) for every step after a seeded reset."""
    start = time.perf_counter()
    env.action_space.seed(seed)
    with crashes_at(f"reset(seed={seed})"):
        observation, _ = env.reset(seed=seed)
    steps: list[tuple[Any, ...]] = [(copy.deepcopy(observation), 0.0, False, False)]
    for _ in range(_PROBE_STEPS):
        action = env.action_space.sample()
        with crashes_at(f"step(), action {action}"):
            observation, reward, terminated, truncated, _ = env.step(action)
        steps.append((copy.deepcopy(observation), reward, terminated, truncated))
        if terminated or truncated:
            with crashes_at("reset()"):
                observation, _ = env.reset()
            steps.append((copy.deepcopy(observation), 0.0, False, False))
        if time.perf_counter() - start > _PROBE_S:
            break
    return steps


def _unequal(one: tuple[Any, ...], two: tuple[Any, ...]) -> str:
    """Return in words where two steps differ; empty where they do not."""
    for key, left, _, right in _leaves("observation", one[0], one[0], two[0]):
        nan_is_equal = np.issubdtype(left.dtype, np.inexact)  # it has an error of its own
        if not np.array_equal(left, right, equal_nan=nan_is_equal):
            return f"{key} {left.tolist()} and {right.tolist()}"[:400]
    if not isinstance(one[0], dict | np.ndarray) and one[0] != two[0]:
        return f"observation {one[0]} and {two[0]}"
    for name, left, right in zip(
        ("reward", "terminated", "truncated"), one[1:], two[1:], strict=True
    ):
        if not np.array_equal(left, right) and not (left != left and right != right):  # both NaN
            return f"{name} {left} and {right}"
    return ""


def measure_speed(env: gym.Env[Any, Any], result: CheckResult) -> None:
    """Say how many steps the environment takes in a second, with random actions."""
    actions = [env.action_space.sample() for _ in range(64)]
    with crashes_at("stepping for the speed"):
        env.reset(seed=2)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < _SPEED_S:
            _, _, terminated, truncated, _ = env.step(actions[steps % len(actions)])
            steps += 1
            if terminated or truncated:
                env.reset()
        wall_s = time.perf_counter() - start
    result.steps_per_s = speed = steps / wall_s
    share_s = 100_000 / speed
    share = f"{share_s:.0f} s" if share_s < 60 else f"{share_s / 60:.0f} min"
    level: Level = "ok" if speed >= _SLOW_STEPS_PER_S else "advice"
    result.add(level, f"{speed:,.0f} steps/s: {share} of 100,000 steps are the environment's")
