"""Delays, missed changes and false alarms of detectors on streams whose changes are known.

A pendulum learned by PPO in four environments, as ``naive`` learns it under hidden boundaries. It
takes no notice of a detector, so that all of them look at the same learning. Streams:

* ``none``: one pendulum for 150,000 steps.
* ``abrupt``: gravity, mass and length jump between seven worlds every 8,000 steps.
* ``recurring``: gravity jumps between two values every 8,000 steps.
* ``gradual``: gravity goes from 10 to 4 in 48,000 steps; there is no step of change, and every
  detection counts as false.

A delay is from a change to the first detection before the next one, a missed change counted as its
phase's length. Of a detector that takes up slots again: how many worlds came again, how many of
them it recognised, and how often it took up a slot of another world. Intervals are bootstrap
intervals over seeds. A seed of a stream whose detectors are all on file is not learned again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves import on_file, write
from numpy.typing import NDArray
from stable_baselines3 import PPO

from holdfast.agents.detection.detector import Detector, Watched
from holdfast.agents.detection.signals import Lived
from holdfast.continual.results.detection import (
    Outcome,
    Recognition,
    changes_of,
    outcome,
    recognition_of,
)
from holdfast.continual.results.statistics import estimate
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.detector import Detector as Options
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results" / "detection.csv"
DETECTORS: dict[str, dict[str, Any]] = {
    "dynamics page_hinkley": {},
    "dynamics page_hinkley recurring": {"recurring": True},
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
STREAMS = ("abrupt", "none", "recurring", "gradual")
MEASURES = (
    "missed",
    "false alarms",
    "median delay in steps",
    "worlds that came again",
    "recognised",
    "false recognitions",
)
COLUMNS = f"stream, detector, seed, steps, changes, {', '.join(MEASURES)}"
N_ENVS, N_STEPS = 4, 512
Found = tuple[Outcome, tuple[()] | Recognition]
"""What a detector made of changes, and of worlds that came again."""


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

    def __init__(self, env: Any, seed: int, names: Sequence[str]) -> None:
        spaces = env.observation_space, env.action_space
        self.detectors = {
            name: Detector(Options.model_validate(DETECTORS[name]), *spaces, N_ENVS, seed)
            for name in names
        }
        self._steps = 0

    def look(self, lived: Lived) -> None:
        """Take one step of all environments."""
        self._steps += 1
        for detector in self.detectors.values():
            detector.look(lived)
            if self._steps % N_STEPS == 0 and detector.is_due(on_policy=True):
                detector.begin_slot()


def learned(stream: str, seed: int, names: Sequence[str]) -> dict[str, Found]:
    """Return what detectors make of a stream while it is learned."""
    scenario = scenario_of(stream)
    env = make_stream(scenario, seed).train_stream[0].make_env()
    panel = Panel(env, seed, names)
    watched: Any = Watched(env, panel)  # type: ignore[arg-type]  # looks as a detector does
    steps = scenario.total_steps // (N_ENVS * N_STEPS) * N_ENVS * N_STEPS  # whole rollouts
    rollout: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 512, "n_epochs": 10}
    model = PPO("MlpPolicy", watched, seed=seed, gamma=0.9, learning_rate=1e-3, **rollout)
    model.learn(steps)
    env.close()
    changes = changes_of(scenario)
    found: dict[str, Found] = {}
    for name, detector in panel.detectors.items():
        slots = [(one.step, one.slot) for one in detector.detections]
        recurs = "recurring" in DETECTORS[name]
        again = recognition_of(scenario, slots, steps) if recurs else ()
        found[name] = outcome(changes, [step for step, _ in slots], steps), again
    return found


def main(streams: Sequence[str], seeds: int, detectors: Sequence[str]) -> None:
    """Learn what is not on file, and print a line for each detector on each stream."""
    for stream in streams:
        for seed in range(seeds):
            known = {row[1] for row in on_file(RESULTS) if (row[0], int(row[2])) == (stream, seed)}
            names = [name for name in detectors if name not in known]
            if not names:
                continue
            began = time.perf_counter()
            add(stream, seed, learned(stream, seed, names))
            seconds = time.perf_counter() - began
            print(f"{stream} seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
        for name in detectors:
            found = [row for row in on_file(RESULTS) if row[:2] == [stream, name]]
            measured = [
                f"{measure} {told}"
                for column, measure in enumerate(MEASURES, 5)
                if (told := _told(np.array([float(row[column]) for row in found if row[column]])))
            ]
            print(f"{stream}, {len(found)} seeds, {name}: {', '.join(measured)}")


def add(stream: str, seed: int, found: Mapping[str, Found]) -> None:
    """Write what detectors made of a stream into the table, in the order of streams."""
    steps = scenario_of(stream).total_steps
    rows = on_file(RESULTS)
    for name, (one, again) in found.items():
        delay = f"{np.median(one.counted):g}" if one.counted else ""
        counts = (steps, len(one.delays), one.missed, one.false_alarms)
        own = [stream, name, str(seed), *(str(count) for count in counts), delay]
        rows.append([*own, *(str(count) for count in again or ("", "", ""))])
    names = [*DETECTORS]
    rows.sort(key=lambda row: (STREAMS.index(row[0]), int(row[2]), names.index(row[1])))
    write(RESULTS, rows, "detection", [*commands(rows)], COLUMNS)


def commands(rows: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield the arguments that make these rows: for each stream one for each number of seeds."""
    for stream in dict.fromkeys(row[0] for row in rows):
        seeds = Counter(row[1] for row in rows if row[0] == stream)
        for count in sorted(set(seeds.values()), reverse=True):
            own = [name for name in DETECTORS if seeds[name] == count]
            chosen = [] if len(own) == len(DETECTORS) else ["--detectors", *map(repr, own)]
            yield ["--streams", stream, "--seeds", str(count), *chosen]


def _told(values: NDArray[np.float64]) -> str:
    """Return a mean over seeds with its interval; nothing where no seed has a number."""
    if not len(values):
        return ""
    made = estimate(values)
    return f"{made.value:,.1f} [{made.low:,.1f}, {made.high:,.1f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=STREAMS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--detectors", nargs="+", choices=[*DETECTORS], default=[*DETECTORS])
    given = parser.parse_args()
    torch.set_num_threads(1)
    main(given.streams, given.seeds, given.detectors)
