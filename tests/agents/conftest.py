"""Agents on small budgets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.streams.task_stream import TaskExperience, make_stream
from holdfast.scenarios.schema.scenario import Scenario

# JAX as an engine's worker has it: on the processor, with one thread. Read when JAX begins, later.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

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
