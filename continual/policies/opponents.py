"""The policies of earlier runs, which act and learn no more: opponents in games."""

from __future__ import annotations

from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.agents.sb3.past_selves import action_chances
from holdfast.continual.policies.restore import Restore
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.envs.base.fitting import TaskId
from holdfast.envs.multiagent.players import PolicyPlayer
from holdfast.envs.multiagent.self_play import SelfPlay, View
from holdfast.envs.vector import task_env
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import OpponentSpec, Partner
from holdfast.scenarios.source.regular_file import is_there

Key = tuple[str, int, int]
"""Run folder, stage, and the time at which its checkpoint was written."""


def frozen_player(
    entry: OpponentSpec, place: Path | None, restore: Restore, *, trust_code: bool = False
) -> PolicyPlayer:
    """Return the opponent that an earlier run of a game left.

    It draws from its policy, or is greedy where that has action values. Built once a process.

    Args:
        entry: Run, stage and task.
        place: The run's path counts from there.
        restore: Restores a run of a single agent.
        trust_code: Whether the user trusts the code that the run names.

    Raises:
        UsageError: There is no such run, stage or task, or it did not learn a game.
        CheckpointUnusable: If a checkpoint cannot be read.
    """
    key = checkpoint_key(entry, place, "opponents")
    return _player(key, entry.task, restore, trust_code=trust_code)


@lru_cache(maxsize=64)
def _player(key: Key, task: str | None, restore: Restore, *, trust_code: bool) -> PolicyPlayer:
    path, stage, _ = key
    where, run = f"opponents: run {path}", RunFolder(Path(path), trust_code=trust_code)
    scenario = run.scenario
    index = scenario.stream_tasks[stage] if task is None else task_index(scenario, task, where)
    if scenario.tasks[index].opponents is None:
        raise UsageError(f"{where}: task '{scenario.tasks[index].name}' is no turn-based game")
    scenario, spaces, agent = restore(run, stage)
    env = task_env(scenario, index, spaces)
    shown, _ = agent.shown_task(index)
    if isinstance(env, TaskId):
        env.index = shown
    assert isinstance(env.unwrapped, SelfPlay)
    view = View(env)
    # Never left: nobody else acts with this agent, and a view may copy all weights.
    ExitStack().enter_context(agent.view(index))
    output = agent.output()

    def choose(observation: Any, allowed: NDArray[np.bool_]) -> NDArray[np.float64]:
        entries = observation if isinstance(observation, dict) else {"": observation}
        arrays = {key: np.asarray(value)[None] for key, value in entries.items()}
        return action_chances(output, agent.policy_input(arrays), allowed)  # type: ignore[attr-defined]  # of StableBaselinesAgent

    return PolicyPlayer(run.policy_name(stage), view.through(choose))


def checkpoint_key(entry: OpponentSpec | Partner, place: Path | None, where: str) -> Key:
    """Return which checkpoint is meant.

    Raises:
        UsageError: There is no such run, or it has no such checkpoint; ``where`` comes first.
        CheckpointUnusable: If the newest is known to be gone, or the run cannot be read.
    """
    path = ((place or Path()) / str(entry.run)).absolute()
    if not is_there(path / SCENARIO):
        raise UsageError(
            f"{where}: '{entry.run}' is no run folder; name one, like runs/x/naive/seed-0 (paths "
            f"count from {(place or Path()).resolve()})"
        )
    stage = checkpoint.asked_stage(RunFolder(path), entry.stage, f"{where}: ")
    manifest = checkpoint.task_folder(path / checkpoint.FOLDER, stage) / checkpoint.MANIFEST
    # Where it is missing, whoever loads the checkpoint says so.
    return str(path), stage, manifest.lstat().st_mtime_ns if is_there(manifest) else 0
