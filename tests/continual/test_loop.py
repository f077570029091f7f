"""The loop: exact budgets, nothing that leaks, resuming, memory."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import pytest
import torch
from cells import Interrupted, finish, interrupting
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.results import metrics
from holdfast.continual.results.curves import curves
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.journal import Progress
from holdfast.scenarios.schema.scenario import Scenario

Run = Callable[..., RunFolder]


def same_weights(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.thorough
def test_budgets_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 steps, rollouts of 128 x 8: 1,000 taken, 1,000 learned from, none in the next task."""
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": n, "env": "CartPole-v1", "steps": 1000} for n in "ab"],
            "n_envs": 8,
            "agent": {"algorithm": "ppo", "n_steps": 128, "n_epochs": 1},
        }
    )
    agent = StableBaselinesAgent(scenario)
    taken: list[int] = []
    step = gym.wrappers.TimeLimit.step

    def counting(env: Any, action: Any) -> Any:
        taken.append(1)
        return step(env, action)

    monkeypatch.setattr(gym.wrappers.TimeLimit, "step", counting)
    for stage, experience in enumerate(make_stream(scenario, 0).train_stream):
        agent.start(experience)
        model, learned = agent.model, []
        train = model.train

        def counting_train(train: Any = train, model: Any = model, learned: Any = learned) -> None:
            learned.append(model.rollout_buffer.buffer_size * model.n_envs)
            train()

        model.train = counting_train
        agent.learn(experience, lambda step: None, lambda scalars, step: None)
        assert sum(taken) == 1000 * (stage + 1)
        assert sum(learned) == 1000
        assert model.num_timesteps == 1000


@pytest.mark.thorough
def test_off_policy_budgets_are_exact_for_any_train_freq() -> None:
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": "a", "env": "Pendulum-v1", "steps": 130}],
            "n_envs": 2,
            "agent": {
                "algorithm": "sac",
                "train_freq": 50,
                "gradient_steps": -1,
                "learning_starts": 0,
                "buffer_size": 500,
            },
        }
    )
    agent = StableBaselinesAgent(scenario)
    (experience,) = make_stream(scenario, 0).train_stream
    agent.start(experience)
    agent.learn(experience, lambda step: None, lambda scalars, step: None)
    assert agent.model.num_timesteps == 130
    assert agent.model.replay_buffer.size() * 2 == 130  # the last step is stored
    assert agent.model._n_updates == 130  # and learned from


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "sac", pytest.param("dqn", marks=pytest.mark.slow)])
def test_evaluating_more_often_changes_nothing(algorithm: str, run: Run, weights: Any) -> None:
    plans = [{"episodes": 1}, {"every": 32, "episodes": 3, "deterministic": False}]
    seldom, often = (
        run(algorithm, tasks=2, runs=str(i), evaluation=plan) for i, plan in enumerate(plans)
    )
    assert len(often.scores()) > 5 * len(seldom.scores())
    assert same_weights(weights(seldom), weights(often))


@pytest.mark.slow
def test_same_cell_twice_is_equal_and_another_seed_differs(run: Run, weights: Any) -> None:
    one, twin, other = (run(runs=str(i), seeds=[seed]) for i, seed in enumerate([0, 0, 1]))
    assert one.scores() == twin.scores()
    assert same_weights(weights(one), weights(twin))
    assert one.scores() != other.scores()
    assert not same_weights(weights(one), weights(other))


METHODS = [
    ("ppo", "naive"),
    pytest.param("ppo", "isolated", marks=pytest.mark.slow),
    pytest.param("ppo", {"ewc": {"kind": "online"}}, marks=pytest.mark.slow),
    pytest.param("ppo", ["ewc", "cloning"], marks=pytest.mark.slow),
    pytest.param("ppo", "progressive", marks=pytest.mark.slow),
    pytest.param("sac", ["cloning", "replay"], marks=pytest.mark.slow),
    pytest.param("dqn", "replay", marks=pytest.mark.slow),
]


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "method"), METHODS, ids=str)
def test_interrupted_and_run_again_equals_uninterrupted(
    algorithm: str, method: Any, run: Run, weights: Any
) -> None:
    carry = {"carry": {"optimizer": method == "naive", "replay_buffer": algorithm == "dqn"}}
    normalize = {"agent": {"normalize": {"observations": "running", "rewards": "running"}}}
    straight = run(algorithm, method, runs="straight", **carry, **normalize)

    tell = interrupting(100, 300, 512, 700)
    with pytest.raises(Interrupted):
        run(algorithm, method, runs="broken", tell=tell, **carry, **normalize)
    broken = RunFolder(
        straight.path.parents[3] / "broken" / straight.path.relative_to(straight.path.parents[2])
    )
    assert finish(broken, tell) == 4
    assert broken.scores() == straight.scores()
    for stage in range(3):
        assert same_weights(weights(broken, stage), weights(straight, stage))
    _assert_no_overlap(broken, straight)


def _assert_no_overlap(broken: RunFolder, straight: RunFolder) -> None:
    """TensorBoard shows every point of the evaluation once, as without the interruption."""
    views = [EventAccumulator(str(f.path / "tb")).Reload() for f in (broken, straight)]
    timed = ("time/", "system/wall_s", "system/steps_per_s")
    tags = [tag for tag in views[1].Tags()["scalars"] if not tag.startswith(timed)]
    assert set(tags) <= set(views[0].Tags()["scalars"])
    assert any(tag.startswith("task/") for tag in tags)
    for tag in tags:
        points = [[(event.step, event.value) for event in view.Scalars(tag)] for view in views]
        assert points[0] == points[1], tag


@pytest.mark.thorough
def test_a_finished_cell_is_left_alone(run: Run) -> None:
    folder = run(tasks=1)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    run_cell(folder, lambda progress: None)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before


ADDITIVE = [{"ewc": {"strength": 0.0}}, {"cloning": {"strength": 0.0}}]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "algorithm", ["ppo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sac", "dqn"))]
)
def test_additive_methods_at_strength_0_equal_naive(
    algorithm: str, run: Run, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.continual.methods.imitation import Imitation
    from holdfast.continual.methods.regularization import quadratic

    calls = {"ewc": 0, "cloning": 0}
    penalty, cloned = quadratic.pull, Imitation.gradient

    def count_ewc(*args: Any) -> Any:
        calls["ewc"] += 1
        return penalty(*args)

    def count_cloning(*args: Any) -> Any:
        calls["cloning"] += 1
        return cloned(*args)

    monkeypatch.setattr(quadratic, "pull", count_ewc)
    monkeypatch.setattr(Imitation, "gradient", count_cloning)
    naive = run(algorithm, runs="naive", tasks=2)
    both = run(algorithm, ADDITIVE, runs="both", tasks=2)
    assert min(calls.values()) > 10
    assert naive.scores() == both.scores()
    assert same_weights(weights(naive), weights(both))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
def test_no_task_leaves_tensors_or_environments_behind(
    algorithm: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    closed: list[int] = []
    env_class = type(gym.make("CartPole-v1" if algorithm != "sac" else "Pendulum-v1").unwrapped)
    construct, close = env_class.__init__, env_class.close

    def counting_construct(self: Any, *args: Any, **kwargs: Any) -> None:
        opened.append(id(self))
        construct(self, *args, **kwargs)

    def counting_close(self: Any) -> None:
        closed.append(id(self))
        close(self)

    monkeypatch.setattr(env_class, "__init__", counting_construct)
    monkeypatch.setattr(env_class, "close", counting_close)
    at: dict[int, int] = {}  # a slow machine also tells of the last step before the boundary

    def tell(progress: Progress) -> None:
        if progress.step and progress.step % 256 == 0:
            gc.collect()
            tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
            at[progress.step] = sum(t.numel() * t.element_size() for t in tensors)

    run(algorithm, tasks=6, tell=tell, evaluation={"episodes": 1})
    live = [at[boundary] for boundary in sorted(at)]
    assert len(live) >= 6
    assert live[-1] <= live[1], f"bytes of live tensors at each boundary: {live}"
    assert len(opened) > 12
    assert set(opened) == set(closed)


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["naive", "redo", "continual-backprop"])
def test_a_stream_without_a_boundary_has_no_forgetting_rather_than_none_of_it(
    run: Run, method: str
) -> None:
    stream = {"task_id": "hidden", "boundaries": "hidden"}
    folder = run("ppo", method, tasks=1, steps=128, stream=stream)
    found = metrics.summary(curves(folder.scores(), folder.scenario))
    assert not math.isnan(found["average_performance/cw"])
    for name in ("forgetting/cw", "backward_transfer/gem", "min_acc/dense", "recovery_time/steps"):
        assert math.isnan(found[name])
    events = EventAccumulator(str(folder.path / "tb")).Reload()
    assert "continual/average_performance" in events.Tags()["scalars"]
    assert "continual/forgetting" not in events.Tags()["scalars"]
