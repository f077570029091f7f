"""Tuning: what is tried, on what, and that an interruption changes nothing."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.continual.jobs import tune as running
from holdfast.continual.jobs.queue import Outcome, cell_name
from holdfast.continual.jobs.tune import tune
from holdfast.continual.jobs.tuning_plan import cut, plan
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder.cells import find_cells
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, HoldfastError, ScenarioError, UsageError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario

SPACE = {
    "agent.learning_rate": {"log": [1e-5, 1e-2]},
    "agent.n_epochs": {"int": [1, 8]},
    "agent.policy_kwargs.net_arch": [[8], [4, 4]],
    "agent.gamma": {"range": [0.9, 0.99, 0.03]},
    "methods.ewc.strength": {"linear": [1, 9]},
}


@pytest.fixture
def tuned(make_scenario) -> Callable[..., Scenario]:
    def make(changes: dict[str, Any] | None = None, **section: Any) -> Scenario:
        given = {"space": SPACE, "method": "ewc", "percent": 75, "trials": 3} | section
        return make_scenario(**({"methods": ["naive", "ewc"], "tune": given} | (changes or {})))

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, make_scores) -> list[str]:
    """Nothing is trained: a trial scores by its values alone. Returns the cells that were run."""
    ran: list[str] = []

    def run_cells(folders: Sequence[RunFolder], **_: Any) -> list[Outcome]:
        outcomes = []
        for folder in folders:
            ran.append(cell_name(folder))
            agent = folder.scenario.agent.arguments
            if agent["n_epochs"] == 8:
                failure = Failure("diverged", 4)
                outcomes.append(Outcome(cell_name(folder), "failed", 1.0, failure))
                continue
            if not folder.scores():
                level = 100 * agent.get("gamma", 0.99) - agent["n_epochs"] + folder.seed
                folder.append(make_scores(1, min(10, folder.scenario.total_steps), left=level))
                if len(folder.scenario.stream_tasks) > 1:
                    folder.append(make_scores(2, 15, left=level, right=level))
            outcomes.append(Outcome(cell_name(folder), "finished", 1.0))
        return outcomes

    monkeypatch.setattr(running, "run_cells", run_cells)
    build = SimpleNamespace(build=lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "holdfast.continual.training.preflight", build)
    return ran


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").read_text("utf-8").splitlines()))


def until_done(attempt: Callable[[], Path]) -> Path:
    """Do it again whenever it is interrupted."""
    for _ in range(40):
        try:
            return attempt()
        except KeyboardInterrupt:
            continue
    raise AssertionError("it never ends")


def test_the_stream_is_cut_and_nothing_later_is_measured(make_scenario) -> None:
    tasks = [{"name": n, "env": "CartPole-v1", "steps": 10} for n in ("left", "right", "up")]
    scenario = make_scenario(tasks=tasks, stream={"repeat": 2}, n_envs=2)
    whole = scenario.only(scenario.cells()[0])
    part = cut(whole, 40)  # 24 of 60 steps
    assert part.stream_tasks == (0, 1, 2)
    assert part.stage_steps == (10, 10, 4)
    assert part.evaluation.tasks == "seen"
    assert part.id_width == whole.id_width == 3
    assert cut(whole, 28.3).stage_steps == (10, 6)  # 16.98 steps, whole steps of two environments
    assert cut(whole, 100).stage_steps == whole.stage_steps
    with pytest.raises(ValueError, match="1 percent of 60 steps are none"):
        cut(whole, 1)


def test_a_plan_has_what_concerns_its_method(tuned, tmp_path: Path) -> None:
    made = plan(tuned(), tmp_path)
    assert made.folder == tmp_path / "demo" / "tune" / "ewc"
    assert made.protocol == "the first 75 percent of the stream, seed 0"
    assert [axis.key for axis in made.space] == list(SPACE)
    trial = made.trial({"agent.gamma": 0.9, "methods.ewc.strength": 3.0}, 0)
    assert trial.agent.arguments == {"gamma": 0.9}
    assert trial.methods[0].parts[0].arguments == {"strength": 3.0}
    assert trial.total_steps == 15
    both = plan(tuned({"sweep": {"methods.ewc.strength": [7]}}), tmp_path)
    assert both.trial({"methods.ewc.strength": 3.0}, 0) == made.trial(
        {"methods.ewc.strength": 3.0}, 0
    )
    naive = plan(tuned(method="naive"), tmp_path)
    assert [axis.key for axis in naive.space] == list(SPACE)[:-1]
    held = plan(tuned(percent=None, seeds=[7, 8]), tmp_path)
    assert held.protocol == "the whole stream, held-out seeds 7, 8"
    assert held.trial({}, 7).total_steps == 20


@pytest.mark.parametrize(
    ("changes", "section", "message"),
    [
        ({"tune": None}, {}, "says nothing to tune"),
        ({"sweep": {"agent.n_steps": [8]}}, {}, "is swept and not tuned; put it into tune.space"),
        ({}, {"method": None}, "say which method: is tuned, one of naive, ewc"),
        ({}, {"method": "ecw"}, "no method 'ecw'; did you mean 'ewc'?"),
        ({}, {"metric": "forgeting/cw"}, "did you mean 'forgetting/cw'?"),
        ({}, {"metric": "forward_transfer/cw"}, "no metric 'forward_transfer/cw' of a single run"),
        ({}, {"percent": 1}, "1 percent of 20 steps are none"),
        (
            {},
            {"method": "naive", "space": {"methods.ewc.strength": [1, 2]}},
            "no key of it concerns 'naive'",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(tuned, tmp_path, changes, section, message) -> None:
    with pytest.raises(ScenarioError, match=message.replace("{", ".").replace("?", ".")):
        tune(tuned(changes, **section), runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_best_trial_is_written_as_overrides(tuned, tmp_path: Path, quick) -> None:
    folder = tune(tuned({"seeds": [0, 2]}), runs=tmp_path, trials=6)
    assert quick == [f"trial-{n:04d}/seed-{seed}" for n in range(6) for seed in (0, 2)]
    found = rows(folder)
    done = [row for row in found if row["status"] == "finished"]
    for row in done:  # worked out: the mean of both seeds, of returns from 0 to 100
        level = 100 * float(row["agent.gamma"]) - int(row["agent.n_epochs"])
        assert float(row["average_performance/cw"]) == pytest.approx((level + 1) / 100)
        assert float(row["seed-2"]) == pytest.approx((level + 2) / 100)
    best = max(done, key=lambda row: float(row["average_performance/cw"]))
    text = "tasks: [{name: left, env: CartPole-v1, steps: 10}]\nagent: {algorithm: ppo}\n"
    path = tmp_path / "again.yaml"
    path.write_text(text + "methods: [naive, ewc]\n", encoding="utf-8")
    scenario = load(path, [f"@{folder / 'best.yaml'}"])
    assert scenario.agent.arguments["gamma"] == pytest.approx(float(best["agent.gamma"]))
    assert scenario.methods[1].parts[0].arguments["strength"] == float(best["methods.ewc.strength"])
    assert f"trial {best['trial']} of 6 trials" in scenario.tuned["ewc"]
    assert "on the first 75 percent of the stream, seeds 0, 2" in scenario.tuned["ewc"]
    assert f"**{best['trial']}**" in (folder / "tune.md").read_text("utf-8")


def test_values_lie_in_their_space(tuned, tmp_path: Path, quick) -> None:
    found = rows(tune(tuned(trials=14), runs=tmp_path))
    assert all(1e-5 <= float(row["agent.learning_rate"]) <= 1e-2 for row in found)
    assert {row["agent.policy_kwargs.net_arch"] for row in found} == {"[8]", "[4, 4]"}
    gammas = {round(float(row["agent.gamma"]), 6) for row in found}
    assert gammas <= {0.9, 0.93, 0.96, 0.99}
    assert {int(row["agent.n_epochs"]) for row in found} <= set(range(1, 9))
    assert len({row["agent.learning_rate"] for row in found}) == 14


def test_failed_trials_are_told_and_count(tuned, tmp_path: Path, quick) -> None:
    space = {"agent.n_epochs": [7, 8], "agent.gamma": [0.9, 0.95]}
    folder = tune(tuned(space=space, trials=8), runs=tmp_path)
    found = rows(folder)
    assert {row["status"] for row in found} == {"finished", "fail"}
    for row in found:
        failed = row["agent.n_epochs"] == "8"
        assert row["status"] == ("fail" if failed else "finished")
        assert row["reason"].endswith("/seed-0: diverged") == failed
    assert "failed)" in (folder / "best.yaml").read_text("utf-8")
    hopeless = tuned(space={"agent.n_epochs": {"range": [8, 8.5, 1]}}, trials=2)
    with pytest.raises(HoldfastError, match=r"none of 2 trials finished; the last one: .*diverged"):
        tune(hopeless, runs=tmp_path / "hopeless")


@pytest.mark.thorough
@pytest.mark.parametrize("jobs", [1, 3])
def test_an_interruption_anywhere_changes_no_trial(
    tuned, tmp_path: Path, quick, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = tuned(trials=12)
    whole = rows(tune(scenario, runs=tmp_path / "whole", jobs=jobs))
    assert rows(tune(scenario, runs=tmp_path / "again", jobs=jobs)) == whole
    other = rows(tune(tuned(trials=1, seed=5), runs=tmp_path / "other", jobs=jobs))
    assert other[0]["agent.learning_rate"] != whole[0]["agent.learning_rate"]
    real, calls = running.run_cells, []

    def interrupted(folders: Sequence[RunFolder], **given: Any) -> list[Outcome]:
        calls.append(len(folders))
        if len(calls) % 2:  # every batch is killed once before it ends
            real(folders[:1], **given)
            raise KeyboardInterrupt
        return real(folders, **given)

    monkeypatch.setattr(running, "run_cells", interrupted)
    parts = until_done(lambda: tune(scenario, runs=tmp_path / "parts", jobs=jobs))
    assert len(calls) == 2 * -(-12 // jobs)
    assert rows(parts) == whole


@pytest.mark.thorough
def test_half_suggested_trials_get_the_same_values(
    tuned, tmp_path: Path, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = tuned(trials=12)
    whole = rows(tune(scenario, runs=tmp_path / "whole"))
    real, count = running._suggest, 0

    def dying(*given: Any) -> Any:
        nonlocal count
        count += 1
        if count % 7 == 0:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(running, "_suggest", dying)
    parts = until_done(lambda: tune(scenario, runs=tmp_path / "parts"))
    assert rows(parts) == whole


def test_more_trials_go_on_and_another_study_is_refused(tuned, tmp_path: Path, quick) -> None:
    first = rows(tune(tuned(), runs=tmp_path))
    assert len(first) == 3
    more = rows(tune(tuned(trials=5), runs=tmp_path))
    assert more[:3] == first
    assert len(more) == len(rows(tune(tuned(), runs=tmp_path))) == 5
    assert len(quick) == 5
    with pytest.raises(UsageError, match=r"is another study:\n(.|\n)*\+  percent: 50"):
        tune(tuned(percent=50), runs=tmp_path)
    assert len(rows(tune(tuned(percent=50), runs=tmp_path, overwrite=True))) == 3


def test_a_study_judged_by_older_metrics_is_refused(tuned, tmp_path: Path, quick) -> None:
    path = tune(tuned(), runs=tmp_path) / "study.yaml"
    rules, _, older = path.read_text("utf-8").partition("\n")
    assert rules == "# metrics: the end of a task is one in 10 of its evaluations"
    path.write_text(older, encoding="utf-8")  # as it was before there were rules
    with pytest.raises(UsageError, match=r"is another study:\n(.|\n)*\+# metrics: the end"):
        tune(tuned(trials=4), runs=tmp_path)


def test_a_torn_journal_goes_on_and_a_damaged_one_is_refused(tuned, tmp_path: Path, quick) -> None:
    folder = tune(tuned(), runs=tmp_path)
    first = rows(folder)
    with (folder / "journal.log").open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert rows(tune(tuned(trials=4), runs=tmp_path))[:3] == first
    content = (folder / "journal.log").read_bytes()
    (folder / "journal.log").write_bytes(b"{oh\n" + content)
    with pytest.raises(CheckpointUnusable, match=r"journal.log: damaged .* --overwrite"):
        tune(tuned(trials=4), runs=tmp_path)
    assert len(rows(tune(tuned(), runs=tmp_path, overwrite=True))) == 3


def test_trials_are_no_cells_of_the_study(tuned, tmp_path: Path, quick) -> None:
    folder = tune(tuned(), runs=tmp_path)
    with pytest.raises(UsageError, match="no run folders"):
        find_cells(tmp_path / "demo")
    assert len(find_cells(folder)) == 3


@pytest.mark.slow
def test_a_real_study_continues_inside_a_trial(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        """\
tasks:
  - {name: right, env: CartPole-v1, steps: 256}
  - {name: left, env: CartPole-v1, steps: 256, changes: {action_map: [1, 0]}}
agent: {algorithm: ppo, n_steps: 32, batch_size: 32, policy_kwargs: {net_arch: [8]}}
methods: [naive]
evaluation: {episodes: 2, every: 64}
score: {random: 10, reference: 500}
tune: {space: {agent.learning_rate: {log: [1e-4, 1e-2]}}, percent: 75, trials: 3}
""",
        encoding="utf-8",
    )
    whole = rows(tune(load(path), runs=tmp_path / "whole"))
    scores = [float(row["average_performance/cw"]) for row in whole]
    assert len(set(scores)) == 3

    class Stopping:
        left = 2

        def progress(self, progress: Any) -> None:
            if self.left and progress.step > 256:
                self.left -= 1
                raise KeyboardInterrupt

        def ended(self, outcome: Outcome) -> None:
            pass

    watcher = Stopping()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tune(load(path), runs=tmp_path / "parts", watcher=watcher)
    assert rows(tune(load(path), runs=tmp_path / "parts", watcher=watcher)) == whole
