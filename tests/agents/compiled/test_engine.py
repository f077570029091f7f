"""Whole cells under the compiled engine: stopped, resumed, carried, counted, diverging."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compiled_agents import AGENTS, scenario
from kills import Kills, assert_unharmed, cell, silent
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from holdfast.agents.sb3.budget import stream_logger
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.agents.sb3.weights_io import (
    load_optimizers,
    load_policy,
    optimizer_tensors,
    policy_tensors,
)
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.cell import run_cell
from holdfast.errors import Diverged
from holdfast.scenarios.schema.scenario import Scenario


def slowly(*names: str, fast: tuple[str, ...]) -> list[Any]:
    return [pytest.param(n, marks=[] if n in fast else pytest.mark.slow) for n in names]


# -- stopped and resumed ---------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("name", slowly(*AGENTS, fast=("ppo",)))
def test_stopped_inside_a_task_equals_never_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = assert_unharmed(monkeypatch, tmp_path, scenario(name), [140, 300])
    assert kills.begun[0] == 1
    assert 48 < kills.begun[1] < 160  # inside the first task
    assert kills.begun[-1] > 160 + 48


METHODS: dict[str, Any] = {
    "ewc and cloning": [{"ewc": {"samples": 40}}, {"cloning": {"samples": 40, "batch_size": 8}}],
    "si": "si",
    "agem": {"agem": {"samples": 40, "batch_size": 8}},
    "packnet": "packnet",
    "hat": "hat",
    "shrink-perturb": {"shrink-perturb": {"period": 7}},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_methods_stopped_inside_a_task_equal_never_stopped(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scenario(name, METHODS[method], stream={"task_count": "known"})
    assert_unharmed(monkeypatch, tmp_path, data, [140, 230, 300])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ppo", {"n_envs": 2, "agent": {"n_steps": 12, "batch_size": 12}}),  # the last is short
        ("sac", {"n_envs": 2}),
        ("dqn", {"n_envs": 2, "carry": {"optimizer": True, "replay_buffer": True}}),
        ("sac", {"carry": {"optimizer": True, "replay_buffer": True, "entropy_coefficient": True}}),
        ("ppo", {"stream": {"task_id": "heads"}, "carry": {"optimizer": True}}),
        ("sac", {"agent": {"normalize": {"observations": "running", "rewards": "running"}}}),
        ("ppo", {"agent": {"normalize": {"observations": "running", "rewards": "running"}}}),
        ("ppo", {"stream": {"task_id": "hidden", "boundaries": "hidden"}}),
        ("dqn", {"stream": {"task_id": "hidden", "boundaries": "hidden"}}),
        ("sac", {"stream": {"task_id": "hidden", "boundaries": "hidden"}}),
        ("ppo", {"agent": {"learning_rate": {"linear": [1e-2, 0.0]}, "target_kl": 0.001}}),
        ("td3", {"agent": {"action_noise": {"ornstein_uhlenbeck": 0.2}}}),
    ],
)
def test_settings_stopped_inside_a_task_equal_never_stopped(
    name: str, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_unharmed(monkeypatch, tmp_path, scenario(name, **more), [140, 230, 300])


FIRST = """
import numpy as np
from holdfast.agents.compiled.engine import start_jax

np.random.seed(1)
before = np.random.get_state()
start_jax()
after = np.random.get_state()
assert (before[1] == after[1]).all()
assert before[2:] == after[2:]
"""


@pytest.mark.thorough
def test_the_first_start_of_a_process_draws_nothing() -> None:
    """A cell that is resumed begins where another process went on."""
    subprocess.run([sys.executable, "-c", FIRST], check=True)


# -- measuring -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", slowly("ppo", "dqn", "sac", fast=("ppo",)))
def test_evaluating_more_often_changes_nothing(name: str, tmp_path: Path) -> None:
    weights = []
    for every, episodes in ((160, 1), (16, 3)):
        data = scenario(name, evaluation={"every": every, "episodes": episodes})
        folder = cell(tmp_path / str(every), data)
        run_cell(folder, silent)
        paths = sorted(folder.path.glob("checkpoints/task-*/policy.safetensors"))
        weights.append([path.read_bytes() for path in paths])
    assert len(weights[0]) > 0
    assert weights[0] == weights[1]


def shown(folder: RunFolder) -> dict[str, list[int]]:
    """Return the steps at which TensorBoard shows each tag of ``train``."""
    view = EventAccumulator(str(folder.path / "tb"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in view.Tags()["scalars"] if tag.startswith("train/")]
    for tag in tags:
        assert all(np.isfinite(event.value) for event in view.Scalars(tag)), tag
    return {tag: [event.step for event in view.Scalars(tag)] for tag in tags}


@pytest.mark.thorough
@pytest.mark.parametrize("name", slowly(*AGENTS, fast=("dqn",)))
def test_updates_and_scalars_are_those_of_the_other_engine(name: str, tmp_path: Path) -> None:
    folders = {}
    for engine in ("sb3", "compiled"):
        data = scenario(name, agent={"engine": engine})
        folders[engine] = cell(tmp_path / engine, data)
        run_cell(folders[engine], silent)
    infos = [folder.info() for folder in folders.values()]
    assert infos[0]["updates"] == infos[1]["updates"] >= 20
    assert infos[0]["extra_updates"] == infos[1]["extra_updates"] == 0
    # When an episode ends differs, and with it when off-policy algorithms log.
    sb3, compiled = (shown(folder) for folder in folders.values())
    assert sb3.keys() == compiled.keys()
    assert sb3 == compiled or name not in ("ppo", "a2c")


# -- a checkpoint goes on under the other engine ---------------------------------------------------


def started(name: str, engine: str, make_agent: Callable[..., Any]) -> StableBaselinesAgent:
    agent = {**AGENTS[name], "engine": engine}
    env = "Pendulum-v1" if name in ("sac", "td3") else "CartPole-v1"
    learner, experiences = make_agent(agent, env, steps=96)
    learner.start(experiences[0])
    return learner


def state_of(learner: StableBaselinesAgent) -> dict[str, Tensor]:
    model = learner.model
    return {**policy_tensors(model), **optimizer_tensors(model)}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["sb3", "compiled"])
@pytest.mark.parametrize("name", slowly("ppo", "dqn", "sac", "td3", fast=("sac",)))
def test_what_one_engine_left_the_other_goes_on_with(
    name: str, before: str, make_agent: Any
) -> None:
    """After the same checkpoint, the next updates of both on the same batches are equal."""
    learner, _ = _learned(name, before, make_agent)
    left = state_of(learner)
    counts = {int(t) for n, t in optimizer_tensors(learner.model).items() if n.endswith("step")}
    assert min(counts) > 10
    ends = {}
    for engine in ("sb3", "compiled"):
        other = started(name, engine, make_agent)
        _go_on_from(other, learner)
        assert all(t.equal(left[n]) for n, t in state_of(other).items())
        np.random.seed(5)
        torch.manual_seed(5)
        with other._open_doors():
            if name == "ppo":
                other.model.train()
            else:
                for _ in range(3):  # TD3's actor at its own delay
                    other.model.train(gradient_steps=1, batch_size=16)
        ends[engine] = state_of(other), other.model._n_updates
    (ours, count), (theirs, expected) = ends["compiled"], ends["sb3"]
    assert count == expected > 3
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=2e-5, msg=key)
    assert any(not value.equal(left[key]) for key, value in ours.items())


@pytest.mark.thorough
@pytest.mark.parametrize("before", ["sb3", "compiled"])
@pytest.mark.parametrize("name", slowly("ppo", "dqn", "sac", fast=("ppo",)))
def test_a_cell_goes_on_under_the_engine_that_its_file_names_now(
    name: str, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "compiled" if before == "sb3" else "sb3"
    data = {one: scenario(name, agent={"engine": one}) for one in (before, now)}
    cell(tmp_path, data[now])
    folder = cell(tmp_path, data[before])  # that has not begun: nothing is told of a change
    assert folder.read_scenario().agent.engine == before
    assert "engines" not in folder.info()
    with monkeypatch.context() as patch:
        Kills(patch, [160 + 140]).attempt(folder)  # inside the second task
    known = folder.path / "scores.jsonl"
    first = known.read_bytes()
    folder = cell(tmp_path, data[now])
    assert folder.read_scenario().agent.engine == now
    with monkeypatch.context() as patch:
        attempts = Kills(patch, [])
        attempts.attempt(folder)
    assert attempts.begun[0] > 160 + 48  # it went on from the checkpoint inside that task
    told = folder.info()
    assert told["status"] == "finished"
    assert told["engines"] == [{"engine": before, "stage": 0}, {"engine": now, "stage": 1}]
    ends = known.read_bytes()
    of_first_task = [line for line in first.splitlines() if json.loads(line)["step"] <= 160]
    assert ends.splitlines()[: len(of_first_task)] == of_first_task
    assert ends.count(b"\n") == straight_lines(tmp_path / "straight", data[now])
    assert cell(tmp_path, data[before]).info() == told  # a finished cell is left alone
    assert folder.read_scenario().agent.engine == now


def straight_lines(place: Path, data: dict[str, Any]) -> int:
    """Return how many episodes the cell measures that nothing interrupts."""
    folder = cell(place, data)
    run_cell(folder, silent)
    return (folder.path / "scores.jsonl").read_bytes().count(b"\n")


def _learned(name: str, engine: str, make_agent: Any) -> tuple[StableBaselinesAgent, Any]:
    agent = {**AGENTS[name], "engine": engine}
    env = "Pendulum-v1" if name in ("sac", "td3") else "CartPole-v1"
    learner, experiences = make_agent(agent, env, steps=96)
    learner.start(experiences[0])
    learner.learn(experiences[0], lambda step: None, lambda *_: None)
    return learner, experiences


def _go_on_from(other: StableBaselinesAgent, learner: StableBaselinesAgent) -> None:
    """Give a model all that another's next update depends on, as a checkpoint does."""
    ours, theirs = other.model, learner.model
    load_policy(ours, policy_tensors(theirs), lambda _: False)
    load_optimizers(ours, optimizer_tensors(theirs))
    ours._n_updates, ours.num_timesteps = theirs._n_updates, theirs.num_timesteps
    ours._current_progress_remaining = theirs._current_progress_remaining
    if hasattr(theirs, "replay_buffer"):
        ours.replay_buffer = theirs.replay_buffer
    else:
        _fill(ours.rollout_buffer)
    ours.set_logger(stream_logger(lambda *_: None, 0))


# -- divergence ------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the sums of rewards
@pytest.mark.parametrize("name", slowly("ppo", "sac", fast=("ppo",)))
def test_a_gradient_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(
    name: str, tmp_path: Path
) -> None:
    """Rewards are too large to be added or squared from the second task on."""
    data = scenario(name, checkpoint={"every": "off"})
    data["tasks"][1]["changes"] = {"reward_scale": {"ppo": 1e38, "sac": 1e30}[name]}
    folder = cell(tmp_path, data)
    with pytest.raises(Diverged, match="not finite") as caught:
        run_cell(folder, silent)
    assert caught.value.exit_code == 4
    known = {n for n, _ in _policy(name).named_parameters()}
    assert any(parameter in str(caught.value) for parameter in known)
    assert folder.info()["status"] == "failed"
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["task-0"]


def _fill(buffer: Any) -> None:
    """Fill a rollout buffer of CartPole with any rows, always the same."""
    rng = np.random.default_rng(7)
    buffer.reset()
    for name in ("observations", "advantages", "returns", "values"):
        rows = getattr(buffer, name)
        rows[:] = rng.normal(size=rows.shape)
    buffer.actions[:] = rng.integers(0, 2, buffer.actions.shape)
    buffer.log_probs[:] = np.log(0.5)
    buffer.full = True


def _policy(name: str) -> Any:
    agent = StableBaselinesAgent(Scenario.model_validate(scenario(name)))
    agent.start(next(iter(make_stream(agent.scenario, 0).train_stream)))
    return agent.policy
