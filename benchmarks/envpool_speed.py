"""What EnvPool gives through the adapter, with random actions; the two sides take turns.

* Against Stable-Baselines3's ``SubprocVecEnv``, one process for each environment, on HalfCheetah:
  what training would step, so both have monitors, and same-step autoreset.
* Against bare EnvPool, on physics environments: what the adapter itself costs (checks for NaN, time
  limits, returns and lengths, partial resets). Bare EnvPool resets in the next step, whose action
  it ignores; its rows are counted all the same, which is to its advantage.

Environments are opened once, and actions drawn before anything is timed. The sides swap places
from pair to pair, and a ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import envpool
import numpy as np
from numpy.typing import NDArray
from overhead import Comparison, alternate, header
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from holdfast.envs.spaces import stream_spaces
from holdfast.envs.vector import pooled
from holdfast.scenarios.schema import Scenario

RESULTS = Path(__file__).parent / "results" / "envpool_speed.csv"
PHYSICS = ("HalfCheetah-v5", "Ant-v5", "Hopper-v5", "MetaWorld/Push-v3", "Go1Handstand-v1")
GOAL_OF_PROCESSES, GOAL_OF_BARE = 3.0, 0.8


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


def random_actions(space: Any, n_envs: int) -> list[NDArray[Any]]:
    """Return a hundred batches of actions, to be gone through again and again."""
    space.seed(0)
    return [np.stack([space.sample() for _ in range(n_envs)]) for _ in range(100)]


def stepping_s(
    step: Callable[[NDArray[Any]], Any], actions: list[NDArray[Any]], steps: int
) -> float:
    """Return the seconds of so many steps of the whole batch."""
    began = time.perf_counter()
    for index in range(steps):
        step(actions[index % len(actions)])
    return time.perf_counter() - began


def compare(
    measure: str,
    sides: tuple[Callable[[], float], Callable[[], float]],
    *,
    rows: int,
    pairs: int,
    goal: float,
) -> Comparison:
    """Return how fast the second side is, as a multiple of the first.

    Args:
        measure: What is compared.
        sides: Each returns the seconds of the same number of environment steps.
        rows: That number.
        pairs: Turns of each side; one more goes before them and does not count.
        goal: What the ratio should reach.
    """
    alternate(*sides, 1)
    measured = alternate(*sides, pairs)
    first, second = (
        statistics.median(rows / seconds for seconds in side)
        for side in zip(*measured, strict=True)
    )
    ratio = statistics.median(one / two for one, two in measured)
    return Comparison(
        measure,
        first=first,
        second=second,
        unit="steps/s",
        result=ratio,
        goal=f">= {goal}",
        met=ratio >= goal,
        pairs=pairs,
    )


def against_processes(n_envs: int, steps: int, pairs: int) -> Comparison:
    """Compare with ``SubprocVecEnv`` on HalfCheetah."""
    env = "HalfCheetah-v5"
    with ExitStack() as stack:
        processes = make_vec_env(env, n_envs, seed=0, vec_env_cls=SubprocVecEnv)
        stack.callback(processes.close)
        ours = adapter(env, n_envs)
        stack.callback(ours.close)
        actions = random_actions(ours.action_space, n_envs)
        processes.reset()
        ours.reset()
        return compare(
            f"adapter / SubprocVecEnv, {env}, n_envs {n_envs}",
            (
                partial(stepping_s, processes.step, actions, steps),
                partial(stepping_s, ours.step, actions, steps),
            ),
            rows=n_envs * steps,
            pairs=pairs,
            goal=GOAL_OF_PROCESSES,
        )


def against_bare(env: str, n_envs: int, steps: int, pairs: int) -> Comparison:
    """Compare with EnvPool as it is."""
    ours = adapter(env, n_envs)
    bare = envpool.make_gymnasium(env, num_envs=n_envs, seed=list(range(n_envs)))
    actions = random_actions(ours.action_space, n_envs)
    bare.reset()
    ours.reset()
    found = compare(
        f"adapter / bare EnvPool, {env}, n_envs {n_envs}",
        (
            partial(stepping_s, bare.step, actions, steps),
            partial(stepping_s, ours.step, actions, steps),
        ),
        rows=n_envs * steps,
        pairs=pairs,
        goal=GOAL_OF_BARE,
    )
    ours.close()
    return found


def main(n_envs: int, steps: int, pairs: int, *, write: bool) -> None:
    """Measure, print the table, and write ``results/envpool_speed.csv`` if asked to."""
    rows: list[Comparison] = []

    def show(row: Comparison) -> None:
        rows.append(row)
        print(
            f"{row.measure:60} {row.first:10,.0f} {row.second:10,.0f} {row.unit} "
            f"{row.result:7.3f}  goal {row.goal:8} {'met' if row.met else 'MISSED'}",
            flush=True,
        )

    print(*header("envpool_speed.py"), f"envpool {envpool.__version__}", sep="\n")
    show(against_processes(n_envs, steps, pairs))
    for env in PHYSICS:
        show(against_bare(env, n_envs, steps, pairs))
    if not write:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("envpool_speed.py"))
        table = csv.writer(file)
        table.writerow(Comparison._fields)
        for row in rows:
            table.writerow([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row])


if __name__ == "__main__":  # SubprocVecEnv's workers import this file
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-envs", type=int, default=16, help="environments on each side")
    parser.add_argument("--steps", type=int, default=1500, help="steps of the batch in one turn")
    parser.add_argument("--pairs", type=int, default=8, help="turns of each side")
    parser.add_argument("--no-file", action="store_true", help="a quick look: write nothing")
    options = parser.parse_args()
    main(options.n_envs, options.steps, options.pairs, write=not options.no_file)
