"""Code that a run folder names: refused, asked for, or known to be the user's own."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from team_runs import run as run_team
from team_runs import team_scenario

import holdfast
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.team import partner_groups
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.measure import Plan, measure
from holdfast.continual.training.cell import run_cell
from holdfast.errors import CodeNotTrusted
from holdfast.scenarios.checks.own_code import own_code
from holdfast.scenarios.schema.scenario import Scenario

ENV = """\
import pathlib
from gymnasium.envs.classic_control import CartPoleEnv

pathlib.Path({mark!r}).touch()


class Mine(CartPoleEnv):
    pass
"""
SCENARIO = """\
tasks: [{name: only, env: "own_world:Mine", steps: 32, changes: {time_limit: 20}}]
agent: {algorithm: ppo, n_steps: 16, batch_size: 16, n_epochs: 1, policy_kwargs: {net_arch: [8]}}
n_envs: 2
evaluation: {episodes: 1}
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory, empty."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "holdfast" / "runs"


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A scenario of the user's own, with a module beside it that leaves a mark."""
    place = tmp_path / "lab"
    place.mkdir()
    (place / "own_world.py").write_text(ENV.format(mark=str(tmp_path / "mine-ran")), "utf-8")
    (place / "mine.yaml").write_text(SCENARIO, "utf-8")
    return holdfast.load(place / "mine.yaml")


@pytest.fixture
def folder(tmp_path: Path, scenario: Scenario, state: Path) -> RunFolder:
    """Its run, finished, and remembered as the user's own."""
    (folder,) = prepare(tmp_path / "runs", scenario)
    run_cell(folder, lambda progress: None)
    return folder


def forget(module: str = "own_world") -> None:
    """Let the next import read the module again, wherever it is found."""
    sys.modules.pop(module, None)
    sys.path[:] = [path for path in sys.path if not path.endswith(("lab", "evil"))]


def test_a_run_of_ones_own_needs_no_word_and_one_from_elsewhere_does(
    folder: RunFolder, state: Path, tmp_path: Path
) -> None:
    forget()
    assert measure(folder.path, Plan(episodes=1)).episodes[0]["task"] == "only"
    (record,) = state.iterdir()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    elsewhere = tmp_path / "downloads" / "mine" / "naive" / "seed-0"
    shutil.copytree(folder.path, elsewhere)
    (tmp_path / "mine-ran").unlink()
    forget()
    with pytest.raises(CodeNotTrusted) as refused:
        open_run(elsewhere).agent()
    assert refused.value.exit_code == 5
    text = str(refused.value)
    assert "tasks[0].env: 'own_world:Mine'" in text
    assert str(tmp_path / "lab") in text
    assert "--trust-code (trust_code=True in Python)" in text
    assert not (tmp_path / "mine-ran").exists()
    assert open_run(elsewhere).scores  # data are read without a word
    assert open_run(elsewhere, trust_code=True).agent().task.name == "only"
    assert (tmp_path / "mine-ran").exists()


def _code_changed(folder: RunFolder, state: Path, lab: Path) -> None:
    (lab / "own_world.py").write_text("changed = True\n", "utf-8")


def _code_added(folder: RunFolder, state: Path, lab: Path) -> None:
    (lab / "gymnasium.py").write_text("", "utf-8")


def _scenario_changed(folder: RunFolder, state: Path, lab: Path) -> None:
    path = folder.path / "scenario.yaml"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")


def _record_gone(folder: RunFolder, state: Path, lab: Path) -> None:
    shutil.rmtree(state)


def _record_of_anybody(folder: RunFolder, state: Path, lab: Path) -> None:
    next(state.iterdir()).chmod(0o666)


def _folder_of_anybody(folder: RunFolder, state: Path, lab: Path) -> None:
    state.chmod(0o777)


def _record_is_a_link(folder: RunFolder, state: Path, lab: Path) -> None:
    (record,) = state.iterdir()
    shutil.copy(record, lab / "record.json")
    record.unlink()
    record.symlink_to(lab / "record.json")


def _record_is_junk(folder: RunFolder, state: Path, lab: Path) -> None:
    next(state.iterdir()).write_bytes(b"[" * 100_000)


@pytest.mark.parametrize(
    "spoil",
    [
        *(_code_changed, _code_added, _scenario_changed, _record_gone, _record_of_anybody),
        *(_folder_of_anybody, _record_is_a_link, _record_is_junk),
    ],
)
def test_what_is_remembered_holds_as_long_as_nothing_changed(
    spoil: Any, scenario: Scenario, state: Path, tmp_path: Path
) -> None:
    from holdfast.continual.policies.trust import vouch

    (made,) = prepare(tmp_path / "runs", scenario)
    vouch(RunFolder(made.path))
    spoil(made, state, tmp_path / "lab")
    with pytest.raises(CodeNotTrusted):
        vouch(RunFolder(made.path))


def test_a_state_directory_that_cannot_be_written_costs_one_line(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "state"))
    told: list[str] = []
    (folder,) = prepare(tmp_path / "runs", scenario, tell=told.append)
    assert len(told) == 1
    assert "\n" not in told[0]
    assert "--trust-code" in told[0]
    run_cell(folder, lambda progress: None)
    assert folder.info()["status"] == "finished"


def test_a_run_is_known_by_whatever_way_it_is_reached(
    scenario: Scenario, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.continual.policies import trust

    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    prepare(tmp_path / "runs", scenario)
    for place in ("runs", "disk"):
        trust.vouch(RunFolder(tmp_path / place / "mine" / "naive" / "seed-0"))
    monkeypatch.setattr(trust, "MOST_RECORDS", 4)
    many = scenario.model_copy(update={"seeds": tuple(range(9))})
    prepare(tmp_path / "more", many)
    assert len(list(state.iterdir())) == 2


def test_a_planted_folder_never_decides_what_ones_own_run_imports(
    scenario: Scenario, state: Path, tmp_path: Path
) -> None:
    """Scenario and import folder come from the file, also in a worker's process."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "own_world.py").write_text(ENV.format(mark=str(tmp_path / "evil-ran")), "utf-8")
    (planted,) = prepare(tmp_path / "runs", scenario)
    info = json.loads((planted.path / "run.json").read_bytes()) | {"folder": str(evil)}
    (planted.path / "run.json").write_text(json.dumps(info), "utf-8")
    for file in evil.iterdir():
        shutil.copy(file, planted.path)
    (folder,) = prepare(tmp_path / "runs", scenario)
    travelled = pickle.loads(pickle.dumps(folder))  # as to a worker
    assert travelled.scenario.folder == tmp_path / "lab"
    assert travelled.scenario == folder.scenario
    forget()
    run_cell(travelled, lambda progress: None)
    assert (tmp_path / "mine-ran").exists()
    assert not (tmp_path / "evil-ran").exists()


def test_a_registered_environment_works_and_nothing_beside_it_is_imported(
    tmp_path: Path, run: Any
) -> None:
    folder = run(tasks=1, steps=64)
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("codecarbon", "imageio_ffmpeg", "onnxscript"):
        (evil / f"{name}.py").write_text(ENV.format(mark=str(tmp_path / "evil-ran")), "utf-8")
    folder.update(folder=str(evil))
    open_run(folder.path).agent()
    assert str(evil) not in sys.path
    assert not (tmp_path / "evil-ran").exists()


def test_a_partner_from_elsewhere_is_refused_until_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = {"policies": {"fast": ["first"], "rest": ["second", "third"]}}
    relay = {"env": "relays:Relay"}
    before = run_team(tmp_path, team_scenario("ppo", relay, name="before", agent=agent))
    partner = {"rest": {"run": str(before.path)}}
    later = team_scenario("ppo", {**relay, "partners": partner}, name="later", agent=agent)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    with pytest.raises(CodeNotTrusted, match="relays:Relay"):
        partner_groups(later, later.tasks[0])
    assert list(partner_groups(later.trusting_code(), later.tasks[0])) == ["rest"]


def _task(**keys: Any) -> dict[str, Any]:
    return {"tasks": [{"name": "a", "env": "CartPole-v1", "steps": 8, **keys}]}


TEAM = {"agent": {"algorithm": "ppo", "policies": "shared"}}


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (_task(), ""),
        (_task(env="minigrid:MiniGrid-Empty-5x5-v0"), ""),
        (_task(env="holdfast.envs.x:Env"), ""),
        (_task(env="mpe2.simple_spread_v3") | TEAM, ""),
        (_task(env="butterfly/pistonball_v6") | TEAM, ""),
        (_task(wrappers=[{"frame_stack": 4}]), ""),
        ({"agent": {"algorithm": "sac"}, "methods": ["ewc", ["ewc", "cloning"]]}, ""),
        (_task(env="evil:Env"), "tasks[0].env"),
        (_task(env="evil") | TEAM, "tasks[0].env"),
        (_task(env="mpe2:anything") | TEAM, "tasks[0].env"),
        (_task(env="holdfast.continual.jobs.run:run"), "tasks[0].env"),
        (_task(env="GymV21Environment-v0", kwargs={"env_id": "evil:Env"}), "tasks[0].env"),
        (_task(env="minigrid.evil_minigrid:X"), ""),  # of that package, wherever it is installed
        (_task(env="minigridx:X"), "tasks[0].env"),
        (_task(python="./python"), "tasks[0].python"),
        (_task(wrappers=["evil:Wrap"]), "tasks[0].wrappers[0]"),
        (_task(env=None, benchmark="evil:make"), "tasks[0].benchmark"),
        ({"agent": {"algorithm": "evil:Agent"}}, "agent.algorithm"),
        (
            {"agent": {"algorithm": "ppo", "policy_kwargs": {"features_extractor": "evil:F"}}},
            "agent.policy_kwargs.features_extractor",
        ),
        ({"agent": {"algorithm": "supervised", "model": "evil:Net"}}, "agent.model"),
        ({"methods": [["ewc", "evil:Method"]]}, "methods[0]"),
        ({"methods": ["holdfast.continual.training.tensorboard:TensorBoard"]}, "methods[0]"),
    ],
)
def test_own_code_is_whatever_is_not_known(keys: dict[str, Any], found: str) -> None:
    made = Scenario.model_validate({"agent": {"algorithm": "ppo"}, **_task(), **keys})
    assert [code.key for code in own_code(made)] == ([found] if found else [])


def test_nothing_is_written_into_the_home_of_whoever_runs_the_tests() -> None:
    assert "pytest" in os.environ["XDG_STATE_HOME"]
