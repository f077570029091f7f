"""Groups of agents as vector environments: rows, deaths, arrivals, seeds, masks."""

from __future__ import annotations

import importlib

import numpy as np
import pettingzoo
import pytest
from relays import AGENTS, Relay

from holdfast.envs.multiagent.parallel import make_parallel, team_spaces
from holdfast.envs.multiagent.seats import ABSENT
from holdfast.envs.multiagent.teams import Teams
from holdfast.errors import EnvironmentFailed, ScenarioError, UsageError
from holdfast.scenarios.schema.scenario import Scenario


@pytest.fixture
def make_team():
    def make(*tasks, policies="shared", **keys):
        named = [
            {"name": f"task{i}", "env": "relays:Relay", "steps": 100, **task}
            for i, task in enumerate(tasks or [{}])
        ]
        given = {"stream": {"task_id": "hidden"}, **keys}
        agent = {"algorithm": "ppo", "policies": policies}
        return Scenario.model_validate({"tasks": named, "agent": agent, **given})

    return make


def teams(scenario, seeds=(7, 17), index=0, **keys):
    envs = [make_parallel(scenario, scenario.tasks[index]) for _ in seeds]
    return Teams(envs, scenario, index, team_spaces(scenario), seeds, **keys)


def test_rows_are_agents_within_copies_and_who_is_gone_is_absent(make_team):
    team = teams(make_team())
    (seats,) = team.seats.values()
    assert seats.num_envs == 6
    shown = seats.reset()
    assert shown[:, 0].tolist()[:2] == [0, 1]
    assert shown[[0, 1, 3, 4], 2].tolist() == [7, 7, 17, 17]
    # Who acts in each of the five steps, and whose part ends in it.
    acting = [{0, 1}, {0, 1}, {0, 2}, {0, 2}, {0, 2}]
    ending = [set(), {1}, set(), set(), {0, 2}]
    for step in range(10):
        actions = np.arange(6) % 3
        shown, rewards, dones, infos = seats.step(actions)
        now, over = acting[step % 5], ending[step % 5]
        for row in range(6):
            copy, agent = divmod(row, 3)
            assert (ABSENT in infos[row]) == (agent not in now)
            assert seats.absent[row] == (agent not in now)
            assert rewards[row] == (actions[row] if agent in now else 0.0)
            assert dones[row] == (agent in over or agent not in now)
            assert ("terminal_observation" in infos[row]) == (agent in over)
            if agent in over:
                last, seed = infos[row]["terminal_observation"], [7, 17][copy] + step // 5
                assert last.tolist() == [agent, step % 5 + 1, seed, actions[row]]
                assert infos[row]["TimeLimit.truncated"] is False
                length = {0: 5, 1: 2, 2: 3}[agent]
                assert infos[row]["episode"]["l"] == length
                assert infos[row]["episode"]["r"] == length * actions[row]
        if step % 5 == 4:
            seeds = [7 + (step + 1) // 5, 17 + (step + 1) // 5]
            assert shown[[0, 1, 3, 4]].tolist() == [
                [agent, 0, seed, 0] for seed in seeds for agent in (0, 1)
            ]


def test_an_agent_that_is_cut_off_says_so(make_team):
    (seats,) = teams(make_team({"kwargs": {"cut": True}})).seats.values()
    seats.reset()
    infos = [seats.step(np.zeros(6, int))[3] for _ in range(5)]
    assert infos[1][1]["TimeLimit.truncated"] is True
    assert infos[4][0]["TimeLimit.truncated"] is True


def test_groups_wait_for_each_other(make_team):
    team = teams(make_team(policies={"front": ["first"], "rest": ["second", "third"]}))
    front, rest = team.seats["front"], team.seats["rest"]
    assert (front.num_envs, rest.num_envs) == (2, 4)
    assert front.reset()[:, 0].tolist() == [0, 0]
    assert rest.reset()[[0, 2], 0].tolist() == [1, 1]
    front.step_async(np.array([1, 2]))
    assert not team.is_ready
    rest.step_async(np.array([2, 0, 1, 0]))
    assert front.step_wait()[1].tolist() == [1, 2]
    assert rest.step_wait()[1].tolist() == [2, 0, 1, 0]
    assert team.lengths == [1, 1]


def test_without_autoreset_a_copy_halts_and_keeps_its_returns(make_team):
    team = teams(make_team(), autoreset=False)
    (seats,) = team.seats.values()
    seats.reset()
    for _ in range(7):
        seats.step(np.array([1, 2, 1, 0, 1, 2]))
    assert team.halted.all()
    assert team.lengths == [5, 5]
    assert team.returns == {"first": [5, 0], "second": [4, 2], "third": [3, 6]}


def test_teams_that_grow_are_padded_and_told_the_task(make_team):
    tasks = [{"env": "mpe2.simple_spread_v3", "kwargs": {"N": n}} for n in (2, 3)]
    scenario = make_team(*tasks, spaces={"observation": "pad"}, stream={})
    two, three = (teams(scenario, index=i).seats["shared"] for i in range(2))
    assert (two.num_envs, three.num_envs) == (4, 6)
    assert two.observation_space.shape == three.observation_space.shape == (18 + 2,)
    shown = two.reset()
    assert shown[:, 12:].tolist() == [[0] * 6 + [1, 0]] * 4
    assert three.reset()[:, 18:].tolist() == [[0, 1]] * 6


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        ("mpe2.simple_tag_v3", {}),
        ("mpe2.simple_spread_v3", {"N": 2}),
        ("mpe2.simple_speaker_listener_v4", {}),
        ("sisl/pursuit_v5", {"n_pursuers": 3, "max_cycles": 20}),
    ],
)
def test_copies_equal_the_published_one_under_the_same_seeds_and_actions(make_team, env, kwargs):
    scenario = make_team({"env": env, "kwargs": kwargs}, policies="independent")
    team = teams(scenario, seeds=(3, 4))
    if "/" in env:
        plain = pettingzoo.make("parallel", env, **kwargs)
    else:
        plain = importlib.import_module(env).parallel_env(**kwargs)
    seen, _ = plain.reset(seed=4)
    shown = {group: seats.reset() for group, seats in team.seats.items()}
    rng = np.random.default_rng(0)
    for _ in range(60):
        for agent in team.seats:
            np.testing.assert_array_equal(shown[agent][1], seen[agent])
        counts = {agent: seats.action_space.n for agent, seats in team.seats.items()}
        actions = {agent: rng.integers(count, size=2) for agent, count in counts.items()}
        for agent, seats in team.seats.items():
            seats.step_async(actions[agent])
        results = {agent: seats.step_wait() for agent, seats in team.seats.items()}
        shown = {agent: result[0] for agent, result in results.items()}
        seen, rewards, *_ = plain.step({agent: pair[1] for agent, pair in actions.items()})
        for agent in team.seats:
            assert results[agent][1][1] == np.float32(rewards[agent])
        if not plain.agents:
            seen, _ = plain.reset()


def test_a_game_in_which_agents_take_turns_is_refused(make_team):
    scenario = make_team({"env": "classic/connect_four_v3"})
    with pytest.raises(UsageError, match="agents take turns"):
        make_parallel(scenario, scenario.tasks[0])


@pytest.mark.parametrize(
    ("order", "allowed"),
    [(None, [False, True, True]), ([2, 1, 0], [True, True, False]), ([0, 2], [False, True])],
)
def test_masks_are_of_the_actions_as_the_policy_counts_them(make_team, order, allowed):
    """In odd steps action 0 of the environment is not allowed; it raises where it is taken."""
    task = {"env": "team_worlds:Leaving", "kwargs": {"k": 2, "masked": True}}
    changes = {} if order is None else {"changes": {"action_map": order}}
    team = teams(make_team({**task, **changes}))
    (seats,) = team.seats.values()
    seats.reset()
    assert np.stack(seats.env_method("action_masks")).all()
    seats.step(np.zeros(4, np.int64))
    np.testing.assert_array_equal(np.stack(seats.env_method("action_masks")), [allowed] * 4)
    seats.step(np.full(4, allowed.index(True)))


def test_changes_alter_what_each_agent_sees_does_and_is_paid(make_team):
    changes = {"observation_permutation": [1, 0], "reward_scale": -2.0}
    task = {"env": "team_worlds:Leaving", "kwargs": {"k": 2}}
    plain, changed = (teams(make_team({**task, **extra})) for extra in ({}, {"changes": changes}))
    (one,), (other,) = plain.seats.values(), changed.seats.values()
    np.testing.assert_array_equal(other.reset(), one.reset()[:, ::-1])
    for _ in range(4):
        seen, rewards, *_ = one.step(np.zeros(4, np.int64))
        shown, paid, *_ = other.step(np.zeros(4, np.int64))
        np.testing.assert_array_equal(shown, seen[:, ::-1])
        np.testing.assert_array_equal(paid, -2 * rewards)
    assert changed.returns == {
        name: [-2 * total for total in totals] for name, totals in plain.returns.items()
    }


def test_a_change_that_does_not_fit_an_agent_names_it(make_team):
    task = {"env": "mpe2.simple_tag_v3", "changes": {"observation_mask": [15]}}
    with pytest.raises(ScenarioError, match=r"task .task0., agent 'agent_0', changes"):
        team_spaces(make_team(task, spaces={"observation": "pad"}))


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        ({"a": ["first"]}, "agent 'second' is in no group"),
        ({"a": ["*"], "b": ["third"]}, "agent 'third' is in the groups a and b"),
        ({"a": ["*"], "b": ["fourth"]}, "no task has an agent 'fourth'"),
    ],
)
def test_groups_that_do_not_fit_are_refused(make_team, policies, text):
    with pytest.raises(ScenarioError, match=text):
        team_spaces(make_team(policies=policies))


def test_a_pattern_that_names_nobody_is_told_beside_who_is_left_out(make_team):
    policies = {"predators": ["adversry_*"], "prey": ["agent_*"]}
    with pytest.raises(ScenarioError) as caught:
        team_spaces(make_team({"env": "mpe2.simple_tag_v3"}, policies=policies))
    text = str(caught.value)
    assert "no task has an agent 'adversry_*'; did you mean 'adversary_" in text
    assert "agent 'adversary_0' is in no group of agent.policies" in text


def test_unequal_spaces_without_a_rule_are_refused(make_team):
    with pytest.raises(ScenarioError, match=r"`spaces: \{observation: pad\}` brings them together"):
        team_spaces(make_team({"env": "mpe2.simple_tag_v3"}))


def unrewarded(self, actions):
    seen, rewards, *rest = Relay.step(self, actions)
    rewards.pop("second")
    return seen, rewards, *rest


def unseen(self, actions):
    result = Relay.step(self, actions)
    self.agents = ["first", "third"]  # who was not told what it sees
    return result


def stranger(self, actions):
    result = Relay.step(self, actions)
    self.agents = ["first", "fourth"]
    return result


def broken(**changed):
    return type("Broken", (Relay,), changed)()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"reset": lambda self, seed=None, options=None: ({}, {})}, "there are no agents"),
        ({"reset": lambda self, seed=None, options=None: [0]}, "returned a list"),
        ({"step": lambda self, actions: 1 / 0}, r"step\(\): ZeroDivisionError"),
        ({"step": lambda self, actions: ({}, {})}, "five dicts"),
        ({"step": lambda self, actions: ({}, {}, {}, {}, {})}, "observations lack first, second"),
        ({"step": unrewarded}, r"step\(\): the rewards lack second"),
        ({"step": unseen}, r"step\(\): the observations lack third"),
        ({"step": stranger}, r"step\(\): agent 'fourth' is not among possible_agents"),
    ],
)
def test_what_goes_wrong_inside_is_one_clear_error(make_team, changed, text):
    scenario = make_team()
    spaces = team_spaces(scenario)
    env = broken(**changed)
    env.agents = []
    (seats,) = Teams([env], scenario, 0, spaces, [0]).seats.values()

    def use():
        seats.reset()
        seats.step(np.zeros(len(AGENTS), int))

    with pytest.raises(EnvironmentFailed, match=f"task 'task0'.*{text}"):
        use()
