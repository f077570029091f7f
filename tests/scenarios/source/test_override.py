"""Overrides by name, and from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load
from holdfast.scenarios.source.override import override
from holdfast.scenarios.source.yaml_file import read


def source():
    return read(b"tasks: [{name: a, steps: 1}, {name: b}]\nmethods: [naive, ewc, {l2: null}]", "d")


def test_entries_of_lists_have_names() -> None:
    found = source()
    for text in ("tasks.b.steps=5", "methods.ewc.strength=2", "methods.l2.strength=3"):
        override(found, text)
    assert not found.problems
    assert found.data["tasks"][1] == {"name": "b", "steps": 5}
    assert found.data["methods"] == ["naive", {"ewc": {"strength": 2}}, {"l2": {"strength": 3}}]
    assert found.values["methods", 1, "ewc", "strength"].file == "override methods.ewc.strength=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods.ecw.strength=1", "methods has no 'ecw'; did you mean 'ewc'? Or write an index"),
        ("methods[1].strength=1", "'methods[1]' is 'ewc', which has no entries"),
        ("tasks.a.name.x=1", "'tasks[0].name' is 'a', which has no entries"),
    ],
)
def test_wrong_names_say_what_to_write(text: str, message: str) -> None:
    found = source()
    override(found, text)
    assert message in str(found.problems[0])


def test_a_name_that_is_there_twice_needs_an_index() -> None:
    found = read(b"methods: [ewc, {ewc: {strength: 2}}]", "d")
    override(found, "methods.ewc.strength=1")
    assert "methods has several 'ewc'; write an index: methods[0]" in str(found.problems[0])


def test_a_file_of_overrides(write, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    best.write_text("agent.gamma: 0.9\ntuned.ppo-x=0.5: on seeds 1\n", encoding="utf-8")
    scenario = load(write(), [f"@{best}", "agent.n_epochs=2"])
    assert scenario.agent.arguments == {"gamma": 0.9, "n_epochs": 2}
    assert scenario.tuned == {"ppo-x=0.5": "on seeds 1"}


def test_a_file_of_overrides_may_lie_beside_the_scenario(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One where the command runs comes first."""
    scenario, here = write(), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (scenario.parent / "small.yaml").write_text("agent.gamma: 0.9\n", encoding="utf-8")
    assert load(scenario, ["@small.yaml"]).agent.arguments == {"gamma": 0.9}
    (here / "small.yaml").write_text("agent.gamma: 0.8\n", encoding="utf-8")
    assert load(scenario, ["@small.yaml"]).agent.arguments == {"gamma": 0.8}


@pytest.mark.parametrize("name", ["a" * 5000, "no\0where"])
def test_a_file_of_overrides_that_cannot_be_is_a_mistake(write, name: str) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(write(), [f"@{name}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("agent.gamma: 2\n", "best.yaml:1:14: agent.gamma: "),
        ("ok: 1\nok: 2\n", "best.yaml:2:1: ok: the key is there twice"),
        ("[1]\n", "best.yaml:1:1: expected keys and their values"),
        (None, "cannot be read: No such file"),
    ],
)
def test_mistakes_in_a_file_of_overrides_have_their_place(
    write, tmp_path, content, message
) -> None:
    best = tmp_path / "best.yaml"
    if content is not None:
        best.write_text(content, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(write(), [f"@{best}"])
    assert message in str(caught.value)
