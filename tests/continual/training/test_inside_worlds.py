"""Checkpoints inside tasks of teams, games, pools, and of worlds that move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from game_runs import games
from kills import assert_unharmed
from team_runs import ARGUMENTS

from holdfast.scenarios.checks.backend import is_installed

KILLS = [45, 70, 110, 160, 175]


def team(algorithm: str, *tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    agent = {
        "algorithm": algorithm,
        "policies": keys.pop("policies", "shared"),
        "policy_kwargs": {"net_arch": [16]},
        **ARGUMENTS.get(algorithm, {}),
        **keys.pop("agent", {}),
    }
    listed = [
        {"name": f"t{i}", "env": "relays:Relay", "steps": 100, **task}
        for i, task in enumerate(tasks)
    ]
    return {
        "name": "team",
        "tasks": listed,
        "agent": agent,
        "n_envs": 2,
        "evaluation": {"episodes": 1, "every": 40},
        "checkpoint": {"every": 30},
        **keys,
    }


RELAY = ({}, {"kwargs": {"length": 7}})
GROUPS = {"front": ["first"], "rest": ["second", "third"]}
SPREAD = [{"env": "mpe2.simple_spread_v3", "kwargs": {"N": n, "max_cycles": 8}} for n in (2, 1)]
DQN = {"learning_starts": 16, "batch_size": 8, "buffer_size": 60, "target_update_interval": 20}
TEAMS: dict[str, dict[str, Any]] = {
    "shared": team("ppo", *RELAY, agent={"n_steps": 10}),
    "groups": team("ppo", *RELAY, policies=GROUPS, agent={"n_steps": 10}),
    "groups of dqn": team("dqn", *RELAY, policies=GROUPS, agent=DQN),
    "one copy of dqn": team("dqn", *RELAY, policies=GROUPS, agent=DQN, n_envs=1),
    "groups, cloning": team(
        "ppo", *RELAY, policies=GROUPS, agent={"n_steps": 10}, methods=[["ewc", "cloning"]]
    ),
    "normalized": team(
        "ppo", *RELAY, agent={"n_steps": 10, "normalize": {"observations": "running"}}
    ),
    "mappo": team("mappo", *SPREAD, agent={"n_steps": 10}, spaces={"observation": "pad"}),
    "vdn": team("vdn", *SPREAD, spaces={"observation": "pad"}),
    "qmix": team("qmix", *SPREAD, spaces={"observation": "pad"}),
    "resting": team(
        "ppo",
        *SPREAD,
        SPREAD[0],
        policies="independent",
        agent={"n_steps": 10},
        spaces={"observation": "pad"},
        methods=["packnet"],
        stream={"task_count": "known"},
    ),
}
QUICK = ("groups",)
EACH = [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in TEAMS]


@pytest.mark.thorough
@pytest.mark.parametrize("name", EACH)
def test_team(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [230, 270] if name == "resting" else []
    kills = assert_unharmed(monkeypatch, tmp_path, TEAMS[name], KILLS + more)
    assert kills.begun[1] > 30
    assert kills.begun[-1] > 130


@pytest.mark.thorough
@pytest.mark.parametrize("sample", ["latest", pytest.param("prioritized", marks=pytest.mark.slow)])
def test_self_play(sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = games(tmp_path, "past", "random", sample=sample, every=16, most=4)
    data = made.model_dump() | {"checkpoint": {"every": 16}}
    assert_unharmed(monkeypatch, tmp_path, data, [30, 60, 90, 120])


def single(**more: Any) -> dict[str, Any]:
    task = {"env": "Pendulum-v1", "steps": 160, "changes": {"time_limit": 25}}
    agent = {
        "algorithm": "ppo",
        "n_steps": 16,
        "batch_size": 16,
        "policy_kwargs": {"net_arch": [8]},
    }
    return {
        "name": "demo",
        "tasks": [{"name": n, **task, **more.pop(f"task_{n}", {})} for n in "ab"],
        "agent": agent,
        "n_envs": 2,
        "evaluation": {"every": 64, "episodes": 1},
        "checkpoint": {"every": 48},
        **more,
    }


WORLDS: dict[str, dict[str, Any]] = {
    "pool": single(pool={"workers": 2}),
    "drift": single(task_a={"drift": {"g": {"linear": [5.0, 15.0]}}}),
    "randomize": single(task_a={"randomize": {"g": "uniform(5, 15)"}}),
    "noise": single(
        task_a={"changes": {"time_limit": 25, "observation_noise": 0.1}},
        task_b={"wrappers": [{"frame_stack": {"n": 2}}]},
        spaces={"observation": "pad"},
    ),
    "joint": single(methods=["joint"]),
    "joint in a pool": single(methods=["joint"], pool={"workers": 2}),
    "hidden": single(stream={"task_id": "hidden", "boundaries": "hidden"}),
    "sampled": single(stream={"order": "shuffled"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_world(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_unharmed(monkeypatch, tmp_path, WORLDS[name], [60, 120, 150, 230, 300])


@pytest.mark.skipif(not is_installed(), reason="needs envpool")
@pytest.mark.slow
def test_envpool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = single(backend="envpool")
    assert_unharmed(monkeypatch, tmp_path, data, [60, 120, 150, 230, 300])
