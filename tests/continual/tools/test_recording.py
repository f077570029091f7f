"""Demonstrations recorded from a controller, a run, a Stable-Baselines3 zip and Minari."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from kills import silent
from safetensors.numpy import load_file
from stable_baselines3 import SAC

from holdfast import open_run
from holdfast.agents.base.demonstrations import read_demonstrations
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.tools.recording import Plan, record
from holdfast.continual.training.cell import run_cell
from holdfast.errors import UsageError
from holdfast.scenarios.load import load
from holdfast.seeding import derive

CONTROLLER = """\
import numpy as np

def still(observation):
    return np.zeros(1)

def strong(observation):
    return np.full(1, 9.0)

class Made:
    pass
"""
SCENARIO = """\
tasks:
  - {name: a, env: Pendulum-v1, steps: 64, changes: {time_limit: 15}}
  - {name: b, env: Pendulum-v1, steps: 64, kwargs: {g: 4.0}, changes: {time_limit: 15}}
agent: {algorithm: sac, buffer_size: 100, learning_starts: 30, policy_kwargs: {net_arch: [8]}}
evaluation: {episodes: 1}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "hands.py").write_text(CONTROLLER)
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path / "s.yaml"


def test_a_controllers_episodes_are_those_of_the_environment(scenario: Path) -> None:
    output, told = scenario.with_name("a.safetensors"), list[tuple[int, int]]()
    made = record(
        *(scenario, Plan("a", 2, seed=5), output),
        controller="hands:still",
        tell=lambda done, of: told.append((done, of)),
    )
    rows, env = load_file(output), gym.make("Pendulum-v1", max_episode_steps=15)
    for number in range(2):
        seen, _ = env.reset(seed=derive(5, "record", number))
        for row in range(15 * number, 15 * number + 15):
            assert (rows["observations"][row] == seen).all()
            seen, reward, _, truncated, _ = env.step(np.zeros(1, np.float32))
            assert rows["rewards"][row] == np.float32(reward)
            assert (rows["next_observations"][row] == seen).all()
            assert bool(rows["truncations"][row]) is truncated
    assert not rows["terminations"].any()
    assert (made.transitions, made.successes, told) == (30, None, [(1, 2), (2, 2)])
    assert made.returns == pytest.approx([rows["rewards"][:15].sum(), rows["rewards"][15:].sum()])
    read_demonstrations(output, env.observation_space, env.action_space)


@pytest.mark.slow
def test_what_a_run_has_learned_is_recorded_and_learned_from(scenario: Path) -> None:
    (folder,) = prepare(scenario.with_name("runs"), load(scenario))
    run_cell(folder, silent)
    output = scenario.with_name("b.safetensors")
    record(folder.path, Plan("b", 1), output)
    rows, agent = load_file(output), open_run(folder.path).agent("b")
    for seen, action in zip(rows["observations"], rows["actions"], strict=True):
        assert agent.act(seen) == pytest.approx(action)  # type: ignore[union-attr]
    shown = ["tasks[1].demonstrations={data: b.safetensors}", "name=shown"]
    (again,) = prepare(scenario.with_name("runs"), load(scenario, shown))
    run_cell(again, silent)
    assert again.info()["status"] == "finished"
    output.unlink()
    assert open_run(again.path).agent("b").act(rows["observations"][0]).shape == (1,)  # type: ignore[union-attr]


def test_weights_of_stable_baselines3_act(scenario: Path) -> None:
    path = scenario.with_name("model.zip")
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]}, seed=4)
    model.save(path)
    scenario.write_text(SCENARIO + "stream: {task_id: hidden}\n")
    output = scenario.with_name("z.safetensors")
    record(scenario, Plan("b", 1), output, policy=path)
    rows = load_file(output)
    actions, _ = model.predict(rows["observations"], deterministic=True)
    assert actions == pytest.approx(rows["actions"], abs=1e-6)
    other = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [9]})
    other.save(path)
    with pytest.raises(UsageError, match="do not fit this agent's networks"):
        record(scenario, Plan("b", 1), scenario.with_name("y.safetensors"), policy=path)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "say who acts"),
    ({"controller": "hands:still", "minari": "a/b-v0"}, "say who acts"),
    ({"controller": "hands:strong"}, r"the action \[9.0\] is not in Box"),
    ({"controller": "hands:Made"}, "is no function of an observation"),
    ({"controller": "hands:none"}, "none"),
    ({"policy": Path("none.zip")}, "none.zip"),
]


@pytest.mark.parametrize(("who", "message"), REFUSED)
def test_who_cannot_act_is_refused(who: dict[str, Any], message: str, scenario: Path) -> None:
    output = scenario.with_name("a.safetensors")
    with pytest.raises(UsageError, match=message):
        record(scenario, Plan("a", 1), output, **who)
    assert not output.exists()


def test_nothing_is_written_over_and_tasks_are_known(scenario: Path) -> None:
    output = scenario.with_name("a.safetensors")
    with pytest.raises(UsageError, match="'c'"):
        record(scenario, Plan("c", 1), output, controller="hands:still")
    with pytest.raises(UsageError, match=r"must end in .safetensors"):
        record(scenario, Plan("a", 1), output.with_suffix(".npz"), controller="hands:still")
    with pytest.raises(UsageError, match="0 of 10 episodes ended in success"):
        record(scenario, Plan("a", 1, successes=True), output, controller="hands:still")
    output.write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        record(scenario, Plan("a", 1), output, controller="hands:still")
    assert output.read_bytes() == b"mine"


@pytest.mark.thorough
def test_episodes_of_minari(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari", reason="an extra")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = minari.DataCollector(gym.make("Pendulum-v1", max_episode_steps=15), record_infos=False)
    for seed in range(3):
        env.reset(seed=seed)
        for _ in range(15):
            env.step(env.action_space.sample())
    with warnings.catch_warnings():  # of Minari: no author is named, a folder is left to clean
        warnings.simplefilter("ignore")
        dataset = env.create_dataset(dataset_id="pendulum/random-v0")
        env.close()
        del env
        gc.collect()
    output = scenario.with_name("m.safetensors")
    made = record(scenario, Plan("a", 2), output, minari="pendulum/random-v0")
    rows, (first, *_) = load_file(output), dataset.iterate_episodes()
    assert made.transitions == 30
    assert (rows["observations"][:15] == first.observations[:-1]).all()
    assert (rows["next_observations"][:15] == first.observations[1:]).all()
    assert (rows["actions"][:15] == first.actions).all()
    assert rows["rewards"][:15] == pytest.approx(first.rewards)
    assert rows["truncations"].tolist() == ([False] * 14 + [True]) * 2
    with pytest.raises(UsageError, match="has 3 such episodes, and 4 were asked for"):
        record(scenario, Plan("a", 4), scenario.with_name("n.safetensors"), minari=dataset.id)
    with pytest.raises(UsageError, match="no Minari data set of this machine"):
        record(scenario, Plan("a", 4), scenario.with_name("n.safetensors"), minari="none/none-v0")
    other = SCENARIO.replace("env: Pendulum-v1", "env: MountainCarContinuous-v0")
    scenario.write_text(other.replace(", kwargs: {g: 4.0}", ""))
    with pytest.raises(UsageError, match=r"does not fit task 'a': actions has one outside"):
        record(scenario, Plan("a", 1), scenario.with_name("n.safetensors"), minari=dataset.id)
