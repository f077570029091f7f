from collections.abc import Callable
from typing import Any

import pytest

from holdfast.continual.record import Episode
from holdfast.scenarios.schema import Scenario


@pytest.fixture
def make_scenario() -> Callable[..., Scenario]:
    """Two tasks of 10 steps, scores from 0 (random) to 100 (reference)."""

    def make(**changes: Any) -> Scenario:
        given: dict[str, Any] = {
            "name": "demo",
            "tasks": [
                {"name": name, "env": "CartPole-v1", "steps": 10} for name in ("left", "right")
            ],
            "agent": {"algorithm": "ppo"},
            "methods": ["naive"],
            "seeds": [0],
            "score": {"random": 0.0, "reference": 100.0},
        }
        return Scenario.model_validate(given | changes)

    return make


@pytest.fixture
def make_scores() -> Callable[..., list[Episode]]:
    """One evaluation point of two episodes each, 10 below and above the given mean returns."""

    def make(stage: int, step: int, **returns: float) -> list[Episode]:
        return [
            {
                "stage": stage,
                "step": step,
                "task": task,
                "episode": episode,
                "return": mean + offset,
                "length": 7,
                "success": None,
                "unseen": False,
            }
            for task, mean in returns.items()
            for episode, offset in enumerate((-10.0, 10.0))
        ]

    return make
