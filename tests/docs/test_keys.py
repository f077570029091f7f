"""The reference of scenarios names every key, with an example that is good."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pages
import pytest
import yaml
from docsite import arguments, gallery, scenario_keys
from docsite.scenario_keys import IN_A_TASK, Example, examples, keys
from pages import ROOT, bases, make_room, merged, parsed

from holdfast.registry import ALGORITHMS, METHODS, PLUGINS
from holdfast.scenarios.load import load
from holdfast.signature import signature

EXAMPLES = examples()
BASES = bases()
SCHEMA = json.loads((ROOT / "scenarios" / "scenario.schema.json").read_text("utf-8"))
_HEADING = re.compile(r"^#+ `([^`]+)`", re.M)


def held(entry: Any, found: set[str]) -> set[str]:
    """Return the definitions that a part of the schema leads to at once."""
    if isinstance(entry, dict):
        if "$ref" in entry:
            found.add(entry["$ref"].rpartition("/")[2])
        for name, value in entry.items():
            if name not in ("properties", "default"):
                held(value, found)
    elif isinstance(entry, list):
        for value in entry:
            held(value, found)
    return found


def test_every_key_of_the_schema_is_on_the_page() -> None:
    """Walks down from the page's headings: what no heading leads to is missing."""
    headings = _HEADING.findall(scenario_keys.page())
    assert len(headings) == len(set(headings))
    reached: set[tuple[str, str]] = set()
    for path in headings:
        sections = {"": SCHEMA}
        for name in [part.removesuffix("[]") for part in path.split(".") if part != "*"]:
            (home,) = [title for title, form in sections.items() if name in form["properties"]]
            reached.add((home, name))
            leads = held(sections[home]["properties"][name], set())
            sections = {title: SCHEMA["$defs"][title] for title in leads}
            sections = {title: form for title, form in sections.items() if "properties" in form}
    described = {"": SCHEMA} | SCHEMA["$defs"]
    wanted = {
        (title, name) for title, form in described.items() for name in form.get("properties", ())
    }
    assert wanted == reached


def test_every_key_has_a_description_and_an_example() -> None:
    known = keys()
    assert {key.path for key in known} == set(EXAMPLES)
    assert [key.path for key in known if not key.description.strip(".")] == []
    page = scenario_keys.page()
    assert [path for path, one in EXAMPLES.items() if one.text.rstrip() not in page] == []


def test_defaults_are_those_of_the_schema() -> None:
    told = {key.path: key.default for key in keys()}
    assert told["evaluation.episodes"] == "10"
    assert told["stream.task_id"] == "observed"
    assert told["detector.kolmogorov_smirnov.alpha"] == "1e-12"
    assert told["name"] == ""  # the file's name, as its description says
    assert {key.path for key in keys() if key.required} >= {"tasks", "agent", "tasks[].name"}


def has(data: Any, parts: list[str]) -> bool:
    """Return whether a value is there at the path of a key, below any name where it says ``*``."""
    if not parts:
        return True
    first, *rest = parts
    if first == "*":
        return any(has(value, rest) for value in data.values())
    inside = data.get(first.removesuffix("[]")) if isinstance(data, dict) else None
    if first.endswith("[]") and rest:
        return isinstance(inside, list) and any(has(value, rest) for value in inside)
    return inside is not None and has(inside, rest)


def scenario_of(path: str, example: Example) -> dict[str, Any]:
    base, more = BASES[example.base], parsed(example.text)
    if not path.startswith(IN_A_TASK):
        return merged(base, more)
    first, *others = base["tasks"]
    return base | {"tasks": [merged(first, more), *others]}


@pytest.mark.parametrize("base", BASES)
def test_examples_are_good(base: str, tmp_path: Path) -> None:
    file = make_room(tmp_path) / "scenario.yaml"
    own = {path: example for path, example in EXAMPLES.items() if example.base == base}
    assert own
    for path, example in own.items():
        assert has(parsed(example.text), path.removeprefix(IN_A_TASK).split(".")), path
        file.write_text(yaml.safe_dump(scenario_of(path, example), sort_keys=False), "utf-8")
        load(file)


def test_an_example_of_a_wrong_value_is_refused(tmp_path: Path) -> None:
    from holdfast.errors import ScenarioError

    file = tmp_path / "scenario.yaml"
    wrong = scenario_of("tasks[].steps", Example("cart", "steps: -1"))
    file.write_text(yaml.safe_dump(wrong), "utf-8")
    with pytest.raises(ScenarioError, match=r"tasks\[0\]\.steps"):
        load(file)


def test_every_argument_of_methods_and_algorithms_is_on_the_page() -> None:
    page = arguments.page()
    sections = dict(re.findall(r"^### `([^`]+)`\n(.*?)(?=^##|\Z)", page, re.M | re.S))
    assert set(METHODS) | set(PLUGINS) | set(ALGORITHMS) <= set(sections)
    (methods,) = (form for form in SCHEMA["$defs"]["Method"]["anyOf"] if "properties" in form)
    wanted = {name: form["properties"] for name, form in methods["properties"].items()}
    for rule in SCHEMA["$defs"]["Agent"]["allOf"]:
        name = rule["if"]["properties"]["algorithm"]["const"]
        wanted[name] = rule["then"]["properties"]
    for name, known in wanted.items():
        shown = re.findall(r"^\| `(\w+)` \|", sections[name], re.M)
        assert set(shown) == set(known) - {"paper", "preset"}, name


def test_arguments_have_the_meaning_that_docstrings_give() -> None:
    for target in METHODS.values():
        known = signature(target).arguments
        told = arguments.meanings(target)
        assert [one.name for one in known if not told.get(one.name)] == [], target
    assert "clipping" in arguments.meanings(ALGORITHMS["ppo"].target)["clip_range"].casefold()


def test_examples_in_docstrings() -> None:
    for module in (arguments, gallery, scenario_keys, pages):
        result = doctest.testmod(module)
        assert (result.failed, result.attempted > 0) == (0, True), module
