"""Shipped scenarios: found by name from anywhere, each in a family, and good."""

from __future__ import annotations

import json
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import holdfast
from holdfast import listing
from holdfast.errors import ScenarioError
from holdfast.scenarios.json_schema import json_schema
from holdfast.scenarios.shipped import FAMILIES, FOLDER, LITE, located, shipped
from holdfast.scenarios.source.yaml_file import read


def test_every_file_has_a_name_of_its_own_and_a_family() -> None:
    beside = (LITE, "presets.yaml")  # what scenarios are overridden by, and made of
    files = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in beside)
    assert sorted(shipped().values()) == files
    assert len({path.stem for path in files}) == len(files) > 40
    assert {path.parent for path in files} == {FOLDER / family for family in FAMILIES}


def test_lite_makes_walkers_take_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere: the file lies beside the scenarios. Robots of four tasks, learned twice."""
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    names = [name for name in shipped() if name.partition("-")[0] in ("cheetah", "walker", "ant")]
    suites = [name for name in names if name != "cheetah-physics"]
    assert len(suites) == 9
    for name in suites:
        assert f"holdfast run {name} @{LITE}" in shipped()[name].read_text("utf-8")
        assert holdfast.load(name, [f"@{LITE}"]).total_steps == 8 * 60_000


@pytest.mark.parametrize("family", FAMILIES)
def test_one_of_every_family_loads_by_name_from_anywhere(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("envpool", "mujoco", "mpe2"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names = (name for name, path in shipped().items() if path.parent == FOLDER / family)
    name = next(name for name in names if name != "partners")  # needs runs that are made first
    scenario = holdfast.load(name, ["seeds=[7]"])
    assert (scenario.name, scenario.seeds) == (name, (7,))
    assert scenario.source == shipped()[name]
    assert scenario.folder == FOLDER / family


def test_a_file_wins_and_a_folder_does_not(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minigrid").mkdir()
    assert located("minigrid") == shipped()["minigrid"]
    write(name="quickstart")
    assert holdfast.load("quickstart").source == Path("quickstart")
    assert located(Path("quickstart.yaml")) == Path("quickstart.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "no shipped scenario of that name; did you mean 'quickstart'?"),
        ("zzz", "`holdfast list scenarios` shows those there are"),
        ("a-long-way-off.yaml", "no such file"),
        ("dem.yaml", "no such file; did you mean 'demo.yaml'?"),
        ("sub/quickstart", "no such file"),
    ],
)
def test_what_is_not_there(
    write, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError) as caught:
        holdfast.load(name)
    assert caught.value.problems[0].message.endswith(message)


def test_they_are_listed_by_family() -> None:
    told = listing.scenarios()
    lines = [line.strip() for line in told.splitlines()]
    assert set(shipped()) < set(lines)
    words = " ".join(told.split())  # wherever the terminal's width broke the lines
    assert all(text in words for text in FAMILIES.values())
    assert lines.index("cw10") < lines.index("minigrid") < lines.index("walker-transfer")


def test_no_name_beside_them_hides_a_package() -> None:
    """A scenario's folder joins the import path, and so do the modules and folders in it."""
    entries = [entry for family in FAMILIES for entry in (FOLDER / family).iterdir()]
    names = {entry.stem for entry in entries if entry.is_dir() or entry.suffix == ".py"}
    names = {name for name in names if name.isidentifier() and not name.startswith("__")}
    assert names >= {"source", "schema", "checks", "reach", *FAMILIES} - {""}
    # Not find_spec: another test may have imported a module from there.
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    packages = {name for name in names if PathFinder.find_spec(name, installed)}
    hidden = packages | (names & sys.stdlib_module_names)
    assert hidden == set()


def test_they_fit_the_json_schema_that_editors_read() -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    for name, path in shipped().items():
        errors = [
            error.message for error in validator.iter_errors(read(path.read_bytes(), "").data)
        ]
        assert errors == [], name
    json.dumps(json_schema())
