"""Progressive columns: equations by hand, and old policies that stay bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.agents.stable_baselines import StableBaselinesAgent
from holdfast.continual.methods.progressive import ColumnHead, ColumnTrunk, Progressive
from holdfast.continual.stream import TaskExperience, make_stream
from holdfast.errors import UsageError
from holdfast.scenarios.schema import Scenario


def _set(module: Any, value: float) -> None:
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)


def test_two_columns_by_hand() -> None:
    """Layers of width 1, no bias: h2 of column 1 = relu(w h1 + u h1 of column 0)."""
    layers = [nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False), nn.ReLU()]
    trunk = ColumnTrunk(nn.Sequential(*layers), 2, "linear")
    head = ColumnHead(nn.Linear(1, 1, bias=False), 1, 2, "linear")
    for module, value in (
        (trunk.columns[0], 2.0),  # column 0: h1 = 2x, h2 = 4x
        (trunk.columns[1], 3.0),
        (trunk.adapters[0], 5.0),
        (head.heads[0], 1.0),
        (head.heads[1], 7.0),
        (head.adapters[0], 11.0),
    ):
        _set(module, value)
    x = torch.tensor([[1.0]])
    # Column 1: h1 = 3, h2 = 3 * 3 + 5 * 2 = 19; output 7 * 19 + 11 * 4 = 177.
    assert trunk(x).tolist() == [[4.0, 19.0]]
    assert head(trunk(x)).item() == 177.0
    trunk.active = head.active = 0
    assert head(trunk(x)).item() == 4.0
    assert (trunk(-x) == 0).all()


def test_only_the_newest_column_learns() -> None:
    trunk = ColumnTrunk(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)), 3, "mlp")
    learning = {name.rsplit(".", 2)[0] for name, p in trunk.named_parameters() if p.requires_grad}
    assert learning == {"columns.2.0", "columns.2.1", "adapters.1.0", "adapters.1"}


def test_a_new_column_starts_as_a_fresh_network() -> None:
    fresh = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    x = torch.randn(5, 2)
    expected = fresh(x)
    for adapter in ("linear", "mlp"):
        trunk = ColumnTrunk(fresh, 3, adapter)
        torch.testing.assert_close(trunk(x)[:, -3:], expected)


WORLDS = {
    "ppo": ("CartPole-v1", {"n_steps": 32, "batch_size": 64}),
    "ppo-box": ("Pendulum-v1", {"n_steps": 32, "batch_size": 64}),
    "dqn": ("CartPole-v1", {"learning_starts": 16, "buffer_size": 500}),
    "sac": ("Pendulum-v1", {"learning_starts": 16, "buffer_size": 500}),
    "td3": ("Pendulum-v1", {"learning_starts": 16, "buffer_size": 500}),
}


def _train(case: str, adapter: str) -> Iterator[tuple[StableBaselinesAgent, TaskExperience]]:
    """Train four tasks and yield after each."""
    env, arguments = WORLDS[case]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": f"t{i}", "env": env, "steps": 128} for i in range(4)],
            "n_envs": 2,
            "agent": {
                "algorithm": case.partition("-")[0],
                "policy_kwargs": {"net_arch": [16, 16]},
                "normalize": {"observations": "running"},
                **arguments,
            },
        }
    )
    agent, method = StableBaselinesAgent(scenario), Progressive(adapter=adapter)  # type: ignore[arg-type]
    for experience in make_stream(scenario, 0).train_stream:
        method.pre_adapt(agent, experience)
        agent.start(experience)
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        method.post_adapt(agent, experience)
        yield agent, experience


@pytest.mark.parametrize("adapter", ["linear", "mlp"])
@pytest.mark.parametrize("case", WORLDS)
def test_old_tasks_keep_their_policy_bit_for_bit(case: str, adapter: str) -> None:
    """Deterministic actions after three later tasks, running normalisation included."""
    rng = np.random.default_rng(0)
    first: dict[int, Any] = {}
    for agent, experience in _train(case, adapter):
        width = agent.policy.observation_space.shape[0]
        batch = rng.normal(size=(64, width)).astype(np.float32)
        with agent.view(experience.task_index) as act:
            first[experience.task_index] = batch, _act(act, batch)
        for task, (seen, actions) in first.items():
            with ExitStack() as views:
                again = _act(views.enter_context(agent.view(task)), seen)
            assert np.array_equal(again, actions), f"task {task} after {experience.stage}"
    assert len(first) == 4
    assert agent.shown_task(3) == (3, False)


def _act(act: Any, batch: Any) -> Any:
    return act(batch, None, np.ones(len(batch), dtype=bool), deterministic=True)[0]


def test_a_learning_features_extractor_is_refused() -> None:
    policy = nn.Module()
    policy.features_extractor = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="vector observations"):
        Progressive()._install(policy)


def test_unseen_tasks_are_marked(run: Any) -> None:
    scores = run("ppo", "progressive", tasks=2).scores()
    marked = {(s["step"], s["task"]) for s in scores if s["unseen"]}
    # From 256 on the second task is being learned: its column is the newest, and its own.
    assert marked == {(step, "t1") for step in (0, 64, 128, 192, 256)}
