"""The EnvPool adapter against single environments of EnvPool's and Gymnasium's own wrappers."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.envs.envpool.batch import Batch
from holdfast.envs.envpool.single import EnvPoolSingle
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import pooled, task_env, vectorize
from holdfast.envs.wrappers.guard import NAN_KEY
from holdfast.errors import EnvironmentFailed

envpool = pytest.importorskip("envpool")
# Bare EnvPool, which the adapter keeps from saying it.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting")

FLAT = [
    {"gymnasium.wrappers:FilterObservation": {"filter_keys": ["image", "direction"]}},
    "gymnasium.wrappers:FlattenObservation",
]


@pytest.fixture
def both(make_scenario):
    """Return our vector environment, and Stable-Baselines3's over single ones, equally seeded."""

    def make(*tasks, n_envs=3, seed=5, index=0, **keys):
        scenario = make_scenario(*tasks, backend="envpool", n_envs=n_envs, **keys)
        spaces = stream_spaces(scenario)
        ours = pooled(scenario, index, spaces, n_envs, seed)
        return ours, vectorize(lambda: task_env(scenario, index, spaces), n_envs, seed)

    return make


def rollouts_equal(ours, oracle, steps=60):
    """Step both with the same random actions; return how many episodes ended."""
    assert ours.observation_space == oracle.observation_space
    assert ours.action_space == oracle.action_space
    ours.action_space.seed(1)
    check_equal(ours.reset(), oracle.reset())
    ended = 0
    for _ in range(steps):
        actions = np.array([ours.action_space.sample() for _ in range(ours.num_envs)])
        observations, rewards, dones, infos = ours.step(actions)
        expected = oracle.step(actions)
        check_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        assert rewards.dtype == expected[1].dtype
        np.testing.assert_array_equal(dones, expected[2])
        for info, other in zip(infos, expected[3], strict=True):
            if "episode" not in other:
                assert info == {}
                continue
            ended += 1
            check_equal(info["terminal_observation"], other["terminal_observation"])
            assert info["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            assert info["episode"]["l"] == other["episode"]["l"]
            assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
    ours.close()
    oracle.close()
    return ended


def check_equal(one, two):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            check_equal(one[key], two[key])
        return
    assert one.dtype == two.dtype
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"time_limit": 13}),
        ("CartPole-v1", {"action_map": [1, 0]}),
        ("CartPole-v1", {"action_map": [1]}),
        ("CartPole-v1", {"observation_noise": 0.1}),
        ("CartPole-v1", {"observation_offset": [0.5, -2.0, 0.0, 1.5]}),
        ("CartPole-v1", {"observation_permutation": [2, 0, 3, 1]}),
        ("CartPole-v1", {"observation_mask": [1, 3]}),
        ("CartPole-v1", {"reward_scale": -0.3}),
        ("Pendulum-v1", {"action_gain": -1.5, "time_limit": 20}),
        ("HalfCheetah-v5", {"action_gain": [1, 2, 0.5, -1, 1, 1], "time_limit": 20}),
        ("HalfCheetah-v5", {"action_map": [5, 4, 3, 2, 1, 0], "time_limit": 20}),
        ("HalfCheetah-v5", {"dead_actuators": [0, 3], "time_limit": 20}),
        (
            "HalfCheetah-v5",
            {
                "time_limit": 20,
                "action_map": [1, 0, 2, 3, 4, 5],
                "action_gain": 2.0,
                "dead_actuators": [2],
                "observation_noise": 0.05,
                "observation_permutation": list(range(16, -1, -1)),
                "observation_mask": [0, 5],
                "reward_scale": 0.5,
            },
        ),
    ],
)
@pytest.mark.parametrize("task_id", ["hidden", "observed"])
def test_a_batch_equals_single_environments_under_the_gymnasium_wrappers(
    both, env, changes, task_id
):
    ours, oracle = both({"env": env, "changes": changes}, stream={"task_id": task_id})
    assert rollouts_equal(ours, oracle) > 0 or env == "CartPole-v1"


def test_images_and_dicts_are_filtered_and_flattened_as_gymnasium_does_it(both):
    task = {"env": "MiniGrid-Empty-5x5-v0", "kwargs": {"max_episode_steps": 20}}
    ours, oracle = both({**task, "wrappers": FLAT})
    assert ours.observation_space.shape == (7 * 7 * 3 + 4 + 1,)
    assert rollouts_equal(ours, oracle) >= 6
    ours, oracle = both(
        {**task, "wrappers": FLAT[:1]}, stream={"task_id": "observed", "max_tasks": 3}
    )
    assert set(ours.observation_space.spaces) == {"image", "direction", "task_id"}
    assert rollouts_equal(ours, oracle) >= 6


def test_different_spaces_are_padded_as_single_environments_are(both):
    tasks = [
        {"env": "HalfCheetah-v5", "changes": {"time_limit": 10}},
        {"env": "Pendulum-v1", "changes": {"time_limit": 10}},
    ]
    for index in range(2):
        ours, oracle = both(*tasks, index=index, spaces={"observation": "pad", "action": "pad"})
        assert ours.observation_space.shape == (19,)
        assert ours.action_space.shape == (6,)
        assert rollouts_equal(ours, oracle, 25) >= 6
    cart, acrobot = {"env": "CartPole-v1"}, {"env": "Acrobot-v1"}
    ours, oracle = both(cart, acrobot, index=0, spaces={"observation": "pad", "action": "pad"})
    assert ours.action_space.n == 3
    assert rollouts_equal(ours, oracle) > 0


def test_physics_is_gymnasiums_from_the_same_state(make_scenario):
    """Pendulum's observation tells its state, so that both simulators can be put into it."""
    scenario = make_scenario(
        {"env": "Pendulum-v1"}, backend="envpool", stream={"task_id": "hidden"}
    )
    ours = pooled(scenario, 0, stream_spaces(scenario), 1, seed=3)
    plain = gym.make("Pendulum-v1").unwrapped
    plain.reset(seed=0)
    (cos, sin, speed) = ours.reset()[0]
    plain.state = np.array([math.atan2(sin, cos), speed])
    for k in range(50):
        action = np.array([math.sin(k)], np.float32)
        observation, reward, *_ = ours.step(action[None])
        expected = plain.step(action)
        np.testing.assert_allclose(observation[0], expected[0], atol=2e-3)
        assert reward[0] == pytest.approx(expected[1], abs=2e-2)


def ends(make_scenario, limit, actions):
    """Step one CartPole, seed 1, until it ends; return the step, done flag and info."""
    scenario = make_scenario(
        {"env": "CartPole-v1", "changes": {"time_limit": limit}}, backend="envpool"
    )
    envs = pooled(scenario, 0, stream_spaces(scenario), 1, seed=1)
    envs.reset()
    for step in range(1, 100):
        _, _, dones, infos = envs.step(np.array([actions]))
        if dones[0]:
            return step, infos[0]
    raise AssertionError


def test_termination_in_the_very_last_step_is_no_truncation(make_scenario):
    raw = envpool.make_gymnasium("CartPole-v1", num_envs=1, seed=1, max_episode_steps=10)
    raw.reset()
    for _ in range(10):
        _, _, terminated, truncated, _ = raw.step(np.zeros(1, int))
    assert (terminated[0], truncated[0]) == (False, True)  # EnvPool loses the termination

    falls, info = ends(make_scenario, 50, 0)
    assert (falls, info["TimeLimit.truncated"]) == (10, False)
    assert ends(make_scenario, 10, 0)[1]["TimeLimit.truncated"] is False
    step, info = ends(make_scenario, 9, 0)
    assert (step, info["TimeLimit.truncated"]) == (9, True)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "env", ["Hopper-v5", "FrozenLake-v1", "Go1JoystickFlatTerrain-v1", "WalkerWalk-v1"]
)
def test_a_longer_limit_inside_envpool_changes_nothing_before_it(env):
    def rollout(limit):
        pool = envpool.make_gymnasium(env, num_envs=4, seed=7, max_episode_steps=limit)
        pool.reset()
        rng, space = np.random.default_rng(0), pool.action_space
        shape = (4,) if hasattr(space, "n") else (4, *space.shape)
        values = []
        for _ in range(20):
            actions = rng.integers(0, 3, shape) if hasattr(space, "n") else rng.random(shape)
            observation, reward, *_ = pool.step(actions)
            parts = observation.values() if isinstance(observation, dict) else [observation]
            values += [reward, *parts]
        return values

    for one, two in zip(rollout(20), rollout(21), strict=True):
        np.testing.assert_array_equal(one, two)


def test_minigrid_keeps_its_own_limit_because_its_reward_depends_on_it():
    single = EnvPoolSingle("MiniGrid-Empty-5x5-v0", {}, time_limit=30)
    assert single.limit == 0
    assert single.open_pool([0]).config["max_episode_steps"] == 30


def test_finished_environments_begin_again_in_the_same_step_and_others_go_on(both):
    ours, _ = both({"env": "CartPole-v1"}, n_envs=4, stream={"task_id": "hidden"})
    before = ours.reset()
    for _ in range(40):
        observations, _, dones, infos = ours.step(np.zeros(4, np.int64))
        assert (np.abs(observations[dones]) <= 0.05).all()  # CartPole's range of first states
        for i in np.flatnonzero(~dones):
            assert observations[i, 0] == pytest.approx(before[i, 0] + 0.02 * before[i, 1], abs=1e-6)
        for i in np.flatnonzero(dones):
            assert abs(infos[i]["terminal_observation"][2]) > 0.2  # it fell
        before = observations.copy()


def test_the_same_seed_gives_the_same_trajectories_and_another_others(make_scenario):
    scenario = make_scenario({"env": "HalfCheetah-v5", "changes": {"time_limit": 7}})
    scenario = scenario.model_copy(update={"backend": "envpool"})
    spaces = stream_spaces(scenario)

    def rollout(n_envs, seed, again=False):
        envs = pooled(scenario, 0, spaces, n_envs, seed)
        rows = [envs.reset()]
        if again:
            rows = [envs.reset()]
        actions = np.full((n_envs, 6), 0.1, np.float32)
        rows += [envs.step(actions)[0] for _ in range(20)]
        return np.stack(rows)  # (steps, n_envs, entries)

    first = rollout(3, seed=4)
    np.testing.assert_array_equal(first, rollout(3, seed=4))
    np.testing.assert_array_equal(first[:, 1], rollout(1, seed=5)[:, 0])  # not its neighbours'
    assert not np.array_equal(first, rollout(3, seed=5))
    assert not np.array_equal(first, rollout(3, seed=4, again=True))  # a second episode
    envs = pooled(scenario, 0, spaces, 3, seed=0)
    envs.seed(4)
    np.testing.assert_array_equal(envs.reset(), first[0])
    assert 2**32 - 1 in (envs.seed(2**32 - 1) or ())
    assert np.isfinite(envs.reset()).all()


def test_success_is_what_the_family_reports_at_any_step_of_the_episode(make_scenario):
    scenario = make_scenario(
        {"env": "MetaWorld/WindowClose-v3", "changes": {"time_limit": 5}}, backend="envpool"
    )
    envs = pooled(scenario, 0, stream_spaces(scenario), 2, seed=0)
    raw = envs._batch.receive

    def succeeding():  # in its second step only, and only the second environment
        steps = raw()
        now = np.array([False, envs._lengths[1] == 2])
        return steps._replace(successes=steps.successes | now)

    envs._batch.receive = succeeding
    envs.reset()
    for _ in range(5):
        _, _, dones, infos = envs.step(np.zeros((2, 4), np.float32))
    assert dones.all()
    assert [info["is_success"] for info in infos] == [False, True]
    assert infos[0]["success"] == 0.0
    assert all("is_success" not in info for info in envs.step(np.zeros((2, 4), np.float32))[3])


# EnvPool passes NaN on to MuJoCo, which resets the model and gives a reward of NaN.


def test_nan_stops_the_run_with_the_words_of_the_guard(both):
    ours, oracle = both({"env": "HalfCheetah-v5"}, n_envs=2)
    texts = []
    for envs in (ours, oracle):
        envs.reset()
        actions = np.zeros((2, 6), np.float32)
        envs.step(actions)
        actions[1, 2] = np.nan
        with pytest.raises(EnvironmentFailed) as caught:
            envs.step(actions)
        texts.append(str(caught.value))
    assert "task 'task0' (EnvPool's HalfCheetah-v5): reward is nan, at step 2" in texts[0]
    assert texts[0] == texts[1]


def test_nan_ends_the_episode_of_that_environment_alone_where_the_scenario_says_so(both):
    ours, oracle = both(
        {"env": "HalfCheetah-v5"}, n_envs=2, on_nan="truncate", stream={"task_id": "hidden"}
    )
    for envs in (ours, oracle):
        envs.reset()
        actions = np.full((2, 6), 0.5, np.float32)
        before = envs.step(actions)[0].copy()
        actions[1, 2] = np.nan
        observations, rewards, dones, infos = envs.step(actions)
        assert dones.tolist() == [False, True]
        assert rewards[1] == 0.0
        assert np.isfinite(observations).all()
        np.testing.assert_array_equal(infos[1]["terminal_observation"], before[1])
        assert infos[1][NAN_KEY] is True
        assert infos[1]["TimeLimit.truncated"] is True


def test_observations_kept_by_the_caller_are_not_written_over(both):
    ours, _ = both({"env": "HalfCheetah-v5"}, stream={"task_id": "hidden"})
    kept = ours.reset()
    copy = kept.copy()
    for _ in range(30):
        ours.step(np.ones((3, 6), np.float32))
    np.testing.assert_array_equal(kept, copy)


def test_it_is_what_stable_baselines3_makes_of_single_environments():
    """The oracle of the others, checked: plain make_vec_env over bare single environments."""
    plain = make_vec_env(lambda: EnvPoolSingle("CartPole-v1", {}), 2, seed=3)
    assert isinstance(plain, DummyVecEnv)
    raw = envpool.make_gymnasium("CartPole-v1", num_envs=2, seed=[3, 4])
    np.testing.assert_array_equal(plain.reset(), raw.reset()[0])
    np.testing.assert_array_equal(plain.step(np.array([0, 1]))[0], raw.step(np.array([0, 1]))[0])


def test_a_batch_can_be_stepped_in_part(make_scenario):
    scenario = make_scenario({"env": "CartPole-v1"}, backend="envpool")
    spaces = stream_spaces(scenario)
    part, whole = (Batch(task_env(scenario, 0, spaces), "task0") for _ in range(2))
    np.testing.assert_array_equal(part.start([1, 2, 3]), whole.start([1, 2, 3]))
    everything = np.arange(3, dtype=np.int32)
    expected = whole.step(np.array([1, 0, 1]), everything)
    some = part.step(np.array([1, 1]), np.array([2, 0], np.int32))
    np.testing.assert_array_equal(some.observations, expected.observations[[2, 0]])
    rest = part.step(np.array([0]), np.array([1], np.int32))
    np.testing.assert_array_equal(rest.observations, expected.observations[[1]])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("task", "low", "high"), [("Hammer", 0.74, 0.74), ("ShelfPlace", 0.7, 0.9)]
)
def test_no_reset_moves_a_goal_out_of_reach(both, task, low, high):
    """In EnvPool 1.2.5 itself, these goals go 0.8 m further away at every reset."""
    keys = {"kwargs": {"partially_observable": False}, "changes": {"time_limit": 3}}
    ours, single = both({"env": f"MetaWorld/{task}-v3", **keys}, stream={"task_id": "hidden"})
    shown = [ours.reset()] + [ours.step(np.zeros((3, 4), np.float32))[0] for _ in range(12)]
    single.close()
    goals = np.array(shown)[:, :, -2]
    assert goals.min() >= low - 1e-9
    assert goals.max() <= high + 1e-9
    one = EnvPoolSingle(f"MetaWorld/{task}-v3", keys["kwargs"])
    later = [one.reset(seed=0 if number == 0 else None)[0] for number in range(4)]
    assert max(row[-2] for row in later) <= high + 1e-9
    bare = envpool.make_gymnasium(f"MetaWorld/{task}-v3", num_envs=1, partially_observable=False)
    gone = [bare.reset()[0][0, -2] for _ in range(3)]
    assert gone[-1] > high + 1  # when this fails, EnvPool has mended it: FreshPool can go


@pytest.mark.thorough
def test_fresh_simulators_are_those_of_single_environments(both):
    env = {"env": "MetaWorld/Hammer-v3", "changes": {"time_limit": 7}}
    assert rollouts_equal(*both(env, stream={"task_id": "hidden"}), steps=30) == 3 * 4


def test_fresh_simulators_reset_a_few_at_a_time():
    """Rows come in the order asked for, whatever pools the environments have got into."""
    source = EnvPoolSingle("MetaWorld/Hammer-v3", {"partially_observable": False})
    pool, single = source.open_pool([3, 4, 5]), source.open_pool([4])
    pool.reset()
    single.reset()
    one, two = np.array([1], np.int32), np.array([2], np.int32)
    again, _ = pool.reset(one)
    np.testing.assert_array_equal(again, single.reset()[0])
    pool.reset(two)
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4)).astype(np.float32)
    for step in actions:
        expected = single.step(step[[1]])
        observations, rewards, *_, info = pool.step(step)
        np.testing.assert_array_equal(observations[[1]], expected[0])
        np.testing.assert_array_equal(rewards[[1]], expected[1])
        np.testing.assert_array_equal(info["obj_to_target"][[1]], expected[4]["obj_to_target"])
    swapped = pool.step(actions[0][[2, 1]], np.array([2, 1], np.int32))
    np.testing.assert_array_equal(swapped[0][[1]], single.step(actions[0][[1]])[0])
    assert len({row.tobytes() for row in observations}) == 3
