"""Exportable policies: a torch module for each, and what it did in its task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from holdfast import seeding
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.policies.policy_module import Classifying, Deployed
from holdfast.continual.policies.restore import Restored
from holdfast.continual.policies.trained_agent import Met, TaskAgent, fitting_layers
from holdfast.envs.base.fitting import fit
from holdfast.errors import UsageError
from holdfast.registry import SUPERVISED, algorithm
from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from holdfast.continual.policies.trained_team import TaskTeam

COMPARED = 256
"""Observations of a task on which an export is compared with the policy."""

_OBSERVATION = "observation"


@dataclass
class Exportable:
    """One policy in one task.

    Attributes:
        group: Whose policy it is; empty for a single agent.
        algorithm: What it was trained with.
        module: Observations, and masks where there are some, to actions.
        keys: Entries of a Dict observation, in order; empty where it is one array.
        has_masks: Whether action masks are the last input.
        inputs: Of every input, ``COMPARED`` rows that were met in the task.
        actions: What the policy did there, in units of the environment, shape (rows, ...).
        action: The action space, in words.
    """

    group: str
    algorithm: str
    module: nn.Module
    keys: tuple[str, ...]
    has_masks: bool
    inputs: list[NDArray[Any]]
    actions: NDArray[Any]
    action: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return (*(self.keys or (_OBSERVATION,)), *((MASKS,) if self.has_masks else ()))

    def arguments(self, rows: int) -> tuple[Any, ...]:
        """Return the first rows of the inputs as the module's arguments."""
        return self.as_arguments([np.resize(v, (rows, *v.shape[1:])) for v in self.inputs])

    def as_arguments(self, inputs: list[NDArray[Any]]) -> tuple[Any, ...]:
        """Return arrays, one for each input, as the module's arguments."""
        tensors = [torch.as_tensor(rows) for rows in inputs]
        if not self.keys:
            return tuple(tensors)
        return dict(zip(self.keys, tensors, strict=False)), *tensors[len(self.keys) :]


Exporting = AbstractContextManager[list[Exportable]]
"""Policies, each acting as in one task until the block ends."""


def check_exportable(scenario: Scenario) -> None:
    """Raise unless the policies of an algorithm are functions of one observation.

    Raises:
        UsageError: They are not.
    """
    name = scenario.agent.algorithm
    why = ""
    if algorithm(name).output is None:
        why = "its action depends on a state that it keeps from step to step"
    elif "joint" in algorithm(name).shown:
        why = "it acts for all agents of a group at once"
    if why:
        where = f"agent.algorithm: '{name}' cannot be exported"
        raise UsageError(f"{where}: {why}; use holdfast.open_run")


@contextmanager
def of_classifier(agent: Any, measured: Any) -> Iterator[list[Exportable]]:
    """Return the network of a supervised agent, which acts in a task until the block ends.

    Args:
        agent: The agent.
        measured: The experience of the eval stream that holds the task's test set.
    """
    data = measured.dataset.eval()
    count = min(COMPARED, len(data))
    inputs = np.stack([np.asarray(data[row][0]) for row in range(count)])
    with agent.view(measured.task_index) as answer:
        classes, _ = answer(inputs, None, np.ones(count, np.bool_), deterministic=True)
        module = Classifying(agent.policy, answer.label)
        yield [Exportable("", SUPERVISED, module, (), False, [inputs], classes, "a class")]


@contextmanager
def of_agent(
    restored: Restored, acting: TaskAgent, task: int, seed: int
) -> Iterator[list[Exportable]]:
    """Return the policy of a single agent, which acts in a task until the block ends.

    Args:
        restored: The agent.
        acting: The agent in the task.
        task: Index of the task.
        seed: The cell's, from whose evaluation episodes observations are taken.

    Raises:
        UsageError: The policy is no function of one observation.
    """
    check_exportable(restored.scenario)
    agent: Any = restored.agent
    with closing(acting.make_env()) as env:
        met = _met(acting, env, seed, task)[""]
        masked = env.has_wrapper_attr(MASKS) and agent.takes_masks
        module = Deployed(agent, acting.fitted)
        found = _exportable("", agent, module, met, masked, str(env.action_space))
    # After acting, which opens the view too, and leaves it for that of the newest task.
    with agent.view(task):
        yield [found]


@contextmanager
def of_team(
    restored: Restored, acting: TaskTeam, task: int, seed: int
) -> Iterator[list[Exportable]]:
    """Return the policy of each group that learns in a task, acting there until the block ends.

    Args:
        restored: The team.
        acting: The team in the task.
        task: Index of the task.
        seed: As in ``of_agent``.

    Raises:
        UsageError: A policy is no function of one observation, the task changes what agents see or
            do, or those of a group differ in that.
    """
    from holdfast.envs.multiagent.parallel import described  # here: PettingZoo is an extra

    check_exportable(restored.scenario)
    scenario, spaces, agent = restored
    team_agent: Any = agent
    entry = scenario.tasks[task]
    if entry.changes != Changes():
        raise UsageError(
            f"task '{entry.name}' has changes: to what its agents see or do, which are no part of "
            "a policy; export another task (--task)"
        )
    shown, _ = agent.shown_task(task)
    team = spaces.teams[task]
    with agent.view(task) as acts:
        groups = [group for group in team.groups if group in acts]
    with closing(acting.make_env()) as env:
        met = _met(acting, env, seed, task)
    found = []
    for group in groups:
        names = team.groups[group]
        if not names or group in entry.partners:
            continue
        own = team.spaces[names[0]]
        others = [name for name in names if team.spaces[name] != own]
        if others:
            raise UsageError(
                f"task '{entry.name}': '{names[0]}' and '{others[0]}' of group '{group}' see or do "
                "different things, so that one file cannot serve both"
            )
        learner = team_agent.resting.get(group) or team_agent.member(group)
        fitted = fit(described(own, Changes()), spaces.groups[group], scenario, shown)
        rows = [step for name in names for step in met[name]][:COMPARED]
        masked = rows[0].masks is not None and learner.takes_masks
        module = Deployed(learner, fitting_layers(fitted))
        found.append(_exportable(group, learner, module, rows, masked, str(own.action)))
    with agent.view(task):  # as in of_agent
        yield found


def _met(acting: TaskAgent | TaskTeam, env: Any, seed: int, task: int) -> dict[str, list[Met]]:
    """Return what each agent meets at ``COMPARED`` steps of evaluation episodes, by name."""
    met: dict[str, list[Met]] = {}
    for number in itertools.count():
        start = seeding.derive(seed, "evaluation", task, number)
        for step in acting.episode(env, start, number):
            for name, one in step.items():
                met.setdefault(name, []).append(deepcopy(one))
            if sum(map(len, met.values())) >= COMPARED * len(met):
                return met
    raise AssertionError  # there is always another episode


def _exportable(
    group: str,
    agent: StableBaselinesAgent,
    module: nn.Module,
    met: list[Met],
    masked: bool,
    action: str,
) -> Exportable:
    seen = [one.observation for one in met]
    keys = tuple(seen[0]) if isinstance(seen[0], dict) else ()
    inputs = [np.stack([one[key] for one in seen]) for key in keys] or [np.stack(seen)]
    if masked:
        inputs.append(np.stack([np.asarray(one.masks, bool) for one in met]))
    actions = np.stack([np.asarray(one.action) for one in met])
    name = agent.scenario.agent.algorithm
    return Exportable(group, name, module, keys, masked, inputs, actions, action)
