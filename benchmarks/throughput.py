"""How fast environments step: our pool of processes against Stable-Baselines3's SubprocVecEnv.

Both sides step the same Gymnasium environments, bare (no guard, no task id, no learner), with the
same actions drawn beforehand, and Stable-Baselines3's Monitor around each on its side, whose work
ours does too. A row gives environment steps per second; the sides take turns and swap places from
pair to pair, and the ratio is the median over pairs. ``SubprocVecEnv`` has a process for each
environment; ours shares them out to as many workers as there are cores.

The rows are ``ROWS``: a name, the two sides, the environments side by side, a goal.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from overhead import alternate, header
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from holdfast.envs.pool import ProcessPool
from holdfast.scenarios.pool import Pool

RESULTS = Path(__file__).parent / "results" / "throughput.csv"


class Row(NamedTuple):
    """A comparison of two ways to step the same environments.

    Attributes:
        measure: What is compared.
        first: Opens the environments of the reference.
        second: Opens ours.
        n_envs: Environments side by side.
        goal: What the quotient of speeds should reach; None where there is none.
    """

    measure: str
    first: Callable[[], VecEnv]
    second: Callable[[], VecEnv]
    n_envs: int
    goal: float | None


class Measured(NamedTuple):
    """One line of the table; speeds in environment steps per second, medians over pairs."""

    measure: str
    first: float
    second: float
    result: float
    goal: str
    met: bool
    pairs: int


def subprocesses(env: str, n_envs: int) -> VecEnv:
    """Return Stable-Baselines3's environments in processes, as published."""
    return make_vec_env(partial(gym.make, env), n_envs, seed=0, vec_env_cls=SubprocVecEnv)


def pool(env: str, n_envs: int) -> VecEnv:
    """Return ours, with a worker for each core."""
    limits = Pool(workers=min(n_envs, os.cpu_count() or 1))
    return ProcessPool([partial(gym.make, env)] * n_envs, limits, seed=0)


def against_subprocesses(env: str, n_envs: int, goal: float | None) -> Row:
    """Return the row that compares the two on an environment."""
    name = f"pool / SubprocVecEnv, {env}, n_envs {n_envs}"
    return Row(name, partial(subprocesses, env, n_envs), partial(pool, env, n_envs), n_envs, goal)


ROWS = (
    against_subprocesses("CartPole-v1", 8, goal=1.3),
    against_subprocesses("Pendulum-v1", 8, goal=1.3),
    against_subprocesses("Acrobot-v1", 8, goal=None),
    against_subprocesses("HalfCheetah-v5", 8, goal=None),
)


def steps_per_s(env: VecEnv, steps: int) -> float:
    """Return how many environment steps a second take, over so many of each environment."""
    rng = np.random.default_rng(0)
    actions = [_actions(env, rng) for _ in range(64)]
    env.reset()
    for action in actions:  # also the last start-up work
        env.step(action)
    began = time.perf_counter()
    for step in range(steps):
        env.step(actions[step % len(actions)])
    return steps * env.num_envs / (time.perf_counter() - began)


def _actions(env: VecEnv, rng: np.random.Generator) -> Any:
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(space.n, size=env.num_envs)
    assert isinstance(space, gym.spaces.Box)
    shape = (env.num_envs, *space.shape)
    return rng.uniform(space.low, space.high, shape).astype(space.dtype)


def compare(row: Row, pairs: int, steps: int) -> Measured:
    """Return how fast the second side is, as a share of the first; both stay open meanwhile."""
    first, second = row.first(), row.second()
    try:
        sides = partial(steps_per_s, first, steps), partial(steps_per_s, second, steps)
        measured = alternate(*sides, pairs)
    finally:
        first.close()
        second.close()
    before, after = (statistics.median(side) for side in zip(*measured, strict=True))
    ratio = statistics.median(ours / theirs for theirs, ours in measured)
    goal = "" if row.goal is None else f">= {row.goal}"
    met = row.goal is None or ratio >= row.goal
    return Measured(row.measure, before, after, ratio, goal, met, pairs)


def main() -> None:
    """Measure, print the table, and write ``results/throughput.csv``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12, help="pairs per row")
    parser.add_argument("--steps", type=int, default=2000, help="steps of a timing, of each env")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    rows = []
    print(*header("throughput.py"), sep="\n")
    for row in ROWS:
        if options.only not in row.measure:
            continue
        found = compare(row, options.pairs, options.steps)
        rows.append(found)
        verdict = "" if not found.goal else ("met" if found.met else "MISSED")
        print(
            f"{found.measure:55} {found.first:9.0f} {found.second:9.0f} steps/s"
            f"{found.result:7.3f}  {'goal ' + found.goal if found.goal else '':12} {verdict}",
            flush=True,
        )
    if options.dry:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("throughput.py"))
        table = csv.writer(file)
        table.writerow(Measured._fields)
        for found in rows:
            table.writerow([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in found])


if __name__ == "__main__":
    main()
