from __future__ import annotations

import sys

import pytest

from holdfast.scenarios.checks import backend
from holdfast.scenarios.load import load

installed = pytest.mark.skipif(not backend.is_installed(), reason="needs envpool")

POOLED = "backend: envpool\n"


@pytest.fixture
def task(problems):
    """Return the problems of a scenario with one task that has these further keys."""

    def task(keys: str, backend: str = "envpool", agent: str = "ppo", **more: str):
        text = f"tasks: [{{name: only, steps: 100, {keys}}}]\nagent: {{algorithm: {agent}}}\n"
        text += f"backend: {backend}\n" + "".join(f"{k}: {v}\n" for k, v in more.items())
        return problems(text)

    return task


@installed
@pytest.mark.parametrize(
    ("keys", "path", "text"),
    [
        ("env: Cartpole-v1", "env", "EnvPool has no environment 'Cartpole-v1'; did you mean 'Cart"),
        ("env: 'my_robot:Reach'", "env", "environments of its own only, not 'my_robot:Reach'"),
        ("env: CartPole-v1, exclusive: true", "exclusive", "not one robot"),
        ("env: CartPole-v1, rate: 50.0", "rate", "not one in real time"),
        (f"env: CartPole-v1, python: {sys.executable}", "python", "run in this interpreter"),
        ("env: CartPole-v1, sample: {length: 'uniform(1, 2)'}", "sample", "no attributes to set"),
        ("env: CartPole-v1, drift: {length: {sine: [1, 2]}}", "drift", "no attributes to set"),
        ("env: CartPole-v1, randomize: {length: 'uniform(1, 2)'}", "randomize", "no attributes"),
        ("env: CartPole-v1, wrappers: [{frame_stack: 4}]", "wrappers[0]", "have stack_num"),
        ("env: CartPole-v1, changes: {set: {gravity: 1.0}}", "changes.set", "no attributes to set"),
        (
            "env: HalfCheetah-v5, changes: {mujoco: {gravity: 0.5}}",
            "changes.mujoco",
            "MuJoCo models cannot be changed",
        ),
        ("env: CartPole-v1, changes: {action_delay: 2}", "changes.action_delay", "a delay works"),
        (
            "env: HalfCheetah-v5, changes: {dead_actuators: [bfoot]}",
            "changes.dead_actuators",
            "write their indices",
        ),
    ],
)
def test_what_envpool_cannot_take_is_refused_with_reason_and_remedy(task, keys, path, text):
    found = task(keys, stream="{task_id: hidden}")
    (problem,) = [problem for problem in found if problem.path == f"tasks[0].{path}"]
    assert text in problem.message
    assert "backend: gymnasium" in problem.message or "did you mean" in text or "indices" in text


@installed
def test_a_pool_of_processes_around_it_is_refused(task):
    (problem,) = task("env: CartPole-v1", n_envs="4", pool="{workers: 2}")
    assert problem.path == "pool.workers"
    assert "threads of its own" in problem.message


@installed
def test_joint_is_refused(task):
    (problem,) = task("env: CartPole-v1", methods="[naive, joint]")
    assert problem.path == "methods[1]"
    assert "backend: gymnasium" in problem.message


@installed
def test_an_id_that_gymnasium_does_not_have_is_good_for_envpool(write):
    path = write(
        """\
        tasks:
          - {name: a, env: MetaWorld/Hammer-v3, steps: 100, changes: {time_limit: 200}}
          - name: b
            env: MiniGrid-Empty-5x5-v0
            steps: 100
            wrappers:
              - {gymnasium.wrappers:FilterObservation: {filter_keys: [image]}}
              - gymnasium.wrappers:FlattenObservation
        agent: {algorithm: ppo}
        backend: envpool
        """
    )
    assert load(path).backend == "envpool"


@installed
def test_auto_needs_an_id_that_both_have(task):
    (problem,) = task("env: MetaWorld/Hammer-v3", "auto")
    assert (problem.path, problem.message[:14]) == ("tasks[0].env", "no environment")
    (problem,) = task("env: Taxi-v4", "auto")
    assert problem.path == "tasks[0].env"
    assert "EnvPool has no environment 'Taxi-v4'" in problem.message


def test_auto_takes_a_class_and_changes_that_only_gymnasium_can(write):
    path = write(
        """\
        tasks: [{name: a, env: CartPole-v1, steps: 100, changes: {set: {gravity: 1.0}}}]
        agent: {algorithm: ppo}
        backend: auto
        """
    )
    assert load(path).backend == "auto"


def test_without_the_package_one_line_says_what_to_install(one, monkeypatch):
    monkeypatch.setattr(backend, "is_installed", lambda: False)
    problem = one(extra=POOLED)
    assert problem.path == "backend"
    assert problem.message == (
        "backend: envpool needs the package 'envpool', which is not installed; "
        'install it with: pip install "holdfast[envpool]"'
    )


def test_a_typing_mistake_is_corrected(one):
    assert "did you mean 'envpool'?" in one(extra="backend: envpol\n").message
