"""Every algorithm, under every method that its doors let in, through the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.registry import ALGORITHMS, METHODS
from holdfast.scenarios.describe import describe_method
from holdfast.scenarios.load import load

OFF = "learning_starts: 20, buffer_size: 500, batch_size: 16"
ENVS = {
    "ppo": ("CartPole-v1", "n_steps: 20, batch_size: 20"),
    "a2c": ("Pendulum-v1", "n_steps: 10"),
    "trpo": ("CartPole-v1", "n_steps: 20, batch_size: 20"),
    "recurrent_ppo": ("CartPole-v1", "n_steps: 20, batch_size: 20"),
    "maskable_ppo": ("masked:Masked", "n_steps: 20, batch_size: 20"),
    "dqn": ("CartPole-v1", OFF),
    "qrdqn": ("CartPole-v1", OFF),
    "sac": ("Pendulum-v1", OFF),
    "td3": ("Pendulum-v1", OFF + ", action_noise: {normal: 0.1}"),
    "ddpg": ("Pendulum-v1", OFF),
    "tqc": ("Pendulum-v1", OFF),
    "crossq": ("Pendulum-v1", OFF),
    "stream_q": ("CartPole-v1", "kappa: 2.0"),
    "stream_ac": ("Pendulum-v1", "kappa_value: 2.0"),
}

MASKED = '''
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv

class Masked(CartPoleEnv):
    """CartPole that may push left only on the right half, and the other way round."""

    def action_masks(self):
        return np.array([self.state[0] > -1, self.state[0] < 1])

    def step(self, action):
        assert self.action_masks()[action], "a masked action was taken"
        return super().step(action)

class Free(CartPoleEnv):
    def action_masks(self):
        return np.array([True, True])
'''


def _allowed(algorithm: str, method: str) -> bool:
    return algorithm in describe_method(method).algorithms


# A generative model and a knowledge base learn for thousands of updates unless told otherwise.
SHORT = {
    "reset-distill": "{updates: 20}",
    "fame": "{updates: 20}",
    "generative-replay": "{updates: 20}",
    "progress-compress": "{updates: 20}",
}


def _combination(method: str) -> tuple[frozenset[str], bool]:
    """Return the doors of a method, and whether it takes off-policy algorithms alone."""
    row = describe_method(method)
    return frozenset(row.doors), "ppo" not in row.algorithms


FIRST = {_combination(method): method for method in reversed(METHODS)}
"""The first method of each combination of doors."""


def _is_quick(algorithm: str, method: str) -> bool:
    """Return whether a pair is tried every time: one of each combination of doors."""
    quick = FIRST[_combination(method)] == method
    return quick and algorithm == ("ppo" if _allowed("ppo", method) else "sac")


PAIRS = [
    pytest.param(a, m, marks=[] if _is_quick(a, m) else [pytest.mark.slow], id=f"{a}-{m}")
    for a in ALGORITHMS
    for m in METHODS
    if m != "naive" and _allowed(a, m)
]


@pytest.fixture
def run_yaml(tmp_path: Path) -> Callable[..., Any]:
    def run(algorithm: str, method: str, task_id: str = "observed", more: str = "") -> Any:
        env, arguments = ENVS[algorithm]
        (tmp_path / "masked.py").write_text(MASKED)
        path = tmp_path / "small.yaml"
        path.write_text(
            f"""
tasks:
  - {{name: a, env: {env}, steps: 60, changes: {{time_limit: 30}}}}
  - {{name: b, env: {env}, steps: 60, changes: {{time_limit: 30, reward_scale: 2.0}}}}
n_envs: {1 if ALGORITHMS[algorithm].is_streaming else 2}
stream: {{task_id: {task_id}, task_count: known}}
agent: {{algorithm: {algorithm}, {arguments}, policy_kwargs: {{net_arch: [16]}}{more}}}
methods: [{method}]
score: {{random: 0.0, reference: 100.0}}
evaluation: {{episodes: 2}}
"""
        )
        (folder,) = prepare(tmp_path / "runs", load(path))
        run_cell(folder, lambda progress: None)
        return folder

    return run


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "method"), PAIRS)
def test_runs(algorithm: str, method: str, run_yaml: Any) -> None:
    _check(run_yaml(algorithm, f"{{{method}: {SHORT[method]}}}" if method in SHORT else method))


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "ppo"])
def test_runs_with_a_method_of_its_own(algorithm: str, run_yaml: Any) -> None:
    """One that goes through as many doors as the algorithm has."""
    method = "cloning" if _allowed(algorithm, "cloning") else "isolated"
    _check(run_yaml(algorithm, method))


def _check(folder: Any) -> None:
    scores = folder.scores()
    assert [s["step"] for s in scores] == [0] * 4 + [60] * 4 + [120] * 4
    assert np.isfinite([s["return"] for s in scores]).all()
    assert folder.info()["status"] == "finished"
    assert folder.info()["parameters"] > 0


@pytest.mark.thorough
def test_an_algorithm_that_takes_no_masks_is_measured_without(
    run_yaml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment offers them all the same, and here it takes every action."""
    monkeypatch.setitem(ENVS, "ppo", ("masked:Free", ENVS["ppo"][1]))
    _check(run_yaml("ppo", "naive"))


HEADED = ("ppo", "maskable_ppo", "dqn", "sac", "a2c", "qrdqn", "td3", "tqc")
QUICK = [*((name, "[ewc, cloning]") for name in HEADED[:4]), ("ppo", "[vcl, cloning]")]
WITH_HEADS = [
    pytest.param(name, methods, marks=[] if (name, methods) in QUICK else pytest.mark.slow)
    for methods in ("[ewc, cloning]", "[vcl, cloning]")
    for name in HEADED
]


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "methods"), WITH_HEADS)
def test_runs_with_a_head_per_task(algorithm: str, methods: str, run_yaml: Any) -> None:
    folder = run_yaml(algorithm, methods, "heads", ", normalize: {observations: running}")
    marked = {(s["step"], s["task"]) for s in folder.scores() if s["unseen"]}
    assert marked == {(0, "b"), (60, "b")}
