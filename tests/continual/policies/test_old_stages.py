"""Policies of old stages act from what is kept as they did from all of it, under every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import run_all
from team_runs import team_scenario

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.restore import needed_to_act
from holdfast.continual.run_folder import checkpoint, old_stages
from holdfast.continual.run_folder.record import RunFolder
from holdfast.registry import METHODS
from holdfast.scenarios.schema.scenario import Scenario

PPO = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2}
SAC = {"algorithm": "sac", "learning_starts": 8, "batch_size": 8, "buffer_size": 200}
SMALL = {"policy_kwargs": {"net_arch": [8, 8]}, "normalize": {"observations": "running"}}
OFF_POLICY = ("replay", "perfect-memory", "er-ace", "pcgrad")
ARGUMENTS: dict[str, Any] = {
    "expandable": {"threshold": 1e9, "patience": 0.5},
    "progress-compress": {"updates": 2},
    "generative-replay": {"updates": 2},
    "reset-distill": {"updates": 2},
    "fame": {"updates": 2, "trial_share": 0.1},
}
FRESH_MOMENTS = ("progressive", "componet", "cka-rl", "expandable", "progress-compress", "fame")
FEW = ("ewc", "packnet")
STAGES = 4


def cell_of(method: str) -> dict[str, Any]:
    """Return a scenario of four tasks under one method."""
    off_policy = method in OFF_POLICY
    env = "Pendulum-v1" if off_policy else "CartPole-v1"
    agent: dict[str, Any] = {**(SAC if off_policy else PPO), **SMALL}
    tasks = [
        {"name": f"t{i}", "env": env, "steps": 48, "changes": {"time_limit": 12 + i}}
        for i in range(STAGES)
    ]
    return {
        "name": "old",
        "tasks": tasks,
        "stream": {"task_id": "observed", "task_count": "known"},
        "agent": agent,
        "carry": {
            "optimizer": method not in FRESH_MOMENTS,
            "replay_buffer": off_policy and method != "perfect-memory",
        },
        "methods": [{method: ARGUMENTS[method]} if method in ARGUMENTS else method],
        "score": {"random": 0.0, "reference": 100.0},
        "evaluation": {"episodes": 1},
    }


def acted(folder: RunFolder, stage: int) -> dict[int, list[Any]]:
    """Return what the policy of a stage does in each task on the same observations."""
    restored = kind_of(folder.scenario).restore(folder, stage)
    rng, found = np.random.default_rng(0), {}
    shape = restored.agent.policy.observation_space.shape
    observations = rng.normal(size=(64, *shape)).astype(np.float32)
    for task in range(STAGES):
        shown, unseen = restored.agent.shown_task(task)
        with restored.agent.view(task) as act:
            actions, _ = act(observations, None, np.ones(64, bool), deterministic=True)
        found[task] = [shown, unseen, *np.asarray(actions).tolist()]
    return found


def slow_but_for(few: tuple[str, ...]) -> list[Any]:
    return [m if m in few else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


@pytest.mark.thorough
@pytest.mark.parametrize("method", slow_but_for(FEW))
def test_old_policies_act_alike(method: str, tmp_path: Path) -> None:
    scenario = Scenario.model_validate({**cell_of(method), "checkpoint": {"keep": "all"}})
    (folder,) = run_all(scenario, tmp_path)
    places = folder.path / "checkpoints"
    before = {stage: acted(folder, stage) for stage in range(STAGES)}
    assert all(not checkpoint.load(places / f"task-{s}").dropped for s in range(STAGES))
    old_stages.thin_out(places, needed_to_act(kind_of(scenario).methods()))
    thinned = [checkpoint.load(places / f"task-{s}").dropped for s in range(STAGES)]
    # Of columns, composed modules and vectors, everything acts.
    is_thinned = method not in ("progressive", "componet", "cka-rl")
    assert [bool(dropped) for dropped in thinned] == [is_thinned, is_thinned, False, False]
    assert ("optimizer" in thinned[0]) == (method not in FRESH_MOMENTS)
    assert {stage: acted(folder, stage) for stage in range(STAGES)} == before


@pytest.mark.thorough
def test_a_run_thins_out_as_it_goes_on_and_ends_alike(tmp_path: Path) -> None:
    found = []
    for keep in ("all", "policies"):
        given = {**cell_of("cloning"), "name": keep, "checkpoint": {"keep": keep}}
        (folder,) = run_all(Scenario.model_validate(given), tmp_path)
        found.append(folder)
    whole, thin = found
    for stage in (STAGES - 2, STAGES - 1):
        one, other = (checkpoint.load(f.path / "checkpoints" / f"task-{stage}") for f in found)
        assert one.files.keys() == other.files.keys()
        for stem, tensors in one.files.items():
            assert all(tensors[name].equal(other.files[stem][name]) for name in tensors)
    names = {path.name for path in (thin.path / "checkpoints" / "task-0").iterdir()}
    assert names == {
        *("MANIFEST.json", "state.json", "dropped.json"),
        *("policy.safetensors", "normalization.safetensors"),
    }
    assert whole.scores() == thin.scores()


@pytest.mark.thorough
def test_each_group_of_a_team_keeps_its_policy(tmp_path: Path) -> None:
    worlds = [{"env": "team_worlds:Leaving", "kwargs": {"k": 2}, "steps": 40}] * STAGES
    agent = {"policies": "independent", "normalize": {"observations": "running"}}
    keys: dict[str, Any] = {"methods": ["ewc"], "carry": {"optimizer": True}}
    scenario = team_scenario("ppo", *worlds, agent=agent, checkpoint={"keep": "all"}, **keys)
    (folder,) = run_all(scenario, tmp_path)
    kind = kind_of(folder.scenario)

    def policies(stage: int) -> dict[str, Any]:
        members = kind.restore(folder, stage).agent.members
        return {group: member.files() for group, member in members.items()}

    before = policies(0)
    old_stages.thin_out(folder.path / "checkpoints", needed_to_act(kind.methods()))
    kept = checkpoint.load(folder.path / "checkpoints" / "task-0")
    assert sorted(kept.dropped) == ["agent_0.optimizer", "agent_1.optimizer", "method-0"]
    after = policies(0)
    assert after.keys() == {"agent_0", "agent_1"}
    for group, files in before.items():
        for stem in ("policy", "normalization"):
            named = files[stem].items()
            assert all(tensor.equal(after[group][stem][name]) for name, tensor in named)
