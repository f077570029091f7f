from __future__ import annotations

import copy
import doctest
import json
import pickle

import pytest
import yaml
from pydantic import ValidationError

from holdfast.errors import ScenarioError
from holdfast.scenarios.checks import arguments, messages
from holdfast.scenarios.json_schema import json_schema
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.changes import Changes, MujocoChanges
from holdfast.scenarios.schema.fields import descriptions
from holdfast.scenarios.schema.scenario import Method, Scenario
from holdfast.scenarios.schema.sections import Sample
from holdfast.scenarios.source import yaml_file


def scenario(**changes: object) -> Scenario:
    tasks = [{"name": name, "env": "CartPole-v1", "steps": 100} for name in "ab"]
    return Scenario.model_validate({"tasks": tasks, "agent": {"algorithm": "ppo"}} | changes)


def labels(*methods: object) -> list[str]:
    return [method.label for method in scenario(methods=list(methods)).methods]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["naive", "ewc"], ["naive", "ewc"]),
        ([{"ewc": {"strength": 10}}], ["ewc"]),
        (
            [{"ewc": {"strength": 10}}, {"ewc": {"strength": 1e4}}],
            ["ewc-strength=10", "ewc-strength=10000"],
        ),
        (
            [
                {"ewc": {"strength": 10, "kind": "online"}},
                {"ewc": {"strength": 1, "kind": "online"}},
            ],
            ["ewc-strength=10", "ewc-strength=1"],
        ),
        (["ewc", {"ewc": {"kind": "online"}}], ["ewc", "ewc-kind=online"]),
        ([["ewc", {"cloning": {"strength": 2}}]], ["ewc+cloning"]),
        ([["ewc", "cloning"], "ewc"], ["ewc+cloning", "ewc"]),
        (["mine:EWC"], ["EWC"]),
        (["mine:EWC", "ewc"], ["mine.EWC", "ewc"]),
        (["a.b:EWC", "c:EWC"], ["a.b.EWC", "c.EWC"]),
        ([{"m": {"path": "a/b c"}}, {"m": {"path": "../x"}}], ["m-path=a.b.c", "m-path=...x"]),
        ([{"m": {"x": "a/b"}}, {"m": {"x": "a.b"}}], ["m-x=a.b", "m-x=a.b-2"]),
    ],
)
def test_labels_are_unique_and_safe(methods: list[object], expected: list[str]) -> None:
    assert labels(*methods) == expected


def test_long_labels_are_cut_and_stay_unique() -> None:
    long = [{"m": {"x": "y" * 300 + end}} for end in "ab"]
    first, second = labels(*long)
    assert first != second
    assert max(len(first), len(second)) <= 110


def test_cells_are_methods_by_seeds() -> None:
    both = scenario(methods=["naive", {"ewc": {"strength": 1}}, "ewc"], seeds=[3, 5])
    assert [(cell.label, cell.seed) for cell in both.cells()] == [
        ("naive", 3),
        ("naive", 5),
        ("ewc-strength=1", 3),
        ("ewc-strength=1", 5),
        ("ewc", 3),
        ("ewc", 5),
    ]
    only = both.only(both.cells()[3])
    assert (only.seeds, len(only.methods)) == ((5,), 1)
    assert [cell.label for cell in only.cells()] == ["ewc-strength=1"]


def test_labels_survive_pickle_and_do_not_count_in_equality() -> None:
    both = scenario(methods=["ewc", {"ewc": {"strength": 1}}])
    again = pickle.loads(pickle.dumps(both))
    assert again == both
    assert [method.label for method in again.methods] == ["ewc", "ewc-strength=1"]
    assert both.methods[1] == Method.model_validate({"ewc": {"strength": 1}})
    assert both != scenario()


def test_a_method_in_two_scenarios_keeps_both_labels() -> None:
    both = scenario(methods=["ewc", {"ewc": {"strength": 1}}])
    alone = scenario(methods=both.methods[1:])
    assert alone.methods[0].label == "ewc"
    assert both.methods[1].label == "ewc-strength=1"


def test_defaults() -> None:
    plain = scenario()
    assert plain.methods == (Method.of("naive"),)
    assert plain.seeds == (0,)
    assert plain.stream_tasks == (0, 1)
    assert plain.id_width == 2
    assert scenario(stream={"task_id": "hidden"}).id_width == 0
    assert scenario(stream={"max_tasks": 5, "task_id": "heads"}).id_width == 5
    assert plain.agent.arguments == {}
    assert plain.source is None
    assert plain.folder is None


def test_scenarios_are_frozen_and_take_no_unknown_key() -> None:
    plain = scenario()
    with pytest.raises(ValidationError):
        plain.n_envs = 3  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValidationError):
        scenario(n_env=3)
    with pytest.raises(ValidationError):
        scenario(n_envs=True)


def test_changes_write_only_what_is_set() -> None:
    assert Changes().model_dump() == {}
    changes = Changes(action_delay=1, mujoco=MujocoChanges(mass={"torso": 2.0}))
    assert changes.model_dump() == {"mujoco": {"mass": {"torso": 2.0}}, "action_delay": 1}
    assert Changes.model_validate(changes.model_dump()) == changes


def test_json_schema_names_methods_and_their_arguments() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["required"] == ["tasks", "agent"]
    assert schema["additionalProperties"] is False
    forms = schema["$defs"]["Method"]["anyOf"]
    assert "ewc" in forms[0]["enum"]
    arguments = forms[2]["properties"]["ewc"]["properties"]
    assert arguments["kind"]["enum"] == ["separate", "online", "summed"]
    assert arguments["strength"]["type"] == ["number"]
    agent = schema["$defs"]["Agent"]
    assert agent["additionalProperties"] is True
    ppo = next(e for e in agent["allOf"] if e["if"]["properties"]["algorithm"]["const"] == "ppo")
    assert ppo["then"]["properties"]["n_steps"]["type"] == ["integer"]
    assert schema["$defs"]["Task"]["properties"]["steps"]["exclusiveMinimum"] == 0
    for model in messages.SECTIONS.values():
        assert list(descriptions(model)) == list(model.model_fields)


def test_json_schema_is_made_anew_each_time() -> None:
    first = json_schema()
    before = copy.deepcopy(first)
    first["$defs"].clear()
    assert json_schema() == before


def test_python_and_yaml_agree(write) -> None:
    assert load(write(scenario(name="demo").to_yaml())) == scenario(name="demo")


@pytest.mark.parametrize("module", [arguments, messages, yaml_file])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]  # a list of modules is one of objects
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        ("evaluation.tasks=some", "'some' is not one of all, seen"),
        ("evaluation.tasks={sample: 0}", "evaluation.tasks.sample: must be greater than 0"),
        ("evaluation.tasks={sampl: 3}", "unknown key; did you mean 'sample'?"),
        ("evaluation.tasks={sample: 3, boundaries: none}", "tasks.boundaries: 'none' is not one"),
        ("checkpoint.keep=most", "checkpoint.keep: 'most' is not one of policies, all"),
    ],
)
def test_plans_that_do_not_exist_are_refused(plan: str, text: str) -> None:
    with pytest.raises(ScenarioError) as error:
        load("quickstart", overrides=[plan])
    assert text in str(error.value)


def test_a_sample_is_written_out_and_read_back() -> None:
    plan = "evaluation={tasks: {sample: 3, boundaries: all}, episodes: 2}"
    scenario = load("quickstart", overrides=[plan, "checkpoint={keep: all}"])
    assert scenario.evaluation.tasks == Sample(sample=3, boundaries="all")
    again = Scenario.model_validate(yaml.safe_load(scenario.to_yaml()))
    assert again.evaluation == scenario.evaluation
    assert again.checkpoint.keep == "all"
