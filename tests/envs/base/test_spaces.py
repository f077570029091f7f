from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from gymnasium.utils.env_checker import check_env

from holdfast.envs.base.compatibility import check_actions
from holdfast.envs.base.fitting import PadAction, PadObservation, TaskId, fit
from holdfast.envs.base.spaces import StreamSpaces, _merged
from holdfast.envs.make import stream_spaces
from holdfast.errors import ScenarioError, UsageError

CARTPOLE = {"env": "CartPole-v1"}
PENDULUM = {"env": "Pendulum-v1"}
MOUNTAIN = {"env": "MountainCarContinuous-v0"}
ACROBOT = {"env": "Acrobot-v1"}


class Echo(gym.Env):
    """Shows the first observation it can and remembers actions."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or Discrete(2)
        self.observation_space.seed(0)
        self.shown = self.observation_space.sample()
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.taken.append(np.array(action).tolist())
        return self.shown, 0.0, False, False, {}


def test_alike_tasks_keep_their_spaces(make_scenario):
    spaces = stream_spaces(make_scenario(CARTPOLE, CARTPOLE))
    plain = gym.make("CartPole-v1")
    assert spaces == StreamSpaces(plain.observation_space, plain.action_space)


def test_bounds_of_observations_are_widened(make_scenario):
    permuted = {**CARTPOLE, "changes": {"observation_permutation": [1, 0, 2, 3]}}
    spaces = stream_spaces(make_scenario(CARTPOLE, permuted))
    assert np.isinf(spaces.observation.high[:2]).all()
    assert spaces.observation.high[2] == pytest.approx(0.41887903)


def test_tasks_that_differ_are_refused_by_name_with_the_key(make_scenario):
    with pytest.raises(ScenarioError) as caught:
        stream_spaces(make_scenario(CARTPOLE, ACROBOT))
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["spaces.observation", "spaces.action"]
    text = str(caught.value)
    assert "`spaces: {observation: pad}` brings them together" in text
    assert "task0: Box(" in text
    assert "task1: Discrete(3)" in text


def test_kinds_that_no_key_bridges_say_so(make_scenario):
    with pytest.raises(ScenarioError, match=r"spaces.action: .*`wrappers:`"):
        stream_spaces(make_scenario(CARTPOLE, PENDULUM, spaces={"observation": "pad"}))
    padded = make_scenario(CARTPOLE, PENDULUM, spaces={"observation": "pad", "action": "pad"})
    with pytest.raises(ScenarioError, match="can be padded; bring them together with"):
        stream_spaces(padded)


def test_every_task_that_cannot_be_built_is_told(make_scenario):
    scenario = make_scenario({"env": "CartPol-v1"}, CARTPOLE, {"env": "Pendulu-v1"})
    with pytest.raises(ScenarioError) as caught:
        stream_spaces(scenario)
    assert [problem.path for problem in caught.value.problems] == ["tasks[0]", "tasks[2]"]


def test_environments_are_closed(make_scenario, monkeypatch):
    closed = []
    monkeypatch.setattr(
        "gymnasium.envs.classic_control.CartPoleEnv.close", lambda env: closed.append(env)
    )
    stream_spaces(make_scenario(CARTPOLE, CARTPOLE))
    assert len(closed) == 2


def test_vectors_are_padded_with_zeros(make_scenario):
    scenario = make_scenario(
        PENDULUM,
        MOUNTAIN,
        spaces={"observation": "pad", "action": "pad"},
        stream={"task_id": "hidden"},
    )
    spaces = stream_spaces(scenario)
    assert spaces.observation.shape == (3,)
    # Of MountainCar's third entry, which is always 0, and Pendulum's, which is -8 to 8.
    assert spaces.observation.low[2] == -8
    assert spaces.action.high.tolist() == [2.0]
    env = fit(gym.make("MountainCarContinuous-v0"), spaces, scenario, 1)
    observation, _ = env.reset(seed=0)
    assert observation[2] == 0.0
    assert observation[0] != 0.0
    assert spaces.observation.contains(observation)


def test_one_task_needs_no_wrapper_at_all(make_scenario):
    scenario = make_scenario(CARTPOLE, stream={"task_id": "hidden"})
    env = gym.make("CartPole-v1")
    assert fit(env, stream_spaces(scenario), scenario, 0) is env


def test_actions_a_task_lacks_are_ignored_and_ranges_rescaled():
    own = Box(np.array([-1, 0], np.float32), np.array([1, 4], np.float32))
    stream = Box(np.full(3, -2, np.float32), np.full(3, 6, np.float32))
    echo = Echo(Box(-1, 1, (1,)), own)
    env = PadAction(echo, stream)
    env.reset()
    for action in ([-2, -2, 9], [6, 6, 0], [2, 0, 0]):
        env.step(np.array(action, np.float32))
    assert echo.taken == [[-1, 0], [1, 4], [0, 1]]


def test_discrete_actions_a_task_lacks_wrap_around():
    echo = Echo(Box(-1, 1, (1,)), Discrete(2))
    env = PadAction(echo, Discrete(5))
    env.reset()
    for action in range(5):
        env.step(np.int64(action))
    assert echo.taken == [0, 1, 0, 1, 0]


def test_types_are_unified_where_padding_is_asked():
    single, double = Box(-1, 1, (2,), np.float32), Box(-1, 1, (2,), np.float64)
    with pytest.raises(ValueError, match="differ"):
        _merged("observation", [single, double], "same", ["a", "b"])
    merged = _merged("observation", [single, double], "pad", ["a", "b"])
    assert merged.dtype == np.float64
    assert PadObservation(Echo(single), merged).reset()[0].dtype == np.float64


def test_dicts_are_merged_key_by_key():
    one = Dict(a=Box(-1, 1, (2,)), b=Discrete(2))
    two = Dict(a=Box(-3, 0, (2,)), b=Discrete(2))
    merged = _merged("observation", [one, two], "same", ["a", "b"])
    assert merged["a"].low.tolist() == [-3, -3]
    assert merged["a"].high.tolist() == [1, 1]
    with pytest.raises(ValueError, match="differ"):
        _merged("observation", [one, Dict(a=one["a"])], "same", ["a", "b"])


def test_bounds_of_actions_must_be_the_same():
    with pytest.raises(ValueError, match=r"`spaces: \{action: pad\}`"):
        _merged("action", [Box(-1, 1, (2,)), Box(-2, 2, (2,))], "same", ["a", "b"])


def test_observations_that_no_policy_takes_are_refused():
    with pytest.raises(ValueError, match="'a': no policy can take the observation space Tuple"):
        _merged("observation", [Tuple([Discrete(2)])], "same", ["a"])


def test_the_task_id_is_the_end_of_a_vector():
    env = TaskId(Echo(Box(-1, 1, (3,), np.float64)), 1, 4)
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert observation[3:].tolist() == [0, 1, 0, 0]
    assert np.allclose(observation[:3], env.unwrapped.shown)
    assert env.observation_space.contains(observation)
    assert env.observation_space.high[3:].tolist() == [1, 1, 1, 1]
    env.index = 3
    assert env.reset()[0][3:].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "space", [Box(0, 255, (8, 8, 3), np.uint8), Discrete(5), MultiBinary(3)], ids=str
)
def test_the_task_id_stands_beside_what_is_no_vector(space):
    env = TaskId(Echo(space), 0, 2)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["task_id"].tolist() == [1, 0]
    assert np.array_equal(observation["observation"], env.unwrapped.shown)


def test_the_task_id_joins_a_dict():
    env = TaskId(Echo(Dict(arm=Box(-1, 1, (2,)))), 1, 2)
    observation, _ = env.reset(seed=0)
    assert sorted(observation) == ["arm", "task_id"]
    assert env.observation_space.contains(observation)
    with pytest.raises(UsageError, match="already has an entry 'task_id'"):
        TaskId(env, 1, 2)


def test_a_task_beyond_the_width_is_refused():
    with pytest.raises(UsageError, match="task 2 does not fit a task id of width 2"):
        TaskId(Echo(Discrete(2)), 2, 2)


def test_a_fitted_environment_passes_gymnasiums_checks(make_scenario):
    scenario = make_scenario(
        PENDULUM,
        MOUNTAIN,
        spaces={"observation": "pad", "action": "pad"},
        stream={"max_tasks": 5},
    )
    env = fit(gym.make("MountainCarContinuous-v0"), stream_spaces(scenario), scenario, 1)
    assert env.observation_space.shape == (8,)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(different from the unwrapped|For Box action)")
        check_env(env, skip_render_check=True, skip_close_check=True)


@pytest.mark.parametrize(
    ("algorithm", "task", "able"),
    [("sac", CARTPOLE, "ppo, a2c, dqn, qrdqn"), ("dqn", PENDULUM, "ppo, a2c, sac, td3")],
)
def test_an_algorithm_that_cannot_take_the_actions_names_those_that_can(
    make_scenario, algorithm, task, able
):
    scenario = make_scenario(task, algorithm=algorithm)
    spaces = stream_spaces(scenario)
    with pytest.raises(ScenarioError, match=f"{algorithm} cannot take .*; {able}.* can") as caught:
        check_actions(scenario, spaces)
    assert caught.value.problems[0].path == "agent.algorithm"


def test_an_algorithm_that_can_passes(make_scenario):
    scenario = make_scenario(PENDULUM, algorithm="sac")
    check_actions(scenario, stream_spaces(scenario))
    own = make_scenario(PENDULUM, algorithm="my:Agent")
    check_actions(own, StreamSpaces(Discrete(2), Discrete(2)))


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (Discrete(2, start=1), r"action_map: \[1, 2\]"),
        (Box(-np.inf, np.inf, (1,)), "no finite bounds"),
    ],
)
def test_actions_that_algorithms_would_misread_are_refused(make_scenario, space, text):
    with pytest.raises(ScenarioError, match=text):
        check_actions(make_scenario(PENDULUM), StreamSpaces(Discrete(2), space))


@pytest.mark.parametrize(
    "space",
    [
        Box(-1, 1, (3,)),
        Box(0, 255, (4, 5, 3), np.uint8),
        Discrete(5),
        Dict({"seen": Box(-1, 1, (2,)), "of": Discrete(3)}),
    ],
    ids=["vector", "picture", "number", "dict"],
)
def test_the_task_id_of_a_batch_is_that_of_each_row(space):
    env = gym.Env()
    env.observation_space, env.action_space = space, Discrete(2)
    shown = TaskId(env, 1, 3)
    space.seed(0)
    rows = [space.sample() for _ in range(4)]
    batch = (
        {key: np.stack([row[key] for row in rows]) for key in space.spaces}
        if isinstance(space, Dict)
        else np.stack(rows)
    )
    found = shown.observation(batch)
    for index, row in enumerate(rows):
        one = shown.observation(row)
        if isinstance(one, dict):
            assert one.keys() == found.keys()
            assert all(np.array_equal(found[key][index], one[key]) for key in one)
        else:
            assert np.array_equal(found[index], one)
