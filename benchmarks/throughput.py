"""How fast environments step with random actions; the two sides of each row take turns.

* EnvPool as training gets it (checks for NaN, time limits, returns, same-step autoreset) against
  Stable-Baselines3's ``SubprocVecEnv``, which has a process for each environment; against the
  ``metaworld`` package in our own server under the interpreter that has it; and against bare
  EnvPool. Bare EnvPool resets in the next step, whose action it ignores: that is no step of an
  environment, and is not counted.
* Our pool of processes, which shares the environments out to as many workers as there are cores,
  against ``SubprocVecEnv``: the same Gymnasium environments, bare but for Stable-Baselines3's
  Monitor, whose work both do.

Environments are opened once, and actions drawn before anything is timed. Each side is first
measured alone, with the other not yet there. Then both are open, the sides swap places from pair
to pair, and a ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from overhead import alternate, header, write_table
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from holdfast.envs.base.loading import build
from holdfast.envs.make import stream_spaces
from holdfast.envs.processes.pool import ProcessPool
from holdfast.envs.vector import pooled
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.sections import Pool

RESULTS = Path(__file__).parent / "results" / "throughput.csv"
CORES = os.cpu_count() or 1
PHYSICS = (
    ("HalfCheetah-v5", 16),
    ("Ant-v5", 16),
    ("Hopper-v5", 16),
    ("MetaWorld/Push-v3", 16),
    ("Go1Handstand-v1", 16),  # falls every 20 steps: many resets, each a call of its own
    ("Go1Handstand-v1", 64),
)
PACKAGE = {"env_name": "push-v3"}


class Row(NamedTuple):
    """A comparison of two ways to step the same environments.

    Attributes:
        measure: What is compared.
        first: Opens the environments of the reference.
        second: Opens ours.
        n_envs: Environments side by side.
        steps: Steps of each environment in one turn.
        goal: What the quotient of speeds should reach; None where there is none.
    """

    measure: str
    first: Callable[[], Any]
    second: Callable[[], Any]
    n_envs: int
    steps: int
    goal: float | None


class Measured(NamedTuple):
    """One line of the table; speeds in environment steps per second, medians over turns."""

    measure: str
    first_alone: float
    second_alone: float
    first: float
    second: float
    result: float
    goal: str
    met: bool
    pairs: int


# -- the sides -------------------------------------------------------------------------------------


def subprocesses(env: str, n_envs: int) -> VecEnv:
    """Return Stable-Baselines3's environments in processes, as published."""
    return make_vec_env(partial(gym.make, env), n_envs, seed=0, vec_env_cls=SubprocVecEnv)


def pool(make: Callable[[], Any], n_envs: int) -> VecEnv:
    """Return ours, with a worker for each core."""
    return ProcessPool([make] * n_envs, Pool(workers=min(n_envs, CORES)), seed=0)


def adapter(env: str, n_envs: int) -> VecEnv:
    """Return an EnvPool as training gets it, without a task id."""
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "only", "env": env, "steps": n_envs}],
            "backend": "envpool",
            "n_envs": n_envs,
            "stream": {"task_id": "hidden"},
            "agent": {"algorithm": "ppo"},
        }
    )
    return pooled(scenario, 0, stream_spaces(scenario), n_envs, seed=0)


def bare(env: str, n_envs: int) -> Any:
    """Return EnvPool as it is."""
    import envpool

    return envpool.make_gymnasium(env, num_envs=n_envs, seed=list(range(n_envs)))


def package(python: str, n_envs: int) -> VecEnv:
    """Return the ``metaworld`` package's environments, in our server and shared out by our pool."""
    make = partial(build, "metaworld:Meta-World/MT1", PACKAGE, python=python)
    return pool(make, n_envs)


def rows(metaworld: str | None) -> Iterator[Row]:
    """Yield what is compared; that with ``metaworld`` where an interpreter has it."""
    env = "HalfCheetah-v5"
    name = f"EnvPool, adapter / SubprocVecEnv, {env}"
    yield Row(name, partial(subprocesses, env, 16), partial(adapter, env, 16), 16, 250, 3.0)
    if metaworld:
        env, n_envs = "MetaWorld/Push-v3", 2 * CORES
        sides = partial(package, metaworld, n_envs), partial(adapter, env, n_envs)
        yield Row(f"EnvPool, adapter / metaworld, server, {env}", *sides, n_envs, 250, 1.8)
    for env, goal in {
        "CartPole-v1": 1.3,
        "Pendulum-v1": 1.3,
        "Acrobot-v1": None,
        "HalfCheetah-v5": None,
    }.items():
        sides = partial(subprocesses, env, 8), partial(pool, partial(gym.make, env), 8)
        yield Row(f"pool / SubprocVecEnv, {env}", *sides, 8, 500, goal)
    for env, n_envs in PHYSICS:
        sides = partial(bare, env, n_envs), partial(adapter, env, n_envs)
        name, steps = f"EnvPool, adapter / bare, {env}", 12_000 // n_envs
        yield Row(name, *sides, n_envs, steps, 0.8)


# -- measuring -------------------------------------------------------------------------------------


def random_actions(space: Any, n_envs: int) -> list[NDArray[Any]]:
    """Return a hundred batches of actions, to be gone through again and again."""
    space.seed(0)
    return [np.stack([space.sample() for _ in range(n_envs)]) for _ in range(100)]


def speed(envs: Any, actions: list[NDArray[Any]], steps: int) -> float:
    """Return environment steps per second, over so many steps of the whole batch."""
    step, resets = envs.step, 0
    next_step = not isinstance(envs, VecEnv)  # bare EnvPool: it resets in the step after the last
    began = time.perf_counter()
    for index in range(steps):
        result = step(actions[index % len(actions)])
        if next_step:
            resets += int(np.count_nonzero(result[2] | result[3]))
    return (steps * len(actions[0]) - resets) / (time.perf_counter() - began)


def compare(row: Row, pairs: int, scale: float) -> Measured:
    """Return how fast the second side is, as a multiple of the first.

    Args:
        row: What is compared.
        pairs: Turns of each side.
        scale: Multiplies the steps of a turn.
    """
    steps = max(1, round(row.steps * scale))
    alone, turns = [], []
    with ExitStack() as stack:
        for opened in (row.first, row.second):  # alone: the first is closed before the second opens
            envs = opened()
            actions = random_actions(envs.action_space, row.n_envs)
            envs.reset()
            speed(envs, actions, max(1, steps // 4))  # the last start-up work
            alone.append(speed(envs, actions, steps))
            envs.close()
        for opened in (row.first, row.second):
            envs = opened()
            stack.callback(envs.close)
            envs.reset()
            turns.append(partial(speed, envs, actions, steps))
        alternate(turns[0], turns[1], 1)
        measured = alternate(turns[0], turns[1], pairs)
    before, after = (statistics.median(side) for side in zip(*measured, strict=True))
    ratio = statistics.median(ours / theirs for theirs, ours in measured)
    return Measured(
        f"{row.measure}, n_envs {row.n_envs}",
        first_alone=alone[0],
        second_alone=alone[1],
        first=before,
        second=after,
        result=ratio,
        goal="" if row.goal is None else f">= {row.goal}",
        met=row.goal is None or ratio >= row.goal,
        pairs=pairs,
    )


def show(row: Measured) -> None:
    """Print one line."""
    verdict = f"goal {row.goal} {'met' if row.met else 'MISSED'}" if row.goal else ""
    print(
        f"{row.measure:62} alone {row.first_alone:9,.0f} {row.second_alone:9,.0f}  taking turns "
        f"{row.first:9,.0f} {row.second:9,.0f} steps/s {row.result:7.3f}  {verdict}",
        flush=True,
    )


def main() -> None:
    """Measure, print the table, and write ``results/throughput.csv`` unless it is a quick look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24, help="turns of each side")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of a turn")
    parser.add_argument("--metaworld", help="a Python interpreter that has the metaworld package")
    parser.add_argument("--only", default="", help="rows whose name holds this; no file is written")
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    lines = header("throughput.py", "envpool", arguments=("--metaworld", "PYTHON"))
    print(*lines, sep="\n")
    found = []
    for row in rows(options.metaworld):
        if options.only in row.measure:
            found.append(compare(row, options.pairs, options.scale))
            show(found[-1])
    if not (options.dry or options.only):
        write_table(RESULTS, lines, found)


if __name__ == "__main__":  # SubprocVecEnv's workers import this file
    main()
