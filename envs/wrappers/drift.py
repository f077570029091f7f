"""A world that moves while its task is trained, or differs from episode to episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym

from holdfast import seeding
from holdfast.envs.wrappers.changes import SetAttributes
from holdfast.scenarios.schema.streams import draw
from holdfast.scenarios.schema.task import Drift

Applied = Callable[[int, dict[str, float]], None]
"""Takes a step of the task and the values that were set there."""


class Drifting(gym.Wrapper[Any, Any, Any, Any]):
    """Sets attributes of the unwrapped environment to what their drift says of the present step.

    The step of the task is that of this environment times the number of environments side by side.

    Args:
        env: The environment of one task.
        drift: By attribute; a dotted name reaches into one.
        steps: The task's budget.
        n_envs: Environments side by side.
        applied: Called with what was set, whenever it changes.
        taken: Steps of this environment before it was built, in the same task.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        drift: Mapping[str, Drift],
        steps: int,
        n_envs: int = 1,
        applied: Applied | None = None,
        *,
        taken: int = 0,
    ) -> None:
        super().__init__(env)
        self._drift, self._steps, self._n_envs, self._applied = drift, steps, n_envs, applied
        self._fixed: int | None = None
        self._taken = taken
        self._set: dict[str, float] = {}
        self._attributes = SetAttributes(env, self._values(drift, 0), "drift")
        self._moving = {name: entry for name, entry in drift.items() if entry.per == "step"}

    def show_step(self, step: int) -> None:
        """Stand still at a step of the task from the next reset on, for evaluation."""
        self._fixed = step

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment as it is at this step."""
        self._move(self._drift)
        return self._attributes.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Step the environment; what drifts per step moves first."""
        if self._moving and self._fixed is None:
            self._move(self._moving)
        self._taken += 1
        return self.env.step(action)

    def get_state(self) -> dict[str, Any]:
        """Return nothing: the step at which a drift is, is told when it is built."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:  # noqa: ARG002  # it is empty
        """Set all that drifts at the next step, as the environment's own state may hold it, too."""
        self._set.clear()

    def _values(self, drift: Mapping[str, Drift], step: int) -> dict[str, float]:
        return {name: entry.at(step, self._steps) for name, entry in drift.items()}

    def _move(self, drift: Mapping[str, Drift]) -> None:
        step = self._fixed if self._fixed is not None else self._taken * self._n_envs
        values = self._values(drift, step)
        changed = {name: value for name, value in values.items() if value != self._set.get(name)}
        if changed:
            self._attributes.change(changed)
            self._set |= changed
            if self._applied is not None and self._fixed is None:
                self._applied(step, dict(self._set))


class Randomized(gym.Wrapper[Any, Any, Any, Any]):
    """Draws attributes of the unwrapped environment at every reset: domain randomisation.

    It has a generator of its own, seeded by the seed of the reset, so that episodes are repeatable
    and the environment's own random numbers stay what they were. ``info["randomized"]`` of the
    reset holds what was drawn.

    Args:
        env: The environment of one task.
        randomize: Distribution of each attribute, such as ``uniform(5, 15)``; a dotted name reaches
            into one.
    """

    def __init__(self, env: gym.Env[Any, Any], randomize: Mapping[str, str]) -> None:
        super().__init__(env)
        self._randomize = randomize
        self._rng = seeding.generator(0, "randomize")
        self._attributes = SetAttributes(env, self._drawn(), "randomize")

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Draw the attributes and reset the environment."""
        if seed is not None:
            self._rng = seeding.generator(seed, "randomize")
        values = self._drawn()
        self._attributes.change(values)
        observation, info = self._attributes.reset(seed=seed, **kwargs)
        return observation, {**info, "randomized": values}

    def _drawn(self) -> dict[str, float]:
        return {name: draw(text, self._rng) for name, text in self._randomize.items()}
