"""Networks that begin again while the replay buffer stays, and critics with dropout: DroQ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import assert_unharmed, cell, silent, two_tasks
from safetensors.torch import load_file
from stable_baselines3 import DQN, SAC
from torch import nn

from holdfast import seeding
from holdfast.agents.modules.initialisation import fresh_weights
from holdfast.agents.sb3.resets import Resets
from holdfast.agents.sb3.weights_io import optimizers
from holdfast.continual.training.cell import run_cell
from holdfast.errors import ScenarioError, UsageError
from holdfast.scenarios.load import load

DROQ = {"net_arch": [16, 8], "layer_norm": "critics", "dropout_rate": 0.1}
OFF = {"learning_starts": 30, "batch_size": 16, "buffer_size": 100, "policy_kwargs": DROQ}
FAST = {"algorithm": "sac", "train_freq": 5, "gradient_steps": 5, **OFF}


def learned(kind: Any, env: str, **more: Any) -> Any:
    model = kind("MlpPolicy", env, seed=3, learning_starts=10, batch_size=8, **more)
    model._resets = Resets(model, 20, 7)
    return model.learn(40)


@pytest.mark.parametrize(("kind", "env"), [(SAC, "Pendulum-v1"), (DQN, "CartPole-v1")])
def test_all_that_learned_begins_again_and_what_was_seen_stays(kind: Any, env: str) -> None:
    size = {"net_arch": [8]}
    keys = {"train_freq": 1, "gradient_steps": 1, "policy_kwargs": size, "buffer_size": 64}
    model = learned(kind, env, **keys)
    resets, rows = model._resets, model.replay_buffer.observations.copy()
    assert model._n_updates >= 29
    assert resets.is_due
    before = copy.deepcopy(model.policy.state_dict())
    resets.reset()
    assert not resets.is_due
    names = before.keys()
    drawn = fresh_weights(model.policy, names, seeding.generator(7, "resets", 1))
    for name, tensor in model.policy.named_parameters():
        assert not torch.equal(before[name], tensor), name
        if "target" not in name.split(".")[0]:
            assert torch.equal(drawn[name], tensor), name
    online, target = (
        (model.policy.critic, model.policy.critic_target)
        if kind is SAC
        else (model.policy.q_net, model.policy.q_net_target)
    )
    for one, other in zip(online.parameters(), target.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(not optimizer.state for optimizer in optimizers(model))
    if kind is SAC:
        assert model.log_ent_coef.item() == 0.0  # log 1, as "auto" begins
    assert (rows == model.replay_buffer.observations).all()
    model.learn(3, reset_num_timesteps=False)  # goes on
    model._n_updates = 60
    assert resets.is_due


def test_what_nothing_tells_how_to_draw_is_refused() -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, buffer_size=10)
    model.policy.actor.bare = nn.Parameter(torch.zeros(2))
    with pytest.raises(UsageError, match=r"how policy\.actor\.bare begins"):
        Resets(model, 20, 0)


@pytest.mark.slow
def test_killed_inside_tasks_and_run_again_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks of dropout, and resets before and after the kills."""
    passed: list[int] = []
    published = Resets.reset

    def reset(resets: Resets) -> None:
        published(resets)
        passed.append(resets._done)

    monkeypatch.setattr(Resets, "reset", reset)
    data = two_tasks({**FAST, "resets": {"every": 60}}, "ewc")
    kills = assert_unharmed(monkeypatch, tmp_path, data, [70, 150, 250])
    assert kills.begun[1] > 1  # inside the first task
    assert passed[:4] == [1, 2, 1, 2]  # of the run that was never killed, in both tasks


@pytest.mark.slow
def test_where_boundaries_are_hidden_resets_go_on_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {"stream": {"boundaries": "hidden", "task_id": "hidden"}, "checkpoint": {"every": 48}}
    data = two_tasks({**FAST, "resets": {"every": 120}}, **hidden)
    done: list[int] = []
    published = Resets.reset
    monkeypatch.setattr(Resets, "reset", lambda r: (published(r), done.append(r._done))[0])
    assert_unharmed(monkeypatch, tmp_path, data, [200])
    assert done[:2] == [1, 2]


@pytest.mark.slow
def test_both_engines_begin_again_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round that passes the interval is the task's last: the weights at its end are drawn."""
    plain = {**FAST, "policy_kwargs": {"net_arch": [8], "layer_norm": "critics"}}
    found = []
    for engine in ("sb3", "compiled"):
        agent = {**plain, "engine": engine, "resets": {"every": 35}}
        data = two_tasks(agent, evaluation={"episodes": 1}, checkpoint={"every": "off"})
        data["tasks"] = [{**data["tasks"][0], "steps": 64}]  # 7 rounds of updates: the last resets
        folder = cell(tmp_path / engine, data)
        run_cell(folder, silent)
        found.append(load_file(folder.path / "checkpoints/task-0/policy.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=1e-4, msg=name)


SCENARIO = """\
tasks: [{{name: a, env: Pendulum-v1, steps: 64}}]
agent: {{algorithm: {algorithm}, {more}}}
methods: [{method}]
"""
REFUSED = [
    ("ppo", "resets: {every: 9}", "naive", "'ppo' cannot begin again with what it has seen"),
    ("sac", "resets: {every: 0}", "naive", "resets.every"),
    ("sac", "resets: {every: 9}", "redo", "'redo' sets or keeps weights itself"),
    ("sac", "resets: {every: 9}", "progressive", "'progressive' sets or keeps weights itself"),
    ("ppo", "policy_kwargs: {dropout_rate: 0.1}", "naive", "'ppo' has no critics of actions"),
    ("ppo", "policy_kwargs: {layer_norm: critics}", "naive", "these do: sac, td3, ddpg, tqc"),
    ("sac", "policy_kwargs: {dropout_rate: 1}", "naive", "a number from 0 to below 1, got 1"),
    (
        *("sac", "engine: compiled, policy_kwargs: {dropout_rate: 0.1}", "naive"),
        "its programs draw no masks of dropout",
    ),
]


@pytest.mark.parametrize(("algorithm", "more", "method", "message"), REFUSED)
def test_what_cannot_be_is_refused(
    algorithm: str, more: str, method: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.format(algorithm=algorithm, more=more, method=method))
    with pytest.raises(ScenarioError) as raised:
        load(path)
    assert message in str(raised.value)
    assert len(raised.value.problems) == 1
