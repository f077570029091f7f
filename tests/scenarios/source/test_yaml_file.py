from __future__ import annotations

import math
import time

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.override import override
from holdfast.scenarios.source.yaml_file import dump, read


def value(text: str) -> object:
    found = read(f"x: {text}".encode(), "demo.yaml")
    assert not found.problems
    return found.data["x"]


def refused(content: str | bytes) -> str:
    content = content.encode() if isinstance(content, str) else content
    with pytest.raises(ScenarioError) as caught:
        read(content, "demo.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("3e-4", 3e-4),
        ("1e5", 100_000.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1_000_000", 1_000_000),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("2026-11-21", "2026-11-21"),
        ("12:30:00", "12:30:00"),
        ("'1e5'", "1e5"),
        ("!!str 5", "5"),
        ("CartPole-v1", "CartPole-v1"),
    ],
)
def test_fault_3_scalars_are_those_of_yaml_1_2(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_fault_2_duplicate_key_names_both_lines() -> None:
    found = read(b"a: 1\nb: 2\na: 3\n", "demo.yaml")
    assert str(found.problems[0]) == (
        "demo.yaml:3:1: a: the key is there twice, in lines 1 and 3\n    a: 3\n    ^"
    )


def test_duplicate_keys_are_found_at_any_depth() -> None:
    found = read(b"a:\n  - {b: 1, b: 2}\n  - {c: 1, c: 1}\n", "demo.yaml")
    assert [problem.path for problem in found.problems] == ["a[0].b", "a[1].c"]


def test_fault_4_tab() -> None:
    assert refused("tasks:\n\t- a: 1\n").startswith(
        "demo.yaml:2:1: not valid YAML: a tab indents this line; YAML is indented with spaces"
    )


def test_fault_4_broken_indentation() -> None:
    text = refused("tasks:\n  - name: a\n    env: b\n   steps: 3\n")
    assert text.startswith("demo.yaml:4:4: not valid YAML: the indentation of this line fits")


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_fault_4_empty_file(text: str) -> None:
    if text == "---\n":
        assert read(text.encode(), "demo.yaml").data is None
    else:
        assert refused(text).startswith("demo.yaml:1:1: the file is empty")


def test_fault_4_not_utf_8() -> None:
    assert refused(b"a: 1\nb: \xe9\n").startswith("demo.yaml:2:4: not UTF-8 text (byte 0xe9)")


def test_fault_4_byte_order_mark_is_accepted() -> None:
    found = read(b"\xef\xbb\xbfa: 1\n", "demo.yaml")
    assert found.data == {"a": 1}
    assert found.keys[("a",)].column == 1


def test_control_character() -> None:
    assert refused("a: 1\nb: \x01\n").startswith("demo.yaml:2:4: the character U+0001")


def test_second_document() -> None:
    assert refused("a: 1\n---\nb: 2\n").startswith("demo.yaml:2:1: not valid YAML: a second")


@pytest.mark.parametrize(
    "tag",
    [
        '!!python/object/apply:os.system ["touch hacked"]',
        "!!python/name:os.system ''",
        "!!python/tuple [1]",
        "!!binary aGk=",
        "!!set {a}",
        "!own 3",
    ],
)
def test_fault_37_tags_are_refused_and_nothing_runs(tag: str) -> None:
    found = read(f"a: 1\nb: {tag}\n".encode(), "demo.yaml")
    problem = found.problems[0]
    assert (problem.line, problem.column, problem.path) == (2, 4, "b")
    assert f"'{tag.split()[0]}' is refused" in problem.message
    assert found.data["b"] is None


def test_fault_37_alias_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    start = time.perf_counter()
    assert "holds more than 20,000 values" in refused("\n".join(lines))
    assert time.perf_counter() - start < 5


def test_fault_37_an_alias_inside_itself() -> None:
    assert "contains itself" in refused("a: &a [1, *a]\n")
    merged = read(b"a: &a\n  b: 1\n  <<: *a\n", "demo.yaml")
    assert "merged into itself" in merged.problems[0].message


def test_fault_37_huge_or_deep_file() -> None:
    assert "larger than the 256 KiB" in refused("a: " + "x" * bounds.FILE_BYTES)
    assert "nested more than 32 levels deep" in refused("a: " + "[" * 5000)
    digits = read(f"a: {'9' * 5000}\n".encode(), "demo.yaml")
    assert "is not a number" in digits.problems[0].message


def test_merge_keys_give_way_to_own_keys_and_keep_places() -> None:
    text = "base: &base\n  a: 1\n  b: 2\nother:\n  <<: *base\n  b: 3\n"
    found = read(text.encode(), "demo.yaml")
    assert not found.problems
    assert found.data["other"] == {"a": 1, "b": 3}
    assert found.values["other", "a"].line == 2
    assert found.values["other", "b"].line == 6


def test_merging_a_list_of_mappings_takes_the_first() -> None:
    found = read(b"a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}\n", "demo.yaml")
    assert found.data["c"] == {"x": 1, "y": 2}
    assert not found.problems


@pytest.mark.parametrize(
    "data",
    [
        {"a": "no", "b": "1e5", "c": "010", "d": "1_0", "e": "~", "f": "0o7", "g": "2026-01-01"},
        {"a": 1e-5, "b": 1e22, "c": 100.0, "d": -3, "e": None, "f": True},
        {"a": [1, [2, []], {}], "b": {"c": {1: "x"}}},
        {"a": "naïve: \N{GREEK SMALL LETTER THETA} # not a comment", "b": "two\nlines", "c": ""},
    ],
)
def test_dump_reads_back_equal(data: object) -> None:
    assert read(dump(data).encode(), "demo.yaml").data == data


def test_override_by_index_in_either_form() -> None:
    found = read(b"tasks:\n  - {steps: 1}\n  - {steps: 2}\n", "demo.yaml")
    override(found, "tasks[0].steps=10")
    override(found, "tasks.1.steps=1e2")
    override(found, "agent.gamma=0.9")
    assert found.data == {"tasks": [{"steps": 10}, {"steps": 100.0}], "agent": {"gamma": 0.9}}
    assert not found.problems
    assert found.values["tasks", 0, "steps"].file == "override tasks[0].steps=10"


def test_override_replaces_the_places_below_it() -> None:
    found = read(b"a: {b: 1, c: 2}\n", "demo.yaml")
    override(found, "a={d: 3}")
    assert found.data == {"a": {"d": 3}}
    assert ("a", "b") not in found.values
    assert found.keys["a", "d"].file == "override a={d: 3}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks.2.steps=1", "tasks[2].steps: tasks has 1 entry, counted from 0"),
        ("tasks.steps=1", "tasks.steps: tasks is a list; write an index: tasks[0]"),
        ("tasks", "an override is written key=value"),
        ("=3", "an override is written key=value"),
        ("name.x=3", "name.x: 'name' is 'demo', which has no entries; set all of it: name=..."),
        ("name=[", "not valid YAML"),
        ("name=!!python/name:os.system", "name: the tag '!!python/name:os.system' is refused"),
        ("tasks[0]={steps: [.nan]}", "tasks[0].steps[0]: '.nan' is not a number"),
    ],
)
def test_wrong_overrides_are_placed(text: str, message: str) -> None:
    found = read(b"name: demo\ntasks:\n  - {steps: 1}\n", "demo.yaml")
    override(found, text)
    assert str(found.problems[0]).startswith(f"override {text}: ")
    assert message in str(found.problems[0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{g: uniform(1, 2)}", {"g": "uniform(1, 2)"}),
        ("{g: uniform(-1,2) , m: choice(1, 2, 3), h: 4}",
         {"g": "uniform(-1, 2)", "m": "choice(1, 2, 3)", "h": 4}),
        ("{g: 'uniform(1, 2)', m: }", {"g": "uniform(1, 2)", "m": None}),
        ("{g: 'uniform(1', 2): }", {"g": "uniform(1", "2)": None}),
        ("{g: f(x), m: }", {"g": "f(x)", "m": None}),
    ],
)  # fmt: skip
def test_a_comma_inside_parentheses_ends_nothing(text: str, value: object) -> None:
    assert read(f"a: {text}\n".encode(), "f.yaml").data == {"a": value}
    source = read(b"a: 1\n", "f.yaml")
    override(source, f"a={text}")
    assert source.data == {"a": value}
