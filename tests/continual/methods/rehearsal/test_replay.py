"""Replay: which rows a batch holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.rehearsal.replay import Replay
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.scenario import Scenario

WORLDS = {
    "dqn": ("CartPole-v1", {}),
    "sac": ("Pendulum-v1", {}),
    "dqn-n": ("CartPole-v1", {"n_steps": 3}),
}


@pytest.mark.parametrize("case", WORLDS)
def test_half_of_a_batch_is_old_and_its_size_stays(case: str) -> None:
    env, arguments = WORLDS[case]
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": env, "steps": 64} for n in "abc"],
            "agent": {
                "algorithm": case.partition("-")[0],
                "learning_starts": 1000,
                "buffer_size": 500,
                **arguments,
            },
        }
    )
    agent, method = StableBaselinesAgent(scenario), Replay(samples=20, fraction=0.5)
    batches: list[Any] = []
    for experience in make_stream(scenario, 0).train_stream:
        method.pre_adapt(agent.doors(method), experience)
        agent.start(experience)

        def watch(step: int, agent: StableBaselinesAgent = agent) -> None:
            if step == 60:
                batches.append(agent.model.replay_buffer.sample(32))

        agent.learn(experience, watch, lambda scalars, step: None)
        method.post_adapt(agent, experience)
    ids = [batch.observations[:, -3:].argmax(-1) for batch in batches]
    assert [len(task_ids) for task_ids in ids] == [32, 32, 32]
    assert (ids[0] == 0).all()
    assert (ids[1][:16] == 0).all()
    assert (ids[1][16:] == 1).all()
    assert set(ids[2][:16].tolist()) == {0, 1}
    assert (ids[2][16:] == 2).all()
    assert len(method.state()["actions"]) == 60
    if case == "dqn-n":
        assert torch.allclose(batches[1].discounts[:16], torch.tensor(0.99))


def test_stored_transitions_are_those_of_the_buffer() -> None:
    """Truncation is not termination: a time limit leaves no ``done`` in what is stored."""
    scenario = Scenario.model_validate(
        {
            "tasks": [
                {"name": "a", "env": "Pendulum-v1", "steps": 64, "changes": {"time_limit": 8}}
            ],
            "n_envs": 2,
            "agent": {"algorithm": "sac", "learning_starts": 1000, "buffer_size": 500},
        }
    )
    agent = StableBaselinesAgent(scenario)
    (experience,) = make_stream(scenario, 0).train_stream
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    rows = agent.memory.transitions(64, np.random.default_rng(0))
    buffer = agent.model.replay_buffer
    assert buffer.dones[:32].sum() == 8
    assert rows["dones"].sum() == 0
    assert np.array_equal(rows["rewards"].reshape(32, 2), buffer.rewards[:32])
    assert np.array_equal(rows["observations"].reshape(32, 2, -1), buffer.observations[:32])


@pytest.mark.parametrize("world", ["dqn", "sac"])
@pytest.mark.parametrize("strategy", ["reservoir", "coverage"])
def test_one_store_is_bounded_and_holds_all_tasks(world: str, strategy: Any, train: Any) -> None:
    """Each task gives 64 transitions to one store of 40 rows."""
    (method,) = methods = [Replay(samples=40, strategy=strategy, comparisons=10)]
    sizes = []
    train(world, lambda: methods, watch=lambda *_: sizes.append(len(method.state()["actions"])))
    assert sizes == [40, 40, 40]
    stored = method.state()
    tasks = stored["observations"][:, -3:].argmax(-1)
    assert set(tasks.tolist()) == {0, 1, 2}
    assert stored["choice/seen"].item() == 192
    # Whole transitions moved: the task id of an observation is that of its successor.
    assert torch.equal(tasks, stored["next_observations"][:, -3:].argmax(-1))


def test_coverage_measures_in_deviations_of_the_first_task() -> None:
    """Entries of deviation 2 and 0: the first is halved, the second stays as it is."""
    from holdfast.continual.methods.rehearsal.replay import projection

    rows = np.float32([[0.0, 5.0], [4.0, 5.0]])
    assert np.array_equal(projection(rows, np.random.default_rng(0)), [[0.5, 0.0], [0.0, 1.0]])
    wide = np.random.default_rng(0).normal(size=(300, 4000)).astype(np.float32)
    points = wide @ projection(wide, np.random.default_rng(1))
    assert points.shape == (300, 64)
    # Johnson and Lindenstrauss: squared distances stay as they were, but for chance.
    before, after = (np.square(x[:150] - x[150:]).sum(-1) for x in (wide / wide.std(0), points))
    assert (after / before).mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize("strategy", ["per_task", "reservoir", "coverage"])
def test_restarted_after_the_first_task_it_ends_the_same(
    strategy: Any, train: Any, same: Any
) -> None:
    def build() -> list[Replay]:
        return [Replay(samples=40, strategy=strategy, comparisons=10)]

    same(train("sac", build), train("sac", build, restart_after=0))


@pytest.mark.thorough
def test_nothing_of_the_old_is_naive(train: Any, same: Any) -> None:
    same(train("sac"), train("sac", lambda: [Replay(fraction=0.0)]))


def test_a_buffer_that_is_carried_over_is_refused(make_scenario: Any) -> None:
    from holdfast.continual.training.preflight import build
    from holdfast.errors import UsageError

    keys = {"agent": {"algorithm": "dqn", "buffer_size": 100}, "carry": {"replay_buffer": True}}
    assert build(make_scenario(methods=["replay"], **keys)) is not None
    with pytest.raises(UsageError, match=r"carry\.replay_buffer: true .* remove one of them"):
        build(make_scenario(methods=[{"replay": {"strategy": "reservoir"}}], **keys))
