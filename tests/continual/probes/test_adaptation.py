"""A stage that adapts learns as a run does that had the task; what cannot be is refused."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import run_all
from safetensors.torch import load_file
from torch import Tensor, equal
from typer.testing import CliRunner

import holdfast
from holdfast.cli import app
from holdfast.continual.probes import adaptation as probe
from holdfast.continual.probes import outcomes
from holdfast.continual.probes.longer_stream import extended, given_task, told_of
from holdfast.continual.probes.outcomes import FRESH, Adapted, AdaptPlan
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

THIRD = "env: CartPole-v1\nchanges: {observation_permutation: [2, 3, 0, 1]}\n"


def policy(path: Path, stage: int) -> dict[str, Tensor]:
    return load_file(path / "checkpoints" / f"task-{stage}" / "policy.safetensors")


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def results(cell: RunFolder, plan: AdaptPlan) -> dict[int, Adapted]:
    return {one.stage: one for one in outcomes.adapt_record(cell, plan).read()[1]}


@pytest.mark.slow
def test_it_is_a_run_that_had_the_task(tmp_path: Path, make_small: Callable[..., Scenario]) -> None:
    """Bit for bit, under a method that keeps something of every task."""
    keys: dict[str, Any] = {
        "stream": {"max_tasks": 3},
        "methods": [{"ewc": {"strength": 100.0, "samples": 32}}],
        "evaluation": {"every": 32, "episodes": 2},
    }
    scenario = make_small(**keys)
    third = {
        "name": "third", "env": "CartPole-v1", "steps": 64,
        "changes": {"observation_permutation": [2, 3, 0, 1]},
    }  # fmt: skip
    longer = make_small(**keys, tasks=[*scenario.model_dump()["tasks"], third])
    (cell,), (whole,) = run_all(scenario, tmp_path / "a"), run_all(longer, tmp_path / "b")
    before = {file: file.read_bytes() for file in cell.path.rglob("*") if file.is_file()}
    (tmp_path / "third.yaml").write_text(THIRD)
    given = given_task(str(tmp_path / "third.yaml"), "third")
    plan = AdaptPlan(task="third", steps=64, every=32, episodes=2)
    probe.adapt([cell], plan, given=given)
    work = outcomes.adapt_work(cell, plan)
    (after,) = work.glob("*-after-1/seed-3")
    assert are_equal(policy(after, 2), policy(whole.path, 2))
    found = results(cell, plan)
    assert sorted(found) == [FRESH, 0, 1]
    recorded: dict[int, list[float]] = {}
    for row in whole.scores():
        if row["task"] == "third" and row["step"] >= 128:
            recorded.setdefault(row["step"] - 128, []).append(row["return"])
    assert found[1].steps == [*recorded] == [0, 32, 64]
    assert found[1].totals == [float(np.mean(own)) for own in recorded.values()]
    assert found[1].scores == pytest.approx([total / 100 for total in found[1].totals])
    assert {f: f.read_bytes() for f in before} == before
    (tmp_path / "third.yaml").write_text(THIRD.replace("[2, 3, 0, 1]", "[1, 0, 3, 2]"))
    other = given_task(str(tmp_path / "third.yaml"), "third")
    with pytest.raises(UsageError, match=r"is of another scenario than this run and task"):
        probe.adapt([cell], plan, given=other)


@pytest.mark.thorough
def test_tasks_of_its_own(cell: RunFolder) -> None:
    """From stage 0 to the second task is what the run did; fresh in the first one, too."""
    plan = AdaptPlan(task="swapped", steps=64, every=32, episodes=3)
    probe.adapt([cell], plan, stages=[0])
    (after,) = outcomes.adapt_work(cell, plan).glob("naive-after-0/seed-3")
    assert are_equal(policy(after, 1), policy(cell.path, 1))
    assert not results(cell, plan)[0].had_learned
    again = AdaptPlan(task="plain", steps=32, every=32, episodes=3)
    probe.adapt([cell], again, stages=[1])
    (fresh,) = outcomes.adapt_work(cell, again).glob("naive-fresh/seed-3")
    assert RunFolder(fresh).scenario.stage_steps == (32,)
    (after,) = outcomes.adapt_work(cell, again).glob("naive-after-1/seed-3")
    assert RunFolder(after).scenario.stage_steps == (64, 64, 32)
    assert results(cell, again)[1].had_learned
    results_before = results(cell, again)[1]
    # What was interrupted before its result was written is not learned again.
    record = outcomes.adapt_record(cell, again).path
    whole = record.read_bytes()
    record.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    stamps = {path: path.stat().st_mtime_ns for path in after.rglob("*.safetensors")}
    probe.adapt([cell], again, stages=[1])
    assert record.read_bytes() == whole
    assert {path: path.stat().st_mtime_ns for path in after.rglob("*.safetensors")} == stamps
    with pytest.raises(UsageError, match=r"another plan \(every 32, now 16\)"):
        probe.adapt([cell], again.model_copy(update={"every": 16}))
    denser = again.model_copy(update={"every": 16})
    probe.adapt([cell], denser, stages=[1], overwrite=True)
    assert results(cell, denser)[1].steps == [0, 16, 32]
    assert results(cell, denser)[1].scores[2] == results_before.scores[1]


HELD_OUT: dict[str, Any] = {"stream": {"order": ["plain"]}, "seeds": [3, 4]}


@pytest.mark.thorough
def test_what_the_stream_does_not_train(
    tmp_path: Path, make_small: Callable[..., Scenario]
) -> None:
    """Is learned by finished cells, as the command lets them; a metric says what it gained."""
    before = make_small(**HELD_OUT)
    (one, _) = holdfast.run(before, runs=tmp_path)
    table = gather(tmp_path / "small").methods[0]
    assert all(np.isnan(cell.metrics["adaptation/gain"]) for cell in table.cells)
    scores = (one.folder.path / "scores.jsonl").read_bytes()

    asked = {"steps": 64, "every": 32, "episodes": 2}
    given = make_small(**HELD_OUT, adapt=asked)
    holdfast.run(given, runs=tmp_path)
    assert (one.folder.path / "scores.jsonl").read_bytes() == scores
    plan = AdaptPlan(task="swapped", **asked)
    for cell in gather(tmp_path / "small").methods[0].cells:
        found = results(cell.folder, plan)
        assert sorted(found) == [FRESH, 0]
        # By hand: two trapezoids of equal width.
        areas = {stage: (a + 2 * b + c) / 4 for stage, (a, b, c) in scores_of(found).items()}
        assert cell.metrics["adaptation/gain"] == pytest.approx(areas[0] - areas[FRESH])
        assert np.isnan(cell.per_task["adaptation/gain"][0])
    text = report_of(tmp_path)
    assert "| adaptation gain |" in text
    assert "## Adaptation to swapped in 64 steps" in text

    (alone,) = run_all(make_small(**{**HELD_OUT, "seeds": [3]}), tmp_path / "alone")
    probe.adapt([alone], plan)
    assert results(alone, plan) == results(one.folder, plan)

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    holdfast.run(given, runs=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    with pytest.raises(UsageError, match=r"another plan \(episodes 2, now 1\); write adapt: as it"):
        holdfast.run(make_small(**HELD_OUT, adapt={**asked, "episodes": 1}), runs=tmp_path)


def scores_of(found: dict[int, Adapted]) -> dict[int, list[float]]:
    return {stage: one.scores for stage, one in found.items()}


def report_of(runs: Path) -> str:
    told = CliRunner().invoke(app, ["report", str(runs / "small")])
    assert told.exit_code == 0, told.output
    return (runs / "small" / "report.md").read_text()


@pytest.mark.thorough
def test_only_the_last_stage_adapts(tmp_path: Path, make_small: Callable[..., Scenario]) -> None:
    """And methods that learn all tasks as one do not: the metric is not theirs."""
    third = {"name": "third", "env": "CartPole-v1", "steps": 64}
    given = make_small(
        tasks=[*make_small().model_dump()["tasks"], third],
        stream={"order": ["plain", "swapped"]},
        methods=["naive", "joint"],
        checkpoint={},
        adapt={"steps": 32, "every": 32, "episodes": 1, "stages": "last"},
    )
    assert given.checkpoint.keep == "policies"
    naive, joint = holdfast.run(given, runs=tmp_path)
    plan = AdaptPlan(task="third", steps=32, every=32, episodes=1)
    assert sorted(results(naive.folder, plan)) == [FRESH, 1]
    assert naive.folder.info()["adaptation"].keys() == {"third"}
    assert "adaptation" not in joint.folder.info()


def test_every_stage_needs_its_whole_checkpoint(make_small: Callable[..., Scenario]) -> None:
    keys: dict[str, Any] = {**HELD_OUT, "adapt": {"steps": 64}}
    assert make_small(**keys, checkpoint={}).checkpoint.keep == "all"
    again = Scenario.model_validate(make_small(**keys).model_dump())
    assert again == make_small(**keys)


@pytest.mark.thorough
def test_the_command_and_the_report(cell: RunFolder) -> None:
    folder = cell.path.parents[1]
    command = ["adapt", str(folder), "--task", "swapped", "--steps", "64", "--stage", "0"]
    told = CliRunner().invoke(app, [*command, "--every", "64", "--episodes", "1"])
    assert told.exit_code == 0, told.output
    rows = list(csv.DictReader(io.StringIO((folder / "adapt.csv").read_text())))
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("fresh", "0"), ("fresh", "64"), ("0", "0"), ("0", "64"),
    ]  # fmt: skip
    (fresh, begun) = results(
        cell, AdaptPlan(task="swapped", steps=64, every=64, episodes=1)
    ).values()
    row = f"| naive | stage 0 | {begun.jumpstart:.2f} | {begun.area:.2f} | "
    row += f"{begun.area - fresh.area:.2f} |"
    assert row in (folder / "adapt.md").read_text()
    reported = CliRunner().invoke(app, ["report", str(folder)])
    assert reported.exit_code == 0, reported.output
    assert row in (folder / "report.md").read_text()


def test_numbers_by_hand() -> None:
    found = Adapted(
        stage=0, steps=[0, 10, 40], scores=[0.0, 0.4, 1.0], totals=[0.0, 0.4, 1.0],
        had_learned=False, is_normalized=False,
    )  # fmt: skip
    assert found.jumpstart == 0.0
    assert found.area == pytest.approx((10 * 0.2 + 30 * 0.7) / 40)
    assert found.steps_to(0.4) == 10
    assert np.isnan(found.steps_to(1.1))
    fresh = [found.model_copy(update={"stage": FRESH, "scores": [0.0, 0.4, s]}) for s in (2.0, 4.0)]
    assert outcomes.threshold_of([found, *fresh]) == 3.0
    assert outcomes.threshold_of([found], 0.5) == 0.5
    assert outcomes.threshold_of([found.model_copy(update={"is_normalized": True})]) == 0.8


def test_what_cannot_be(
    cell: RunFolder, tmp_path: Path, make_small: Callable[..., Scenario]
) -> None:
    plan = AdaptPlan(task="third", steps=64, every=64, episodes=1)
    (tmp_path / "third.yaml").write_text(THIRD)
    given = given_task(str(tmp_path / "third.yaml"), "third")
    with pytest.raises(UsageError, match=r"third.yaml: task 'third'.*stream: {max_tasks: 3}"):
        probe.adapt([cell], plan, given=given)
    with pytest.raises(UsageError, match=r"no task 'third'; there are: plain, swapped"):
        probe.adapt([cell], plan)
    with pytest.raises(UsageError, match=r"has a task 'plain' of its own; leave --of out"):
        probe.adapt([cell], plan.model_copy(update={"task": "plain"}), given=given)
    with pytest.raises(UsageError, match=r"at most its own 64 steps"):
        probe.adapt([cell], plan.model_copy(update={"task": "plain", "steps": 65}))
    assert not (cell.path / outcomes.ADAPT).exists()
    wide = make_small(stream={"max_tasks": 3})
    more = RunFolder.create(tmp_path / "more/naive/seed-3", wide)
    for text, match in (
        ("env: CartPol-v1", "did you mean 'CartPole-v1'"),
        ("env: Acrobot-v1", r"third.yaml: this task cannot be taken up:.*differ"),
        ("env: CartPole-v1\ncolour: 3", r"third.yaml: this task cannot be taken up:.*colour"),
    ):
        (tmp_path / "third.yaml").write_text(text)
        wrong = given_task(str(tmp_path / "third.yaml"), "third")
        with pytest.raises(UsageError, match=f"(?s){match}"), told_of(wrong):
            probe.kind_of(extended(more, plan, FRESH, wrong)).spaces()
    (tmp_path / "none.yaml").write_text("name: third\n")
    with pytest.raises(UsageError, match=r"neither a scenario nor a task"):
        given_task(str(tmp_path / "none.yaml"), "third")
    assert given_task("quickstart", "swapped-sensors").entry["score"]["reference"] == 500.0
    two = RunFolder.create(tmp_path / "two/naive/seed-3", make_small(n_envs=2))
    with pytest.raises(UsageError, match=r"--steps 63: must be a multiple of n_envs, 2; .* 64"):
        extended(two, plan.model_copy(update={"task": "plain", "steps": 63}), FRESH, None)
    known = make_small(stream={"task_count": "known"})
    told = RunFolder.create(tmp_path / "known/naive/seed-3", known)
    with pytest.raises(UsageError, match=r"cannot take up a task: methods were told"):
        probe.adapt([told], plan.model_copy(update={"task": "plain"}))


@pytest.mark.thorough
def test_a_stage_that_keeps_its_policy_alone(
    tmp_path: Path, make_small: Callable[..., Scenario]
) -> None:
    tasks = [{"name": f"t{i}", "env": "CartPole-v1", "steps": 32} for i in range(3)]
    agent = {"algorithm": "dqn", "learning_starts": 8, "buffer_size": 64, "batch_size": 8}
    scenario = make_small(tasks=tasks, agent=agent, checkpoint={"keep": "policies"})
    (cell,) = run_all(scenario, tmp_path)
    assert probe.count([cell], None) == 1 + 2
    plan = AdaptPlan(task="t0", steps=32, every=32, episodes=1)
    with pytest.raises(UsageError, match=r"of stage 0 only what its policy.*\{keep: all\}"):
        probe.adapt([cell], plan, stages=[0])
    # The last stage again, from the one before it, with its replay buffer and its networks.
    last = AdaptPlan(task="t2", steps=32, every=32, episodes=1)
    probe.adapt([cell], last, stages=[1])
    (after,) = outcomes.adapt_work(cell, last).glob("naive-after-1/seed-3")
    assert are_equal(policy(after, 2), policy(cell.path, 2))
