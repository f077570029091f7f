"""Perfect memory: what is kept, and how often each task is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from holdfast.continual.methods.rehearsal.perfect_memory import PerfectMemory


def test_every_transition_is_kept_and_drawn_alike(train: Any) -> None:
    """Tasks of 64, 64 and 64 steps: after the third, a third of the rows is of each."""
    (method,) = methods = [PerfectMemory()]
    seen: list[Any] = []

    def look(agent: Any, experience: Any) -> None:
        method.pre_adapt(agent.doors(method), experience)  # as if the same task came once more
        agent.recent.attach(agent.model.replay_buffer)
        seen.append(agent.model.replay_buffer.sample(3000).observations[:, -3:].argmax(-1))
        agent.recent.detach()

    train("sac", lambda: methods, watch=look)
    stored = method.state()["observations"]
    assert stored[:, -3:].argmax(-1).tolist() == [0] * 64 + [1] * 64 + [2] * 64
    # The store holds the current task too in this look: of 128, 192 and 256 rows, 64 are each of
    # the earlier tasks and 128 of the current one.
    for count, tasks in enumerate(seen, start=1):
        shares = np.bincount(tasks, minlength=3)[:count] / 3000
        expected = np.array([64.0] * (count - 1) + [128.0]) / (64 * (count + 1))
        assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / 3000)


def test_restarted_after_the_first_task_it_ends_the_same(train: Any, same: Any) -> None:
    def build() -> list[PerfectMemory]:
        return [PerfectMemory()]

    same(train("dqn", build), train("dqn", build, restart_after=0))


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"carry": {"replay_buffer": True}}, "would count them twice"),
        ({"agent": {"algorithm": "dqn", "buffer_size": 9}}, r"10 steps .* write at least 10"),
    ],
)
def test_what_would_lose_or_double_transitions_is_refused(
    keys: Any, text: str, make_scenario: Any
) -> None:
    from holdfast.continual.training.preflight import build
    from holdfast.errors import UsageError

    agent = {"algorithm": "dqn", "buffer_size": 100}
    with pytest.raises(UsageError, match=text):
        build(make_scenario(**({"methods": ["perfect-memory"], "agent": agent} | keys)))
