"""Every task of every shipped suite is made, stepped and closed on its real simulator."""

from __future__ import annotations

from fnmatch import fnmatch

import numpy as np
import pytest

from holdfast.envs.base.compatibility import check_actions
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import pooled, task_env, vectorize
from holdfast.errors import ScenarioError
from holdfast.scenarios.checks import backend
from holdfast.scenarios.load import load
from holdfast.scenarios.shipped import shipped

LIGHT = ("cw10", "minigrid", "babyai", "classic-control", "slippery-ant", "hopper-transfer")
PATTERNS = (
    *("cw*", "*-forgetting", "*-transfer", "*-robustness", "playground-*", "atari-*", "vizdoom-*"),
)
HEAVY = tuple(
    name
    for name in shipped()
    if name not in LIGHT and any(fnmatch(name, pattern) for pattern in PATTERNS)
)
STEPS = 36


def test_all_suites_are_here():
    triplets = [f"cw-triplet-{number}" for number in range(1, 9)]
    axes = [
        f"{robot}-{axis}"
        for robot in ("cheetah", "ant", "hopper", "walker")
        for axis in ("forgetting", "transfer", "robustness")
        if (robot, axis) != ("hopper", "transfer")
    ]
    robots = ["playground-go1", "playground-spot", "playground-panda"]
    others = {"cw10-lite", "cw10-lite-tuning", "cw20", "atari-cycles", "vizdoom-objectives"}
    expected = {*triplets, *axes, *robots, *others}
    assert set(HEAVY) == expected


@pytest.mark.parametrize(
    "name", [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]
)
def test_every_task_of_a_suite_steps_with_random_actions(name):
    scenario = load(name)
    sides = ["gymnasium", "envpool"] if scenario.backend == "auto" else [scenario.backend]
    if "envpool" in sides:
        pytest.importorskip("envpool")
    for side in sides:
        chosen = scenario.model_copy(update={"backend": side, "n_envs": 2})
        spaces = stream_spaces(chosen)
        check_actions(chosen, spaces)
        firsts = [_steps(chosen, index, spaces) for index in range(len(chosen.tasks))]
        assert len(firsts) == len(scenario.tasks)


def _steps(scenario, index, spaces):
    """Step one task; its observations fit the stream's space and rewards are numbers."""
    if scenario.backend == "envpool":
        envs = pooled(scenario, index, spaces, 2, seed=0)
    else:
        envs = vectorize(lambda: task_env(scenario, index, spaces), 2, seed=0)
    space = envs.observation_space
    first = envs.reset()
    for _ in range(STEPS):
        actions = np.array([envs.action_space.sample() for _ in range(2)])
        observations, rewards, dones, infos = envs.step(actions)
        assert np.isfinite(rewards).all()
        assert (dones.shape, len(infos)) == ((2,), 2)
        row = (
            {key: value[0] for key, value in observations.items()}
            if isinstance(observations, dict)
            else observations[0]
        )
        assert space.contains(row)
    envs.close()
    return first


def test_cw20_and_cw10_are_what_continual_world_published():
    pytest.importorskip("envpool")
    ten, twenty = map(load, ("cw10", "cw20"))
    names = [ten.tasks[index].name for index in ten.stream_tasks]
    assert names == [
        "hammer",
        "push-wall",
        "faucet-close",
        "push-back",
        "stick-pull",
        "handle-press-side",
        "push",
        "shelf-place",
        "window-close",
        "peg-unplug-side",
    ]
    assert [twenty.tasks[i].name for i in twenty.stream_tasks] == [
        f"{name}-{visit}" for visit in (1, 2) for name in names
    ]
    assert [task.env for task in twenty.tasks] == [task.env for task in ten.tasks] * 2
    assert twenty.id_width == 20
    for task in twenty.tasks:
        assert task.changes.time_limit == 200
        assert task.kwargs == {"partially_observable": False}
        assert task.steps == 1_000_000
    third = load("cw-triplet-6")
    assert [third.tasks[index].name for index in third.stream_tasks] == [
        "stick-pull",
        "peg-unplug-side",
        "stick-pull",
    ]


def test_the_goal_is_visible_and_drawn_at_every_reset():
    pytest.importorskip("envpool")
    scenario = load("cw10").model_copy(update={"n_envs": 1})
    push = [task.name for task in scenario.tasks].index("push")
    only = scenario.model_copy(update={"tasks": (scenario.tasks[push],)})
    envs = pooled(only, 0, stream_spaces(only), 1, seed=0)
    width = only.id_width
    one, two = (envs.reset()[0, -3 - width : envs.observation_space.shape[0] - width] for _ in "ab")
    assert np.abs(one).min() > 0
    assert not np.array_equal(one, two)
    envs.close()


@pytest.mark.parametrize("name", ["cw10", "atari-cycles", "playground-go1"])
def test_without_envpool_one_line_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(backend, "is_installed", lambda: False)
    with pytest.raises(ScenarioError) as caught:
        load(name)
    (problem,) = caught.value.problems
    assert problem.path == "backend"
    assert problem.message.endswith('install it with: pip install "holdfast[envpool]"')


def test_without_mujoco_one_line_says_what_to_install(monkeypatch):
    from holdfast.scenarios.checks import references

    references._installed.cache_clear()
    monkeypatch.setattr(references, "_installed", lambda package: False)
    with pytest.raises(ScenarioError) as caught:
        load("slippery-ant")
    assert 'pip install "holdfast[mujoco]"' in caught.value.problems[0].message


def test_list_envs_has_a_line_for_each_of_envpools_families(monkeypatch):
    from holdfast import listing

    pytest.importorskip("envpool")
    lines = listing.envs().splitlines()
    (metaworld,) = [line for line in lines if line.startswith("  mujoco.metaworld (50): ")]
    assert "MetaWorld/Assembly-v3" in metaworld
    monkeypatch.setattr(backend, "is_installed", lambda: False)
    assert any('pip install "holdfast[envpool]"' in line for line in listing.envs().splitlines())
