"""Checks of a PettingZoo environment: its own tests, and the needs of a team's learners."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from typing import Any

import numpy as np

from holdfast.envs.base.compatibility import algorithms_for
from holdfast.envs.base.spaces import not_learnable
from holdfast.envs.checks.check_result import CheckResult, CrashedError, crashes_at
from holdfast.envs.checks.environment import run_checker
from holdfast.envs.checks.probes import never_ended, reward_fault
from holdfast.envs.multiagent.global_state import Parallel, own_state_space
from holdfast.envs.multiagent.parallel import team_of

_CYCLES = 200
_SPEED_S = 0.5
_DICTS = ("observations", "rewards", "terminations", "truncations")
_PROBE_STEPS, _PROBE_S = 1000, 3.0  # what shows late is looked for so long


def check_team(target: str, make: Callable[[], Parallel]) -> CheckResult:
    """Return what was found about a PettingZoo environment whose agents act at once.

    Args:
        target: Its name, for the result.
        make: Returns a new one; called several times.

    Raises:
        UsageError: A name or argument is wrong, a package is missing, or agents take turns.
        EnvironmentFailed: The constructor raised.
    """
    result = CheckResult(target)
    env = make()
    try:
        _check_agents(env, result)
        _play(env, result)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PettingZoo's tests import its own deprecated modules
            from pettingzoo.test import parallel_api_test, parallel_seed_test
        own = _own_spaces if _check_sharing(env, make, result) else _unchanged
        run_checker("PettingZoo's API test", lambda: parallel_api_test(own(env), _CYCLES), result)
        seeded = partial(parallel_seed_test, lambda: own(make()), 50)
        run_checker("PettingZoo's seed test", seeded, result)
    except CrashedError as error:
        result.add("error", str(error))
    finally:
        env.close()
    return result


def _check_agents(env: Parallel, result: CheckResult) -> None:
    """Say who there is, what each sees and does, and what the spaces have in common."""
    with crashes_at("reading possible_agents and spaces"):
        team = team_of(env, "independent", "possible_agents")
    kinds: dict[tuple[str, str], list[str]] = {}
    for agent, own in team.spaces.items():
        if text := not_learnable(own.observation):
            result.add("error", f"{agent}: {text}")
        if not algorithms_for(own.action):
            result.add("error", f"{agent}: no known algorithm can take the action {own.action}")
        kinds.setdefault((str(own.observation), str(own.action)), []).append(agent)
    for (seen, action), agents in kinds.items():
        able = ", ".join(algorithms_for(team.spaces[agents[0]].action))
        who = ", ".join(agents)
        result.add("ok", f"{who}: see {seen}, do {action}; algorithms that can: {able}")
    if len(kinds) > 1:
        result.add(
            "advice",
            "agents differ in their spaces: give each kind a group in agent.policies, or write "
            "`spaces: {observation: pad, action: pad}`",
        )


def _check_sharing(env: Parallel, make: Callable[[], Parallel], result: CheckResult) -> bool:
    """Say which space objects are shared, or new at each call: PettingZoo's tests fail at them.

    A run reads spaces and never draws from them, so that it works all the same.
    """
    other, found = make(), dict[str, str]()
    for agent in env.possible_agents:
        for name in ("action_space", "observation_space"):
            space = getattr(env, name)(agent)
            if space is not getattr(env, name)(agent):
                found[name] = "is a new object at each call: keep one for each"
            elif space is getattr(other, name)(agent):
                found[name] = "is one object in all environments: make one for each"
            else:
                also = [a for a in env.possible_agents if getattr(env, name)(a) is space]
                if len(also) > 1:
                    found[name] = f"is one object for {', '.join(also)}: make one for each"
    other.close()
    for name, text in found.items():
        result.add(
            "advice",
            f"{name}(agent) {text} agent in __init__. A run takes it; whoever seeds and draws from "
            "it, as PettingZoo's tests do, draws something else, so that they were given copies",
        )
    return bool(found)


def _unchanged(env: Parallel) -> Parallel:
    return env


def _own_spaces(env: Parallel) -> Parallel:
    """Return an environment that has a space of its own for each of its agents."""
    from pettingzoo.utils import BaseParallelWrapper  # here: only these checks need it

    class OwnSpaces(BaseParallelWrapper[Any, Any, Any]):  # type: ignore[misc]  # ships no types
        @cache  # noqa: B019  # it lives as long as the check
        def observation_space(self, agent: str) -> Any:
            return deepcopy(self.env.observation_space(agent))

        @cache  # noqa: B019
        def action_space(self, agent: str) -> Any:
            return deepcopy(self.env.action_space(agent))

    return OwnSpaces(env)


def _play(env: Parallel, result: CheckResult) -> None:
    """Play with random actions: who comes and goes, whether numbers are finite, how fast it is."""
    missing, early, late = set(env.possible_agents), set(), set()
    with crashes_at("reset(seed=0)"):
        observations, _ = env.reset(seed=0)
    if not env.agents:
        raise CrashedError("after reset() there are no agents")
    for index, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(index)
    began, steps, present = time.perf_counter(), 0, set(env.agents)
    ended, wall_s = False, 0.0
    while wall_s < _SPEED_S or (steps < _PROBE_STEPS and wall_s < _PROBE_S):
        wall_s = time.perf_counter() - began
        missing -= set(env.agents)
        actions = {agent: _sampled(env, agent, observations) for agent in env.agents}
        acting = list(env.agents)
        with crashes_at(f"step {steps + 1} with random actions"):
            observations, *told = env.step(actions)
        steps += 1
        rewards = told[0]
        _check_who(env, acting, (observations, *told[:3]), f"step {steps}")
        for agent, reward in rewards.items():
            if wrong := reward_fault(reward):
                raise CrashedError(f"step {steps}: the reward of {agent} is {wrong}")
        if env.agents:
            early |= present - set(env.agents)
            late |= set(env.agents) - present
        else:
            ended = True
            with crashes_at("reset()"):
                observations, _ = env.reset()
        present = set(env.agents)
    speed = steps / (time.perf_counter() - began)
    if not ended:
        result.add("advice", never_ended(steps, is_team=True))
    for agents, what in ((early, "leave before the others"), (late, "come after the others")):
        if agents:
            result.add("ok", f"some {what}: {', '.join(sorted(agents))}; their rows are left out")
    if missing:
        result.add("advice", f"never seen with random actions: {', '.join(sorted(missing))}")
    space = own_state_space(env)
    if space is None:
        text = "no state_space: central critics see all observations together instead"
        result.add("advice", text)
    else:
        with crashes_at("state()"):
            shape = np.shape(env.state())
        if shape != space.shape:
            raise CrashedError(f"state() has the shape {shape}, and state_space {space.shape}")
        result.add("ok", f"state() has the shape {shape}")
    result.steps_per_s = speed
    result.add("ok", f"{speed:,.0f} steps/s, all agents at once")


def _check_who(
    env: Parallel, acting: Sequence[str], told: Sequence[Mapping[str, Any]], place: str
) -> None:
    """Raise where an agent appears from nowhere, or one that acts is left out of a dict.

    Raises:
        CrashedError: A run would be stopped by it.
    """
    if strangers := set(env.agents) - set(env.possible_agents):
        who = ", ".join(sorted(strangers))
        raise CrashedError(f"{place}: {who} act and are not among possible_agents")
    for what, found in zip(_DICTS, told, strict=False):
        if lacking := [agent for agent in acting if agent not in found]:
            raise CrashedError(
                f"{place}: the {what} lack {', '.join(lacking)}; whoever acts, its last step "
                "included, must be in all dicts"
            )
    if lacking := [agent for agent in env.agents if agent not in told[0]]:
        raise CrashedError(f"{place}: the observations lack {', '.join(lacking)}, who act next")


def _sampled(env: Parallel, agent: str, observations: Mapping[str, Any]) -> Any:
    seen = observations.get(agent)
    mask = seen.get("action_mask") if isinstance(seen, Mapping) else None
    space = env.action_space(agent)
    return space.sample() if mask is None else space.sample(np.asarray(mask, np.int8))
