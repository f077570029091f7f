"""The doors that a method declares, and a few facts about the learner."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from holdfast import registry
from holdfast.errors import UsageError
from holdfast.signature import CONTRACT, DOORS

if TYPE_CHECKING:
    from holdfast.agents.doors.gradients import Gradients
    from holdfast.agents.doors.lifecycle import Lifecycle
    from holdfast.agents.doors.memory import Memory
    from holdfast.agents.doors.networks import Networks
    from holdfast.agents.doors.outputs import Outputs
    from holdfast.agents.doors.plugins import Plugins
    from holdfast.scenarios.schema.scenario import Scenario

_HOOKS = ("pre_adapt", "post_adapt", "load_state", "due")


class ClosedDoor(UsageError, AttributeError):
    """A method reads what it was not given."""


@dataclass(frozen=True)
class Facts:
    """Facts about the learner that every method may know.

    Attributes:
        algorithm: Its name.
        on_policy: Whether it learns from rollouts; None for data sets.
        output: What its output is: ``distribution``, ``deterministic``, ``values``, or None.
        device: Where its tensors are.
        current_task: Task that the current model was built for.
        id_width: Length of the one-hot task id in observations; 0 where it is hidden.
        has_heads: Whether each task has a head of its own.
        carries: What a task switch carries: ``weights``, ``optimizer``, ``replay_buffer``.
        hides_boundaries: Whether the stream hides where tasks end.
        longest_task: Steps of the longest task.
        stream_steps: Steps of the whole stream, for the size of what is kept of it.
        settings: The algorithm's arguments, those left out with their defaults.
        n_envs: Environments that it steps side by side; in a team, seats, known once it is built.
        round_steps: Steps of all environments between one round of updates and the next.
        observation_space: Of the current model; None before the first is built.
    """

    algorithm: str
    on_policy: bool | None
    output: str | None
    device: torch.device
    current_task: int
    id_width: int
    has_heads: bool
    carries: frozenset[str]
    hides_boundaries: bool
    longest_task: int
    stream_steps: int
    settings: Mapping[str, Any]
    n_envs: int = 0
    round_steps: int = 1
    observation_space: Any = None


def facts_of(scenario: Scenario, **now: Any) -> Facts:
    """Return the facts that a scenario states, with those of an agent as it is now."""
    algorithm = registry.algorithm(scenario.agent.algorithm)
    stated = {
        "algorithm": scenario.agent.algorithm,
        "on_policy": algorithm.on_policy,
        "output": algorithm.output,
        "id_width": scenario.id_width,
        "has_heads": scenario.stream.task_id == "heads",
        "carries": frozenset(name for name, value in scenario.carry.model_dump().items() if value),
        "hides_boundaries": scenario.stream.boundaries == "hidden",
        "longest_task": max(task.steps for task in scenario.tasks),
        "stream_steps": scenario.total_steps,
        "settings": scenario.agent.arguments,
    }
    return Facts(**stated | now)


class Doors:
    """The doors that a method declares; reading another raises.

    Args:
        method: Whose doors they are.
        made: Makes each door that the agent has.
        facts: Returns the facts as they are now.
        step: Returns the environment steps taken in the current task.
        log: Takes a number by tag.
        warn: Takes a line for the user.

    Raises:
        ClosedDoor: If the method is written for the agent itself, as methods once were.
    """

    gradients: Gradients
    memory: Memory
    networks: Networks
    lifecycle: Lifecycle
    output: Outputs
    plugins: Plugins

    def __init__(
        self,
        method: Any,
        made: Mapping[str, Callable[[], Any]],
        *,
        facts: Callable[[], Facts],
        step: Callable[[], int],
        log: Callable[[str, Any], None],
        warn: Callable[[str], None],
    ) -> None:
        self._name = getattr(method, "name", None) or type(method).__name__
        self._declared = tuple(method.doors)
        self._has, self._facts, self._step = tuple(made), facts, step
        self._log, self._warn = log, warn
        _check_contract(method, self._name)
        for door in self._declared:
            if door in made:
                setattr(self, door, made[door]())

    @property
    def facts(self) -> Facts:
        """Facts about the learner, as they are now."""
        return self._facts()

    @property
    def step(self) -> int:
        """Environment steps taken in the current task so far."""
        return self._step()

    def log(self, tag: str, value: Any) -> None:
        """Log a number with the algorithm's own, at their next dump: ``method/<name>/<what>``."""
        self._log(tag, value)

    def warn(self, text: str) -> None:
        """Show a line to the user when the task begins."""
        self._warn(text)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(name)
            if name not in DOORS:
                raise ClosedDoor(f"method {self._name}: doors.{name} does not exist. {CONTRACT}")
            if name in self._declared:
                raise ClosedDoor(f"method {self._name}: this agent has no {name} door")
            declared = ", ".join(f'"{door}"' for door in (*self._declared, name))
            raise ClosedDoor(
                f"method {self._name}: reads doors.{name}, which its class does not declare; "
                f"write: doors = ({declared},)"
            )


def _check_contract(method: Any, name: str) -> None:
    for hook in _HOOKS:
        function = getattr(type(method), hook, None)
        names: Iterable[str] = inspect.signature(function).parameters if function else ()
        if "agent" in names:
            raise ClosedDoor(f"method {name}: {hook} takes an agent. {CONTRACT}")
