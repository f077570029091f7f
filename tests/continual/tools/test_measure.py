"""A run is measured again as it was measured, and elsewhere."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import run_all
from game_runs import games
from team_runs import run as run_team
from team_runs import team_scenario
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.results.statistics import student
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.measure import Plan, measure
from holdfast.errors import UsageError


def recorded(folder: RunFolder, task: str, stage: int) -> list[Any]:
    step = sum(folder.scenario.stage_steps[:stage])
    return [s for s in folder.scores() if (s["stage"], s["step"], s["task"]) == (stage, step, task)]


def contents(folder: RunFolder) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


@pytest.mark.thorough
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_runs_own_seed_gives_the_episodes_of_its_record(
    run: Callable[..., RunFolder], deterministic: bool
) -> None:
    plan = {"every": 64, "episodes": 3, "deterministic": deterministic}
    folder = run("ppo", tasks=2, steps=64, evaluation=plan)
    before = contents(folder)
    for stage, task in ((0, "t1"), (1, "t0"), (1, "t1")):
        made = measure(folder.path, Plan(task, episodes=3, stage=stage))
        assert made.episodes == recorded(folder, task, stage + 1)
    other = measure(folder.path, Plan("t1", episodes=3, seed=7))
    assert [e["return"] for e in other.episodes] != [e["return"] for e in made.episodes]
    more = measure(folder.path, Plan(episodes=5, deterministic=True))
    if deterministic:
        assert more.episodes[:3] == made.episodes
    assert contents(folder) == before


def test_a_team_gives_the_episodes_of_its_record(tmp_path: Path) -> None:
    folder = run_team(
        tmp_path, team_scenario("ppo", {"env": "relays:Relay"}, evaluation={"episodes": 2})
    )
    made = measure(folder.path, Plan(episodes=2))
    assert made.episodes == recorded(folder, "t0", 1)
    rows = list(csv.DictReader(io.StringIO(made.csv)))
    assert [float(row["return/second"]) for row in rows] == [
        episode["agents"]["second"] for episode in made.episodes
    ]


@pytest.mark.thorough
def test_a_game_gives_the_episodes_of_its_record(tmp_path: Path) -> None:
    (folder,) = run_all(games(tmp_path, "random"), tmp_path / "runs")
    made = measure(folder.path, Plan("first", episodes=4))
    assert made.episodes == recorded(folder, "first", 2)
    assert {episode["seat"] for episode in made.episodes} == {"player_1", "player_2"}
    assert "success rate" in made.text


@pytest.mark.thorough
def test_elsewhere(run: Callable[..., RunFolder], tmp_path: Path) -> None:
    folder = run("sac", tasks=1, steps=32, evaluation={"episodes": 2})
    weak = measure(folder.path, Plan(episodes=2, kwargs={"g": 0.1}))
    own = measure(folder.path, Plan(episodes=2))
    assert weak.episodes != own.episodes
    assert [e["length"] for e in weak.episodes] == [50, 50]  # the task's own changes stay
    with pytest.raises(UsageError, match=r"--env CartPole-v1: it shows Box.*the policy knows Box"):
        measure(folder.path, Plan(env="CartPole-v1"))
    with pytest.raises(UsageError, match=r"no checkpoint of stage 4; there are: 0"):
        measure(folder.path, Plan(stage=4))
    with pytest.raises(UsageError, match=r"no task 't'"):
        measure(folder.path, Plan("t"))
    command = ["eval", str(folder.path), "--episodes", "2", "--csv", str(tmp_path / "own.csv")]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    low, high = student([e["return"] for e in own.episodes])
    mean = np.mean([e["return"] for e in own.episodes])
    assert f"return        {mean:.1f} (95%: {low:.1f} to {high:.1f})" in told.output
    assert (tmp_path / "own.csv").read_text() == own.csv
    told = CliRunner().invoke(app, ["eval", str(folder.path), "--kwargs", "g"])
    assert (told.exit_code, "write a mapping" in told.output) == (2, True)


def test_students_interval_by_hand() -> None:
    # t(0.975, 3) = 3.182; standard deviation of 1, 2, 3, 4 is 1.29099
    assert student([1.0, 2.0, 3.0, 4.0]) == pytest.approx(
        (2.5 - 3.18245 * 1.29099 / 2, 2.5 + 3.18245 * 1.29099 / 2), abs=1e-4
    )
