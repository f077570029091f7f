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


def test_counts_follow_the_steps_of_the_longest_task(write) -> None:
    """Tasks of 1,000 and 50,000 steps are a twentieth of the paper's million; its rates stay."""
    methods = "methods=[{packnet: {paper: continual-world}}, {cloning: {paper: continual-world}}]"
    scenario = load(write(CW), [methods, "tasks[1].steps=50000"])
    agent = scenario.agent.arguments
    assert (agent["buffer_size"], agent["learning_starts"]) == (50_000, 500)
    assert (agent["train_freq"], agent["gradient_steps"]) == (50, 50)
    packnet, cloning = (method.parts[0].arguments for method in scenario.methods)
    assert (packnet["retrain_updates"], packnet["clip_norm"]) == (5_000, 2e-5)
    assert (cloning["exploration_steps"], cloning["samples"]) == (500, 10_000)
    longer = load(write(CW), ["tasks[1].steps=3000000", "agent.learning_starts=7"])
    assert longer.agent.arguments["buffer_size"] == 1_000_000
    assert longer.agent.arguments["learning_starts"] == 7


@pytest.mark.parametrize("tasks", ["3", "[3, {}]", "[{steps: -1}, {steps: true}]"])
def test_tasks_that_say_no_steps_leave_the_paper_its_own(problems, tasks: str) -> None:
    assert not any("paper" in found.path for found in problems(CW, f"tasks={tasks}"))


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
