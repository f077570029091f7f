"""PettingZoo environments: their making, their spaces, and the groups their agents learn in."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

from holdfast.envs.base.loading import MissingPackage, UnknownEnvironment, imported, naming
from holdfast.envs.base.spaces import Space, StreamSpaces, merged_spaces
from holdfast.envs.multiagent.global_state import Parallel, merged_state, state_space
from holdfast.envs.wrappers.changes import apply_changes
from holdfast.errors import EnvironmentFailed, HoldfastError, Problem, ScenarioError, UsageError
from holdfast.offers import meant
from holdfast.registry import algorithm, suggestion
from holdfast.scenarios.schema.agent import Policies, grouped
from holdfast.scenarios.schema.changes import Changes
from holdfast.scenarios.schema.observation_keys import STATE
from holdfast.scenarios.schema.scenario import Scenario, Task

ACTION_MASK = "action_mask"
"""Key under which PettingZoo's games show allowed actions, beside ``observation``."""


@dataclass(frozen=True)
class Team:
    """The agents of one task.

    Attributes:
        groups: The agents of each group, in the environment's order; a group may have none.
        spaces: What each agent sees and does, its action mask left out.
        changed: The same after the task's changes.
        state: Space of the environment's global state; None where the algorithm is not shown it.
    """

    groups: dict[str, tuple[str, ...]]
    spaces: dict[str, StreamSpaces]
    changed: dict[str, StreamSpaces]
    state: Space | None = None


@dataclass(frozen=True)
class TeamSpaces:
    """Groups of learners and their spaces, over the whole stream.

    Attributes:
        teams: Of each of the scenario's tasks.
        groups: The spaces that every agent of a group is fitted to, before the task id is added.
    """

    teams: tuple[Team, ...]
    groups: dict[str, StreamSpaces]


def make_parallel(scenario: Scenario, task: Task, render_mode: str | None = None) -> Parallel:
    """Return a task's PettingZoo environment, in which all agents act at once.

    Its ``env`` is an id of PettingZoo's (``butterfly/pistonball_v6``), a module that has
    ``parallel_env`` (``mpe2.simple_spread_v3``), or ``module:factory``, which is called with the
    task's ``kwargs``. An AEC environment is converted where PettingZoo can.

    Raises:
        UsageError: A name or argument is wrong, a package is missing, or agents take turns.
        EnvironmentFailed: The constructor raised something else.
    """
    assert task.env is not None
    shown = {} if render_mode is None else {"render_mode": render_mode}
    with naming(task):
        return build_parallel(task.env, {**task.kwargs, **shown}, scenario.folder)


def build_parallel(target: str, kwargs: Mapping[str, Any], folder: Path | None) -> Parallel:
    """Return the PettingZoo environment called ``target``; see :func:`make_parallel`."""
    made = pettingzoo_env(target, kwargs, folder)
    if isinstance(made, AECEnv):
        if not made.metadata.get("is_parallelizable"):
            raise UsageError(
                f"in {target} agents take turns, and `policies:` needs them to act at once"
            )
        made = Cycle(made)
    elif isinstance(made, aec_to_parallel_wrapper):
        made = Cycle(made.aec_env)
    if not isinstance(made, ParallelEnv):
        raise UsageError(
            f"{target} made a {type(made).__name__}, not a PettingZoo environment; "
            "agent.policies is for those"
        )
    if not hasattr(made, "render_mode"):  # Stable-Baselines3 asks every environment for it
        made.render_mode = None
    return made


def pettingzoo_env(target: str, kwargs: Mapping[str, Any], folder: Path | None) -> Any:
    """Return what ``target`` makes, which should be a PettingZoo environment.

    Raises:
        UsageError: A name or argument is wrong, or a package is missing.
        EnvironmentFailed: The constructor raised something else.
    """
    try:
        return _made(target, dict(kwargs), folder)
    except HoldfastError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and "argument" in str(error):
            raise UsageError(f"{target}, kwargs: {error}") from error
        raise EnvironmentFailed(
            f"the constructor of {target} raised {type(error).__name__}: {error}"
        ) from error


class Cycle(aec_to_parallel_wrapper):  # type: ignore[misc]  # PettingZoo ships no types
    """Agents that take turns in a fixed order, shown as if they acted at once.

    It is PettingZoo's own conversion without what takes half of a light environment's time: its
    wrappers that check the order of calls and the bounds of actions, and an observation for each
    agent before its turn, at which nobody looks.

    Args:
        env: An AEC environment that says it can be converted (``is_parallelizable``).
    """

    def __init__(self, env: AECEnv) -> None:
        while isinstance(env, OrderEnforcingWrapper | AssertOutOfBoundsWrapper):
            env = env.env
        super().__init__(env)

    def step(self, actions: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Give every agent its turn, and add up the rewards of all turns."""
        env = self.aec_env
        rewards = dict.fromkeys(env.agents, 0.0)
        for agent in list(env.agents):
            assert agent == env.agent_selection, (
                f"it is {env.agent_selection}'s turn, not {agent}'s"
            )
            env.step(actions[agent])
            for name in env.agents:
                rewards[name] = rewards.get(name, 0.0) + env.rewards[name]
        ends, cuts, infos = dict(env.terminations), dict(env.truncations), dict(env.infos)
        observations = {agent: env.observe(agent) for agent in env.agents}
        while env.agents and (ends[env.agent_selection] or cuts[env.agent_selection]):
            env.step(None)
        self.agents = env.agents
        return observations, rewards, ends, cuts, infos


def _made(target: str, kwargs: dict[str, Any], folder: Path | None) -> Any:
    target = meant("environments", target)
    module, _, name = target.partition(":")
    if name:
        source = imported(module, folder)
        factory = getattr(source, name, None)
        if not callable(factory):
            known = [key for key, value in vars(source).items() if callable(value)]
            hint = suggestion(name, known, f"; did you mean '{module}:{{}}'?")
            raise UnknownEnvironment(f"module '{module}' has no factory '{name}'{hint}")
        return factory(**kwargs)
    if "/" in target:
        return _registered(target, kwargs)
    source = imported(target, folder)
    factory = getattr(source, "parallel_env", None) or getattr(source, "env", None)
    if factory is None:
        raise UnknownEnvironment(
            f"module '{target}' has neither parallel_env nor env, as PettingZoo's modules do; "
            f"name a factory in it: '{target}:factory'"
        )
    return factory(**kwargs)


def _registered(target: str, kwargs: dict[str, Any]) -> Any:
    import pettingzoo
    from pettingzoo.env_registry import exceptions, registration

    name = re.sub(r"_v(\d+)$", r"-v\1", target)
    api = "parallel" if name in registration.parallel_registry else "aec"
    try:
        return pettingzoo.make(api, name, **kwargs)
    except exceptions.FailedToImport as error:
        missing = error.__cause__ or error.__context__
        needs = f"the package '{missing.name}'" if isinstance(missing, ImportError) else "packages"
        raise MissingPackage(
            f"'{target}' needs {needs}; "
            f'install it with: pip install "pettingzoo[{target.partition("/")[0]}]"'
        ) from error
    except exceptions.PettingZooRegistryError as error:
        raise UnknownEnvironment(f"PettingZoo has no environment '{target}': {error}") from error


def team_of(env: Parallel, policies: Policies, where: str, changes: Changes | None = None) -> Team:
    """Return the agents of an environment in their groups.

    Raises:
        UsageError: An agent is in no group, or in two, or a change does not fit it.
    """
    found = {agent: agent_spaces(env, agent) for agent in env.possible_agents}
    if not found:
        raise UsageError(f"{where}: the environment has no possible_agents")
    changed = {}
    for agent, own in found.items():
        try:
            shown = described(own, changes or Changes())
        except UsageError as error:
            raise UsageError(f"{where}, agent '{agent}', {error}") from error
        changed[agent] = StreamSpaces(shown.observation_space, shown.action_space)
    return Team(grouped(policies, list(found), where), found, changed)


def agent_spaces(env: Any, agent: str) -> StreamSpaces:
    """Return what an agent of a PettingZoo environment sees and does, its action mask left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PettingZoo: spaces as attributes work, too
        seen, action = env.observation_space(agent), env.action_space(agent)
    if isinstance(seen, spaces.Dict) and ACTION_MASK in seen.spaces:
        seen = seen["observation"]
    return StreamSpaces(seen, action)


def unmasked(observation: Any) -> Any:
    """Return an observation without the action mask that stands beside it in a dict."""
    return observation["observation"] if isinstance(observation, dict) else observation


def described(own: StreamSpaces, changes: Changes) -> gym.Env[Any, Any]:
    """Return the spaces of one agent, with what its task changes, to fit wrappers of the stream to.

    Raises:
        UsageError: If a change does not fit the agent; the text begins with its key.
    """
    env: gym.Env[Any, Any] = gym.Env()
    env.observation_space, env.action_space = own.observation, own.action
    return apply_changes(env, changes)


def _nobody(scenario: Scenario, everyone: Sequence[str]) -> list[Problem]:
    """Return a problem for each pattern of ``agent.policies`` that no agent of any task fits."""
    policies, problems = scenario.agent.policies, []
    for name, patterns in policies.items() if isinstance(policies, Mapping) and everyone else ():
        for index, pattern in enumerate(patterns):
            if not any(fnmatchcase(agent, pattern) for agent in everyone):
                known = f"there are: {', '.join(everyone)}"
                hint = suggestion(pattern, everyone, otherwise=known)
                path = f"agent.policies.{name}[{index}]"
                problems.append(scenario.problem(path, f"no task has an agent '{pattern}'; {hint}"))
    return problems


def team_spaces(scenario: Scenario) -> TeamSpaces:
    """Return who learns where, and the spaces of each group over the stream.

    Each task's environment is built once and closed.

    Raises:
        ScenarioError: Every task that cannot be built, an agent in no group or in two, a group
            without agents, or agents of one group whose spaces differ without a rule.
        EnvironmentFailed: The constructor of an environment raised.
    """
    policies = scenario.agent.policies
    assert policies is not None
    shown = algorithm(scenario.agent.algorithm).shown
    teams, problems, everyone = [], [], list[str]()
    for index, task in enumerate(scenario.tasks):
        try:
            env = make_parallel(scenario, task)
            try:
                everyone += env.possible_agents
                where = f"task '{task.name}'"
                team = team_of(env, policies, where, task.changes)
                if "state" in shown:
                    team = replace(team, state=state_space(env, team.spaces, where))
                teams.append(team)
            finally:
                env.close()
        except UsageError as error:
            problems.append(scenario.problem(f"tasks[{index}]", str(error)))
    if problems := _nobody(scenario, everyone) + problems:
        raise ScenarioError(problems)
    beside: dict[str, Space] | None = {} if shown else None
    states = [team.state for team in teams if team.state is not None]
    if states:
        tasks = [task.name for task in scenario.tasks]
        beside = {STATE: merged_state(scenario, states, tasks)}
    groups = {}
    for name in dict.fromkeys(group for team in teams for group in team.groups):
        members = {
            f"{task.name}, {agent}": team.changed[agent]
            for task, team in zip(scenario.tasks, teams, strict=True)
            for agent in team.groups.get(name, ())
        }
        own = merged_spaces(scenario, list(members.values()), list(members))
        groups[name] = replace(own, beside=beside)
    return TeamSpaces(tuple(teams), groups)
