"""Agents on small budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.streams.task_stream import TaskExperience, make_stream
from holdfast.scenarios.schema.scenario import Scenario

Start = Callable[..., tuple[StableBaselinesAgent, list[TaskExperience]]]


@pytest.fixture
def make_agent() -> Start:
    """Return an agent and the train stream of two conflicting tasks."""

    def make(
        agent: dict[str, Any], env: str, steps: int = 64, **keys: Any
    ) -> tuple[StableBaselinesAgent, list[TaskExperience]]:
        mirrored = {"action_gain": -1.0} if env == "Pendulum-v1" else {"action_map": [1, 0]}
        scenario = Scenario.model_validate(
            {
                "tasks": [
                    {"name": "a", "env": env, "steps": steps},
                    {"name": "b", "env": env, "steps": steps, "changes": mirrored},
                ],
                "agent": agent,
            }
            | keys
        )
        return StableBaselinesAgent(scenario), list(make_stream(scenario, 0).train_stream)

    return make
