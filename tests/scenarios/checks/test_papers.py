from __future__ import annotations

import pytest

from holdfast.registry import METHODS
from holdfast.scenarios.checks.papers import PAPERS
from holdfast.scenarios.load import load

CW = """\
tasks: [{name: a, env: Pendulum-v1, steps: 1000}, {name: b, env: Pendulum-v1, steps: 1000}]
stream: {task_id: heads, task_count: known}
agent: {algorithm: sac, paper: continual-world, batch_size: 64}
"""


def test_the_numbers_stand_in_the_resolved_scenario(write) -> None:
    scenario = load(write(CW), ["methods=[{ewc: {paper: continual-world, strength: 3}}]"])
    arguments = scenario.agent.arguments
    assert arguments["learning_rate"] == 1e-3
    assert arguments["batch_size"] == 64  # the scenario's own number wins
    assert arguments["policy_kwargs"]["net_arch"] == [256] * 4
    (part,) = scenario.methods[0].parts
    assert part.arguments["strength"] == 3
    assert (part.arguments["kind"], part.arguments["floor"]) == ("summed", 1e-5)
    assert "paper" not in scenario.to_yaml()


def test_what_is_given_inside_policy_kwargs_wins_too(write) -> None:
    scenario = load(write(CW), ["agent.policy_kwargs={activation: relu}"])
    kwargs = scenario.agent.arguments["policy_kwargs"]
    assert (kwargs["activation"], kwargs["net_arch"]) == ("relu", [256] * 4)


@pytest.mark.parametrize("name", [n for n in PAPERS["continual-world"] if n in METHODS])
def test_every_preset_is_taken_by_its_method(write, name: str) -> None:
    scenario = load(
        write(CW), [f"methods=[{{{name}: {{paper: continual-world}}}}]", "stream.task_id=observed"]
    )
    assert scenario.methods[0].parts[0].name == name


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (
            "methods=[{ewc: {paper: continual-word}}]",
            "methods[0].ewc.paper",
            "'continual-word' is not one of continual-world; did you mean 'continual-world'?",
        ),
        (
            "methods=[[naive, {si: {paper: continual-world}}]]",
            "methods[0][1].si.paper",
            "continual-world says nothing about 'si'; it does about: sac, l2, ewc",
        ),
        ("agent.algorithm=td3", "agent.paper", "continual-world says nothing about 'td3'"),
    ],
)
def test_wrong_presets(problems, override: str, path: str, message: str) -> None:
    found = {problem.path: problem.message for problem in problems(CW, override)}
    assert message in found[path]
