"""What there is to export of an agent: a module for each policy, and what it did in its task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from holdfast import seeding
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.policies.policy_module import Classifying, Deployed
from holdfast.continual.policies.restore import Restored
from holdfast.continual.policies.trained_agent import TaskAgent, fitting_layers
from holdfast.continual.streams.task_stream import make_stream
from holdfast.envs.base.fitting import fit
from holdfast.errors import UsageError
from holdfast.registry import SUPERVISED, algorithm
from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.observation_keys import MASKS

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


@contextmanager
def exportables(restored: Restored, task: int, seed: int) -> Iterator[list[Exportable]]:
    """Give every policy of an agent, acting as in a task until the block ends.

    Args:
        restored: The agent.
        task: Index of the task.
        seed: The cell's, from whose evaluation episodes observations are taken.

    Raises:
        UsageError: If the agent has no policy that is a function of one observation.
    """
    scenario, agent = restored.scenario, restored.agent
    name = scenario.agent.algorithm
    where = f"agent.algorithm: '{name}' cannot be exported"
    if not scenario.is_supervised:
        if algorithm(name).output is None:
            raise UsageError(
                f"{where}: its action depends on a state that it keeps from step to step; use "
                "holdfast.open_run"
            )
        if "joint" in algorithm(name).shown:
            raise UsageError(
                f"{where}: it acts for all agents of a group at once; use holdfast.open_run"
            )
    if scenario.is_supervised:
        with agent.view(task) as answer:
            yield [_classifier(restored, task, seed, answer)]
        return
    # Before the view is opened: acting opens it too, and leaves it for that of the newest task.
    if scenario.agent.policies is not None:
        found = _team(restored, task, seed)
    else:
        found = [_single(restored, task, seed)]
    with agent.view(task):
        yield found


def _classifier(restored: Restored, task: int, seed: int, answer: Any) -> Exportable:
    measured = make_stream(restored.scenario, seed).eval_stream[task]
    data = measured.dataset.eval()
    count = min(COMPARED, len(data))
    inputs = np.stack([np.asarray(data[row][0]) for row in range(count)])
    classes, _ = answer(inputs, None, np.ones(count, np.bool_), deterministic=True)
    module = Classifying(restored.agent.policy, answer.label)
    return Exportable("", SUPERVISED, module, (), False, [inputs], classes, "a class")


def _single(restored: Restored, task: int, seed: int) -> Exportable:
    acting = TaskAgent(restored, task)
    agent: Any = restored.agent
    env = acting.make_env()
    try:
        met = _met(acting, env, seed, task)
        masked = env.has_wrapper_attr(MASKS) and agent.takes_masks
        module = Deployed(agent, acting.fitted)
        return _exportable("", agent, module, met, masked, str(env.action_space))
    finally:
        env.close()


def _met(acting: TaskAgent, env: Any, seed: int, task: int) -> list[tuple[Any, Any, Any]]:
    """Return observation, masks and action at ``COMPARED`` steps of evaluation episodes."""
    met: list[tuple[Any, Any, Any]] = []
    episode, is_over, observation = 0, True, None
    while len(met) < COMPARED:
        if is_over:
            start = seeding.derive(seed, "evaluation", task, episode)
            is_game = acting.task.opponents is not None
            options = {"measured": episode} if is_game else None
            observation, _ = env.reset(seed=start, options=options)
            episode += 1
        masks = np.asarray(env.get_wrapper_attr(MASKS)()) if env.has_wrapper_attr(MASKS) else None
        action = acting.act(observation, action_masks=masks)
        met.append((_copied(observation), masks, action))
        observation, _, terminated, truncated, _ = env.step(action)
        is_over = terminated or truncated
    return met


def _team(restored: Restored, task: int, seed: int) -> list[Exportable]:
    # Here: PettingZoo is an extra.
    from holdfast.continual.policies.trained_team import TaskTeam
    from holdfast.envs.multiagent.parallel import described, team_spaces

    scenario = restored.scenario
    entry = scenario.tasks[task]
    if entry.changes != Changes():
        raise UsageError(
            f"task '{entry.name}' has changes: to what its agents see or do, which are no part of "
            "a policy; export another task (--task)"
        )
    acting = TaskTeam(restored, task)
    agent: Any = restored.agent
    with agent.view(task) as acts:
        groups = list(acts)
    shown, _ = agent.shown_task(task)
    spaces = team_spaces(scenario)
    team = spaces.teams[task]
    met = _met_by_team(acting, seed, task)
    found = []
    for group in groups:
        names = team.groups.get(group, ())
        if not names or group in entry.partners:
            continue
        own = team.spaces[names[0]]
        others = [name for name in names if team.spaces[name] != own]
        if others:
            raise UsageError(
                f"task '{entry.name}': '{names[0]}' and '{others[0]}' of group '{group}' see or do "
                "different things, so that one file cannot serve both"
            )
        learner = agent.resting.get(group) or agent.member(group)
        fitted = fit(described(own, Changes()), spaces.groups[group], scenario, shown)
        rows = [step for name in names for step in met[name]][:COMPARED]
        masked = rows[0][1] is not None and learner.takes_masks
        module = Deployed(learner, fitting_layers(fitted))
        found.append(_exportable(group, learner, module, rows, masked, str(own.action)))
    return found


def _met_by_team(acting: Any, seed: int, task: int) -> dict[str, list[tuple[Any, Any, Any]]]:
    from holdfast.envs.multiagent.parallel import ACTION_MASK, unmasked

    env = acting.make_env()
    met: dict[str, list[tuple[Any, Any, Any]]] = {}
    episode = 0
    try:
        while sum(map(len, met.values())) < COMPARED * max(1, len(met)):
            observations, _ = env.reset(seed=seeding.derive(seed, "evaluation", task, episode))
            episode += 1
            while env.agents:
                seen = {name: observations[name] for name in env.agents}
                actions = acting.act(seen)
                for name, one in seen.items():
                    masks = np.asarray(one[ACTION_MASK], bool) if isinstance(one, dict) else None
                    met.setdefault(name, []).append((_copied(unmasked(one)), masks, actions[name]))
                observations, *_ = env.step(actions)
    finally:
        env.close()
    return met


def _exportable(
    group: str,
    agent: StableBaselinesAgent,
    module: nn.Module,
    met: list[tuple[Any, Any, Any]],
    masked: bool,
    action: str,
) -> Exportable:
    seen = [observation for observation, _, _ in met]
    keys = tuple(seen[0]) if isinstance(seen[0], dict) else ()
    inputs = [np.stack([one[key] for one in seen]) for key in keys] or [np.stack(seen)]
    if masked:
        inputs.append(np.stack([masks for _, masks, _ in met]).astype(bool))
    actions = np.stack([np.asarray(action) for _, _, action in met])
    name = agent.scenario.agent.algorithm
    return Exportable(group, name, module, keys, masked, inputs, actions, action)


def _copied(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: np.array(value) for key, value in observation.items()}
    return np.array(observation)
