"""Sweeps: what they expand to, and every mistake at its place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.schema.cells import names, pointed
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.schema.studies import values
from holdfast.scenarios.source import bounds

TASKS = """\
tasks:
  - {name: right, env: CartPole-v1, steps: 1000}
  - {name: left, env: CartPole-v1, steps: 1000, changes: {action_map: [1, 0]}}
agent: {algorithm: ppo}
methods: [naive, ewc, [ewc, cloning]]
seeds: [3, 4]
"""


def swept(write, sweep: str, *overrides: str) -> Scenario:
    return load(write(f"{TASKS}sweep: {sweep}\n"), overrides)


def labels(scenario: Scenario) -> list[str]:
    return list(dict.fromkeys(cell.label for cell in scenario.cells()))


def test_without_a_sweep_cells_are_methods_times_seeds(write) -> None:
    cells = load(write(TASKS)).cells()
    assert [(cell.label, cell.seed) for cell in cells] == [
        (label, seed) for label in ("naive", "ewc", "ewc+cloning") for seed in (3, 4)
    ]
    assert [cell.listed for cell in cells] == [0, 0, 1, 1, 2, 2]
    assert all(cell.sweep == {} and cell.point == "" for cell in cells)


def test_a_key_of_all_multiplies_all_and_an_argument_its_method_alone(write) -> None:
    scenario = swept(write, "{agent.learning_rate: [1e-4, 3e-4], methods.ewc.strength: [1, 10]}")
    rates = ("learning_rate=0.0001", "learning_rate=0.0003")
    own = ("naive", "ewc-strength=1", "ewc-strength=10", "ewc+cloning")
    assert labels(scenario) == [f"{method}-{rate}" for rate in rates for method in own]
    assert len(scenario.cells()) == 2 * 4 * 2
    cell = scenario.cells()[-4]  # the last rate, strength 10, the first seed
    assert cell.seed == 3
    assert cell.sweep == {"agent.learning_rate": 3e-4, "methods.ewc.strength": 10}
    assert cell.point == "learning_rate=0.0003"
    alone = scenario.only(cell)
    assert alone.agent.arguments == {"learning_rate": 3e-4}
    assert alone.methods[0].parts[0].arguments == {"strength": 10}
    assert alone.methods[0].label == "ewc-strength=10-learning_rate=0.0003"
    assert alone.sweep == {}
    assert "sweep" not in alone.to_yaml()
    naive = scenario.only(scenario.cells()[0])
    assert naive.methods[0].parts[0].arguments == {}


def test_each_cell_is_what_overrides_would_give(write, tmp_path: Path) -> None:
    sweep = "{agent.policy_kwargs.net_arch: [[8], [8, 8]], tasks.left.steps: [5e2, 700], "
    scenario = swept(write, sweep + "methods.2.cloning.strength: [2], n_envs: [1, 2]}")
    assert len(labels(scenario)) == 3 * 8
    for cell in scenario.cells():
        keys = {key: cell.sweep[key] for key in cell.sweep if not key.startswith("methods")}
        overrides = [f"{key}={list(v) if isinstance(v, list) else v}" for key, v in keys.items()]
        if cell.listed == 2:
            overrides.append("methods=[[ewc, cloning: {strength: 2}]]")
        else:
            overrides.append(f"methods=[{cell.method.base_label}]")
        plain = load(tmp_path / "demo.yaml", ["sweep={}", *overrides, f"seeds=[{cell.seed}]"])
        assert scenario.only(cell) == plain


def test_a_cells_scenario_is_one_point_and_reads_back(write) -> None:
    scenario = swept(write, "{agent.gamma: [0.9, 0.99]}")
    alone = scenario.only(scenario.cells()[0])
    path = write(alone.to_yaml(), "cell.yaml")
    assert load(path) == load_resolved(path) == alone
    assert [cell.label for cell in load(path).cells()] == ["naive"]


def test_a_resolved_sweep_loads_back_equal(write) -> None:
    scenario = swept(write, "{agent.n_steps: {range: [1e2, 300, 1e2]}}")
    assert scenario.sweep == {"agent.n_steps": (100, 200, 300)}
    again = load(write(scenario.to_yaml(), "again.yaml"))
    assert again == scenario
    assert [cell.label for cell in again.cells()] == [cell.label for cell in scenario.cells()]


def test_more_values_leave_the_other_labels_as_they_are(write) -> None:
    one = labels(swept(write, "{methods.ewc.strength: [10], agent.gamma: [0.9]}"))
    two = labels(swept(write, "{methods.ewc.strength: [10, 20], agent.gamma: [0.9, 0.8]}"))
    assert set(one) < set(two)
    assert "ewc-strength=10-gamma=0.9" in one


def test_a_method_listed_twice_is_swept_by_index(write) -> None:
    text = TASKS.replace("ewc, [ewc, cloning]", "ewc: {strength: 1}, ewc: {kind: online}")
    scenario = load(write(text + "sweep: {'methods[2].ewc.strength': [5, 6]}\n"))
    assert labels(scenario) == [
        "naive",
        "ewc-strength=1",
        "ewc-kind=online-strength=5",
        "ewc-kind=online-strength=6",
    ]


def test_labels_are_unique_and_fit_a_folder(write) -> None:
    long = [[f"{unit}.0" for unit in range(start, start + 30)] for start in (10, 50)]
    text = str(long).replace("'", "").replace(".0", "")
    scenario = swept(write, f"{{agent.policy_kwargs.net_arch: {text}, agent.gamma: [0.9, 0.99]}}")
    found = labels(scenario)
    assert len(set(found)) == len(found) == 12
    assert all(len(label) <= 100 for label in found)
    assert len({pointed("x" * 90, f"gamma={g}") for g in (0.123456, 0.123457)}) == 2


def test_names_grow_until_they_differ(write) -> None:
    scenario = swept(write, "{tasks.0.steps: [10], tasks.1.steps: [20], agent.gamma: [0.9]}")
    assert labels(scenario)[0] == "naive-tasks.0.steps=10-tasks.1.steps=20-gamma=0.9"
    assert names([], []) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"range": [1, 4, 1]}, (1, 2, 3, 4)),
        ({"range": [0.1, 0.5, 0.2]}, (0.1, 0.3, 0.5)),
        ({"range": [0, 5, 2]}, (0, 2, 4)),
        ({"linear": [0, 1, 3]}, (0, 0.5, 1)),
        ({"log": [1e-5, 1e-2, 4]}, (1e-5, 1e-4, 1e-3, 1e-2)),
        ([1, True, 1.5], (1, True, 1.5)),
    ],
)
def test_ranges(given, expected) -> None:
    assert values(given) == expected


@pytest.mark.parametrize(
    ("sweep", "line", "column", "message"),
    [
        ("{agent.lerning_rate: [1]}", 7, 9, "has no argument 'lerning_rate'; did you mean 'learn"),
        ("{agent.learning_rate: [1e-4, -1]}", 7, 37, "must be greater than 0, got -1"),
        ("{evaluation.evry: [10]}", 7, 9, "unknown key; did you mean 'every'?"),
        ("{batch_size: [10]}", 7, 9, "unknown key here; it belongs under agent:"),
        ("{agent.gamma: []}", 7, 22, "must not be empty; write a list"),
        ("{agent.gamma: 0.9}", 7, 22, "a single value is no sweep"),
        ("{agent.gamma: [0.9, 0.90]}", 7, 22, "0.9 is listed twice"),
        ("{agent.gamma: {log: [0, 1, 3]}}", 7, 22, "begins above zero, got 0"),
        ("{agent.gamma: {log: [1, 2]}}", 7, 22, "write {log: [low, high, count]}"),
        ("{agent.gamma: {range: [1, 0, 1]}}", 7, 22, "goes upwards, but 1 is not below 0"),
        ("{agent.gamma: {rnage: [1, 2, 1]}}", 7, 22, "is no range; write a list"),
        ("{agent.gamma: {range: [0, 1, 1e-6]}}", 7, 22, "at most 1,000 are taken"),
        ("{agent.n_epochs: {linear: [1, 2, 3]}}", 7, 25, "expected a whole number, got 1.5"),
        ("{seeds: [1, 2]}", 7, 9, "'seeds' cannot be varied: every cell is run with each"),
        ("{name: [a, b]}", 7, 9, "'name' cannot be varied"),
        ("{methods: [naive]}", 7, 9, "methods are compared by listing them"),
        ("{methods.ewc: [1]}", 7, 9, "'methods.ewc.<argument>', which its cells alone take"),
        ("{methods.ecw.strength: [1]}", 7, 9, "methods has no 'ecw'; did you mean 'ewc'?"),
        ("{methods.ewc.strenth: [1]}", 7, 9, "no argument 'strenth'; did you mean 'strength'?"),
        ("{methods.ewc.strength: [1, -2]}", 7, 35, "must be"),
        ("{tasks.2.steps: [1]}", 7, 9, "tasks has 2 entries, counted from 0"),
        ("{sweep.x: [1]}", 7, 9, "a study is no part of itself"),
        ("{agent.paper: [continual-world]}", 7, 9, "a paper stands for many values"),
        ("{backend: [auto, envpool]}", 7, 18, "auto is settled once for all cells"),
        ("{agent.gamma: [1], agent: [{algorithm: ppo}]}", 7, 27, "overlaps with 'agent.gamma'"),
        (
            "{tasks.0.steps: [1], tasks.right.steps: [1]}",
            7,
            29,
            "'tasks.right.steps' is the same key as 'tasks.0.steps'; keep one",
        ),
        ("[1]", 7, 8, "write {agent.learning_rate: [1e-4, 3e-4]}"),
    ],
)
def test_mistakes_have_their_place(write, sweep, line, column, message) -> None:
    with pytest.raises(ScenarioError) as caught:
        swept(write, sweep)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column), str(problem)
    assert message in problem.message


def test_what_only_a_point_makes_wrong_names_the_point(write) -> None:
    with pytest.raises(ScenarioError) as caught:
        swept(write, "{n_envs: [2, 3]}")
    assert [problem.path for problem in caught.value.problems] == [
        "tasks[0].steps",
        "tasks[1].steps",
    ]
    assert "with n_envs=3 (sweep): 1000 is not a multiple of n_envs (3)" in str(caught.value)


def test_keys_that_fit_only_together_are_checked_together(write) -> None:
    scenario = swept(write, "{n_envs: [4], tasks.0.steps: [8, 12], tasks.1.steps: [16]}")
    assert len(labels(scenario)) == 6


def test_the_scenario_itself_and_its_sweep_are_reported_at_once(write) -> None:
    with pytest.raises(ScenarioError) as caught:
        swept(write, "{agent.gamma: [2]}", "agent.n_epochs=0", "n_evs=2")
    assert len(caught.value.problems) == 3


def test_a_value_that_makes_two_methods_one_is_refused(write) -> None:
    text = TASKS.replace("ewc, [ewc, cloning]", "ewc: {strength: 1}, ewc: {strength: 2}")
    with pytest.raises(ScenarioError, match=r"the same method as methods\[1\]"):
        load(write(text + "sweep: {'methods[2].ewc.strength': [3, 1]}\n"))


def test_an_override_of_a_swept_key_is_refused_with_what_to_write(write) -> None:
    sweep = "{agent.gamma: [0.9, 0.99]}"
    with pytest.raises(
        ScenarioError, match=r"override agent.gamma=0.5 sets it too; write 'sweep.ag"
    ):
        swept(write, sweep, "agent.gamma=0.5")
    assert len(swept(write, sweep, "sweep.agent.gamma=[0.5]").cells()) == 6
    assert len(swept(write, sweep, "sweep={}", "agent.gamma=0.5").cells()) == 6
    assert len(swept(write, sweep, "sweep.agent.n_epochs=[1, 2]").cells()) == 24


def test_too_many_points_are_refused_at_once(write) -> None:
    began = time.monotonic()
    keys = "agent.gamma: {linear: [0.1, 0.9, 40]}, agent.ent_coef: {linear: [0, 1, 40]}"
    with pytest.raises(
        ScenarioError, match=f"1,600 points are too many \\(at most {bounds.POINTS:,}"
    ):
        swept(write, f"{{{keys}}}")
    assert time.monotonic() - began < 20


TUNE = "tune: {space: {agent.learning_rate: {log: [1e-5, 1e-3]}}, "


@pytest.mark.parametrize(
    ("tune", "column", "message"),
    [
        ("tune: {space: {agent.gamma: [0.9, 0.99]}}", 7, "nothing says what tuning may look at"),
        (TUNE + "percent: 0}", 68, "must be greater than 0"),
        (TUNE + "percent: 10, seeds: [7, 4]}", 83, "seed 4 is one of the scenario's own"),
        (TUNE + "percnt: 1, seeds: [9]}", 59, "unknown key; did you mean 'percent'?"),
        ("tune: {space: {}, percent: 1}", 15, "must not be empty"),
        ("tune: {space: {agent.gamma: [0.9]}, percent: 1}", 29, "one choice leaves nothing"),
        ("tune: {space: {agent.gamma: 0.9}, percent: 1}", 29, "a single value leaves nothing"),
        ("tune: {space: {agent.gamma: {int: [0.1, 2]}}, percent: 1}", 29, "has whole numbers"),
        ("tune: {space: {agent.gamma: {linear: [0.5, 1.1]}}, percent: 1}", 29, "must be"),
        ("tune: {space: {agent.gama: [1, 0.5]}, percent: 1}", 16, "did you mean 'gamma'?"),
        ("tune: {space: {agent.n_epochs: {linear: [1, 9]}}, percent: 1}", 32, "a whole number"),
        ("tune: {space: {seeds: [[1], [2]]}, percent: 1}", 16, "'seeds' cannot be varied"),
    ],
)
def test_mistakes_of_tune_have_their_place(write, tune, column, message) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(write(TASKS + tune + "\n"))
    (problem,) = caught.value.problems
    assert problem.line == 7
    assert message in problem.message
    assert problem.column == column
