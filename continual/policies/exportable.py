"""Exportable policies: a torch module for each, and what it did in its task."""

from __future__ import annotations

import itertools
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

    def act(self, inputs: list[NDArray[Any]]) -> Any:
        """Return what the policy does in torch."""
        return self.module(*self.as_arguments(inputs))


def check_exportable(scenario: Scenario) -> None:
    """Raise unless the policies of an algorithm are functions of one observation.

    Raises:
        UsageError: They are not.
    """
    name = scenario.agent.algorithm
    where = f"agent.algorithm: '{name}' cannot be exported"
    if algorithm(name).output is None:
        raise UsageError(
            f"{where}: its action depends on a state that it keeps from step to step; use "
            "holdfast.open_run"
        )
    if "joint" in algorithm(name).shown:
        raise UsageError(
            f"{where}: it acts for all agents of a group at once; use holdfast.open_run"
        )


def of_classifier(agent: Any, measured: Any, answer: Any) -> Exportable:
    """Return the network of a supervised agent in the task whose view is open.

    Args:
        agent: The agent.
        measured: The experience of the eval stream that holds the task's test set.
        answer: What the view gives.
    """
    data = measured.dataset.eval()
    count = min(COMPARED, len(data))
    inputs = np.stack([np.asarray(data[row][0]) for row in range(count)])
    classes, _ = answer(inputs, None, np.ones(count, np.bool_), deterministic=True)
    module = Classifying(agent.policy, answer.label)
    return Exportable("", SUPERVISED, module, (), False, [inputs], classes, "a class")


def of_agent(restored: Restored, acting: TaskAgent, task: int, seed: int) -> Exportable:
    """Return the policy of a single agent in one task.

    Args:
        restored: The agent.
        acting: The agent in the task.
        task: Index of the task.
        seed: The cell's, from whose evaluation episodes observations are taken.
    """
    agent: Any = restored.agent
    env = acting.make_env()
    try:
        met = _met(acting, env, seed, task)[""]
        masked = env.has_wrapper_attr(MASKS) and agent.takes_masks
        module = Deployed(agent, acting.fitted)
        return _exportable("", agent, module, met, masked, str(env.action_space))
    finally:
        env.close()


def of_team(restored: Restored, acting: TaskTeam, task: int, seed: int) -> list[Exportable]:
    """Return the policy of each group that learns in one task.

    Args:
        restored: The team.
        acting: The team in the task.
        task: Index of the task.
        seed: As in ``of_agent``.

    Raises:
        UsageError: The task changes what agents see or do, or those of a group differ in that.
    """
    from holdfast.envs.multiagent.parallel import described  # here: PettingZoo is an extra

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
    env = acting.make_env()
    try:
        met = _met(acting, env, seed, task)
    finally:
        env.close()
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
    return found


def _met(acting: TaskAgent | TaskTeam, env: Any, seed: int, task: int) -> dict[str, list[Met]]:
    """Return what each agent meets at ``COMPARED`` steps of evaluation episodes, by name."""
    met: dict[str, list[Met]] = {}
    for number in itertools.count():
        start = seeding.derive(seed, "evaluation", task, number)
        for step in acting.episode(env, start, number):
            for name, one in step.items():
                own = one._replace(observation=_copied(one.observation))
                met.setdefault(name, []).append(own)
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


def _copied(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)
