"""What a pool of processes returns, with and without failures."""

from __future__ import annotations

import json
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from pools import ENVS, FAST, SLOW, Reference, coded, many_steps, odd, processes
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.monitor import Monitor

from holdfast.envs.base.loading import build
from holdfast.envs.processes.pool import RESTARTED
from holdfast.envs.vector import vectorize
from holdfast.envs.wrappers.guard import Guard
from holdfast.errors import EnvironmentFailed, UsageError
from holdfast.scenarios.schema.sections import Pool
from holdfast.seeding import derive

# -- without failures: the same as in one process --------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(
    "maker",
    [
        partial(gym.make, "CartPole-v1"),
        partial(gym.make, "Pendulum-v1"),
        odd("Pictures"),
        odd("OnlyCamera"),
        odd("Masked"),
    ],
    ids=["discrete", "box", "dict", "image", "masks"],
)
def test_trajectories_equal_those_of_one_process(make_pool, maker, same):
    one, two = vectorize(maker, 5, seed=11), make_pool([maker] * 5, seed=11)
    assert one.observation_space == two.observation_space
    assert one.action_space == two.action_space
    for env in (one, two):
        env.set_options({"wind": 3})
    same(one.reset(), two.reset())
    same(one.reset_infos, two.reset_infos)
    for step in range(300):
        actions = np.array([one.action_space.sample() for _ in range(5)])
        assert np.array_equal(actions[0], two.action_space.sample())  # seeded alike
        for _ in range(4):
            two.action_space.sample()
        if step == 200 and isinstance(one.action_space, gym.spaces.Box):
            actions = actions.astype(np.float64)  # an agent may give another type
        same(list(one.step(actions)), list(two.step(actions)))
        same(one.reset_infos, two.reset_infos)
    same(one.reset(), two.reset())  # without seeds: their own random numbers go on
    one.close()


@pytest.mark.thorough
def test_more_workers_than_one_share_the_environments(make_pool):
    pool = make_pool(coded(5, faulty=None), Pool(workers=3))
    assert len(set(processes(pool))) == 3
    assert pool.reset()[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert pool.reset_infos == [{"begun": 0}] * 5


@pytest.mark.thorough
def test_action_masks_and_attributes_come_from_the_workers(make_pool):
    pool = make_pool([odd("Masked", index=i) for i in range(3)])
    pool.reset()
    assert is_masking_supported(pool)
    pool.step(np.zeros(3, int))
    assert get_action_masks(pool).tolist() == [[True, False, True]] * 3
    assert pool.get_attr("index") == [0, 1, 2]
    assert pool.get_attr("action_masks")[2]().tolist() == [True, False, True]
    pool.set_attr("index", 7, indices=1)
    assert pool.get_attr("index", [1, 2]) == [7, 2]
    assert not pool.has_attr("nothing")
    with pytest.raises(AttributeError, match="nothing"):
        pool.get_attr("nothing")
    with pytest.raises(AttributeError, match="nothing"):
        pool.env_method("nothing")
    with pytest.raises(UsageError, match="a object cannot travel"):
        pool.env_method("action_masks", object())
    assert pool.env_is_wrapped(Monitor) == [True] * 3
    assert pool.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3


@pytest.mark.thorough
def test_a_wrapper_is_found_and_pictures_are_rendered(make_pool):
    pool = make_pool([partial(gym.make, "CartPole-v1", render_mode="rgb_array")] * 2)
    pool.reset()
    assert pool.env_is_wrapped(gym.wrappers.TimeLimit, indices=[1]) == [True]
    assert pool.render_mode == "rgb_array"
    assert [picture.shape for picture in pool.get_images()] == [(400, 600, 3)] * 2


@pytest.mark.thorough
def test_what_cannot_travel_is_named_once(make_pool, capfd):
    pool = make_pool([odd("Pictures")], Pool(workers=1))
    pool.reset()
    for _ in range(3):
        _, _, _, infos = pool.step(np.zeros((1, 2), np.float32))
    assert capfd.readouterr().err.count("info['object'] is left out: a object") == 1
    assert infos[0]["array"].dtype == np.float32


# -- failures: compared with a reference that is computed here -------------------------------------


FAULTS = ["raise", "exit", "os_exit", "kill", "segfault", "hang", "stop", "nonsense"]
KINDS = ("raise", "kill", "hang", "nonsense")  # what the pool tells apart
WHAT = {"raise": "raised", "exit": "raised", "hang": "hung", "stop": "hung", "nonsense": "nonsense"}


# In both places the same is done, so that one of each kind in a reset will do for the fast run.
@pytest.mark.thorough
@pytest.mark.kill
@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, "step") for name in ("raise", "kill", "hang", "nonsense")),
        ("raise", "reset"),
        *(
            pytest.param(name, place, marks=pytest.mark.slow)
            for place, fast in (
                ("step", ("raise", "kill", "hang", "nonsense")),
                ("reset", ("raise",)),
            )
            for name in FAULTS
            if name not in fast
        ),
    ],
)
def test_a_worker_that_fails_is_restarted(make_pool, name, place, tmp_path, is_alive):
    told = []
    makers = coded(4, fault=name, place=place, at=7, once=str(tmp_path / "once"))
    limits = FAST if name in ("hang", "stop") else SLOW
    pool = make_pool(makers, limits, seed=20, on_failure=told.append)
    before = processes(pool)
    reference = Reference(pool, seed=20)
    cut = []
    for step in range(40):
        infos = reference.step(np.arange(4) + step)
        cut += [i for i, info in enumerate(infos) if RESTARTED in info]
    assert cut == [0, 1]  # both of that worker, once; the other worker went on
    assert pool.restarts == 1
    assert not is_alive(before[0])
    assert processes(pool)[1] == before[1]
    (record,) = told
    json.dumps(record)
    assert record["what"] == WHAT.get(name, "died")
    assert record["envs"] == [0, 1]
    if name != "nonsense":  # which is written over the note of who is at work, too
        assert (record["place"], record["env"]) == (place, 1)
        assert record["action"] - 1 >= 6  # the pool's step that it was of
    if name in ("raise", "exit"):
        assert "in _raise" in record["traceback"] or "in _exit" in record["traceback"]
    if name == "hang":
        assert "here_it_hangs" in record["traceback"]
        assert "within 0.5 s" in record["text"]
    if name == "kill":
        assert "SIGKILL, exit code -9" in record["text"]
        assert "MiB" in record["text"]
    if name == "segfault":
        assert "SIGSEGV" in record["text"]
        assert "Segmentation fault" in record["traceback"]


@pytest.mark.thorough
def test_the_first_reset_may_fail_too(make_pool, tmp_path):
    makers = coded(4, fault="raise", place="reset", at=0, once=str(tmp_path / "once"))
    pool = make_pool(makers, seed=20)
    reference = Reference(pool, seed=20)
    assert pool.restarts == 1
    assert [state[1] for state in reference.states[2:]] == [22, 23]
    assert reference.states[1][1] == derive(20, "restart", 1, 1)
    for _ in range(10):
        reference.step(np.ones(4, int))


@pytest.mark.thorough
def test_restarted_episodes_depend_on_seed_and_restart_alone(make_pool, tmp_path):
    def shown(run):
        once = str(tmp_path / f"once-{run}")
        pool = make_pool(coded(2, fault="raise", once=once), Pool(workers=1))
        rows = [pool.reset()]
        return np.array(rows + [pool.step(np.ones(2, int))[0] for _ in range(20)])

    assert np.array_equal(shown(1), shown(2))


@pytest.mark.thorough
def test_too_many_failures_end_the_run_with_the_original_traceback(make_pool):
    told = []
    pool = make_pool(coded(2, fault="raise"), Pool(workers=2, restarts=2), on_failure=told.append)
    reference = Reference(pool, seed=11)
    with pytest.raises(EnvironmentFailed) as caught:
        many_steps(reference, 2)
    assert reference.cuts == 2
    text = str(caught.value)
    assert "environment 1: raised ValueError: boom; given up after 2 restarts (pool.res" in text
    assert 'odd_worlds.py", line' in text
    assert text.endswith("ValueError: boom")
    assert [record["restarts"] for record in told] == [0, 1, 2]


@pytest.mark.thorough
def test_without_restarts_the_first_failure_ends_it(make_pool):
    pool = make_pool(coded(2, fault="kill"), Pool(workers=2, restarts=0))
    pool.reset()
    with pytest.raises(EnvironmentFailed, match=r"memory ran out, in step; pool\.restarts is 0"):
        many_steps(pool, 2)


@pytest.mark.thorough
def test_prints_do_no_harm(make_pool, capfd):
    pool = make_pool(coded(2, fault="print"))
    reference = Reference(pool, seed=11)
    for _ in range(20):
        reference.step(np.ones(2, int))
    pool.close()
    told = capfd.readouterr()
    assert (pool.restarts, told.out) == (0, "")
    for words in ("to stdout\n", "to stdout, past Python", "to stdout, from a child"):
        assert words in told.err


@pytest.mark.thorough
def test_changed_folders_and_threads_do_no_harm(make_pool, tmp_path, all_dead):
    pool = make_pool(coded(2, fault="elsewhere", once=str(tmp_path / "once")))
    reference = Reference(pool, seed=11)
    for _ in range(20):
        reference.step(np.ones(2, int))
    pids, began = processes(pool), time.monotonic()
    pool.close()
    assert time.monotonic() - began < 1.0
    assert all_dead(pids, within_s=0)


@pytest.mark.thorough
def test_nan_comes_through_as_the_guard_says_it(make_pool):
    def guarded():
        return Guard(build("odd_worlds:Coded", {"fault": "nan"}, folder=ENVS), "reach")

    pool, plain = make_pool([guarded], Pool(workers=1)), vectorize(guarded, 1, seed=11)
    texts = []
    for env in (pool, plain):
        env.reset()
        with pytest.raises(EnvironmentFailed) as caught:
            many_steps(env, 1)
        texts.append(str(caught.value))
    strip = [text.partition("(")[0] + text.partition(")")[2] for text in texts]  # object's address
    assert strip[0] == strip[1]
    assert "observation[1] is nan, at step" in texts[0]
    assert pool.restarts == 0


def test_a_wrong_shape_is_named(make_pool):
    class Wrong(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (3,))
        action_space = gym.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros((1, 3), np.float32), {}

    pool = make_pool([Wrong], Pool(workers=1, restarts=0))
    with pytest.raises(EnvironmentFailed, match=r"has the shape \(1, 3\), its space \(3,\)"):
        pool.reset()
    with pytest.raises(ValueError, match="actions of shape"):
        pool.step(np.zeros((1, 2)))
