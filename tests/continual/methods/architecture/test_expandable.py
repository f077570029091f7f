"""The expandable agent: when it adds a module, what it undoes, and what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.methods.architecture.expandable import Expandable
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.rehearsal.cloning import Cloning

SLOW = [pytest.param(world, marks=pytest.mark.slow) for world in ("ppo-box", "dqn", "td3")]
WORLDS = ["ppo", "sac", *SLOW]
ALWAYS = {"threshold": 1e9, "patience": 0.5, "episodes": 1, "samples": 64}
NEVER = {**ALWAYS, "threshold": -1e9}
SCORE = {"random": 20.0, "reference": 500.0}


@pytest.fixture
def grow(train: Any) -> Any:
    """Train as the loop does, with episodes that end before a task is half over."""

    def run(world: str, methods: list[Any], **keys: Any) -> StableBaselinesAgent:
        given = {"tasks": 4, "steps": 128, "changes": {"time_limit": 20}, "score": SCORE, **keys}
        return train(world, lambda: methods, **given)  # type: ignore[no-any-return]

    return run


def _weights(agent: StableBaselinesAgent, number: int) -> dict[str, Tensor]:
    places = (f".columns.{number}.", f".heads.{number}.", f".adapters.{number - 1}.")
    state = agent.policy.state_dict()
    return {n: t.clone() for n, t in state.items() if any(place in n for place in places)}


@pytest.mark.thorough
@pytest.mark.parametrize("world", WORLDS)
def test_a_module_is_added_where_a_task_stays_unlearned_and_only_there(
    world: str, grow: Any
) -> None:
    """Every later task, none of them, and up to the most that there may be."""
    for arguments, expected in (
        (ALWAYS, [0, 1, 2, 3]),
        (NEVER, [0, 0, 0, 0]),
        (ALWAYS | {"max_modules": 2}, [0, 1, 1, 1]),
    ):
        method = Expandable(**arguments)  # type: ignore[arg-type]
        grow(world, [method])
        assert [method._modules[task] for task in range(4)] == expected


@pytest.mark.thorough
@pytest.mark.parametrize("world", WORLDS)
def test_the_attempt_is_undone_and_the_module_frozen_for_good(world: str, grow: Any) -> None:
    """Module 0 is, bit for bit, what it was at the end of the first task: targets too."""
    ends: list[dict[str, Tensor]] = []
    method = Expandable(**ALWAYS)  # type: ignore[arg-type]
    grow(world, [method], watch=lambda agent, task: ends.append(_weights(agent, 0)))
    assert ends[0]
    for end in ends[1:]:
        assert [n for n in ends[0] if "target" not in n and not end[n].equal(ends[0][n])] == []
    changed = Expandable(**NEVER)  # type: ignore[arg-type]
    moved: list[dict[str, Tensor]] = []
    grow(world, [changed], watch=lambda agent, task: moved.append(_weights(agent, 0)))
    assert any(not moved[1][n].equal(moved[0][n]) for n in moved[0])


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_the_frozen_modules_tasks_keep_their_policy(world: str, grow: Any) -> None:
    seen = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    said: dict[int, Any] = {}

    def watch(agent: StableBaselinesAgent, task: Any) -> None:
        for earlier in range(task.stage + 1):
            rows = seen[:, : agent.policy.observation_space.shape[0]].copy()
            rows[:, -4:] = np.eye(4, dtype=np.float32)[earlier]
            with agent.view(earlier) as act:
                actions, _ = act(rows, None, np.ones(len(rows), dtype=bool), deterministic=True)
            assert np.array_equal(said.setdefault(earlier, actions), actions)

    normalized = {"normalize": {"observations": "running"}}
    grow(world, [Expandable(**ALWAYS)], watch=watch, agent=normalized)  # type: ignore[arg-type]
    assert len(said) == 4


@pytest.mark.thorough
def test_without_its_parts_and_without_modules_it_learns_as_naive(grow: Any) -> None:
    """One column is the published network, by other names."""
    nothing = {"distillation": 0.0, "consolidation": 0.0, "max_modules": 1}
    ours = grow("sac", [Expandable(**nothing)]).policy.state_dict()  # type: ignore[arg-type]
    theirs = {tuple(t.flatten().tolist()) for t in grow("sac", []).policy.state_dict().values()}
    assert all(tuple(tensor.flatten().tolist()) in theirs for tensor in ours.values())


@pytest.mark.thorough
def test_memory_and_consolidation_are_those_of_the_newest_module(grow: Any) -> None:
    rows: list[tuple[int, int]] = []

    def watch(agent: StableBaselinesAgent, task: Any) -> None:
        cloning, ewc = method.parts
        assert isinstance(cloning, Cloning)
        assert isinstance(ewc, EWC)
        held = sum(bool(t.abs().sum() > 0) for t in ewc.penalty.importance.values())
        rows.append((len(cloning.stored), held))

    method = Expandable(**(ALWAYS | {"max_modules": 2}))  # type: ignore[arg-type]
    grow("ppo", [method], watch=watch)
    # The first task's 64; those of the second, in a new module; and then two and three tasks'.
    assert [kept for kept, _ in rows] == [64, 64, 128, 192]
    assert all(held > 0 for _, held in rows)


def test_no_module_is_added_before_an_episode_has_ended(train: Any) -> None:
    """Pendulum's episodes take 200 steps: after 64 nothing is known."""
    method = Expandable(**ALWAYS)  # type: ignore[arg-type]
    train("sac", lambda: [method], tasks=2, score={"random": -1000.0, "reference": 0.0})
    assert set(method._modules.values()) == {0}


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
@pytest.mark.parametrize("arguments", [ALWAYS, NEVER], ids=["always", "never"])
def test_a_restart_changes_nothing(
    world: str, arguments: dict[str, Any], train: Any, same: Any
) -> None:
    given = {"score": SCORE, "changes": {"time_limit": 20}}
    straight = train(world, lambda: [Expandable(**arguments)], **given)
    for stage in (0, 1):
        again = train(world, lambda: [Expandable(**arguments)], restart_after=stage, **given)
        same(straight, again)


def test_validate_wants_scores(refusal: Any) -> None:
    said = refusal("expandable")
    assert "'expandable' must be told how returns become scores" in said
    assert refusal("expandable", stream="{task_id: hidden}").count("must be told") == 2
    assert "must be from 0 to 1, got 2" in refusal("{expandable: {patience: 2.0}}")


def test_scores_of_training_episodes(train: Any) -> None:
    """CartPole pays 1 per step: lengths, scaled; and nothing of the episode that runs on."""
    agent = train("ppo", tasks=1, steps=256, score={"random": 0.0, "reference": 100.0})
    scores = agent.recent_scores(100)
    lengths = [info["l"] for info in agent.model.ep_info_buffer]
    assert scores == [length / 100 for length in lengths]
    assert 128 < sum(lengths) <= 256
    assert agent.recent_scores(2) == scores[-2:]
