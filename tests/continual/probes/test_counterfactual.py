"""From a state of the record: what was, and what would have come of something else."""

import csv
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import run_all
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.probes import counterfactual as probe
from holdfast.continual.probes import outcomes, world_state
from holdfast.continual.probes.outcomes import Alternative, CounterfactualPlan
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.make import make_env
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.seeding import derive

PLAN = CounterfactualPlan(task="plain", states=12, worlds=["swapped"])


def results(cell: RunFolder, plan: CounterfactualPlan = PLAN) -> list[Alternative]:
    return outcomes.counterfactual_record(cell, plan).read()[1]


def recorded(cell: RunFolder, task: str, stage: int) -> list[Any]:
    ends = (stage + 1, sum(cell.scenario.stage_steps[: stage + 1]), task)
    return [row for row in cell.scores() if (row["stage"], row["step"], row["task"]) == ends]


def rest(env: Any, agent: Any, seen: Any, first: int | None = None) -> float:
    """Return what is paid until the episode's end."""
    total, is_over = 0.0, False
    while not is_over:
        action = agent.act(seen) if first is None else first
        seen, reward, terminated, truncated, _ = env.step(action)
        total, first, is_over = total + float(reward), None, terminated or truncated
    return total


@pytest.mark.thorough
def test_every_branch_is_what_a_loop_by_hand_gives(cell: RunFolder) -> None:
    probe.counterfactual([cell], PLAN)
    found, episodes = results(cell), recorded(cell, "plain", 0)
    assert len(found) == 12
    own, final = (open_run(cell.path).agent("plain", stage=stage) for stage in (0, 1))
    other = own.task.model_copy(update={"changes": cell.scenario.tasks[1].changes})
    env, elsewhere = make_env(cell.scenario, own.task), make_env(cell.scenario, other)
    with closing(env), closing(elsewhere):
        for one in found:

            def there(one: Alternative = one) -> Any:
                seen, _ = env.reset(seed=derive(3, "evaluation", 0, one.episode))
                for _ in range(one.step):
                    seen, *_ = env.step(own.act(seen))
                return seen

            assert one.steps == episodes[one.episode]["length"]
            assert one.factual == episodes[one.episode]["return"] - one.step  # 1 for each step
            seen = there()
            action = int(own.act(seen))
            assert one.final == rest(env, final, seen)
            assert one.actions == {str(1 - action): rest(env, own, there(), first=1 - action)}
            # Under the other task's changes the first entry is masked, left and right swapped.
            seen = there()
            elsewhere.reset(seed=0)
            elsewhere.unwrapped.state = env.unwrapped.state
            hidden = np.array([0.0, *seen[1:]], dtype=np.float32)
            assert one.worlds == {"swapped": rest(elsewhere, own, hidden)}


def test_states_are_reached_by_actions_where_they_cannot_be_set(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PLAN.model_copy(update={"worlds": []})
    probe.counterfactual([cell], plan)
    as_set = results(cell, plan)
    monkeypatch.setattr(world_state, "put", lambda env, state: None)
    with pytest.raises(UsageError, match=r"by its actions alone.*--no-worlds"):
        probe.counterfactual([cell], PLAN, overwrite=True)
    probe.counterfactual([cell], plan, overwrite=True)
    assert results(cell, plan) == as_set
    monkeypatch.setattr(probe.World, "at", lambda world, *_, **__: world.begun())
    with pytest.raises(UsageError, match=r"cannot be brought back to the state at step \d+"):
        probe.counterfactual([cell], plan, overwrite=True)


def test_what_is_on_file_is_not_played_again(
    cell: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.counterfactual([cell], PLAN)
    path = outcomes.counterfactual_record(cell, PLAN).path
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6]) + lines[6][:9])
    probe.counterfactual([cell], PLAN)
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    monkeypatch.setattr(probe, "_Study", None)
    told: list[tuple[int, int]] = []
    probe.counterfactual([cell], PLAN, lambda *done: told.append(done))
    assert told[-1] == (12, 12)
    with pytest.raises(UsageError, match=r"another plan \(states 12, now 3\)"):
        probe.counterfactual([cell], PLAN.model_copy(update={"states": 3}))


@pytest.mark.thorough
def test_in_mujoco(tmp_path: Path, make_small: Callable[..., Scenario]) -> None:
    """A hundred states of two episodes; the factual branch is checked bit for bit inside."""
    changes: list[dict[str, Any]] = [
        {"time_limit": 30, "observation_noise": 0.01, "action_delay": 1},
        {"time_limit": 30, "action_gain": -1.0},
    ]
    tasks = [
        {"name": f"t{i}", "env": "HalfCheetah-v5", "steps": 64, "changes": own}
        for i, own in enumerate(changes)
    ]
    scenario = make_small(tasks=tasks, evaluation={"episodes": 2}, score=None)
    (cell,) = run_all(scenario, tmp_path)
    plan = CounterfactualPlan(task="t0", states=20, worlds=["t1"])
    probe.counterfactual([cell], plan)
    found = {(one.episode, one.step): one for one in results(cell, plan)}
    assert len(found) == 20
    episodes = recorded(cell, "t0", 0)
    assert found[0, 0].factual == episodes[0]["return"]
    last = found[1, 29]
    assert last.steps == 30
    assert len({one.worlds["t1"] for one in found.values()}) == 20


def test_the_command_and_the_report(cell: RunFolder) -> None:
    folder = cell.path.parents[1]
    command = ["counterfactual", str(folder), "--task", "plain", "--states", "6"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO((folder / "counterfactual.csv").read_text())))
    assert [row["branch"] for row in rows] == ["policy", "action", "world"] * 6
    plan = CounterfactualPlan(task="plain", states=6, worlds=["swapped"])
    found = results(cell, plan)
    factual, lost = (np.mean([getattr(one, n) for one in found]) for n in ("factual", "lost"))
    assert f"{factual:.1f}" in (folder / "counterfactual.md").read_text()
    reported = CliRunner().invoke(app, ["report", str(folder)])
    assert reported.exit_code == 0, reported.output
    text = (folder / "report.md").read_text()
    assert "Counterfactuals in plain" in text
    assert f"{lost:.1f}" in text or f"{lost:.2f}" in text


def test_what_is_refused(cell: RunFolder, make_small: Callable[..., Scenario]) -> None:
    scenario = cell.scenario
    with pytest.raises(UsageError, match=r"no task 'plane'; did you mean 'plain'"):
        probe.plan_of(scenario, "plane", 1)
    assert probe.plan_of(scenario, "plain", 1).worlds == ["swapped"]
    other = {"name": "other", "env": "Acrobot-v1", "steps": 64}
    tasks = [*scenario.model_dump()["tasks"], other]
    with pytest.raises(UsageError, match=r"--world other: is not 'plain' under other changes"):
        probe.plan_of(make_small(tasks=tasks), "plain", 1, ["other"])
    new = RunFolder.create(cell.path.with_name("seed-4"), make_small())
    with pytest.raises(UsageError, match="was not trained yet"):
        probe.counterfactual([new], PLAN)
    sampled = make_small(evaluation={"episodes": 3, "deterministic": False})
    with pytest.raises(UsageError, match="measured with sampled actions"):
        probe.counterfactual([RunFolder(cell.path, given=sampled)], PLAN)
    record = cell.path / "scores.jsonl"
    lines = record.read_text().splitlines()
    at = next(
        i for i, line in enumerate(lines) if '"stage": 1, "step": 64, "task": "plain"' in line
    )
    lines[at] = lines[at].replace('"length": ', '"length": 1')
    record.write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match="episode 0 of task 'plain' does not repeat itself"):
        probe.counterfactual([cell], PLAN, overwrite=True)
