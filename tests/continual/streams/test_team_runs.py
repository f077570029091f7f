"""Teams from the scenario to the report: scores of agents, groups and the team."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import finish, interrupting, run_all
from team_runs import same_weights

import holdfast
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.reports.report import report
from holdfast.continual.reports.team_report import agent_returns, group_returns
from holdfast.continual.run_folder.checkpoint import load
from holdfast.continual.streams.evaluation import evaluate
from holdfast.scenarios.schema.scenario import Scenario


def scenario(policies: Any, *tasks: dict[str, Any], **keys: Any) -> Scenario:
    listed = [
        {"name": f"t{i}", "env": "relays:Relay", "steps": 64, **t} for i, t in enumerate(tasks)
    ]
    agent = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1}
    given = {"evaluation": {"episodes": 3}, "n_envs": 2, "name": "teams", **keys}
    return Scenario.model_validate(
        {"tasks": listed, "agent": {**agent, "policies": policies}, **given}
    )


@pytest.mark.thorough
def test_scores_hold_every_agents_return_and_their_mean(tmp_path: Path) -> None:
    groups = {"front": ["first"], "rest": ["second", "third"]}
    made = scenario(groups, {}, {"kwargs": {"length": 7}}, methods=["naive", "packnet"])
    made = made.model_copy(
        update={"stream": made.stream.model_copy(update={"task_count": "known"})}
    )
    runs = holdfast.run(made, runs=tmp_path)
    for run in runs:
        rows = run.scores
        assert len(rows) == 3 * 2 * 3
        for row in rows:
            assert set(row["agents"]) == {"first", "second", "third"}
            assert row["return"] == pytest.approx(np.mean(list(row["agents"].values())))
            assert row["length"] == {"t0": 5, "t1": 7}[row["task"]]
            assert 0 <= row["agents"]["second"] <= 2 * 2  # two steps, rewards up to 2
    text = report(tmp_path / "teams").markdown
    finals = agent_returns(runs[0].scores, 2)
    assert "## Returns of groups at the end" in text
    assert "| method | task | front | rest |" in text
    assert "| method | task | first | second | third |" in text
    numbers = [finals["t1"][name] for name in ("first", "second", "third")]
    line = next(
        x for x in text.splitlines() if x.startswith("| naive | t1 |") and x.count("|") == 6
    )
    assert [float(cell) for cell in line.split("|")[3:6]] == pytest.approx(numbers, abs=0.01)
    rest = group_returns(finals, {"front": ("first",), "rest": ("second", "third")})["t1"]["rest"]
    assert rest == pytest.approx(np.mean(numbers[1:]))


@pytest.mark.thorough
def test_a_group_that_comes_later_acts_at_random_until_it_learns(tmp_path: Path) -> None:
    tasks = [{"env": "mpe2.simple_spread_v3", "kwargs": {"N": n}} for n in (1, 2)]
    made = scenario("independent", *tasks, spaces={"observation": "pad"})
    (run,) = holdfast.run(made, runs=tmp_path)
    before = [row for row in run.scores if row["stage"] == 1 and row["task"] == "t1"]
    assert all(set(row["agents"]) == {"agent_0", "agent_1"} for row in before)
    files = {file.name for file in (tmp_path / "teams").rglob("task-*/*.safetensors")}
    assert files == {"agent_0.policy.safetensors", "agent_1.policy.safetensors"}
    (again,) = holdfast.run(made, runs=tmp_path / "again")
    assert again.scores == run.scores


@pytest.mark.thorough
@pytest.mark.parametrize("method", [pytest.param("naive", marks=pytest.mark.slow), "progressive"])
def test_a_group_that_rests_acts_as_before_whether_or_not_the_run_was_stopped(
    tmp_path: Path, method: str
) -> None:
    """The second agent is there in the first and the third task; each is measured all the time."""
    tasks = [
        {"env": "mpe2.simple_spread_v3", "kwargs": {"N": n, "max_cycles": 8}} for n in (2, 1, 2)
    ]
    plan = {"episodes": 2, "every": 32}
    keys = {"spaces": {"observation": "pad"}, "evaluation": plan, "methods": [method]}
    made = scenario("independent", *tasks, **keys)
    (whole,) = run_all(made, tmp_path / "whole")
    (cut,) = prepare(tmp_path / "cut", made)
    stop = interrupting(96, 160)  # in the second task, and in the third
    assert finish(cut, stop) == 3
    assert cut.scores() == whole.scores()
    for stage in range(3):
        files = [load(folder.path / "checkpoints" / f"task-{stage}") for folder in (whole, cut)]
        assert files[0].files.keys() == files[1].files.keys()
        for name, tensors in files[0].files.items():
            assert same_weights(tensors, files[1].files[name])
    agent = kind_of(whole.scenario).restore(whole, 1).agent
    (task, *_) = kind_of(made).stream(0).eval_stream
    told = evaluate(agent, [task], made.evaluation, 0, stage=2, step=128)
    assert told == [r for r in whole.scores() if (r["step"], r["task"]) == (128, "t0")][-2:]


def test_a_team_whose_agents_all_die_in_every_step_learns_and_is_measured(tmp_path: Path) -> None:
    made = scenario("shared", {"kwargs": {"length": 1}})
    (folder,) = run_all(made, tmp_path)
    last = [one for one in folder.scores() if one["stage"] == 1]
    assert [one["length"] for one in last] == [1, 1, 1]
    assert all(set(one["agents"]) == {"first", "second", "third"} for one in last)
    assert all(one["agents"]["third"] == 0.0 for one in last)  # it was never there
    files = load(folder.path / "checkpoints" / "task-0").files
    (policy,) = [tensors for stem, tensors in files.items() if stem.endswith("policy")]
    assert all(bool(tensor.isfinite().all()) for tensor in policy.values())
