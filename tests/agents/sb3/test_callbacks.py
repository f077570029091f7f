"""Callbacks of the user's own: called, kept within bounds, and remembered over kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kills import assert_unharmed, cell, content, silent, two_tasks
from own_parts.callbacks import Cooling, Looking
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from holdfast.continual.training.cell import run_cell
from holdfast.errors import ScenarioError, UsageError
from holdfast.scenarios.checks.own_code import own_code
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 16, "batch_size": 16, "n_epochs": 2, **NETS}
OFF = {"learning_starts": 16, "batch_size": 16, "buffer_size": 100, **NETS}
SAC = {"algorithm": "sac", "train_freq": 2, **OFF}
LOOKING, COOLING = "own_parts.callbacks:Looking", {"own_parts.callbacks:Cooling": {"factor": 0.5}}


def with_callbacks(agent: dict[str, Any], *callbacks: Any) -> dict[str, Any]:
    return agent | {"callbacks": list(callbacks)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "agent", [PPO, pytest.param(SAC, marks=pytest.mark.slow)], ids=["ppo", "sac"]
)
def test_one_that_looks_changes_nothing(agent: dict[str, Any], tmp_path: Path) -> None:
    folders = []
    for place, given in (("plain", agent), ("looked", with_callbacks(agent, LOOKING))):
        folders.append(cell(tmp_path / place, two_tasks(given)))
        run_cell(folders[-1], silent)
    plain, looked = (content(folder) for folder in folders)
    assert {name for name in looked if name not in plain} == {
        f"checkpoints/task-{k}/callbacks.safetensors" for k in (0, 1)
    }
    assert [name for name, data in plain.items() if looked[name] != data] == []
    view = EventAccumulator(str(folders[1].path / "tb"), size_guidance={"scalars": 0}).Reload()
    assert "own/drawn" in view.Tags()["scalars"]
    assert view.Scalars("own/calls")[-1].value <= 160  # of each task, from its first step


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "more"),
    [
        (PPO, {}),
        pytest.param(SAC, {}, marks=pytest.mark.slow),
        pytest.param(
            PPO,
            {"stream": {"boundaries": "hidden", "task_id": "hidden"}},
            marks=pytest.mark.slow,
        ),
        pytest.param({"algorithm": "stream_q"}, {}, marks=pytest.mark.slow),
    ],
    ids=["ppo", "sac", "hidden", "stream_q"],
)
def test_what_one_remembers_goes_along(
    agent: dict[str, Any], more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = with_callbacks(agent, COOLING, LOOKING)
    kills = assert_unharmed(monkeypatch, tmp_path, two_tasks(given, **more), [70, 150, 240])
    assert kills.begun[1] > 1  # inside the first task


@pytest.mark.thorough
def test_it_is_in_the_training_and_over_the_tasks(tmp_path: Path) -> None:
    """What it does to the learning rate counts, and what it remembers is there in the next task."""
    plain = cell(tmp_path / "plain", two_tasks(PPO))
    cooled = cell(tmp_path / "cooled", two_tasks(with_callbacks(PPO, COOLING)))
    for folder in (plain, cooled):
        run_cell(folder, silent)
    one, other = (
        load_file(folder.path / "checkpoints/task-1/policy.safetensors")
        for folder in (plain, cooled)
    )
    assert any((one[name] != other[name]).any() for name in one)
    rates = []
    for stage in (0, 1):
        path = cooled.path / f"checkpoints/task-{stage}/callbacks.safetensors"
        text = load_file(path)["json"].numpy().tobytes().decode()
        rates.append(float(text.partition('"rate": ')[2].partition("}")[0]))
    assert 0 < rates[1] < rates[0] < 1e-3


def test_none_ends_a_task(tmp_path: Path) -> None:
    folder = cell(tmp_path, two_tasks(with_callbacks(PPO, "own_parts.callbacks:Stopping")))
    with pytest.raises(
        UsageError, match=r"'own_parts.callbacks:Stopping' returned False after 20 steps"
    ):
        run_cell(folder, silent)


def test_a_state_that_is_no_plain_data_is_told_at_once(tmp_path: Path) -> None:
    folder = cell(tmp_path, two_tasks(with_callbacks(PPO, "own_parts.callbacks:Hoarding")))
    with pytest.raises(UsageError, match=r"state_dict\(\) of 'own_parts.callbacks:Hoarding'"):
        run_cell(folder, silent)


SCENARIO = """\
tasks: [{{name: a, env: CartPole-v1, steps: 64}}]
agent:
  algorithm: ppo
  {more}
"""
BASE = "stable_baselines3.common.callbacks.BaseCallback"
OWN = "own_parts.callbacks"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (f"callbacks: [{OWN}:Unrelated]", f"'{OWN}:Unrelated' is not derived from {BASE}"),
        (f"callbacks: [{OWN}:Coolin]", f"did you mean '{OWN}:Cooling'?"),
        ("callbacks: [Cooling]", "a callback is module:Class, such as my_lab:Probe, not 'Cooling'"),
        (f"callbacks: [{OWN}:Looking, {OWN}:Looking]", f"'{OWN}:Looking' is there twice"),
        (f"callbacks: [{{{OWN}:Cooling: {{facter: 1}}}}]", "did you mean 'factor'?"),
        (f"callbacks: [{OWN}:Looking]\n  engine: compiled", "programs learn, and the model"),
        (f"callbacks: [{OWN}:Looking]\n  policies: shared", "a team calls no callbacks"),
        ("callbacks: [subprocess:Popen]", "'subprocess' is part of Python"),
    ],
)
def test_mistakes_are_told_before_anything_runs(more: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(SCENARIO.format(more=more), "utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "own.yaml")
    assert any(message in problem.message for problem in caught.value.problems), caught.value


def test_it_is_own_code() -> None:
    """A run folder from elsewhere that names one is not trusted with it."""
    scenario = Scenario.model_validate(two_tasks(with_callbacks(PPO, LOOKING)))
    assert [str(found) for found in own_code(scenario)] == [f"agent.callbacks[0]: '{LOOKING}'"]
    assert Looking.__module__ == Cooling.__module__ == OWN
