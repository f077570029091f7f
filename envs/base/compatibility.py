"""Compatibility of spaces with algorithms and policies: actions taken, observations read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete

from holdfast.envs.base.spaces import Space, StreamSpaces
from holdfast.errors import ScenarioError
from holdfast.registry import AGENTS, ALGORITHMS, TEAM_ALGORITHMS
from holdfast.scenarios.schema.scenario import Scenario

SMALLEST = 36
"""Pixels of a side that the three convolutions of Stable-Baselines3's NatureCNN need."""


def check_actions(scenario: Scenario, stream: StreamSpaces, *, team: bool = False) -> None:
    """Raise if the scenario's algorithm cannot take the stream's actions, or a team's.

    Raises:
        ScenarioError: Names the algorithms that can. An algorithm of the user's own is not checked.
    """
    algorithm = AGENTS.get(scenario.agent.algorithm)
    space = stream.action
    if algorithm is None:
        return
    able = algorithms_for(space, team=team)
    if type(space).__name__ not in algorithm.actions:
        listed = ", ".join(able) or "no known algorithm"
        text = f"{scenario.agent.algorithm} cannot take the action space {space}; {listed} can"
        raise ScenarioError([scenario.problem("agent.algorithm", text)])
    if isinstance(space, Discrete) and space.start != 0:
        listed = ", ".join(str(space.start + number) for number in range(space.n))
        text = (
            f"the actions {space} do not start at 0, which algorithms take for granted; "
            f"add to each task `changes: {{action_map: [{listed}]}}`"
        )
        raise ScenarioError([scenario.problem("tasks", text)])
    if isinstance(space, Box) and not space.is_bounded():
        text = f"the action space {space} has no finite bounds; wrap it, or give it some"
        raise ScenarioError([scenario.problem("tasks", text)])


def algorithms_for(space: Space, *, team: bool = False) -> list[str]:
    """Return the names of the algorithms that can take an action space, of an agent or a team."""
    kind = type(space).__name__
    known = {**ALGORITHMS, **(TEAM_ALGORITHMS if team else {})}
    return [name for name, algorithm in known.items() if kind in algorithm.actions]


def check_policy(scenario: Scenario, observations: Space) -> None:
    """Raise if the scenario's policy cannot read observations of this form and size.

    Args:
        scenario: The scenario. An algorithm or a features extractor of the user's own is not
            checked.
        observations: The stream's observation space, before the task id is added.

    Raises:
        ScenarioError: Says which policy can, or how to enlarge or flatten pictures.
    """
    agent = scenario.agent
    if agent.algorithm not in ALGORITHMS:
        return
    entries = observations.spaces if isinstance(observations, spaces.Dict) else {"": observations}
    beside = bool(scenario.id_width) and len(observations.shape or ()) != 1
    if ALGORITHMS[agent.algorithm].is_streaming:
        _check_one_array(scenario, observations, beside)
        return
    _check_form(scenario, "" not in entries, beside)
    given = agent.arguments.get("policy_kwargs")
    own = isinstance(given, Mapping) and "features_extractor" in given
    if own or (agent.policy.startswith("Mlp") and not beside):
        return
    from stable_baselines3.common.preprocessing import is_image_space  # here: it imports torch

    if agent.policy == "CnnPolicy" and not beside and not is_image_space(entries[""]):
        text = f"CnnPolicy is for pictures, and observations are {observations}; write MlpPolicy, "
        raise ScenarioError([scenario.problem("agent.policy", f"{text}or leave policy out")])
    for key, space in entries.items():
        if is_image_space(space) and min(_sides(space)) < SMALLEST:
            raise ScenarioError([scenario.problem("tasks", _too_small(key, *_sides(space)))])


def _check_one_array(scenario: Scenario, observations: Space, beside: bool) -> None:
    """Raise unless a streaming learner is shown one array of numbers."""
    name = scenario.agent.algorithm
    if beside and isinstance(observations, Box):
        text = f"{name} reads one array, and the task id stands beside an observation that is no "
        text += "vector; write stream: {task_id: hidden}, or flatten the observation in wrappers:"
        raise ScenarioError([scenario.problem("stream.task_id", text)])
    if not isinstance(observations, Box):
        text = f"{name} reads one array of numbers, and observations are {observations}; flatten "
        text += "them with wrappers: [gymnasium.wrappers:FlattenObservation]"
        raise ScenarioError([scenario.problem("tasks", text)])


def _check_form(scenario: Scenario, is_dict: bool, beside: bool) -> None:
    """Raise if a policy is named that takes one array where there are several, or the other way."""
    policy = scenario.agent.policy
    if policy not in ("MlpPolicy", "CnnPolicy", "MultiInputPolicy"):
        return
    if (policy == "MultiInputPolicy") == (is_dict or beside):
        return
    why, best = "observations are one array each", "MlpPolicy or CnnPolicy"
    if is_dict or beside:
        why, best = "observations are a Dict", "MultiInputPolicy"
    if beside and not is_dict:
        why = "the task id stands in a Dict beside an observation that is no vector"
    text = f"{policy} cannot read them: {why}; write {best}, or leave policy out"
    raise ScenarioError([scenario.problem("agent.policy", text)])


def _too_small(key: str, height: int, width: int) -> str:
    entry = f"the entry '{key}' of the observation" if key else "the observation"
    flatten = "" if key else ", flatten it with gymnasium.wrappers:FlattenObservation"
    return (
        f"{entry} is a picture of {height} x {width} pixels, and the convolutions of "
        f"Stable-Baselines3 need {SMALLEST} x {SMALLEST}; enlarge it in `wrappers:`{flatten}, or "
        "give a network: policy_kwargs: {features_extractor: module:Class}"
    )


def _sides(space: Space) -> tuple[int, int]:
    """Return height and width; the shortest side counts channels, as Stable-Baselines3 has it."""
    shape = space.shape or ()
    channels = int(np.argmin(shape))
    height, width = (side for axis, side in enumerate(shape) if axis != channels)
    return height, width
