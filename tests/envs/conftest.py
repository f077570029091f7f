"""Environments and models that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.scenarios.schema import Scenario, Task


@pytest.fixture
def make_task() -> Callable[..., Task]:
    def make(env: str = "CartPole-v1", **keys: Any) -> Task:
        return Task.model_validate({"name": "task", "env": env, "steps": 100, **keys})

    return make


@pytest.fixture
def make_scenario() -> Callable[..., Scenario]:
    def make(*tasks: dict[str, Any], algorithm: str = "ppo", **keys: Any) -> Scenario:
        named = [{"name": f"task{index}", "steps": 100, **task} for index, task in enumerate(tasks)]
        return Scenario.model_validate({"tasks": named, "agent": {"algorithm": algorithm}, **keys})

    return make
