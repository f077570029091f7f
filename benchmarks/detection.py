"""Delays, missed changes and false alarms of detectors on streams whose changes are known.

A pendulum learned by PPO in four environments, as ``naive`` learns it under hidden boundaries. It
takes no notice of a detector, so that all of them look at the same learning. Streams:

* ``none``: one pendulum for 150,000 steps.
* ``abrupt``: gravity, mass and length jump between seven worlds every 8,000 steps.
* ``recurring``: gravity jumps between two values every 8,000 steps.
* ``gradual``: gravity goes from 10 to 4 in 48,000 steps; there is no step of change, and every
  detection counts as false.

A delay is from a change to the first detection before the next one, a missed change counted as its
phase's length. Intervals are bootstrap intervals over seeds.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overhead import header
from stable_baselines3 import PPO

from holdfast.agents.detection.detector import Detector, Watched
from holdfast.agents.detection.signals import Lived
from holdfast.continual.results.detection import Outcome, changes_of, outcome
from holdfast.continual.results.statistics import estimate
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.detector import Detector as Options
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results" / "detection.csv"
DETECTORS: dict[str, dict[str, Any]] = {
    "dynamics page_hinkley": {},
    "dynamics adwin": {"adwin": {}},
    "reward adwin": {"signal": "reward", "adwin": {}},
    "reward kolmogorov_smirnov": {"signal": "reward", "kolmogorov_smirnov": {}},
    "return adwin": {"signal": "return", "adwin": {"delta": 0.01}},
    "return page_hinkley": {
        "signal": "return",
        "page_hinkley": {"tolerance": 50.0, "threshold": 3_000.0},
    },
}
WORLDS = (
    {"g": 10.0},
    {"g": 4.0},
    {"m": 1.5},
    {"g": 15.0},
    {"l": 1.3},
    {"g": 7.0},
    {"m": 0.7, "l": 0.8},
)
PHASE = 8_000
COLUMNS = (
    *("stream", "detector", "seeds", "steps", "changes", "missed", "missed_low", "missed_high"),
    *("false_alarms", "false_low", "false_high", "delay", "delay_low", "delay_high"),
)
N_ENVS, N_STEPS = 4, 512


def scenario_of(stream: str) -> Scenario:
    """Return the scenario of a stream."""
    env: dict[str, Any] = {"env": "Pendulum-v1", "steps": PHASE}
    tasks: dict[str, list[dict[str, Any]]] = {
        "none": [{"steps": 150_000}],
        "abrupt": [{"changes": {"set": world}} for world in WORLDS],
        "recurring": [{"changes": {"set": {"g": g}}} for g in (10.0, 5.0)] * 3,
        "gradual": [{"steps": 48_000, "drift": {"g": {"linear": [10.0, 4.0]}}}],
    }
    named = [{"name": f"world-{n}", **env, **keys} for n, keys in enumerate(tasks[stream])]
    return Scenario.model_validate(
        {
            "name": stream,
            "tasks": named,
            "stream": {"task_id": "hidden", "boundaries": "hidden"},
            "n_envs": N_ENVS,
            "agent": {"algorithm": "ppo"},
        }
    )


class Panel:
    """Detectors that look at the same steps; a detection takes effect after each rollout."""

    def __init__(self, env: Any, seed: int) -> None:
        spaces = env.observation_space, env.action_space
        self.detectors = {
            name: Detector(Options.model_validate(keys), *spaces, N_ENVS, seed)
            for name, keys in DETECTORS.items()
        }
        self._steps = 0

    def look(self, lived: Lived) -> None:
        """Take one step of all environments."""
        self._steps += 1
        for detector in self.detectors.values():
            detector.look(lived)
            if self._steps % N_STEPS == 0 and detector.is_due(on_policy=True):
                detector.begin_slot()


def learned(stream: str, seed: int) -> dict[str, Outcome]:
    """Return what each detector makes of a stream while it is learned."""
    scenario = scenario_of(stream)
    env = make_stream(scenario, seed).train_stream[0].make_env()
    panel = Panel(env, seed)
    watched: Any = Watched(env, panel)  # type: ignore[arg-type]  # looks as a detector does
    steps = scenario.total_steps // (N_ENVS * N_STEPS) * N_ENVS * N_STEPS  # whole rollouts
    rollout: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 512, "n_epochs": 10}
    model = PPO("MlpPolicy", watched, seed=seed, gamma=0.9, learning_rate=1e-3, **rollout)
    model.learn(steps)
    env.close()
    changes = changes_of(scenario)
    return {
        name: outcome(changes, [one.step for one in detector.detections], steps)
        for name, detector in panel.detectors.items()
    }


def rows(stream: str, found: list[dict[str, Outcome]]) -> Iterator[list[Any]]:
    """Yield a row of the table for each detector: means over seeds, with intervals."""
    steps = scenario_of(stream).total_steps
    for name in DETECTORS:
        outcomes = [one[name] for one in found]
        row: list[Any] = [stream, name, len(outcomes), steps, len(outcomes[0].delays)]
        row += _told([one.missed for one in outcomes])
        row += _told([one.false_alarms for one in outcomes])
        delays = [float(np.median(one.counted)) for one in outcomes if one.counted]
        yield row + (_told(delays) if delays else ["", "", ""])


def _told(values: list[float] | list[int]) -> list[Any]:
    made = estimate(np.array(values, dtype=np.float64))
    numbers = (made.value, made.low, made.high)
    return [round(float(number), 1) if np.isfinite(number) else "" for number in numbers]


def main() -> None:
    """Learn all streams, and write the table after each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", nargs="+", default=["abrupt", "none", "recurring", "gradual"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table: list[list[Any]] = []
    for stream in given.streams:
        found = []
        for seed in range(given.seeds):
            began = time.perf_counter()
            found.append(learned(stream, seed))
            seconds = time.perf_counter() - began
            print(f"{stream} seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
        table += rows(stream, found)
        with given.out.open("w", newline="", encoding="utf-8") as file:
            file.writelines(f"# {line}\n" for line in header("detection.py", "scipy"))
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(table)


if __name__ == "__main__":
    main()
