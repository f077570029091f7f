"""Streams with hidden boundaries: killed at or between boundaries equals never killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kills import assert_unharmed, cell, silent
from safetensors.torch import load_file

from holdfast.continual.run_folder.record import LEARNING_RULES
from holdfast.continual.training.cell import run_cell
from holdfast.errors import UsageError

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 48, "batch_size": 16, "n_epochs": 2, **NETS}
OFF = {"learning_starts": 40, "batch_size": 16, "buffer_size": 100, **NETS}
NORMALIZED = {"normalize": {"observations": "running", "rewards": "running"}}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": PPO | NORMALIZED,
    "dqn": {"algorithm": "dqn", "train_freq": 7, "exploration_fraction": 0.7, **OFF},
    "sac": {"algorithm": "sac", "train_freq": 3, **OFF, **NORMALIZED},
    "td3": {
        "algorithm": "td3",
        "train_freq": 3,
        "action_noise": {"ornstein_uhlenbeck": 0.2},
        **OFF,
    },
    "recurrent_ppo": {**PPO, "algorithm": "recurrent_ppo", "policy": "MlpLstmPolicy"},
}
AGENTS["recurrent_ppo"]["policy_kwargs"] = {"net_arch": [16], "lstm_hidden_size": 8}


def scenario(agent: dict[str, Any], method: Any = "naive", **more: Any) -> dict[str, Any]:
    is_discrete = agent["algorithm"] in ("ppo", "dqn", "recurrent_ppo")
    env = "CartPole-v1" if is_discrete else "Pendulum-v1"
    changed = ("gravity", 20.0) if is_discrete else ("g", 3.0)
    return {
        "name": "demo",
        "tasks": [
            {"name": "a", "env": env, "steps": 160},
            {"name": "b", "env": env, "steps": 160, "changes": {"set": dict([changed])}},
        ],
        "stream": {"task_id": "hidden", "boundaries": "hidden", "repeat": 2},
        "n_envs": 2,
        "agent": agent,
        "methods": [method],
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": "off", "keep": "all"},
        **more,
    }


SLOW = ("td3", "recurrent_ppo", "sac")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in AGENTS]
)
def test_killed_between_boundaries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second boundary lies elsewhere in a rollout than the first."""
    kills = assert_unharmed(monkeypatch, tmp_path, scenario(AGENTS[name]), [170, 350, 540])
    assert kills.begun == [2, 162, 322, 482]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_killed_between_checkpoints_inside_tasks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {**AGENTS[name], "n_steps": 16} if name == "ppo" else AGENTS[name]
    data = scenario(agent, checkpoint={"every": 48, "keep": "all", "resets": True})
    kills = assert_unharmed(monkeypatch, tmp_path, data, [70, 170, 280, 470, 600])
    assert kills.begun[-1] > 480 + 48


METHODS: dict[str, Any] = {
    "l2-init": "l2-init",
    "redo": {"redo": {"period": 7, "tau": 0.5, "samples": 8}},
    "parseval": "parseval",
    "weight-clipping": {"weight-clipping": {"kappa": 0.7}},
    "c-chain": {"c-chain": {"warmup": 3, "batch_size": 8, "window": 4}},
    "trac": {"trac": {"scale": 0.1}},
    "upgd": {"upgd": {"beta": 0.9, "sigma": 0.5}},
    "spectral": {"spectral": {"strength": 0.1}},
    "cpr": {"cpr": {"replacement_rate": 0.5, "period": 7}},
    "shrink-perturb": {"shrink-perturb": {"period": 7}},
    "continual-backprop": {
        "continual-backprop": {"maturity": 5, "replacement_rate": 0.02, "samples": 8}
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param(n, marks=[] if n == "redo" else [pytest.mark.slow]) for n in METHODS]
)
def test_methods_that_need_no_boundaries_live_through_them(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scenario(AGENTS["ppo"], METHODS[method])
    kills = assert_unharmed(monkeypatch, tmp_path, data, [170, 350])
    assert len(kills.begun) == 3


@pytest.mark.thorough
def test_measuring_at_a_hidden_boundary_changes_nothing(tmp_path: Path) -> None:
    few = scenario(AGENTS["dqn"], evaluation={"episodes": 1, "tasks": "seen"})
    many = scenario(AGENTS["dqn"], evaluation={"episodes": 3, "every": 10, "deterministic": False})
    ends = []
    for name, data in (("few", few), ("many", many)):
        folder = cell(tmp_path / name, data)
        run_cell(folder, silent)
        place = folder.path / "checkpoints" / "task-3"
        ends.append({p.name: load_file(p) for p in place.glob("*.safetensors")})
    assert ends[0].keys() == ends[1].keys()
    for name, tensors in ends[0].items():
        for one, tensor in tensors.items():
            assert tensor.equal(ends[1][name][one]), f"{name}: {one}"


@pytest.mark.thorough
def test_a_partial_rollout_is_in_the_checkpoint_at_a_boundary(tmp_path: Path) -> None:
    folder = cell(tmp_path, scenario(AGENTS["ppo"]))
    run_cell(folder, silent)
    rollout = load_file(folder.path / "checkpoints" / "task-0" / "rollout.safetensors")
    rewards = rollout["rewards/"]
    assert rewards.shape == (48, 2)
    assert (rewards[: 80 - 48] != 0).all()  # 160 steps of two environments, one rollout learned
    assert (rewards[80 - 48 :] == 0).all()


def test_an_unfinished_cell_of_other_learning_rules_is_refused(tmp_path: Path) -> None:
    data = scenario(AGENTS["ppo"])
    folder = cell(tmp_path, data)
    assert folder.info()["learning_rules"] == LEARNING_RULES
    info = folder.info()
    del info["learning_rules"]  # as a cell of before
    (folder.path / "run.json").write_text(json.dumps(info | {"status": "failed"}))
    with pytest.raises(UsageError, match=r"version 1 of the learning rules.*--overwrite"):
        cell(tmp_path, data)
    (folder.path / "run.json").write_text(json.dumps(info | {"status": "finished"}))
    assert cell(tmp_path, data).other_rules() == 1
