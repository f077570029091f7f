"""What streaming learners learn of single tasks, beside a learner with memory at equal steps.

Each cell is one seed; cells that are finished are not run again. The table has every seed's curve.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from overhead import header

import holdfast
from engines.learning import _DQN, _PPO, difference, means
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


_DQN_AGENT, _PPO_AGENT = {"algorithm": "dqn", **_DQN}, {"algorithm": "ppo", **_PPO}
_Q, _AC = {"algorithm": "stream_q"}, {"algorithm": "stream_ac"}
CASES = {
    "cartpole": Case("CartPole-v1", 10_000, {"stream_q": _Q, "dqn": _DQN_AGENT, "stream_ac": _AC}),
    "acrobot": Case("Acrobot-v1", 100_000, {"stream_q": _Q, "stream_ac": _AC, "ppo": _PPO_AGENT}),
    "acrobot-10000": Case(
        *("Acrobot-v1", 100_000, {"stream_q": _Q, "stream_ac": _AC}),
        {"changes": {"time_limit": 10_000}},
    ),
    "hopper": Case("Hopper-v5", 500_000, {"stream_ac": _AC, "ppo": {"algorithm": "ppo"}}),
}


def scenario(name: str, label: str, seeds: Sequence[int]) -> Scenario:
    """Return one task and one learner."""
    case = CASES[name]
    data = {
        "name": f"streaming-{name}-{label}",
        "tasks": [{"name": "alone", "env": case.env, "steps": case.steps, **case.task}],
        "agent": case.agents[label],
        "methods": ["naive"],
        "seeds": list(seeds),
        "evaluation": {"every": case.steps // 8, "episodes": 5},
    }
    return Scenario.model_validate(data)


def main(chosen: Sequence[str], runs: Path, seeds: int) -> None:
    """Run one cell after another, print a line per learner, and write every seed's curve."""
    rows = [row for row in _published() if row[0] not in chosen]
    for name in chosen:
        ends = {}
        for label in CASES[name].agents:
            made = scenario(name, label, range(seeds))
            holdfast.run(made, runs=runs, jobs=1)
            found = means(runs / made.name, "return")
            ends[label] = np.array([curve[-1] for curve in found.values()])
            for seed, curve in sorted(found.items()):
                rows.append([name, label, str(seed), *(f"{value:.1f}" for value in curve)])
            _write(rows, seeds, chosen)  # after each: they take long
        others = [label for label in ends if not label.startswith("stream")]
        for label, values in ends.items():
            text = f"{name}: {label} {values.mean():.1f} +- {values.std(ddof=1):.1f}"
            for other in others if label not in others else ():
                low, high = difference(values, ends[other])
                text += f"; minus {other} {low:.1f} to {high:.1f}"
            print(text)


def _write(rows: Sequence[Sequence[str]], seeds: int, chosen: Sequence[str]) -> None:
    with RESULTS.open("w", newline="", encoding="utf-8") as file:
        given = ("--case", *chosen, "--seeds", str(seeds))
        file.writelines(
            f"# {line}\n" for line in header("engines.streaming_learning", arguments=given)
        )
        file.write("# case, learner, seed, then of 5 episodes at the start and at each eighth\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


def _published() -> list[list[str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, nargs="+", default=["cartpole"])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    main(options.case, options.runs, options.seeds)
