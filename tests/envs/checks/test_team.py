"""``check-env`` on PettingZoo environments: its published tests, and what teams need beside."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from relays import Relay

from holdfast.envs.checks.team import check_team
from holdfast.envs.multiagent.parallel import build_parallel
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.checks.references import NotUsable, check_team_environment, is_team


def found(result, level):
    return [finding.text for finding in result.findings if finding.level == level]


@pytest.mark.thorough
def test_a_published_environment_passes_its_own_tests():
    result = check_team("tag", lambda: build_parallel("mpe2.simple_tag_v3", {}, None))
    assert result.ok
    good = "\n".join(found(result, "ok"))
    assert "PettingZoo's API test found no error" in good
    assert "PettingZoo's seed test found no error" in good
    assert "adversary_0, adversary_1, adversary_2: see Box" in good
    assert "state() has the shape (62,)" in good
    assert any("differ in their spaces" in text for text in found(result, "advice"))


def test_who_comes_and_goes_is_told():
    result = check_team("relay", Relay)
    good = "\n".join(found(result, "ok"))
    assert "some leave before the others: second; their rows are left out" in good
    assert "some come after the others: third" in good
    assert any("no state_space" in text for text in found(result, "advice"))


class Pair(ParallelEnv):
    """Two agents for twenty steps, each with spaces of its own."""

    metadata = {"name": "pair"}  # noqa: RUF012  # as PettingZoo has it
    render_mode = None

    def __init__(self):
        self.possible_agents = ["left", "right"]
        self.agents = []
        self.seen = {agent: Box(-1, 1, (2,)) for agent in self.possible_agents}
        self.done = {agent: Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent):
        return self.seen[agent]

    def action_space(self, agent):
        return self.done[agent]

    def reset(self, seed=None, options=None):
        self.rng, self.time = np.random.default_rng(seed), 0
        self.agents = list(self.possible_agents)
        return self.look(), {agent: {} for agent in self.agents}

    def look(self):
        return {agent: self.rng.uniform(-1, 1, 2).astype(np.float32) for agent in self.agents}

    def step(self, actions):
        self.time += 1
        acted, seen = self.agents, self.look()
        over = dict.fromkeys(acted, self.time == 20)
        if self.time == 20:
            self.agents = []
        rewards, cut = dict.fromkeys(acted, 1.0), dict.fromkeys(acted, False)
        return seen, rewards, over, cut, {agent: {} for agent in acted}


class Shared(Pair):
    """All agents of all environments have one space of actions."""

    only = Discrete(3)

    def action_space(self, agent):
        return self.only


class Renewed(Pair):
    def action_space(self, agent):
        return Discrete(3)


class OneForAll(Pair):
    def __init__(self):
        super().__init__()
        self.only = Discrete(3)

    def action_space(self, agent):
        return self.only


class Paid(Relay):
    reward = np.array([1.0, 2.0])

    def step(self, actions):
        seen, rewards, *rest = super().step(actions)
        return seen, dict.fromkeys(rewards, self.reward), *rest


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("world", "cause"),
    [
        (Shared, "action_space(agent) is one object in all environments: make one for each agent"),
        (Renewed, "action_space(agent) is a new object at each call: keep one for each agent"),
        (OneForAll, "action_space(agent) is one object for left, right: make one for each"),
    ],
)
def test_fault_52_shared_spaces_are_named_and_do_not_fail(world, cause):
    assert not any("__init__" in text for text in found(check_team("pair", Pair), "advice"))
    result = check_team("pair", world)
    assert result.ok
    assert any(cause in text for text in found(result, "advice"))
    assert "PettingZoo's seed test found no error" in found(result, "ok")


def test_fault_52_rewards_of_a_team_that_are_arrays_or_late_nan():
    (text,) = found(check_team("relay", Paid), "error")
    assert "array([1., 2.]), an array of shape (2,); it must be one number" in text
    count = 0

    class Late(Relay):
        def step(self, actions):
            nonlocal count
            count += 1
            seen, rewards, *rest = super().step(actions)
            pay = float("nan") if count > 600 else 1.0
            return seen, dict.fromkeys(rewards, pay), *rest

    (text,) = found(check_team("relay", Late), "error")
    assert text.startswith("step 601: the reward of ")


def test_fault_52_a_team_is_trained_with_shared_spaces_and_refuses_arrays(tmp_path):
    from team_runs import run, team_scenario

    own = "tests.envs.checks.test_team"
    sys.modules[own] = sys.modules[__name__]
    folder = run(tmp_path / "shared", team_scenario("ppo", {"env": f"{own}:Shared"}))
    assert folder.info()["status"] == "finished"
    with pytest.raises(EnvironmentFailed, match=r"array of shape \(2,\); it must be one number"):
        run(tmp_path / "paid", team_scenario("ppo", {"env": f"{own}:Paid"}))


class Nobody(Relay):
    def reset(self, seed=None, options=None):
        super().reset(seed, options)
        self.agents = []
        return {}, {}


class Unseeded(Relay):
    def see(self, agent):
        return np.random.default_rng().random(4, np.float32)


class Raises(Relay):
    def step(self, actions):
        raise ValueError("the relay is stuck")


class Unrewarded(Relay):
    """Whoever dies is left out of the rewards of its last step."""

    def step(self, actions):
        seen, rewards, *rest = super().step(actions)
        return seen, {a: r for a, r in rewards.items() if a in self.agents}, *rest


class Unseen(Relay):
    """An agent appears that was not told what it sees."""

    def step(self, actions):
        seen, *rest = super().step(actions)
        return {agent: own for agent, own in seen.items() if agent in actions}, *rest


class Stranger(Relay):
    """An agent appears that was not announced."""

    def step(self, actions):
        result = super().step({agent: actions[agent] for agent in actions if agent != "fourth"})
        self.agents += ["fourth"] * (self.time == 1)
        return result


class NoNumber(Relay):
    def step(self, actions):
        seen, rewards, *rest = super().step(actions)
        return seen, {agent: float("nan") for agent in rewards}, *rest


@pytest.mark.parametrize(
    ("world", "text"),
    [
        (Nobody, "after reset() there are no agents"),
        (Unseeded, "PettingZoo's seed test: "),
        (Raises, "step 1 with random actions raised ValueError: the relay is stuck"),
        (NoNumber, "step 1: the reward of first is nan"),
        (Unrewarded, "step 2: the rewards lack second; whoever acts, its last step included"),
        (Unseen, "step 2: the observations lack third, who act next"),
        (Stranger, "step 1: fourth act and are not among possible_agents"),
    ],
)
def test_mistakes_are_found(world, text):
    result = check_team("world", world)
    assert not result.ok
    assert any(error.startswith(text) for error in found(result, "error")), found(result, "error")


@pytest.mark.parametrize(
    ("target", "kwargs", "text"),
    [
        ("mpe2.simple_spread_v3", {"agents": 3}, "kwargs: .*unexpected keyword argument 'agents'"),
        ("butterfly/pistonbal_v6", {}, "PettingZoo has no environment 'butterfly/pistonbal_v6'"),
        ("classic/connect_four_v3", {}, "agents take turns"),
        ("relays:Rely", {}, "no factory 'Rely'; did you mean 'relays:Relay'"),
        ("gymnasium.envs.classic_control:CartPoleEnv", {}, "not a PettingZoo environment"),
        ("json", {}, "neither parallel_env nor env"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(target, kwargs, text):
    with pytest.raises(UsageError, match=text):
        build_parallel(target, kwargs, None)


def test_a_constructor_that_raises_is_told():
    with pytest.raises(EnvironmentFailed, match="relays:broken raised TypeError: no r"):
        build_parallel("relays:broken", {}, None)


@pytest.mark.parametrize(
    ("target", "is_one"),
    [
        ("mpe2.simple_spread_v3", True),
        ("butterfly/pistonball_v6", True),
        ("sisl/pursuit-v5", True),
        ("ALE/Pong-v5", False),
        ("CartPole-v1", False),
        ("gymnasium", False),
        ("relays:Relay", True),
        ("gymnasium.envs.classic_control:CartPoleEnv", False),
    ],
)
def test_teams_are_told_from_other_names_without_making_them(target, is_one):
    assert is_team(target, None) == is_one


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("mpe2.simple_spred_v3", "did you mean 'mpe2.simple_spread_v3'"),
        ("sisl/pursuit_v7", "did you mean 'sisl/pursuit-v5'"),
        ("CartPole-v1", "has one agent, and agent.policies is for many"),
        ("no_such_module", "no module 'no_such_module'"),
    ],
)
def test_typing_mistakes_are_found_without_imports(target, text):
    with pytest.raises(NotUsable, match=text):
        check_team_environment(target, None)
