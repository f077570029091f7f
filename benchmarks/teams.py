"""How fast teams step and learn, against SuperSuit's vector environments; the sides take turns.

* Random actions in ``simple_spread``: our seats against SuperSuit's ``concat_vec_envs_v1`` over
  ``pettingzoo_env_to_vec_env_v1``, in one process each.
* PPO with one policy for all agents, as published, on both.

SuperSuit is not among the project's packages: ``pip install supersuit`` first.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3 as sb3
from mpe2 import simple_spread_v3
from overhead import alternate, header, write_table
from throughput import Measured, show, speed

from holdfast.agents.teams.team import TeamAgent
from holdfast.continual.streams.team_stream import make_team_stream
from holdfast.envs.multiagent.parallel import make_parallel, team_spaces
from holdfast.envs.multiagent.teams import Teams
from holdfast.scenarios.schema.scenario import Scenario

RESULTS = Path(__file__).parent / "results" / "teams.csv"
COPIES, AGENTS = 8, 3
KWARGS = {"N": AGENTS, "max_cycles": 25}
PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 4}


def scenario(steps: int) -> Scenario:
    """Return a scenario of one task without a task id."""
    task = {"name": "only", "env": "mpe2.simple_spread_v3", "kwargs": KWARGS, "steps": steps}
    return Scenario.model_validate(
        {
            "tasks": [task],
            "n_envs": COPIES,
            "stream": {"task_id": "hidden"},
            "agent": {"algorithm": "ppo", "policies": "shared", **PPO},
        }
    )


def ours() -> Any:
    """Return our seats."""
    made = scenario(COPIES)
    copies = [make_parallel(made, made.tasks[0]) for _ in range(COPIES)]
    return Teams(copies, made, 0, team_spaces(made), range(COPIES)).seats["shared"]


def theirs() -> Any:
    """Return SuperSuit's vector environment, in this process."""
    import supersuit  # type: ignore[import-not-found,import-untyped,unused-ignore]  # see above

    one = supersuit.pettingzoo_env_to_vec_env_v1(simple_spread_v3.parallel_env(**KWARGS))
    return supersuit.concat_vec_envs_v1(one, COPIES, num_cpus=1, base_class="stable_baselines3")


def stepping(opened: Callable[[], Any], steps: int) -> Callable[[], float]:
    """Return what steps with random actions and tells steps of seats per second."""
    envs = opened()
    envs.reset()
    rng = np.random.default_rng(0)
    actions = [rng.integers(envs.action_space.n, size=COPIES * AGENTS) for _ in range(100)]
    return partial(speed, envs, actions, steps)


def learn_ours(steps: int) -> float:
    """Return environment steps per second of a team's learning."""
    made = scenario(steps)
    agent = TeamAgent(made)
    (experience,) = make_team_stream(made, 0).train_stream
    agent.start(experience)
    return _timed(steps, lambda: agent.learn(experience, lambda _: None, lambda *_: None))


def learn_theirs(steps: int) -> float:
    """Return environment steps per second of Stable-Baselines3's PPO on SuperSuit."""
    model = sb3.PPO("MlpPolicy", theirs(), device="cpu", **PPO)  # SuperSuit takes no seed
    return _timed(steps, lambda: model.learn(steps * AGENTS))


def _timed(steps: int, learn: Callable[[], Any]) -> float:
    began = time.perf_counter()
    learn()
    return steps / (time.perf_counter() - began)


def compare(
    name: str, sides: tuple[Callable[[], float], Callable[[], float]], pairs: int, goal: float
) -> Measured:
    """Return how fast the second side is, as a multiple of the first."""
    theirs_alone, ours_alone = (side() for side in sides)
    measured = alternate(*sides, pairs)
    before, after = (statistics.median(side) for side in zip(*measured, strict=True))
    ratio = statistics.median(second / first for first, second in measured)
    met = ratio >= goal
    return Measured(name, theirs_alone, ours_alone, before, after, ratio, f">= {goal}", met, pairs)


def main() -> None:
    """Measure both and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=12, help="turns of each side")
    parser.add_argument("--dry", action="store_true", help="write no file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of SuperSuit and PettingZoo
    lines = header("teams.py", "pettingzoo", "mpe2", "supersuit")
    print("\n".join(lines), flush=True)
    rows = [
        compare(
            f"stepping simple_spread, seats / SuperSuit, {COPIES} copies of {AGENTS} agents",
            (stepping(theirs, 400), stepping(ours, 400)),
            options.pairs,
            2.0,
        ),
        compare(
            "learning with PPO, team / SuperSuit + Stable-Baselines3",
            (partial(learn_theirs, 4096), partial(learn_ours, 4096)),
            options.pairs,
            1.0,
        ),
    ]
    for row in rows:
        show(row)
    if not options.dry:
        write_table(RESULTS, lines, rows)


if __name__ == "__main__":
    main()
