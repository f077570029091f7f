"""Replay buffers by replay_buffer_class: drawn from, kept over kills, hindsight as published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
import torch
from kills import assert_unharmed, cell, silent, two_tasks
from own_parts.buffers import Line
from safetensors.torch import load_file
from stable_baselines3.common.env_util import make_vec_env

from holdfast.continual.training.cell import run_cell
from holdfast.errors import ScenarioError
from holdfast.scenarios.checks.own_code import own_code
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

NETS = {"policy_kwargs": {"net_arch": [16]}}
OFF = {"learning_starts": 16, "batch_size": 16, "buffer_size": 100, **NETS}
SAC = {"algorithm": "sac", "train_freq": 2, **OFF}
FADING = "own_parts.buffers:Fading"
HER = "stable_baselines3:HerReplayBuffer"


def own(**more: Any) -> dict[str, Any]:
    return SAC | {"replay_buffer_class": FADING, "replay_buffer_kwargs": {"fading": 0.9}} | more


@pytest.mark.slow
@pytest.mark.parametrize("method", ["naive", "replay"])
def test_what_it_keeps_beside_rows_goes_along(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights change in old rows, too: killed anywhere, the run is the one never killed."""
    kills = assert_unharmed(monkeypatch, tmp_path, two_tasks(own(), method), [70, 150, 240])
    assert kills.begun[1] > 1  # inside the first task


@pytest.mark.thorough
def test_it_is_what_is_drawn_from(tmp_path: Path) -> None:
    policies = []
    for place, agent in (("published", SAC), ("own", own())):
        data = two_tasks(agent) | {"evaluation": {"episodes": 1}, "checkpoint": {"every": "off"}}
        folder = cell(tmp_path / place, {**data, "tasks": data["tasks"][:1]})
        run_cell(folder, silent)
        policies.append(load_file(folder.path / "checkpoints/task-0/policy.safetensors"))
    assert any((policies[0][name] != policies[1][name]).any() for name in policies[0])


@pytest.mark.thorough
def test_hindsight_is_that_of_stable_baselines3_bit_for_bit(tmp_path: Path) -> None:
    arguments = {**OFF, "learning_starts": 20, "replay_buffer_kwargs": {"n_sampled_goal": 2}}
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "line", "env": "own_parts.buffers:Line", "steps": 60}],
            "agent": {"algorithm": "sac", **arguments, "replay_buffer_class": HER},
            "stream": {"task_id": "hidden"},
            "evaluation": {"episodes": 1},
        }
    )
    folder = cell(tmp_path, scenario.model_dump())
    run_cell(folder, silent)
    model = stable_baselines3.SAC(
        "MultiInputPolicy",
        make_vec_env(Line, 1, seed=0),
        seed=0,
        replay_buffer_class=stable_baselines3.HerReplayBuffer,
        **arguments,
    )
    model.learn(60)
    saved = load_file(folder.path / "checkpoints/task-0/policy.safetensors")
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(saved[name], tensor), name


SCENARIO = """\
tasks: [{{name: a, env: Pendulum-v1, steps: 64, changes: {changes}}}]
agent: {{algorithm: {algorithm}, replay_buffer_class: "{target}", {more}}}
{rest}
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"target": "own_parts.buffers:Line"},
            "is not derived from stable_baselines3.common.buffers",
        ),
        ({"target": "own_parts.buffers:Fadin"}, "did you mean 'own_parts.buffers:Fading'?"),
        ({"algorithm": "ppo"}, "'ppo' has no argument 'replay_buffer_class'"),
        ({"more": "engine: compiled"}, "its programs draw from Stable-Baselines3's own buffers"),
        ({"rest": "carry: {replay_buffer: true}"}, "keeps beside rows is not carried"),
        ({"target": HER, "rest": "checkpoint: {every: 32}"}, "learns from whole episodes"),
        ({"target": HER, "changes": "{reward_scale: 2}"}, "does not see this factor"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    given: dict[str, str], message: str, tmp_path: Path
) -> None:
    usual = {"target": FADING, "algorithm": "sac", "changes": "{}", "more": "", "rest": ""}
    (tmp_path / "own.yaml").write_text(SCENARIO.format(**(usual | given)), "utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "own.yaml")
    assert any(message in problem.message for problem in caught.value.problems), caught.value


def test_it_is_own_code() -> None:
    scenario = Scenario.model_validate(two_tasks(own()))
    assert [str(f) for f in own_code(scenario)] == [f"agent.replay_buffer_class: '{FADING}'"]
