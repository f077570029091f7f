"""Generative replay: what is drawn, how it is labelled, and that no observation is kept."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from all_doors import reader

from holdfast.continual.methods.rehearsal.generative_replay import (
    GenerativeReplay,
    check_space,
    flattened,
    unflattened,
)
from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import TASK_ID

SMALL = {"samples": 40, "draws": 50, "batch_size": 16, "updates": 3, "latent": 2, "hidden": 8}


def _build(**arguments: Any) -> Any:
    return lambda: [GenerativeReplay(**(SMALL | arguments))]


@pytest.mark.slow
def test_it_learns_to_draw_the_observations_of_each_task() -> None:
    """Two tasks of two entries: means (0, 5) and (10, 5); in the first, x1 is near x0 + 5."""
    method, rng = GenerativeReplay(updates=1500, latent=2, hidden=32), np.random.default_rng(0)
    first = rng.normal(size=(1000, 1))
    rows = np.concatenate(
        [
            np.concatenate([first, first + 5 + 0.1 * rng.normal(size=(1000, 1))], 1),
            rng.normal((10.0, 5.0), (0.5, 2.0), size=(1000, 2)),
        ]
    )
    ids = torch.eye(2)[torch.arange(2000) // 1000]
    method.teach(torch.as_tensor(rows, dtype=torch.float32), ids, rng)
    assert method._generator is not None
    drawn = method._generator.draw(ids, torch.Generator().manual_seed(0)).numpy()
    for task in range(2):
        real, own = (x[1000 * task : 1000 * task + 1000] for x in (rows, drawn))
        np.testing.assert_allclose(own.mean(0), real.mean(0), atol=0.3)
        np.testing.assert_allclose(own.std(0), real.std(0), rtol=0.35)
    assert np.corrcoef(drawn[:1000].T)[0, 1] > 0.8


@pytest.mark.parametrize("task_id", ["observed", "hidden"])
def test_draws_are_labelled_by_the_old_policy(task_id: str, train: Any) -> None:
    """Under the statistics of its time; each id is that of a finished task."""
    (method,) = methods = _build()()
    keys = {"stream": {"task_id": task_id}, "agent": {"normalize": {"observations": "running"}}}
    agent = train("ppo-box", lambda: methods, tasks=2, **keys)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter += 1.0
    old = agent.normalizer.tensors()
    agent.normalizer.obs_rms.mean += 1.0
    arrays, outputs = method.dream(agent.doors(method), np.array([1]), np.random.default_rng(0))
    if task_id == "observed":
        assert np.array_equal(arrays[""][:, -2:], np.tile([0.0, 1.0], (50, 1)))
    agent.normalizer.load_tensors(old)
    with torch.no_grad():
        seen = agent.policy_input(arrays)
        expected = reader(agent).of(method.old.tensors, seen)
        now = agent.output()(seen)
    for name, values in outputs.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(values, now[name])


def test_the_model_learns_old_tasks_from_its_own_draws(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 observations of the task and as many draws for each task before it."""
    taught: list[Any] = []
    teach = GenerativeReplay.teach

    def spy(self: Any, rows: Any, ids: Any, rng: Any) -> None:
        taught.append(ids.argmax(-1).tolist())
        teach(self, rows, ids, rng)

    monkeypatch.setattr(GenerativeReplay, "teach", spy)
    train("ppo", _build())
    assert [len(tasks) for tasks in taught] == [40, 80, 120]
    assert [tasks[:40] for tasks in taught] == [[task] * 40 for task in range(3)]
    assert set(taught[1][40:]) == {0}
    assert set(taught[2][40:]) == {0, 1}


def test_no_observation_is_kept(train: Any) -> None:
    (method,) = methods = _build()()
    sizes = []
    train(
        "ppo",
        lambda: methods,
        watch=lambda *_: sizes.append(
            {name: tensor.numel() for name, tensor in method.state().items()}
        ),
    )
    assert sizes[0] == sizes[1] == sizes[2]
    assert {name.partition("/")[0] for name in sizes[0]} == {"generator", "policy"}


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_at_strength_zero_it_equals_naive(world: str, train: Any, same: Any) -> None:
    same(train(world), train(world, _build(strength=0.0)))


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac"])
def test_restarted_after_the_first_task_it_ends_the_same(world: str, train: Any, same: Any) -> None:
    keys = {"agent": {"normalize": {"observations": "running"}}}
    same(train(world, _build(), **keys), train(world, _build(), restart_after=0, **keys))


def test_flat_rows_and_back() -> None:
    rng = np.random.default_rng(0)
    box = gym.spaces.Box(-1, 1, (5,))
    observations = {"": rng.normal(size=(4, 5)).astype(np.float32)}
    rows = flattened(observations, box, 2)
    assert rows.shape == (4, 3)
    again = unflattened(rows, observations[""][:, 3:], box)
    assert np.array_equal(again[""], observations[""])

    space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (2, 2)), "b": box, TASK_ID: box})
    entries = {"a": rng.normal(size=(4, 2, 2)), "b": rng.normal(size=(4, 5)), TASK_ID: np.eye(4, 5)}
    entries = {key: values.astype(np.float32) for key, values in entries.items()}
    rows = flattened(entries, space, 5)
    assert rows.shape == (4, 9)
    for key, values in unflattened(rows, entries[TASK_ID], space).items():
        assert np.array_equal(values, entries[key])


@pytest.mark.parametrize(
    "space", [gym.spaces.Box(0, 255, (3, 64, 64), np.uint8), gym.spaces.Discrete(4)]
)
def test_images_and_codes_are_refused(space: Any) -> None:
    with pytest.raises(UsageError, match="use 'cloning'"):
        check_space(gym.spaces.Dict({"camera": space}))
