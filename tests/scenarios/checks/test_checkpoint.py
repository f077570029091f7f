"""When there are checkpoints inside tasks, as the scenario says or as it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.errors import ScenarioError, UsageError
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.schema.scenario import Scenario

TEXT = """
tasks: [{{name: a, env: {env}, steps: {steps}}}]
agent: {{algorithm: {algorithm}{inner}}}
"""


def written(place: Path, more: str = "", **given: Any) -> Path:
    values = {"env": "CartPole-v1", "steps": 1_000_000, "algorithm": "ppo", "inner": ""} | given
    file = place / "mine.yaml"
    file.write_text(TEXT.format(**values) + more)
    return file


@pytest.mark.parametrize(
    ("algorithm", "steps", "n_envs", "every"),
    [
        ("ppo", 249_999, 1, "off"),
        ("ppo", 250_000, 1, 25_000),
        ("ppo", 1_000_000, 8, 50_000),
        ("dqn", 99_999, 1, "off"),
        ("dqn", 100_000, 1, 10_000),
        ("dqn", 1_000_000, 16, 40_000),
    ],
)
def test_the_default_is_resolved_when_a_file_is_loaded(
    algorithm: str, steps: int, n_envs: int, every: Any, tmp_path: Path
) -> None:
    steps -= steps % n_envs
    file = written(tmp_path, f"n_envs: {n_envs}\n", algorithm=algorithm, steps=steps)
    scenario = load(file)
    assert scenario.checkpoint.every == every
    (tmp_path / "resolved.yaml").write_text(scenario.to_yaml())
    assert load_resolved(tmp_path / "resolved.yaml") == scenario
    assert load(file, ["checkpoint.every=off"]).checkpoint.every == "off"
    assert load(file, ["checkpoint.every=1e4"]).checkpoint.every == 10_000


def test_a_run_folder_without_the_key_means_off_and_goes_on(tmp_path: Path) -> None:
    file = written(tmp_path)
    scenario = load(file)
    (folder,) = prepare(tmp_path / "runs", scenario)
    path = folder.path / "scenario.yaml"
    lines = path.read_text().split("\n")
    older = [line for line in lines if not line.startswith("checkpoint:")]
    assert len(older) == len(lines) - 1
    path.write_text("\n".join(older))
    assert load_resolved(path).checkpoint.every == "off"
    (again,) = prepare(tmp_path / "runs", scenario)
    assert again.scenario.checkpoint.every == "off"
    with pytest.raises(UsageError, match=r"\+checkpoint: \{every: 5000"):
        prepare(tmp_path / "runs", load(file, ["checkpoint.every=5000"]))


def test_what_cannot_have_any_is_refused(tmp_path: Path) -> None:
    buffer = ", optimize_memory_usage: true"
    more = "checkpoint: {every: 1000}\n"
    with pytest.raises(ScenarioError, match="keeps no successor of its own"):
        load(written(tmp_path, more, algorithm="dqn", inner=buffer))
    assert load(written(tmp_path, algorithm="dqn", inner=buffer)).checkpoint.every == "off"
    file = tmp_path / "digits.yaml"
    file.write_text(
        "tasks: [{name: a, benchmark: digits, steps: 10}]\nagent: {algorithm: supervised}\n"
        "stream: {task_id: hidden}\n" + more
    )
    with pytest.raises(ScenarioError) as caught:
        load(file)
    assert "a task of a data set is saved at its end alone" in str(caught.value)


def test_the_model_alone_means_off() -> None:
    task = {"name": "a", "env": "CartPole-v1", "steps": 10_000_000}
    made = Scenario.model_validate({"tasks": [task], "agent": {"algorithm": "ppo"}})
    assert made.checkpoint.every == "off"
