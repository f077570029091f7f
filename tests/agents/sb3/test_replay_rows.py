"""A replay buffer in parts: only new rows each time, and all of them come back."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from torch import Tensor

from holdfast.agents.base.buffers import ring_arrays
from holdfast.agents.sb3 import replay_rows
from holdfast.agents.sb3.model_state import cut_episodes
from holdfast.agents.sb3.replay_rows import ReplayRows

BOX = gym.spaces.Box(-1, 1, (2,), np.float32)
SIZE = 10


def ring(kind: type[Any] = ReplayBuffer, n_envs: int = 1) -> Any:
    space = gym.spaces.Dict({"a": BOX, "b": BOX}) if kind is DictReplayBuffer else BOX
    return kind(SIZE * n_envs, space, BOX, device="cpu", n_envs=n_envs)


def add(buffer: Any, count: int, rng: np.random.Generator) -> None:
    def seen() -> Any:
        rows = rng.random((buffer.n_envs, 2), np.float32)
        return {"a": rows, "b": -rows} if isinstance(buffer, DictReplayBuffer) else rows

    for _ in range(count):
        zeros = np.zeros(buffer.n_envs, np.float32)
        action = rng.random((buffer.n_envs, 2), np.float32)
        buffer.add(seen(), seen(), action, action[:, 0], zeros, [{}] * buffer.n_envs)


@pytest.mark.parametrize("kind", [ReplayBuffer, DictReplayBuffer])
@pytest.mark.parametrize("counts", [[3, 4, 1, 5, 9], [25, 1], [4, 10, 2], [1] * 23, [9, 1, 0, 3]])
def test_all_rows_come_back_from_parts_that_are_written_once(
    kind: type[Any], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_rows, "PART_BYTES", 150)  # two or three rows
    buffer, rows, rng = ring(kind, 2), ReplayRows(), np.random.default_rng(0)
    disk: dict[str, dict[str, Tensor]] = {}
    steps = 0
    for number, count in enumerate(counts, start=1):
        add(buffer, count, rng)
        steps += count
        parts, told = rows.take(buffer, number, steps)
        new = parts.keys() - disk.keys()
        written = sum(len(parts[name]()["actions"]) for name in new)
        assert written <= (SIZE if number == 1 or count + 1 >= SIZE else count)
        disk |= {name: {n: t.clone() for n, t in parts[name]().items()} for name in new}
        kept = {name: partial(disk.__getitem__, name) for name in parts}
        again = ring(kind, 2)
        ReplayRows().put_back(again, told, kept, steps)
        assert (again.pos, again.full) == (buffer.pos, buffer.full)
        size = buffer.size()
        for name, array in ring_arrays(buffer).items():
            assert np.array_equal(ring_arrays(again)[name][:size], array[:size])
        # No part is kept whose rows were all written over.
        assert sum(stop - start for _, start, stop in told["spans"]) <= SIZE + 3 * 4


def test_a_sum_over_steps_stops_where_an_episode_is_cut() -> None:
    buffer = ring(NStepReplayBuffer, 2)
    add(buffer, 3, np.random.default_rng(0))
    buffer.dones[2, 1] = 1.0  # the second environment's has ended by itself

    class Model:
        replay_buffer = buffer
        action_noise = None

    cut_episodes(Model())
    assert buffer.timeouts[2].tolist() == [1.0, 0.0]
    assert buffer.dones[2].tolist() == [0.0, 1.0]
    add(buffer, 2, np.random.default_rng(1))
    samples = buffer._get_samples(np.array([1, 1, 1, 1]))
    first = buffer.gamma * buffer.rewards[2] + buffer.rewards[1]  # of either environment
    assert {round(float(r), 5) for r in samples.rewards} <= {round(float(r), 5) for r in first}
    assert set(samples.dones.flatten().tolist()) <= {0.0, 1.0}
    plain = ring(ReplayBuffer)
    add(plain, 3, np.random.default_rng(0))
    Model.replay_buffer = plain
    cut_episodes(Model())
    assert not plain.timeouts.any()  # a row holds its own successor: nothing is marked
    assert not plain.dones.any()
