"""Keys that are written once for all tasks: what wins, and where mistakes stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.errors import Problem
from holdfast.scenarios.load import load, load_resolved

DEFAULTS = """\
task_defaults:
  env: CartPole-v1
  steps: 1000
  kwargs: {sutton_barto_reward: true}
  changes: {time_limit: 100, action_delay: 1}
  score: {random: 0, reference: 100}
tasks:
  - name: plain
  - {name: mirrored, steps: 2000, changes: {action_map: [1, 0], action_delay: 2}}
  - {name: paid, kwargs: {render_mode: null}, score: success, wrappers: [{frame_stack: 2}]}
agent: {algorithm: ppo}
"""
WRITTEN_OUT = """\
tasks:
  - {name: plain, env: CartPole-v1, steps: 1000, kwargs: {sutton_barto_reward: true},
     changes: {time_limit: 100, action_delay: 1}, score: {random: 0, reference: 100}}
  - {name: mirrored, env: CartPole-v1, steps: 2000, kwargs: {sutton_barto_reward: true},
     changes: {time_limit: 100, action_delay: 2, action_map: [1, 0]},
     score: {random: 0, reference: 100}}
  - {name: paid, env: CartPole-v1, steps: 1000,
     kwargs: {sutton_barto_reward: true, render_mode: null},
     changes: {time_limit: 100, action_delay: 1}, score: success, wrappers: [{frame_stack: 2}]}
agent: {algorithm: ppo}
"""


def test_the_resolved_scenario_is_the_one_with_its_tasks_written_out(write, tmp_path: Path) -> None:
    scenario = load(write(DEFAULTS))
    assert scenario == load(write(WRITTEN_OUT))
    text = scenario.to_yaml()
    assert text == load(write(WRITTEN_OUT)).to_yaml()
    assert "task_defaults" not in text
    assert load_resolved(write(text, "again.yaml")) == load(tmp_path / "again.yaml")


def test_overrides_change_one_task_or_the_defaults_of_all(write) -> None:
    path = write(DEFAULTS)
    one = load(path, ["tasks[0].steps=10", "tasks.paid.kwargs.sutton_barto_reward=false"])
    assert [task.steps for task in one.tasks] == [10, 2000, 1000]
    rewards = [task.kwargs["sutton_barto_reward"] for task in one.tasks]
    assert rewards == [True, True, False]
    every = load(path, ["task_defaults.steps=30", "task_defaults.changes.time_limit=7"])
    assert [task.steps for task in every.tasks] == [30, 2000, 30]
    assert [task.changes.time_limit for task in every.tasks] == [7, 7, 7]


def test_a_sweep_of_one_tasks_key_leaves_the_others_as_they_are(write) -> None:
    sweep = "sweep: {tasks.plain.kwargs.sutton_barto_reward: [true, false], tasks.1.steps: [5]}\n"
    scenario = load(write(DEFAULTS + sweep))
    only = [scenario.only(cell).tasks for cell in scenario.cells()]
    key = "sutton_barto_reward"
    assert [[task.kwargs[key] for task in tasks] for tasks in only] == [
        [True, True, True],
        [False, True, True],
    ]
    assert [tasks[1].steps for tasks in only] == [5, 5]


@pytest.mark.parametrize(
    ("override", "places"),
    [
        ("n_envs=3", [(3, "task_defaults.steps"), (9, "tasks[1].steps")]),
        ("task_defaults.stepz=3", [(0, "task_defaults.stepz")]),
        ("task_defaults.name=all", [(0, "task_defaults.name")]),
        ("task_defaults.changes.gravity=3", [(0, "task_defaults.changes.gravity")]),
        ("task_defaults.kwargs=3", [(0, "task_defaults.kwargs")]),
        ("task_defaults=3", None),
        ("tasks.1.changes.action_map=[0, x]", [(0, "tasks[1].changes.action_map[1]")]),
        ("task_defaults.env=CartPol-v1", [(0, "task_defaults.env")]),
        ("sweep={task_defaults.steps: [1]}", [(0, "sweep.task_defaults.steps")]),
    ],
)
def test_a_mistake_in_a_default_is_told_once_where_it_stands(
    problems: Callable[..., list[Problem]], override: str, places: list[tuple[int, str]] | None
) -> None:
    found = [(problem.line, problem.path) for problem in problems(DEFAULTS, override)]
    if places is None:
        assert (0, "task_defaults") in found
    else:
        assert found == sorted(places, key=lambda place: (not place[0], place))


def test_a_misspelt_section_is_named(problems: Callable[..., list[Problem]]) -> None:
    texts = [
        str(problem) for problem in problems(DEFAULTS.replace("task_defaults", "task_default"))
    ]
    assert "unknown key; did you mean 'task_defaults'?" in texts[0]
