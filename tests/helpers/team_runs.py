"""Short runs of teams in the environments of ``team_worlds``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from holdfast.agents.teams.team import TeamAgent
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.team_stream import make_team_stream
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.schema.scenario import Scenario

OFF = {"learning_starts": 20, "batch_size": 8, "buffer_size": 500, "target_update_interval": 20}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 20, "batch_size": 20, "n_epochs": 2},
    "mappo": {"n_steps": 20, "batch_size": 20, "n_epochs": 2},
    "vdn": OFF,
    "qmix": OFF,
}


def team_scenario(algorithm: str, *tasks: dict[str, Any], **keys: Any) -> Scenario:
    """Return a scenario of small networks; each task is ``env`` and what differs from a default."""
    agent = {
        "algorithm": algorithm,
        "policies": "shared",
        "policy_kwargs": {"net_arch": [16]},
        **ARGUMENTS[algorithm],
        **keys.pop("agent", {}),
    }
    listed = [{"name": f"t{i}", "steps": 60, **task} for i, task in enumerate(tasks)]
    given = {"tasks": listed, "agent": agent, "n_envs": 2, "evaluation": {"episodes": 1}}
    return Scenario.model_validate(given | keys)


def learned(scenario: Scenario, seed: int = 0) -> TeamAgent:
    """Return a team that has learned the first task, and nothing measured."""
    agent = TeamAgent(scenario)
    experience = next(iter(make_team_stream(scenario, seed).train_stream))
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    return agent


def started(scenario: Scenario, seed: int = 0) -> Any:
    """Return the policy of a team's only group, newly built."""
    agent = TeamAgent(scenario)
    agent.start(next(iter(make_team_stream(scenario, seed).train_stream)))
    agent.close()
    (member,) = agent.members.values()
    return member.policy


def run(path: Path, scenario: Scenario, tell: Any = None) -> RunFolder:
    """Run the scenario's only cell and return its folder."""
    (folder,) = prepare(path, scenario)
    run_cell(folder, tell or (lambda progress: None))
    return folder


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two dicts of tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
