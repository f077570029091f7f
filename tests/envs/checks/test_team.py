"""``check-env`` on PettingZoo environments: its published tests, and what teams need beside."""

from __future__ import annotations

import numpy as np
import pytest
from relays import Relay

from holdfast.envs.checks.team import check_team
from holdfast.envs.multiagent.parallel import build_parallel
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.checks.references import NotUsable, check_team_environment, is_team


def found(result, level):
    return [finding.text for finding in result.findings if finding.level == level]


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
        ("relays:Relay", False),
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
