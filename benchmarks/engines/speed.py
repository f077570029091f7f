"""Environment steps per second of processor time: the compiled engine beside Stable-Baselines3.

Both learn with the same settings, in this process, on one core, in turns; each prints the median of
its turns. What is compiled is compiled in a first turn that does not count, and is printed apart.
``--case`` chooses; every case names environment, algorithm and settings. ``--sbx`` lets SBX take
part, in a process of an interpreter that has it (``pip install sbx-rl``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from overhead import header, write_table
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from holdfast.agents.base import garbage
from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.compiled.engine import Engine
from holdfast.agents.compiled.lockstep import Lockstep
from holdfast.agents.doors.gradients import Works
from holdfast.agents.sb3.budget import Watching, learn_off_policy, learn_on_policy
from holdfast.continual.jobs.lockstep_cells import Scene
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import pooled
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parents[1] / "results" / "engines-speed.csv"


class Case(NamedTuple):
    """What is learned in a turn.

    Attributes:
        algorithm: Of Stable-Baselines3.
        env: Gymnasium's id.
        n_envs: Side by side.
        steps: Of a turn.
        settings: Arguments of the algorithm.
        wanted: Least ratio to Stable-Baselines3.
        wanted_sbx: Least ratio to SBX.
        seeds: That learn in lockstep under the compiled engine; their steps are counted together.
        backend: What the compiled engine's environments are stepped by; the others have Gymnasium.
    """

    algorithm: type[Any]
    env: str
    n_envs: int
    steps: int
    settings: dict[str, Any]
    wanted: float
    wanted_sbx: float = 1.1
    seeds: int = 1
    backend: Literal["gymnasium", "envpool"] = "gymnasium"


_OFF = {"learning_starts": 100, "buffer_size": 50_000}


def _wide(layers: list[int], batch: int) -> dict[str, Any]:
    return {**_OFF, "batch_size": batch, "policy_kwargs": {"net_arch": layers}}


CASES = {
    "ppo": Case(PPO, "CartPole-v1", 8, 16_384, {"n_steps": 256}, 9.0, 4.5),
    "ppo-envpool": Case(
        *(PPO, "CartPole-v1", 8, 16_384, {"n_steps": 256}, 9.0, 4.5), backend="envpool"
    ),
    "ppo-8-seeds": Case(*(PPO, "CartPole-v1", 8, 16_384, {"n_steps": 256}, 9.0, 4.5), seeds=8),
    "ppo-envpool-8-seeds": Case(
        *(PPO, "CartPole-v1", 8, 16_384, {"n_steps": 256}, 18.0, 10.0), seeds=8, backend="envpool"
    ),
    "dqn": Case(DQN, "CartPole-v1", 1, 4_000, dict(_OFF), 5.0),
    "sac-2x128": Case(SAC, "Pendulum-v1", 1, 600, _wide([128] * 2, 128), 3.5),
    "sac-2x256": Case(SAC, "Pendulum-v1", 1, 400, _wide([256] * 2, 256), 1.8),
    "sac-4x256": Case(SAC, "Pendulum-v1", 1, 300, _wide([256] * 4, 128), 1.8),
    "td3-2x256": Case(TD3, "Pendulum-v1", 1, 400, _wide([256] * 2, 256), 1.8),
}


def _envs(case: Case) -> Any:
    """Return the compiled engine's environments."""
    if case.backend == "gymnasium":
        return make_vec_env(case.env, n_envs=case.n_envs, seed=0)
    task = {"name": "alone", "env": case.env, "steps": case.steps}
    name = case.algorithm.__name__.lower()
    scenario = Scenario.model_validate(
        {
            "tasks": [task],
            "n_envs": case.n_envs,
            "agent": {"algorithm": name},
            "backend": case.backend,
        }
    )
    return pooled(scenario, 0, stream_spaces(scenario), case.n_envs, seed=0)


class Side:
    """One engine, with models that go on from turn to turn."""

    def __init__(self, case: Case, *, is_compiled: bool) -> None:
        self._case, self._seeds = case, case.seeds if is_compiled else 1
        self._models, self._engines = [], []
        for seed in range(self._seeds):
            plain = make_vec_env(case.env, n_envs=case.n_envs, seed=0) if not is_compiled else None
            env = plain or _envs(case)
            model = case.algorithm("MlpPolicy", env, seed=seed, **case.settings)
            model.set_logger(Logger(None, []))
            self._models.append(model)
            if is_compiled:
                self._engines.append(Engine(model, Works(), GradientNorms()))

    def turn(self) -> float:
        """Learn for a turn, and return its steps per second of processor time."""
        started = time.process_time()
        if not self._engines:
            self._models[0].learn(self._case.steps, reset_num_timesteps=True)
        elif self._seeds == 1:
            self._learn(0)
        else:
            bodies = [partial(self._learn, number) for number in range(self._seeds)]
            Lockstep([Scene() for _ in bodies]).run(bodies)
        return self._seeds * self._case.steps / (time.process_time() - started)

    def _learn(self, number: int) -> None:
        model = self._models[number]
        learn = learn_on_policy if hasattr(model, "rollout_buffer") else learn_off_policy
        with self._engines[number].attached():
            learn(model, self._case.steps, Watching(_nothing, None), _nothing)


class Sbx:
    """SBX in a process of its own.

    Args:
        case: What it learns.
        python: An interpreter that has it.
    """

    def __init__(self, case: Case, python: str) -> None:
        program = Path(__file__).with_name("sbx_turns.py")
        what = (case.algorithm.__name__, case.env, str(case.n_envs), str(case.steps))
        self._process = subprocess.Popen(
            [python, str(program), *what, json.dumps(case.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self) -> float:
        """Learn for a turn, and return its steps per second of processor time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _nothing(_step: int) -> None:
    """Watch no step."""


class Measured(NamedTuple):
    """Medians of the steps per second, and the seconds of the compiled first turn.

    Attributes:
        sb3: Of Stable-Baselines3.
        compiled: Of the compiled engine.
        sbx: Of SBX; NaN where it took no part.
        first_s: Processor seconds of the first turns of the two that are in this process.
    """

    sb3: float
    compiled: float
    sbx: float
    first_s: float


def measured(case: Case, turns: int, sbx: str | None) -> Measured:
    """Let all sides take turns."""
    sides: list[Side | Sbx] = [Side(case, is_compiled=compiled) for compiled in (False, True)]
    started = time.process_time()
    for side in sides:
        side.turn()
    first = time.process_time() - started
    peer = Sbx(case, sbx) if sbx else None
    if peer:
        peer.turn()
        sides.append(peer)
    found: list[list[float]] = [[] for _ in sides]
    with garbage.apart():  # for both, as a cell does it
        for number in range(turns):
            places = range(len(sides))
            for place in places if number % 2 else reversed(places):
                found[place].append(sides[place].turn())
    if peer:
        peer.close()
    medians = [statistics.median(own) for own in found]
    return Measured(medians[0], medians[1], medians[2] if peer else float("nan"), first)


class Row(NamedTuple):
    """One case; the columns of the table."""

    case: str
    sb3_steps_per_s: float
    compiled_steps_per_s: float
    ratio: float
    wanted: float
    sbx_steps_per_s: float
    ratio_sbx: float
    wanted_sbx: float
    first_turns_s: float


def main() -> None:
    """Measure, print and keep a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--sbx", metavar="PYTHON", help="an interpreter that has SBX")
    parser.add_argument("--keep", action="store_true", help="write results/engines-speed.csv")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in chosen.case:
        case = CASES[name]
        found = measured(case, chosen.turns, chosen.sbx)
        row = Row(
            *(name, found.sb3, found.compiled, found.compiled / found.sb3, case.wanted),
            *(found.sbx, found.compiled / found.sbx, case.wanted_sbx, found.first_s),
        )
        rows.append(row)
        print(*(f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row), flush=True)
    if chosen.keep:
        given = ["PYTHON" if word == chosen.sbx else word for word in sys.argv[1:]]
        write_table(RESULTS, header("engines.speed", arguments=given), rows)


if __name__ == "__main__":
    main()
