from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios.checks.processes import check_interpreter, interpreter
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.sections import Pool

REMOTE = """
    tasks:
      - {name: here, env: CartPole-v1, steps: 1000}
      - {name: there, env: "sim:Arm", steps: 1000, python: PYTHON, %s}
    agent: {algorithm: ppo}
"""


def remote(python, keys=""):
    return (REMOTE % keys).replace("PYTHON", str(python))


def test_a_pool_is_read_and_off_by_default(write):
    assert load(write()).pool == Pool(workers=0, reset_timeout_s=60, step_timeout_s=10, restarts=5)
    scenario = load(write(), ["n_envs=4", "pool={workers: 2, step_timeout_s: 0.5}"])
    assert (scenario.pool.workers, scenario.pool.step_timeout_s) == (2, 0.5)


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (["pool.workers=4", "n_envs=2"], "pool.workers", "4 processes have only 2 environments"),
        (["pool.workers=2"], "pool.workers", "only 1 environments (n_envs)"),
        (["pool.worker=2"], "pool.worker", "did you mean 'workers'?"),
        (["pool.step_timeout_s=0"], "pool.step_timeout_s", "0"),
        (["pool.restarts=-1"], "pool.restarts", "0"),
        (
            ["pool.workers=1", "tasks[0].exclusive=true"],
            "tasks[0].exclusive",
            "must not be killed and started again by itself; write pool: {workers: 0}",
        ),
        (
            ["pool.workers=1", "tasks[0].drift={gravity: {linear: [9.8, 12]}}"],
            "tasks[0].drift",
            "is recorded by the process that trains",
        ),
    ],
)
def test_a_pool_that_cannot_work_is_refused(one, overrides, path, message):
    found = one(*overrides)
    assert found.path == path
    assert message in found.message


def test_an_interpreter_is_relative_to_the_scenario_and_what_it_has_is_not_looked_for_here(
    other_python, write, tmp_path
):
    python = os.path.relpath(other_python, tmp_path)
    scenario = load(write(remote(python, "kwargs: {joints: 7}")))
    assert scenario.tasks[1].python == python
    assert interpreter(python, tmp_path) == other_python
    assert scenario.to_yaml().count(f"python: {python}") == 1


def test_a_bare_name_is_looked_for_as_the_shell_does(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "python-of-mine"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert interpreter("python-of-mine", tmp_path / "elsewhere") == program
    assert interpreter("other", tmp_path) == tmp_path / "other"
    monkeypatch.setenv("HOME", "/home/someone")
    assert interpreter("~/venv/bin/python", tmp_path) == Path("/home/someone/venv/bin/python")


def test_an_interpreter_without_the_packages_is_refused_with_the_command(problems, make_python):
    python = make_python("numpy")
    (found,) = problems(remote(python))
    assert found.path == "tasks[1].python"
    assert found.message == (
        f"{python} lacks gymnasium; install with: {python} -m pip install gymnasium"
    )
    assert found.line == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no "),
        ("", "is no program that can be started"),
        ("#!/bin/sh\necho hello\n", "is no Python interpreter"),
        ("#!/bin/sh\nexit 3\n", "is no Python interpreter"),
        ("#!/bin/sh\nprintf '3 7 '\n", "is Python 3.7; environments need 3.8 or newer"),
        ("#!/bin/sh\nprintf '3 9 gymnasium numpy'\n", "lacks gymnasium and numpy; install with"),
    ],
)
def test_what_is_no_usable_interpreter_is_refused(problems, tmp_path, content, message):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    if content is not None:
        python.write_text(content)
        python.chmod(0o755 if content else 0o644)
    (found,) = problems(remote(python))
    assert found.path == "tasks[1].python"
    assert message in found.message
    check_interpreter.cache_clear()


def test_a_folder_is_refused(problems, tmp_path):
    (found,) = problems(remote(tmp_path))
    assert "is a folder; name the interpreter in it" in found.message


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ("changes: {set: {gravity: 3.0}}", "tasks[1].changes.set"),
        ("changes: {mujoco: {gravity: 2.0}}", "tasks[1].changes.mujoco"),
        ("changes: {dead_actuators: [elbow]}", "tasks[1].changes.dead_actuators"),
        ("wrappers: [atari]", "tasks[1].wrappers[0]"),
        ("wrappers: [{atari: {noop_max: 3}}]", "tasks[1].wrappers[0]"),
    ],
)
def test_what_reaches_inside_is_refused_by_name(problems, other_python, keys, path):
    (found,) = problems(remote(other_python, keys))
    assert found.path == path
    assert "reaches inside the environment, which runs under another interpreter" in found.message


def test_other_changes_work_there(write, other_python):
    changes = "changes: {dead_actuators: [1], reward_scale: 2.0, time_limit: 5}"
    assert load(write(remote(other_python, changes))).tasks[1].changes.time_limit == 5


def test_a_data_set_has_neither(write):
    text = """
        tasks: [{name: a, benchmark: split-digits, experience: 0, steps: 10, python: x}]
        stream: {task_id: hidden}
        agent: {algorithm: supervised}
        pool: {workers: 1}
    """
    with pytest.raises(ScenarioError) as caught:
        load(write(text))
    paths = {problem.path: problem.message for problem in caught.value.problems}
    assert paths["pool.workers"].endswith("data sets are not stepped; remove it")
    assert "only an environment has this" in paths["tasks[0].python"]
