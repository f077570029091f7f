"""What does not go with costs and limits: refused with place and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.registry import ALGORITHMS, WITH_COST_CRITIC
from holdfast.scenarios.load import load

LIMITED = """\
tasks:
  - name: right
    env: Pendulum-v1
    steps: 1000
    cost: {limit: 3, terms: [{observation: 2, above: 4.0}]}
  - name: left
    env: Pendulum-v1
    steps: 1000
    cost: {limit: 5, terms: [{observation: 2, above: 4.0}]}
agent: {algorithm: ppo, constraint: {pid: {}}}
"""


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("agent.constraint={}", "agent.constraint", "write one of lagrangian, pid, fixed"),
        ("agent.constraint={pid: {}, fixed: {multiplier: 1}}", "agent.constraint", "write one of"),
        ("agent.constraint={lagrangian: {rate: 0}}", "agent.constraint.lagrangian.rate", "than 0"),
        ("agent.constraint={pid: {}, critics: true}", "agent.constraint.critics", "critic"),
        ("agent.constraint={pid: {}, critic: 3}", "agent.constraint.critic", "a valid boolean"),
        ("tasks.1.cost=null", "tasks[1]", "holds an agent to a limit, and this task has none"),
        (
            "tasks.1.cost={terms: [{info: x, above: 1}]}",
            "tasks[1].cost.limit",
            "missing: Cost of an episode",
        ),
        ("tasks.1.cost.limit=-1", "tasks[1].cost.limit", "at least 0"),
        ("tasks.1.cost.terms=[{info: x}]", "tasks[1].cost.terms[0]", "write above: or below:"),
        ("tasks.1.cost.terms=[{above: 1}]", "tasks[1].cost.terms[0]", "write one of info, "),
        ("stream.boundaries=hidden", "agent.constraint", "a multiplier of its own for each task"),
        ("agent.algorithm=stream_ac", "agent.constraint", "scales rewards itself as they come"),
    ],
)
def test_what_does_not_go_with_limits_is_refused(
    problems: Any, override: str, path: str, message: str
) -> None:
    found = problems(LIMITED, override)
    assert any(one.path == path and message in one.message for one in found), found


def test_a_critic_of_costs_stands_beside_algorithms_that_learn_from_rollouts(
    problems: Any, write: Any
) -> None:
    asked = "agent.constraint={pid: {}, critic: true}"
    load(write(LIMITED), [asked, "agent.engine=compiled"])
    load(write(LIMITED), [asked, "agent.algorithm=a2c"])
    assert {name for name in WITH_COST_CRITIC if ALGORITHMS[name].on_policy} == {*WITH_COST_CRITIC}
    (problem,) = problems(LIMITED, asked, "agent.algorithm=sac")
    assert problem.path == "agent.constraint.critic"
    assert problem.message.startswith("'sac' takes no critic of costs (ppo, a2c, maskable_ppo do)")


def test_importance_by_cost_asks_for_costs_and_rollouts(problems: Any, write: Any) -> None:
    asked = "methods=[{ewc: {by_cost: true}}]"
    load(write(LIMITED), [asked, "agent.constraint=null"])
    found = [
        problems(LIMITED, asked, "agent.constraint=null", more)[0]
        for more in ("tasks.1.cost=null", "agent.algorithm=sac")
    ]
    assert [one.path for one in found] == ["methods[0].ewc.by_cost"] * 2
    assert found[0].message.startswith("asks what steps cost, and a task does not tell")
    assert (
        found[1].message == "reads what the steps of rollouts cost, and 'sac' has none; remove it"
    )
