"""A team that was trained, acting in its task's own environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from team_runs import run, team_scenario

from holdfast import seeding
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.team import partner_groups
from holdfast.continual.policies.trained_team import TaskTeam
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError

RELAYS = {"env": "relays:Relay"}, {"env": "relays:Relay", "kwargs": {"length": 7}}
"""Agents that die and appear, and are paid their action."""


def replayed(folder: RunFolder, task: str, index: int) -> list[dict[str, float]]:
    """Return the agents' returns in the episodes of evaluation, as ``act`` plays them."""
    team = open_run(folder.path).agent(task)
    assert isinstance(team, TaskTeam)
    found, env = [], team.make_env()
    for episode in range(2):
        seen, _ = env.reset(seed=seeding.derive(0, "evaluation", index, episode))
        totals = dict.fromkeys(env.possible_agents, 0.0)
        while env.agents:
            actions = team.act({name: seen[name] for name in env.agents})
            assert actions.keys() == set(env.agents)
            seen, rewards, *_ = env.step(actions)
            for name, reward in rewards.items():
                totals[name] += reward
        found.append(totals)
    return found


def recorded(folder: RunFolder, task: str) -> list[Any]:
    last = max(row["stage"] for row in folder.scores())
    rows = [r for r in folder.scores() if (r["stage"], r["task"]) == (last, task)]
    return [row["agents"] for row in rows]


@pytest.mark.parametrize("algorithm", ["ppo", "mappo", "vdn", "qmix"])
def test_a_team_acts_as_it_was_measured(tmp_path: Path, algorithm: str) -> None:
    # Scaled, because they see the seed of the episode, which is a large number in evaluation.
    agent = {"normalize": {"observations": "running"}}
    made = team_scenario(algorithm, *RELAYS, agent=agent, evaluation={"episodes": 2})
    folder = run(tmp_path, made)
    for index, task in enumerate(("t0", "t1")):
        assert replayed(folder, task, index) == recorded(folder, task)
    team = open_run(folder.path).agent("t1")
    with pytest.raises(UsageError, match="no agent 'fourth'; it has first, second, third"):
        team.act({"fourth": 0})


def test_action_masks_are_obeyed(tmp_path: Path) -> None:
    task = {"env": "team_worlds:Leaving", "kwargs": {"masked": True}}
    folder = run(tmp_path, team_scenario("vdn", task, evaluation={"episodes": 2}))
    assert replayed(folder, "t0", 0) == recorded(folder, "t0")  # else the environment raises


GROUPS = {"policies": {"front": ["first"], "rest": ["second", "third"]}}


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "mappo"])
def test_partners_act_for_their_agents(tmp_path: Path, algorithm: str) -> None:
    agent = {**GROUPS, "normalize": {"observations": "running"}}
    before = run(tmp_path, team_scenario(algorithm, *RELAYS, name="before", agent=agent))
    partner = {"rest": {"run": str(before.path), "deterministic": True, "task": "t1"}}
    plan = {"agent": agent, "evaluation": {"episodes": 2}}
    later = team_scenario("ppo", {**RELAYS[1], "partners": partner}, name="later", **plan)
    folder = run(tmp_path, later)
    assert replayed(folder, "t0", 0) == recorded(folder, "t0")


def test_who_acts_for_a_whole_group_is_no_partner(tmp_path: Path) -> None:
    agent = {**GROUPS, "normalize": {"observations": "running"}}
    before = run(tmp_path, team_scenario("vdn", RELAYS[0], name="before", agent=agent))
    partner = {"rest": {"run": str(before.path)}}
    later = team_scenario("ppo", {**RELAYS[0], "partners": partner}, name="later", agent=GROUPS)
    with pytest.raises(UsageError, match="'vdn' acts for all agents of its group at once"):
        partner_groups(later, later.tasks[0])
