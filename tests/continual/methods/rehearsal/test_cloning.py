"""Behavioural cloning: by hand, and what it stores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.agents.doors.outputs import OutputSpec
from holdfast.continual.methods.rehearsal.cloning import Cloning


class _TwoLogits:
    """A policy output of one weight: logits (w * x, 0)."""

    spec, is_coded = OutputSpec("categorical", [2]), False

    def of(self, parameters: dict[str, Tensor], observations: Tensor) -> dict[str, Tensor]:
        logit = observations @ parameters["weight"]
        return {"logits": torch.cat([logit, torch.zeros_like(logit)], -1)}


def _gradient(cloning: Cloning, weight: float) -> float:
    parameters = {"weight": torch.tensor([[weight]])}
    stored = {"logits": torch.zeros(1, 2)}
    batch = {"seen": torch.ones(1, 1), "labels": stored}
    gradients = cloning.gradient(_TwoLogits(), parameters, {}, batch)
    return gradients["weight"].item()


def test_gradient_by_hand() -> None:
    """d KL((1/2, 1/2) || sigmoid(w)) / dw = sigmoid(w) - 1/2; at w = ln 3 that is 1/4."""
    assert _gradient(Cloning(strength=8.0), math.log(3.0)) == pytest.approx(2.0)
    assert _gradient(Cloning(strength=8.0), 0.0) == pytest.approx(0.0)


def test_clip_norm_bounds_the_added_gradient() -> None:
    assert _gradient(Cloning(strength=8.0, clip_norm=0.1), math.log(3.0)) == pytest.approx(0.1)
    assert _gradient(Cloning(strength=0.1, clip_norm=0.1), math.log(3.0)) == pytest.approx(0.025)


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
def test_what_is_stored_is_the_policy_at_the_end_of_each_task(
    algorithm: str, run: Any, weights: Any
) -> None:
    from safetensors.torch import load_file

    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import make_stream

    folder = run(algorithm, {"cloning": {"samples": 100}}, tasks=2)
    files = [
        load_file(folder.path / "checkpoints" / "task-1" / f"method-0.settled-{n}.safetensors")
        for n in range(2)
    ]
    assert {len(tensor) for held in files for tensor in held.values()} == {100}
    names = [name.removeprefix("settled/0/") for name in files[0]]
    stored = {
        name: torch.cat([held[f"settled/{n}/{name}"] for n, held in enumerate(files)])
        for name in names
    }
    observations = stored["observations/"].numpy()
    # The one-hot task id stands at the end of every stored observation.
    assert np.array_equal(observations[:, -2:], np.repeat(np.eye(2), 100, axis=0))
    agent = StableBaselinesAgent(folder.scenario)
    agent.start(next(iter(make_stream(folder.scenario, 0).train_stream)))
    for task in range(2):
        agent.policy.load_state_dict(
            {n: t for n, t in weights(folder, task).items() if n != "log_ent_coef"}
        )
        rows = slice(100 * task, 100 * task + 100)
        with torch.no_grad():
            output = agent.output()(agent.policy_input({"": observations[rows]}))
        for key, value in output.items():
            torch.testing.assert_close(stored[f"label/{key}"][rows], value)
    agent.close()


def test_it_explores_as_finished_tasks_and_only_then(make_scenario: Any) -> None:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import make_stream

    scenario = make_scenario(agent={"algorithm": "dqn"}, stream={"repeat": 2})
    agent = StableBaselinesAgent(scenario)
    cloning = Cloning(exploration_steps=5, exploration="previous")
    earlier: list[Any] = []
    for experience in make_stream(scenario, 0).train_stream:
        cloning.pre_adapt(agent.doors(cloning), experience.train())
        plan = agent.plan.exploration
        earlier.append(plan and (plan.steps, plan.heads.kind, plan.heads.tasks))
        agent.plan.detach()
    assert earlier == [None, *((5, "previous", tasks) for tasks in [(0,), (0, 1), (0, 1)])]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"agent": {"algorithm": "ppo"}}, "off-policy.*'ppo' learns from its own only"),
        ({"agent": {"algorithm": "dqn"}, "stream": {"task_id": "hidden"}}, "task_id: observed or"),
    ],
)
def test_exploration_is_refused_before_anything_runs(
    keys: Any, text: str, make_scenario: Any
) -> None:
    from holdfast.continual.training.preflight import build
    from holdfast.errors import UsageError

    with pytest.raises(UsageError, match=text):
        build(make_scenario(methods=[{"cloning": {"exploration_steps": 5}}], **keys))


@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_restarted_after_the_first_task_it_ends_the_same(world: str, train: Any, same: Any) -> None:
    explore = {} if world == "ppo" else {"exploration_steps": 40}

    def build() -> list[Cloning]:
        return [Cloning(samples=30, batch_size=16, **explore)]

    same(train(world, build), train(world, build, restart_after=0))


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_at_strength_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    same(train(world), train(world, lambda: [Cloning(samples=30, batch_size=16, strength=0.0)]))


@pytest.mark.thorough
def test_crossq_keeps_its_running_statistics_to_the_tasks_own_batches(
    train: Any, same: Any
) -> None:
    """Batch renormalisation in training mode would move them with every stored batch too."""
    same(train("crossq"), train("crossq", lambda: [Cloning(samples=30, strength=0.0)]))
