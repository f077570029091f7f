"""Environment steps per second of processor time: the compiled engine beside Stable-Baselines3.

Both learn with the same settings, in this process, on one core, in turns; each prints the median of
its turns. What is compiled is compiled in a first turn that does not count, and is printed apart.
``--case`` chooses; every case names environment, algorithm and settings.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from holdfast.agents.base import garbage
from holdfast.agents.compiled.engine import Engine
from holdfast.agents.doors.gradients import Works
from holdfast.agents.sb3.budget import Watching, learn_off_policy, learn_on_policy

RESULTS = Path(__file__).parent / "results" / "engine.csv"


class Case(NamedTuple):
    """What is learned in a turn.

    Attributes:
        algorithm: Of Stable-Baselines3.
        env: Gymnasium's id.
        n_envs: Side by side.
        steps: Of a turn.
        settings: Arguments of the algorithm.
        wanted: Least ratio to Stable-Baselines3.
    """

    algorithm: type[Any]
    env: str
    n_envs: int
    steps: int
    settings: dict[str, Any]
    wanted: float


_OFF = {"learning_starts": 100, "buffer_size": 50_000}


def _wide(layers: list[int], batch: int) -> dict[str, Any]:
    return {**_OFF, "batch_size": batch, "policy_kwargs": {"net_arch": layers}}


CASES = {
    "ppo": Case(PPO, "CartPole-v1", 8, 16_384, {"n_steps": 256}, 9.0),
    "dqn": Case(DQN, "CartPole-v1", 1, 4_000, dict(_OFF), 5.0),
    "sac-2x128": Case(SAC, "Pendulum-v1", 1, 600, _wide([128] * 2, 128), 3.5),
    "sac-2x256": Case(SAC, "Pendulum-v1", 1, 400, _wide([256] * 2, 256), 1.8),
    "sac-4x256": Case(SAC, "Pendulum-v1", 1, 300, _wide([256] * 4, 128), 1.8),
    "td3-2x256": Case(TD3, "Pendulum-v1", 1, 400, _wide([256] * 2, 256), 1.8),
}


class Side:
    """One engine, with a model that goes on from turn to turn."""

    def __init__(self, case: Case, *, is_compiled: bool) -> None:
        self._case = case
        env = make_vec_env(case.env, n_envs=case.n_envs, seed=0)
        self._model = case.algorithm("MlpPolicy", env, seed=0, **case.settings)
        self._model.set_logger(Logger(None, []))
        self._engine = Engine(self._model, Works()) if is_compiled else None

    def turn(self) -> float:
        """Learn for a turn, and return its steps per second of processor time."""
        started = time.process_time()
        if self._engine is None:
            self._model.learn(self._case.steps, reset_num_timesteps=True)
        else:
            learn = learn_on_policy if hasattr(self._model, "rollout_buffer") else learn_off_policy
            with self._engine.attached():
                learn(self._model, self._case.steps, Watching(_nothing, None), _nothing)
        return self._case.steps / (time.process_time() - started)


def _nothing(_step: int) -> None:
    """Watch no step."""


def measured(case: Case, turns: int) -> tuple[float, float, float]:
    """Return the steps per second of both sides, and the seconds of the first compiled turn."""
    sides = [Side(case, is_compiled=compiled) for compiled in (False, True)]
    started = time.process_time()
    for side in sides:
        side.turn()
    first = time.process_time() - started
    found: list[list[float]] = [[], []]
    with garbage.apart():  # for both, as a cell does it
        for number in range(turns):
            order = (0, 1) if number % 2 else (1, 0)
            for place in order:
                found[place].append(sides[place].turn())
    return statistics.median(found[0]), statistics.median(found[1]), first


def main() -> None:
    """Measure, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/engine.csv")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in chosen.case:
        theirs, ours, first = measured(CASES[name], chosen.turns)
        ratio, wanted = ours / theirs, str(CASES[name].wanted)
        rows.append((name, f"{theirs:.0f}", f"{ours:.0f}", f"{ratio:.2f}", wanted, f"{first:.1f}"))
        print(*rows[-1], sep="\t", flush=True)
    if chosen.keep:
        columns = "case,sb3_steps_per_s,compiled_steps_per_s,ratio,wanted,first_turns_s\n"
        RESULTS.write_text(columns + "".join(",".join(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
