"""What streaming learners refuse, by name and with its place."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.registry import ALGORITHMS, METHODS
from holdfast.scenarios.describe import describe_method
from holdfast.scenarios.load import load

STREAMING = [name for name, entry in ALGORITHMS.items() if entry.is_streaming]
SMALL = """\
tasks:
  - {name: right, env: CartPole-v1, steps: 1000}
  - {name: left, env: CartPole-v1, steps: 1000}
stream: {task_count: known}
score: {random: 0.0, reference: 500.0}
agent: {algorithm: stream_q}
"""


def test_it_takes_references_and_its_own_arguments(write: Any) -> None:
    assert STREAMING == ["stream_q", "stream_ac"]
    scenario = load(write(SMALL), ["methods=[naive, isolated, joint, frozen]", "agent.kappa=3"])
    assert scenario.agent.arguments["kappa"] == 3
    given = "agent={algorithm: stream_ac, kappa_policy: 2.5, policy_kwargs: {sparsity: 0.5}}"
    assert load(write(SMALL), [given]).agent.arguments["kappa_policy"] == 2.5


@pytest.mark.parametrize("name", STREAMING)
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("naive",)])
def test_methods_that_need_more_than_the_lifecycle_are_refused(
    problems: Any, write: Any, name: str, method: str
) -> None:
    given = [f"agent.algorithm={name}", f"methods=[{method}]"]
    taken = name in describe_method(method).algorithms
    assert taken == (method in ("isolated", "joint", "frozen", "reptile"))
    if taken:
        assert load(write(SMALL), given).methods[0].label == method
        return
    messages = [p.message for p in problems(SMALL, *given) if p.path == "methods[0]"]
    (message,) = [text for text in messages if "cannot reach" in text]
    assert message.startswith(f"'{method}' cannot reach '{name}'")
    assert message.endswith(f"methods for '{name}': naive, isolated, joint, frozen, reptile")


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("n_envs=2", "n_envs", "'stream_q' learns from one step at a time"),
        ("agent.normalize={observations: running}", "agent.normalize", "normalises observations"),
        ("agent.device=cuda", "agent.device", "write device: cpu"),
        ("carry.optimizer=true", "carry.optimizer", "begin empty in every episode"),
        ("carry.replay_buffer=true", "carry.replay_buffer", "has no replay buffer"),
        ("agent.engine=compiled", "agent.engine", "compiled does not know stream_q"),
        ("stream.task_id=heads", "stream.task_id", "a head per task"),
        ("agent.policy=CnnPolicy", "agent.policy", "not one of auto, MlpPolicy"),
        ("agent.kappa=0", "agent.kappa", "greater than 0"),
        ("agent.trace_lambda=1.5", "agent.trace_lambda", "from 0 to 1"),
        ("agent.learning_rate={linear: [1, 0]}", "agent.learning_rate", "expected a number"),
        ("agent.kappa_value=2", "agent.kappa_value", "it is one of stream_ac"),
        ("agent.policy_kwargs={activation: tanh}", "agent.policy_kwargs.activation", "LeakyReLU"),
        ("agent.policy_kwargs={optimizer: adam}", "agent.policy_kwargs.optimizer", "ObGD"),
        ("agent.policy_kwargs={id_width: 3}", "agent.policy_kwargs.id_width", "unknown key"),
        ("agent.policy_kwargs={sparsity: 2}", "agent.policy_kwargs.sparsity", "from 0 to 1"),
        (
            "agent.policy_kwargs={net_arch: {pi: [8], vf: [8]}}",
            "agent.policy_kwargs.net_arch",
            "write [128, 128]",
        ),
    ],
)
def test_what_else_is_refused(problems: Any, override: str, path: str, message: str) -> None:
    found = {p.path: p.message for p in problems(SMALL, override)}
    assert message in found[path], found


def test_a_team_has_none(problems: Any) -> None:
    team = SMALL.replace("CartPole-v1", "mpe2.simple_spread_v3")
    found = [p.message for p in problems(team, "agent.policies=shared")]
    assert any(text.startswith("'stream_q' cannot learn in a team; ppo") for text in found)
