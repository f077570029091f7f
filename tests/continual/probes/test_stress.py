"""Every stage under stress: what is measured, what is kept, what is refused."""

import csv
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from team_runs import team_scenario
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.probes import outcomes, reasons
from holdfast.continual.probes import stress as probe
from holdfast.continual.probes.outcomes import Stressed
from holdfast.continual.probes.record import probed_cells
from holdfast.continual.probes.stress import Choice, plan_of
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.make import make_env
from holdfast.errors import CheckpointUnusable, UsageError
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.seeding import derive

PLAN = plan_of(["observation_noise=[0.1]", "action_delay=1", "observation_mask=[2]"], 3)


def results(cell: RunFolder) -> dict[tuple[Any, ...], Stressed]:
    return {one.place: one for one in outcomes.stress_record(cell).read()[1]}


def test_levels_are_what_an_episode_by_hand_gives(cell: RunFolder) -> None:
    probe.stress([cell], PLAN)
    found = results(cell)
    # Of each stage the tasks that were trained: (0, plain), (1, plain), (1, swapped).
    assert len(found) == 3 * 4
    ends = {0: 64, 1: 128}
    recorded = {
        (s["stage"] - 1, s["task"], s["episode"]): s["return"]
        for s in cell.scores()
        if s["stage"] and s["step"] == ends[s["stage"] - 1]
    }
    for stage, task in ((0, "plain"), (1, "plain"), (1, "swapped")):
        own = [recorded[stage, task, episode] for episode in range(3)]
        assert found[stage, task, "unchanged", 0.0].total == pytest.approx(np.mean(own))
        assert found[stage, task, "unchanged", 0.0].score == pytest.approx(np.mean(own) / 100)
    agent: Any = open_run(cell.path).agent("swapped", stage=1)
    changed = probe.with_change(agent.task, "observation_mask", 2.0)
    assert changed.changes.observation_mask == (0, 2)
    totals = []
    with closing(make_env(cell.scenario, agent.task)) as env:
        for episode in range(3):
            seed = derive(3, "evaluation", 1, episode)
            observation, _ = env.reset(seed=seed)
            total, is_over = 0.0, False
            while not is_over:
                seen = observation.copy()
                seen[2] = 0.0
                observation, reward, terminated, truncated, _ = env.step(agent.act(seen))
                total, is_over = total + float(reward), terminated or truncated
            totals.append(total)
    assert found[1, "swapped", "observation_mask", 2.0].total == pytest.approx(np.mean(totals))


def test_what_is_on_file_is_not_measured_again(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.stress([cell], PLAN, Choice(stages=[1], tasks=["plain"]))
    path = cell.path / outcomes.STRESS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote
    told: list[tuple[int, int]] = []
    probe.stress([cell], PLAN, Choice(stages=[1], tasks=["plain"]), lambda *done: told.append(done))
    assert path.read_bytes() == whole
    assert told == [(2, 4), (3, 4), (4, 4)]

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(probe, "Trial", never)
    probe.stress([cell], PLAN, Choice(stages=[1], tasks=["plain"]))
    with pytest.raises(UsageError, match=r"another plan \(episodes 3, now 2\).*--overwrite"):
        probe.stress([cell], PLAN.model_copy(update={"episodes": 2}))
    assert path.read_bytes() == whole


@pytest.mark.thorough
def test_the_command_writes_a_table_and_the_report_a_section(cell: RunFolder) -> None:
    folder = cell.path.parents[1]
    arguments = ["stress", str(folder), "attack=[0.5]", "observation_mask=each"]
    told = CliRunner().invoke(app, [*arguments, "--episodes", "1", "--stage", "1"])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO((folder / "stress.csv").read_text())))
    assert len(rows) == 2 * (1 + 1 + 4)
    found = results(cell)
    at_end = [found[1, task, "attack", 0.5].score for task in ("plain", "swapped")]
    clean = [found[1, task, "unchanged", 0.0].score for task in ("plain", "swapped")]
    areas = np.mean([(a + b) / 2 for a, b in zip(at_end, clean, strict=True)])
    text = (folder / "stress.md").read_text()
    assert "Robustness" in text
    assert f"| naive | {np.mean(clean):.2f} | {areas:.2f} |" in text
    reported = CliRunner().invoke(app, ["report", str(folder)])
    assert reported.exit_code == 0, reported.output
    assert f"| naive | {np.mean(clean):.2f} | {areas:.2f} |" in (folder / "report.md").read_text()
    assert "Score under attack" in (folder / "report.html").read_text()
    (cell.path / outcomes.STRESS).write_bytes(b'{"grid": 3}\n')
    reported = CliRunner().invoke(app, ["report", str(folder)])
    assert reported.exit_code == 0


def test_areas_by_hand() -> None:
    def one(change: str, level: float, score: float) -> Stressed:
        return Stressed(
            stage=0, task="t", change=change, level=level, score=score, total=score,
            success=None, length=1.0,
        )  # fmt: skip

    noise = [("unchanged", 0.0, 1.0), ("observation_noise", 0.1, 0.5)]
    noise.append(("observation_noise", 0.4, 0.0))
    known = [one(*each) for each in noise]
    # (0.1 x (1 + 0.5) / 2 + 0.3 x (0.5 + 0) / 2) / 0.4
    assert outcomes.area(known, "observation_noise") == pytest.approx(0.375)
    gains = [one("action_gain", 0.5, 0.2), one("action_gain", 1.5, 0.6), known[0]]
    assert outcomes.area(gains, "action_gain") == pytest.approx((0.5 * 0.6 + 0.5 * 0.8) / 1.0)
    masks = [one("observation_mask", 0.0, 0.2), one("observation_mask", 3.0, 0.4), known[0]]
    assert outcomes.area(masks, "observation_mask") == pytest.approx(0.3)
    assert np.isnan(outcomes.area(masks, "attack"))


def test_changes_come_on_top_of_the_tasks_own(make_scenario: Any) -> None:
    changes = {
        "observation_noise": 0.3, "action_delay": 2, "action_gain": [1.0, -2.0],
        "dead_actuators": ["hip"], "observation_mask": [1],
    }  # fmt: skip
    tasks = [{"name": "t", "env": "CartPole-v1", "steps": 10, "changes": changes}]
    task = make_scenario(tasks=tasks).tasks[0]
    expected = {
        ("observation_noise", 0.4): 0.5, ("action_delay", 1.0): 3,
        ("action_gain", 0.5): (0.5, -1.0), ("dead_actuators", 1.0): ("hip", 1),
        ("observation_mask", 3.0): (1, 3), ("observation_mask", 1.0): (1,),
    }  # fmt: skip
    for (change, level), value in expected.items():
        assert getattr(probe.with_change(task, change, level).changes, change) == value


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("observation_nose=[1]", "did you mean 'observation_noise'"),
        ("observation_noise", "write CHANGE="),
        ("observation_noise=[-1]", "write numbers in a list from 0"),
        ("action_delay=[0.5]", "write whole numbers"),
        ("observation_noise=each", "write numbers"),
        ("attack=[", "not YAML"),
    ],
)
def test_levels_that_are_none(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        plan_of([text], 1)


def test_what_does_not_fit_is_refused(
    cell: RunFolder, tmp_path: Path, make_small: Callable[..., Scenario]
) -> None:
    before = {path: path.read_bytes() for path in cell.path.rglob("*") if path.is_file()}
    for text, match in (("action_gain=[0.5]", "continuous"), ("observation_mask=[9]", "9 is not")):
        with pytest.raises(UsageError, match=match):
            probe.stress([cell], plan_of([text], 1))
    with pytest.raises(UsageError, match="no task 'plane'; did you mean 'plain'"):
        probe.stress([cell], PLAN, Choice(tasks=["plane"]))
    with pytest.raises(UsageError, match="no checkpoint of stage 7"):
        probe.stress([cell], PLAN, Choice(stages=[7]))
    after = {path: path.read_bytes() for path in cell.path.rglob("*") if path.is_file()}
    assert after == before
    team = RunFolder.create(tmp_path / "team/naive/seed-0", team_scenario("ppo", {"env": "r:R"}))
    with pytest.raises(UsageError, match=r"looks at single agents.*of a team"):
        probed_cells(team.path, "stress")
    tasks = [{"name": "arm", "env": "CartPole-v1", "steps": 64, "exclusive": True}]
    robot = RunFolder.create(tmp_path / "robot/naive/seed-3", make_small(tasks=tasks))
    with pytest.raises(UsageError, match="does not try things on a real machine"):
        probed_cells(robot.path, "stress")
    new = RunFolder.create(tmp_path / "new/naive/seed-3", make_small())
    with pytest.raises(UsageError, match="no stage was finished yet"):
        probe.stress([new], PLAN)
    (cell.path / outcomes.STRESS).write_bytes(PLAN.model_dump_json().encode() + b"\n[]\n")
    with pytest.raises(CheckpointUnusable, match=r"stress.jsonl:2"):
        probe.stress([cell], PLAN)


def test_a_supervised_run_is_refused(tmp_path: Path) -> None:
    given = {
        "name": "digits",
        "tasks": [{"name": "a", "benchmark": "split-digits", "experience": 0, "steps": 10}],
        "agent": {"algorithm": "supervised"}, "methods": ["naive"], "seeds": [0],
    }  # fmt: skip
    made = RunFolder.create(tmp_path / "d/naive/seed-0", Scenario.model_validate(given))
    with pytest.raises(UsageError, match="of a supervised model"):
        probed_cells(made.path, "stress")


@pytest.mark.thorough
def test_all_levels_fit_a_continuous_policy(run: Callable[..., RunFolder]) -> None:
    """By default what fits a task is tried; explanations read the same policy."""
    cell = run("sac", tasks=1, steps=32, evaluation={"episodes": 1})
    probe.stress([cell], plan_of([], 1))
    found = outcomes.stress_record(cell).read()[1]
    counts = {change: sum(one.change == change for one in found) for change in probe.GRID}
    assert counts == {
        "observation_noise": 4, "action_delay": 3, "action_gain": 4,
        "dead_actuators": 1, "observation_mask": 3, "attack": 3,
    }  # fmt: skip
    by_place = {one.place: one.total for one in found}
    clean = by_place[0, "t0", "unchanged", 0.0]
    assert by_place[0, "t0", "dead_actuators", 0.0] != clean
    assert by_place[0, "t0", "attack", 0.2] != clean
    from holdfast.continual.probes.explanation import explain

    explain([cell], reasons.ExplainPlan(states=10))
    (one,) = reasons.explain_record(cell).read()[1]
    assert sum(one.shares) == pytest.approx(1.0)
    assert one.departs == 0.0
