"""Whether agents learn under the compiled engine what they learn under Stable-Baselines3's.

Both engines learn single tasks with the same settings over the same seeds. Float32 rounds
differently in them, so that runs part, and what is compared is how well they end: the mean return
at the end over seeds, with Welch's 95% interval of the difference. It should hold 0, and lie within
a quarter of the range from random to best. Seeds are run one after the other, and each curve is on
file as soon as it is there; what is on file is not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from curves import Measure, curve, on_file, write
from numpy.typing import NDArray
from scipy.stats import ttest_ind

import holdfast
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "engines-learning.csv"
ENGINES = ("sb3", "compiled")


class Case(NamedTuple):
    """A task and an agent.

    Attributes:
        env: Gymnasium's id.
        steps: Of the task.
        agent: Section of the scenario.
        n_envs: Side by side.
        random: What random actions get.
        best: What a good policy gets.
        measure: ``return`` or ``success``, of an episode.
        episodes: Of each evaluation; HalfCheetah's last 1,000 steps and differ little.
        task: More of the task's keys.
    """

    env: str
    steps: int
    agent: dict[str, Any]
    n_envs: int
    random: float
    best: float
    measure: Measure = "return"
    episodes: int = 20
    task: Mapping[str, Any] = MappingProxyType({})


_NARROW = {"policy_kwargs": {"net_arch": [64, 64]}}
_PENDULUM = {"learning_rate": 1e-3, "batch_size": 128, "learning_starts": 500, **_NARROW}
DQN = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    **_NARROW,
}
PPO = {"n_steps": 64, "batch_size": 128, "gae_lambda": 0.9, "gamma": 0.98, "learning_rate": 1e-3}
_WIDE = {"batch_size": 128, "policy_kwargs": {"net_arch": [128, 128]}}
# One update for four steps, as in scenarios/continual_world/cw10-lite.yaml.
_CHEETAH = {"learning_rate": 1e-3, "learning_starts": 5000, "train_freq": 4, **_WIDE}
_DRAWER = {
    "learning_rate": {"linear": [1e-3, 1e-4]},
    "gamma": 0.95,
    "tau": 0.01,
    "learning_starts": 2000,
    "buffer_size": 80_000,
    "train_freq": 1,
    "gradient_steps": 4,
    **_WIDE,
}
# At TD3's rate the one seed that was tried learned and fell, for good.
_STEADY = {"learning_rate": 3e-4, "ent_coef": "auto_0.1"}
_NOISE = {"action_noise": {"normal": 0.1}}
CASES = {
    "ppo-cartpole": Case("CartPole-v1", 32_768, {"algorithm": "ppo", **PPO}, 8, 20, 500),
    "ppo-acrobot": Case("Acrobot-v1", 65_536, {"algorithm": "ppo", **PPO}, 8, -500, -80),
    "dqn-cartpole": Case("CartPole-v1", 50_000, {"algorithm": "dqn", **DQN}, 1, 20, 500),
    "sac-pendulum": Case("Pendulum-v1", 8_000, {"algorithm": "sac", **_PENDULUM}, 1, -1250, -150),
    "td3-pendulum": Case("Pendulum-v1", 8_000, {"algorithm": "td3", **_PENDULUM}, 1, -1250, -150),
    **{
        f"{name}-cheetah": Case(
            *("HalfCheetah-v5", 100_000, {"algorithm": name, **_CHEETAH, **own}, 1, -280, 4000),
            episodes=5,
        )
        for name, own in (("sac", {}), ("td3", _NOISE))
    },
    **{
        f"{name}-drawer": Case(
            *("MetaWorld/DrawerClose-v3", 40_000, {"algorithm": name, **_DRAWER, **own}, 16, 0, 1),
            measure="success",
            episodes=10,
            task={"kwargs": {"partially_observable": False}, "changes": {"time_limit": 200}},
        )
        for name, own in (("sac", _STEADY), ("td3", _NOISE))
    },
}
"""HalfCheetah's best is what SAC reaches in about so many steps; Meta-World's are successes."""


def scenario(name: str, engine: str, seed: int) -> Scenario:
    """Return one task under one engine."""
    case = CASES[name]
    data = {
        "name": f"{name}-{engine}",
        "tasks": [{"name": "alone", "env": case.env, "steps": case.steps, **case.task}],
        "backend": "envpool" if case.env.startswith("MetaWorld") else "gymnasium",
        "n_envs": case.n_envs,
        "agent": {**case.agent, "engine": engine},
        "methods": ["naive"],
        "seeds": [seed],
        "evaluation": {"every": case.steps // 16, "episodes": case.episodes},
        "score": {"random": case.random, "reference": case.best}
        if case.measure == "return"
        else case.measure,
    }
    return Scenario.model_validate(data)


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """Return Welch's 95% interval of the difference of two means.

    >>> ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    >>> [round(end, 3) for end in difference(ours, theirs)]  # 0 -+ t(.975, 2) / sqrt(3)
    [-2.484, 2.484]
    """
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def main(chosen: Sequence[str], runs: Path, seeds: int) -> None:
    """Run what is not on file, and print a line per case."""
    for name in chosen:
        case = CASES[name]
        digits = 1 if case.measure == "return" else 3
        for seed in range(seeds):
            known = {(row[1], int(row[2])) for row in on_file(RESULTS) if row[0] == name}
            for engine in ENGINES:
                if (engine, seed) in known:
                    continue
                made = scenario(name, engine, seed)
                holdfast.run(made, runs=runs)
                values = curve(runs / made.name, seed, case.measure)
                add([name, engine, str(seed), *(f"{value:.{digits}f}" for value in values)])
        found = [row for row in on_file(RESULTS) if row[0] == name]
        theirs, ours = (
            np.array([float(row[-1]) for row in found if row[1] == engine]) for engine in ENGINES
        )
        low, high = difference(ours, theirs)
        quarter = (case.best - case.random) / 4
        ended = " ".join(
            f"{v.mean():.{digits}f} +- {v.std(ddof=1):.{digits}f}" for v in (theirs, ours)
        )
        span = f"{low:.{digits}f} to {high:.{digits}f}"
        print(f"{name}: sb3, compiled {ended}; difference {span}", end="; ")
        print(f"holds 0: {low <= 0 <= high}; within {quarter:g}: {max(-low, high) <= quarter}")


def add(row: list[str]) -> None:
    """Write a curve into the table, below the command of each case, in the order of cases."""
    rows = sorted(
        [*on_file(RESULTS), row],
        key=lambda row: ([*CASES].index(row[0]), ENGINES.index(row[1]), int(row[2])),
    )
    seeds = {row[0]: int(row[2]) + 1 for row in rows}
    commands = [("--case", case, "--seeds", str(count)) for case, count in seeds.items()]
    columns = "case, engine, seed, then the mean at the start and at each sixteenth"
    write(RESULTS, rows, "engines.learning", commands, columns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    main(options.case, options.runs, options.seeds)
