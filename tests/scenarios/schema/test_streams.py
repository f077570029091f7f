"""Streams beyond a list: shuffled orders, budgets, sampled tasks, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from holdfast.errors import Problem
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.streams import draw, drawn
from holdfast.scenarios.schema.task import Drift
from holdfast.seeding import generator

One = Callable[..., Problem]


def scenario(stream: dict[str, Any], tasks: str = "abc", **sampled: Any) -> Scenario:
    given = [{"name": n, "env": "Pendulum-v1", "steps": 100 * (i + 1)} for i, n in enumerate(tasks)]
    for task in given:
        task["sample"] = sampled.get(str(task["name"]), {})
    data = {"tasks": given, "stream": stream, "agent": {"algorithm": "sac"}, "seeds": [0, 1, 2]}
    return Scenario.model_validate(data)


def names(of: Scenario) -> list[str]:
    return [of.tasks[index].name for index in of.stream_tasks]


def cells(of: Scenario) -> list[Scenario]:
    return [of.only(cell) for cell in of.cells()]


# -- order and budget ------------------------------------------------------------------------------


def test_a_budget_goes_through_the_order_and_cuts_the_last_stage() -> None:
    """Stages of 100, 200 and 300 steps: 750 end in the second round, 50 into its second task."""
    endless = scenario({"steps": 750})
    assert names(endless) == ["a", "b", "c", "a", "b"]
    assert endless.stage_steps == (100, 200, 300, 100, 50)
    assert endless.total_steps == 750
    assert scenario({"steps": 600}).stage_steps == (100, 200, 300)
    assert scenario({"steps": 40}).stage_steps == (40,)
    assert scenario({"steps": 250, "order": ["b", "a"]}).stage_steps == (200, 50)
    assert scenario({"repeat": 2}).stage_steps == (100, 200, 300) * 2


def test_a_shuffled_order_is_the_seeds_own_and_new_in_every_round() -> None:
    of = [names(cell) for cell in cells(scenario({"order": "shuffled", "repeat": 8}))]
    for order in of:
        rounds = [tuple(order[i : i + 3]) for i in range(0, 24, 3)]
        assert all(sorted(stages) == ["a", "b", "c"] for stages in rounds)
        assert len(set(rounds)) > 1
    assert len({tuple(order) for order in of}) == 3
    again = [names(cell) for cell in cells(scenario({"order": "shuffled", "repeat": 8}))]
    assert of == again


@pytest.mark.parametrize("budget", [40, 100, 333, 600, 1500])
def test_a_shuffled_order_keeps_the_budget(budget: int) -> None:
    for cell in cells(scenario({"order": "shuffled", "steps": budget})):
        assert cell.total_steps == budget
        assert min(cell.stage_steps) > 0
        assert cell.only(cell.cells()[0]) == cell


# -- sampled tasks ---------------------------------------------------------------------------------

HIDDEN = {"task_id": "hidden"}


def test_every_visit_to_a_sampled_task_is_a_task_of_its_own() -> None:
    sample = {
        "g": "uniform(5, 15)",
        "kwargs.x": "integers(1, 3)",
        "changes.action_gain": "choice(1, -1)",
    }
    first, second, _ = cells(scenario({**HIDDEN, "repeat": 3}, "ab", b=sample))
    assert names(first) == ["a", "b-1", "a", "b-2", "a", "b-3"] == names(second)
    assert [task.name for task in first.tasks] == ["a", "b-1", "b-2", "b-3"]
    drawn_here = [task.changes.set["g"] for task in first.tasks[1:]]
    assert len(set(drawn_here)) == 3
    assert all(5 <= value <= 15 for value in drawn_here)
    assert drawn_here != [task.changes.set["g"] for task in second.tasks[1:]]
    assert {task.kwargs["x"] for task in first.tasks[1:]} <= {1, 2, 3}
    assert {task.changes.action_gain for task in first.tasks[1:]} <= {1.0, -1.0}
    assert first.tasks[0] == scenario({**HIDDEN}, "ab", b=sample).tasks[0]


def test_a_list_of_distributions_is_drawn_entry_by_entry(tmp_path: Any) -> None:
    texts = ["normal(0, 2)", "choice(7)", "uniform(5, 6)"]
    sample = {"changes.observation_offset": texts}
    (cell, other) = cells(scenario({**HIDDEN, "repeat": 2}, "a", a=sample))[:2]
    first, second = (task.changes.observation_offset for task in cell.tasks)
    rng = generator(cell.seeds[0], "sample", "a", 1)
    assert first == tuple(draw(text, rng) for text in texts)
    assert first[1] == second[1] == 7
    assert first != second
    assert first != other.tasks[0].changes.observation_offset
    path = tmp_path / "scenario.yaml"
    path.write_text(cell.to_yaml())
    assert load_resolved(path) == cell


def test_what_was_drawn_is_recorded_and_stays(tmp_path: Any) -> None:
    (cell, *_) = cells(scenario({**HIDDEN, "steps": 450}, "ab", a={"g": "normal(10, 1)"}))
    path = tmp_path / "scenario.yaml"
    path.write_text(cell.to_yaml())
    assert load_resolved(path) == cell
    as_it_is = cell.tasks, cell.stream
    assert drawn(*as_it_is, 0) == drawn(*as_it_is, 7) == as_it_is
    assert cell.stage_steps == (100, 200, 100, 50)
    assert not any(task.sample for task in cell.tasks)


def test_draws_are_of_their_distribution() -> None:
    rng = np.random.default_rng(0)
    for text, low, high, mean in (
        ("uniform(-15, -5)", -15, -5, -10),
        ("log_uniform(0.1, 10)", 0.1, 10, 9.9 / np.log(100)),
        ("integers(1, 4)", 1, 4, 2.5),
        ("choice(1, 5)", 1, 5, 3),
    ):
        values = np.array([draw(text, rng) for _ in range(4000)])
        assert values.min() >= low
        assert values.max() <= high
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(4000)
    normal = np.array([draw("normal(3, 2)", rng) for _ in range(4000)])
    assert abs(normal.mean() - 3) < 0.13
    assert abs(normal.std() - 2) < 0.1
    assert {draw("integers(1, 4)", rng) for _ in range(200)} == {1, 2, 3, 4}


# -- what is refused -------------------------------------------------------------------------------


def test_sampled_tasks_have_no_number(one: One) -> None:
    problem = one("tasks[0].sample={gravity: 'uniform(1, 2)'}")
    assert "no one-hot can number them; write stream: {task_id: hidden}" in problem.message


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("{gravity: 'unifrom(1, 2)'}", "no distribution"),
        ("{gravity: 'uniform(2, 1)'}", "smaller number first"),
        ("{gravity: 'uniform(1)'}", "takes 2 numbers, got 1"),
        ("{gravity: 'log_uniform(0, 1)'}", "above 0"),
        ("{gravity: 'normal(0, 0)'}", "standard deviation above 0"),
        ("{gravity: 'integers(1.5, 3)'}", "whole numbers"),
        ("{gravity: 'choice(a, b)'}", "takes numbers"),
        ("{gravity: ['uniform(1, 2)', 'uniform(2, 1)']}", "smaller number first"),
        ("{gravity: []}", "must not be empty"),
        ("{changes.gain: 'uniform(1, 2)'}", "no change 'gain'"),
    ],
)
def test_wrong_samples_are_named(sample: str, message: str, one: One) -> None:
    found = one("stream.task_id=hidden", f"tasks[0].sample={sample}")
    assert message in found.message
    assert found.path.startswith("tasks[0].sample")


@pytest.mark.parametrize(
    ("drift", "message"),
    [
        ("{length: {}}", "write one of linear, sine, jumps, points"),
        ("{length: {linear: [0, 1], sine: [0, 1]}}", "write one of"),
        ("{length: {points: [[5, 1.0], [9, 2.0]]}}", "begin at step 0"),
        ("{length: {points: [[0, 1.0], [9, 2.0], [9, 3.0]]}}", "their steps grow"),
        ("{length: {linear: [0, 1], per: day}}", "per"),
    ],
)
def test_wrong_drifts_are_named(drift: str, message: str, one: One) -> None:
    found = one(f"tasks[0].drift={drift}")
    assert message in f"{found.message} {found.path}"


def test_a_budget_that_cannot_be_exact_or_stands_twice(one: One) -> None:
    assert "multiple of n_envs" in one("n_envs=4", "stream.steps=1001").message
    assert "remove one of the two" in one("stream.steps=1000", "stream.repeat=2").message


def test_a_shuffled_order_loads(write: Any) -> None:
    assert load(write(), ["stream.order=shuffled"]).stream.order == "shuffled"


# -- drift -----------------------------------------------------------------------------------------


def test_drifts_at_their_steps() -> None:
    season = Drift(sine=(8.0, 12.0), period=100)
    assert [season.at(step, 1000) for step in (0, 25, 75, 125)] == pytest.approx([10, 12, 8, 12])
    recurring = Drift(jumps=(1.0, 2.0, 3.0), period=30)
    assert [recurring.at(step, 1000) for step in (0, 10, 29, 30, 995)] == [1, 2, 3, 1, 1]
    saw = Drift(points=((0, 0.0), (10, 1.0), (20, 0.0)), period=20)
    assert [saw.at(step, 1000) for step in (0, 5, 10, 15, 25)] == pytest.approx(
        [0, 0.5, 1, 0.5, 0.5]
    )
