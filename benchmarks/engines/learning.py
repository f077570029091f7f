"""Whether agents learn under the compiled engine what they learn under Stable-Baselines3's.

Both engines learn single tasks with the same settings over the same seeds. Float32 rounds
differently in them, so that runs part, and what is compared is how well they end: the mean return
at the end over seeds, with Welch's 95% interval of the difference. It should hold 0, and lie within
a quarter of the range from random to best. Cells that are finished are not run again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from overhead import header
from scipy.stats import ttest_ind

import holdfast
from holdfast.continual.results.study import gather
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
        random: Return of random actions.
        best: Return of a good policy.
    """

    env: str
    steps: int
    agent: dict[str, Any]
    n_envs: int
    random: float
    best: float


_NARROW = {"policy_kwargs": {"net_arch": [64, 64]}}
_PENDULUM = {"learning_rate": 1e-3, "batch_size": 128, "learning_starts": 500, **_NARROW}
_DQN = {
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
_PPO = {"n_steps": 64, "batch_size": 128, "gae_lambda": 0.9, "gamma": 0.98, "learning_rate": 1e-3}
CASES = {
    "ppo-cartpole": Case("CartPole-v1", 32_768, {"algorithm": "ppo", **_PPO}, 8, 20, 500),
    "ppo-acrobot": Case("Acrobot-v1", 65_536, {"algorithm": "ppo", **_PPO}, 8, -500, -80),
    "dqn-cartpole": Case("CartPole-v1", 50_000, {"algorithm": "dqn", **_DQN}, 1, 20, 500),
    "sac-pendulum": Case("Pendulum-v1", 8_000, {"algorithm": "sac", **_PENDULUM}, 1, -1250, -150),
    "td3-pendulum": Case("Pendulum-v1", 8_000, {"algorithm": "td3", **_PENDULUM}, 1, -1250, -150),
}


def scenario(name: str, engine: str, seeds: int) -> Scenario:
    """Return one task under one engine."""
    case = CASES[name]
    data = {
        "name": f"{name}-{engine}",
        "tasks": [{"name": "alone", "env": case.env, "steps": case.steps}],
        "n_envs": case.n_envs,
        "agent": {**case.agent, "engine": engine},
        "methods": ["naive"],
        "seeds": list(range(seeds)),
        "evaluation": {"every": case.steps // 16, "episodes": 20},
        "score": {"random": case.random, "reference": case.best},
    }
    return Scenario.model_validate(data)


def returns(folder: Path) -> dict[int, list[float]]:
    """Return mean returns of a scenario's cells at each evaluation, by seed."""
    found: dict[int, list[float]] = {}
    for method in gather(folder).methods:
        for cell in method.cells:
            points: dict[int, list[float]] = {}
            for episode in cell.folder.scores():
                points.setdefault(episode["step"], []).append(episode["return"])
            found[cell.folder.seed] = [float(np.mean(points[step])) for step in sorted(points)]
    return found


def difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> tuple[float, float]:
    """Return Welch's 95% interval of the difference of two means.

    >>> ours, theirs = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])
    >>> [round(end, 3) for end in difference(ours, theirs)]  # 0 -+ t(.975, 2) / sqrt(3)
    [-2.484, 2.484]
    """
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def main(chosen: Sequence[str], runs: Path, jobs: int, seeds: int) -> None:
    """Run, print a line per case, and write every seed's curve."""
    lines = []
    for name in chosen:
        case, ends = CASES[name], []
        for engine in ENGINES:
            made = scenario(name, engine, seeds)
            holdfast.run(made, runs=runs, jobs=jobs)
            found = returns(runs / made.name)
            ends.append(np.array([curve[-1] for curve in found.values()]))
            for seed, curve in found.items():
                lines.append([name, engine, seed, *(f"{value:.1f}" for value in curve)])
        low, high = difference(ends[1], ends[0])
        quarter = (case.best - case.random) / 4
        means = " ".join(f"{values.mean():.1f} +- {values.std(ddof=1):.1f}" for values in ends)
        print(f"{name}: sb3, compiled {means}; difference {low:.1f} to {high:.1f}", end="; ")
        print(f"holds 0: {low <= 0 <= high}; within {quarter:.0f}: {max(-low, high) <= quarter}")
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {line}\n" for line in header("engines/learning.py"))
        file.write(
            "# case, engine, seed, mean return of 20 episodes at the start and at each sixteenth\n"
        )
        csv.writer(file).writerows(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    main(options.case, options.runs, options.jobs, options.seeds)
