"""Checkpoints inside tasks: a cell that is killed anywhere equals one that never was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kills import assert_unharmed

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2, **NETS}
OFF = {"learning_starts": 16, "batch_size": 16, "buffer_size": 100, **NETS}
SAC = {"algorithm": "sac", **OFF}


def scenario(agent: dict[str, Any], method: Any = "naive", **more: Any) -> dict[str, Any]:
    discrete = agent["algorithm"] in ("ppo", "a2c", "dqn", "qrdqn", "trpo", "recurrent_ppo")
    env = "CartPole-v1" if discrete else "Pendulum-v1"
    changes: list[dict[str, Any]] = [{}, {}] if discrete else [{"time_limit": 25}] * 2
    return {
        "name": "demo",
        "tasks": [
            {"name": n, "env": env, "steps": 160, "changes": c}
            for n, c in zip("ab", changes, strict=True)
        ],
        "agent": agent,
        "methods": [method],
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": 48},
        **more,
    }


@pytest.mark.parametrize("agent", [PPO, SAC], ids=lambda agent: agent["algorithm"])
def test_killed_anywhere_equals_never_killed(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = assert_unharmed(monkeypatch, tmp_path, scenario(agent), [70, 140, 150, 240, 310])
    assert kills.begun[0] == 1
    assert kills.begun[1] > 1  # inside the first task
    assert kills.begun[-1] > 160 + 48
