from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario


@pytest.fixture
def make_scenario() -> Callable[..., Scenario]:
    """Two tasks of 10 steps, scores from 0 (random) to 100 (reference)."""

    def make(**changes: Any) -> Scenario:
        given: dict[str, Any] = {
            "name": "demo",
            "tasks": [
                {"name": name, "env": "CartPole-v1", "steps": 10} for name in ("left", "right")
            ],
            "agent": {"algorithm": "ppo"},
            "methods": ["naive"],
            "seeds": [0],
            "score": {"random": 0.0, "reference": 100.0},
        }
        return Scenario.model_validate(given | changes)

    return make


@pytest.fixture
def make_scores() -> Callable[..., list[Episode]]:
    """One evaluation point of two episodes each, 10 below and above the given mean returns."""

    def make(stage: int, step: int, **returns: float) -> list[Episode]:
        return [
            {
                "stage": stage,
                "step": step,
                "task": task,
                "episode": episode,
                "return": mean + offset,
                "length": 7,
                "success": None,
                "unseen": False,
            }
            for task, mean in returns.items()
            for episode, offset in enumerate((-10.0, 10.0))
        ]

    return make


PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 64}
DQN = {"algorithm": "dqn", "learning_starts": 32, "batch_size": 32, "buffer_size": 1000}
SAC = DQN | {"algorithm": "sac", "train_freq": 2, "policy_kwargs": {"net_arch": [32, 32]}}
WORLDS = {
    "ppo": ("CartPole-v1", [{}, {"action_map": [1, 0]}], PPO),
    "dqn": ("CartPole-v1", [{}, {"action_map": [1, 0]}], DQN | {"target_update_interval": 64}),
    "sac": ("Pendulum-v1", [{"time_limit": 50}, {"action_gain": -1.0, "time_limit": 50}], SAC),
}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Run one small cell to its end and return its folder."""

    def run_one(
        algorithm: str = "ppo",
        method: Any = "naive",
        *,
        tasks: int = 3,
        steps: int = 256,
        agent: dict[str, Any] | None = None,
        runs: str = "runs",
        tell: Any = None,
        **keys: Any,
    ) -> RunFolder:
        env, changes, arguments = WORLDS[algorithm]
        given: dict[str, Any] = {
            "name": "small",
            "tasks": [
                {"name": f"t{i}", "env": env, "steps": steps, "changes": changes[i % 2]}
                for i in range(tasks)
            ],
            "agent": arguments | (agent or {}),
            "n_envs": 2,
            "methods": [method],
            "seeds": [0],
            "evaluation": {"every": 64, "episodes": 2},
        }
        scenario = Scenario.model_validate(given | keys)
        (folder,) = prepare(tmp_path / runs, scenario)
        run_cell(folder, tell or (lambda progress: None))
        return folder

    return run_one


@pytest.fixture
def weights() -> Callable[..., dict[str, Tensor]]:
    """Return the policy saved at the end of a task; of the last one by default."""

    def load(folder: RunFolder, task: int | None = None) -> dict[str, Tensor]:
        stage = len(folder.scenario.stream_tasks) - 1 if task is None else task
        return load_file(folder.path / "checkpoints" / f"task-{stage}" / "policy.safetensors")

    return load
