"""What streaming learners learn of single tasks, beside a learner with memory at equal steps.

Each cell is one seed, whose curve is on file as soon as it is there; what is on file is not run
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from curves import curve, on_file, write
from numpy.typing import NDArray

import holdfast
from engines.learning import DQN, PPO, difference
from holdfast.scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "streaming-learning.csv"


class Case(NamedTuple):
    """A task, and who learns it.

    Attributes:
        env: Gymnasium's id.
        steps: Of the task.
        agents: Sections of the scenario, by label.
        task: More of the task's keys.
    """

    env: str
    steps: int
    agents: dict[str, dict[str, Any]]
    task: dict[str, Any] = {}  # noqa: RUF012  # never changed


_DQN_AGENT, _PPO_AGENT = {"algorithm": "dqn", **DQN}, {"algorithm": "ppo", **PPO}
_COMPILED = {"engine": "compiled"}
_Q, _AC = {"algorithm": "stream_q"}, {"algorithm": "stream_ac"}
CASES = {
    "cartpole": Case("CartPole-v1", 10_000, {"stream_q": _Q, "dqn": _DQN_AGENT, "stream_ac": _AC}),
    "acrobot": Case(
        *("Acrobot-v1", 100_000),
        {"stream_q": _Q, "stream_ac": _AC, "ppo": {**_PPO_AGENT, **_COMPILED}},
    ),
    # MinAtar 1.0.15: pip install minatar. DQN has Stable-Baselines3's settings but for its start.
    "breakout": Case(
        *("minatar.gym:BaseEnv", 100_000),
        {
            "stream_q": _Q,
            "dqn": {"algorithm": "dqn", "learning_starts": 1_000, **_COMPILED},
        },
        {"kwargs": {"game": "breakout"}, "wrappers": ["gymnasium.wrappers:FlattenObservation"]},
    ),
    "hopper": Case(
        *("Hopper-v5", 50_000),
        {"stream_ac": _AC, "ppo": {"algorithm": "ppo", **_COMPILED}},
    ),
}


def scenario(name: str, label: str, seed: int) -> Scenario:
    """Return one task and one learner."""
    case = CASES[name]
    data = {
        "name": f"streaming-{name}-{label}",
        "tasks": [{"name": "alone", "env": case.env, "steps": case.steps, **case.task}],
        "agent": case.agents[label],
        "methods": ["naive"],
        "seeds": [seed],
        "evaluation": {"every": case.steps // 8, "episodes": 5},
    }
    return Scenario.model_validate(data)


def main(chosen: Sequence[str], labels: Sequence[str], runs: Path, seeds: int) -> None:
    """Run what is not on file, and print a line per learner."""
    for name in chosen:
        ends: dict[str, NDArray[np.float64]] = {}
        for label in CASES[name].agents:
            if label not in labels:
                continue
            for seed in range(seeds):
                if [name, label, str(seed)] not in [row[:3] for row in on_file(RESULTS)]:
                    made = scenario(name, label, seed)
                    holdfast.run(made, runs=runs)
                    values = curve(runs / made.name, seed)
                    add([name, label, str(seed), *(f"{value:.1f}" for value in values)])
            found = [row for row in on_file(RESULTS) if row[:2] == [name, label]]
            ends[label] = np.array([float(row[-1]) for row in found])
        others = [label for label in ends if not label.startswith("stream")]
        for label, last in ends.items():
            text = f"{name}: {label} {last.mean():.1f} +- {last.std(ddof=1):.1f}"
            for other in others if label not in others else ():
                low, high = difference(last, ends[other])
                text += f"; minus {other} {low:.1f} to {high:.1f}"
            print(text)


def add(row: list[str]) -> None:
    """Write a curve into the table, below the commands, in the order of cases and learners."""
    rows = sorted(
        [*on_file(RESULTS), row],
        key=lambda row: (
            [*CASES].index(row[0]),
            [*CASES[row[0]].agents].index(row[1]),
            int(row[2]),
        ),
    )
    seeds = {(row[0], row[1]): int(row[2]) + 1 for row in rows}
    commands = [
        ("--case", case, "--learner", label, "--seeds", str(count))
        for (case, label), count in seeds.items()
    ]
    columns = "case, learner, seed, then of 5 episodes at the start and at each eighth"
    write(RESULTS, rows, "engines.streaming_learning", commands, columns)


def _place(case: str, label: str) -> tuple[int, int]:
    return [*CASES].index(case), [*CASES[case].agents].index(label)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, nargs="+", default=["cartpole"])
    labels = list(dict.fromkeys(label for case in CASES.values() for label in case.agents))
    parser.add_argument("--learner", choices=labels, nargs="+", default=labels)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    main(options.case, options.learner, options.runs, options.seeds)
