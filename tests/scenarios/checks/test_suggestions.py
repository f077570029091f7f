"""Mistakes whose messages led nowhere: each is told once, with what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.envs.base.loading import build
from holdfast.envs.make import make_env
from holdfast.errors import UsageError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

ONE = "tasks: [{{name: a, env: {env}, steps: 64}}]\nagent: {{algorithm: ppo}}\n"
SAMPLED = """\
tasks: [{name: a, env: CartPole-v1, steps: 64, sample: {gravity: "uniform(5, 15)"}}]
agent: {algorithm: ppo}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A package beside the scenario, whose environments are in a module of it."""
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text("", "utf-8")
    text = 'import gymnasium as gym\ngym.register("mylab/Quad-v0")\nclass Quad(gym.Env): pass\n'
    (package / "envs.py").write_text(text, "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("mylab.env:Quad", "in the package 'mylab'; did you mean 'mylab.envs'?"),
        ("mylb.envs:Quad", "did you mean 'mylab.envs'?"),
        ("mylab:Quad", "module 'mylab' has no environment 'Quad'; write 'mylab.envs:Quad'"),
        ("mylab.envs:Qad", "did you mean 'mylab.envs:Quad'?"),
        (
            "mylab/Quad-v0",
            "'mylab/Quad-v0' is registered; did you mean 'mylab.envs:mylab/Quad-v0'?",
        ),
        ("mylab/Else-v3", "did you mean 'mylab:mylab/Else-v3'?"),
    ],
)  # fmt: skip
def test_modules_and_packages(problems: Any, lab: Path, env: str, message: str) -> None:
    (found,) = problems(ONE.format(env=f'"{env}"'))
    assert found.message.endswith(message)


def test_what_a_suggestion_says_is_taken(write: Any, lab: Path) -> None:
    for env in ("mylab.envs:Quad", "mylab.envs:mylab/Quad-v0"):
        assert load(write(ONE.format(env=f'"{env}"'))).tasks[0].env == env


@pytest.mark.parametrize("task_id", ["observed", "heads", "hidden"])
@pytest.mark.parametrize("method", ["packnet", "progressive"])
def test_sampled_tasks_and_a_method_that_needs_an_id(
    problems: Any, task_id: str, method: str
) -> None:
    """One message for both, whatever the stream says: no way round leads back to it."""
    stream = f"stream.task_id={task_id}"
    found = problems(SAMPLED, f"methods=[{method}]", stream, "stream.task_count=known")
    (told,) = (one for one in found if "sample" in one.message)
    assert told.path == "methods[0]"
    assert "nothing can tell it: every visit to a sampled task is a task of its own" in told.message
    assert "remove tasks[0].sample" in told.message


def test_sampled_tasks_and_a_method_that_needs_none(problems: Any, write: Any) -> None:
    (found,) = problems(SAMPLED)
    assert found.path == "tasks[0].sample"
    assert found.message.endswith("write stream: {task_id: hidden}")
    assert load(write(SAMPLED), ["stream.task_id=hidden", "methods=[naive, ewc]"]).tasks


@pytest.mark.parametrize("key", ["drift", "sample", "randomize"])
def test_a_key_of_the_task_inside_changes(problems: Any, key: str) -> None:
    (found,) = problems(ONE.format(env="CartPole-v1"), f"tasks[0].changes.{key}={{gravity: 3}}")
    assert found.message == f"unknown key here; '{key}' is a key of the task, beside changes:"


@pytest.mark.parametrize(
    ("key", "value"),
    [("drift", {"linear": [9.0, 10.0]}), ("randomize", "uniform(5, 15)")],
)
def test_a_drift_is_called_a_drift(key: str, value: Any) -> None:
    task = {"name": "a", "env": "CartPole-v1", "steps": 64, key: {"gravty": value}}
    scenario = Scenario.model_validate({"tasks": [task], "agent": {"algorithm": "ppo"}})
    with pytest.raises(UsageError, match=rf"task 'a': {key}.gravty: CartPoleEnv has no attribute"):
        make_env(scenario, scenario.tasks[0], **({"n_envs": 1} if key == "drift" else {}))
    assert build("CartPole-v1", {})
