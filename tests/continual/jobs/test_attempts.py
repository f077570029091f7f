"""Which cells are tried again, what is written of it, and cells that other processes run."""

import errno
import json
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from holdfast.continual.jobs.attempt import note_end
from holdfast.continual.jobs.queue import Outcome, Turns, Unwatched
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.results.failure import Failure
from holdfast.continual.run_folder import lock
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training import cell_log
from holdfast.continual.training.cell_log import logged
from holdfast.errors import (
    CheckpointUnusable,
    Diverged,
    EnvironmentFailed,
    InUse,
    Stopped,
    UsageError,
)
from holdfast.scenarios.schema.scenario import Scenario

Make = Callable[..., Scenario]


class Watched(Unwatched):
    """Keeps what ended, and calls what is to be done then."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.told: list[tuple[str, str, int]] = []
        self._then = then

    def retrying(self, outcome: Outcome) -> None:
        self.told.append((outcome.cell, "retrying", outcome.attempt))

    def ended(self, outcome: Outcome) -> None:
        self.told.append((outcome.cell, outcome.status, outcome.attempt))
        self._then()


def cells(tmp_path: Path, make_scenario: Make, *seeds: int, **keys: Any) -> list[RunFolder]:
    tasks = [{"name": name, "env": "CartPole-v1", "steps": 32, **keys} for name in ("a", "b")]
    agent = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1}
    plan = {"episodes": 1}
    given = make_scenario(tasks=tasks, agent=agent, seeds=list(seeds), evaluation=plan)
    return prepare(tmp_path / "runs", given)


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException, times: int) -> None:
    """Let training raise in the second task, so many times."""
    from holdfast.continual.training.journal import CellJournal

    watch, left = CellJournal.watch, [error] * times

    def failing(self: CellJournal, experience: Any) -> Any:
        if experience.stage == 1 and left:
            raise left.pop()
        return watch(self, experience)

    monkeypatch.setattr(CellJournal, "watch", failing)


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (EnvironmentFailed("the cable"), True),
        (ZeroDivisionError("nobody foresaw it"), True),
        (MemoryError(), True),
        (SystemExit(3), True),
        (UsageError("a typo"), False),
        (Diverged("not finite"), False),
        (CheckpointUnusable("damaged"), False),
        (Stopped("outgrows the memory"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_only_what_may_end_otherwise_is_tried_again(error: BaseException, may_pass: bool) -> None:
    assert Failure.of(error).may_pass is may_pass


def test_a_cell_that_failed_comes_back_at_the_end_of_the_line(
    tmp_path: Path, make_scenario: Make
) -> None:
    one, two = cells(tmp_path, make_scenario, 0, 1)
    watched = Watched()
    turns = Turns([one, two], 1, watched)
    failed = Outcome("naive/seed-0", "failed", failure=Failure("boom", 3, may_pass=True))
    turns.ended(*turns.take(), failed)
    assert [turn.folder for turn in turns.take()] == [two]
    (again,) = turns.take()
    assert (again.folder, again.attempt, len(turns)) == (one, 2, 0)
    turns.ended(again, failed)
    assert watched.told == [("naive/seed-0", "retrying", 1), ("naive/seed-0", "failed", 2)]


def test_a_robot_does_not_start_again_by_itself(tmp_path: Path, make_scenario: Make) -> None:
    (folder,) = cells(tmp_path, make_scenario, 0, exclusive=True)
    turns = Turns([folder], 2, Unwatched())
    failed = Outcome("naive/seed-0", "failed", failure=Failure("boom", 3, may_pass=True))
    turns.ended(*turns.take(), failed)
    assert (len(turns), turns.outcomes["naive/seed-0"].status) == (0, "failed")


@pytest.mark.thorough
def test_a_retry_continues_and_ends_as_if_nothing_had_failed(
    tmp_path: Path, make_scenario: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = cells(tmp_path / "plain", make_scenario, 0)
    run_cells([plain])
    (folder,) = cells(tmp_path, make_scenario, 0)
    fails(monkeypatch, ZeroDivisionError("no such thing"), times=2)
    watched = Watched()
    (outcome,) = run_cells([folder], watcher=watched)
    assert watched.told == [
        ("naive/seed-0", "retrying", 1),
        ("naive/seed-0", "retrying", 2),
        ("naive/seed-0", "finished", 3),
    ]
    assert outcome.status == "finished"
    assert folder.scores() == plain.scores()
    weights = "checkpoints/task-1/policy.safetensors"
    assert (folder.path / weights).read_bytes() == (plain.path / weights).read_bytes()
    reasons = [failure["reason"] for failure in folder.info()["failures"]]
    assert reasons == ["ZeroDivisionError('no such thing')"] * 2
    log = (folder.path / "log.txt").read_text("utf-8")
    assert log.count("ZeroDivisionError: no such thing\n") == 2
    assert [line.split()[2:4] for line in log.splitlines() if line.startswith("== ")] == [
        ["attempt", "1,"],
        ["attempt", "2,"],
        ["attempt", "3,"],
    ]


class Falls:
    """Raises in the second task with these words, one after another; then no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *texts: str) -> None:
        from holdfast.continual.training.journal import CellJournal

        watch, left = CellJournal.watch, list(texts)

        def failing(journal: CellJournal, experience: Any) -> Any:
            if experience.stage == 1 and left:
                raise ZeroDivisionError(left.pop(0))
            return watch(journal, experience)

        monkeypatch.setattr(CellJournal, "watch", failing)


def test_what_fails_twice_alike_is_not_tried_a_third_time(
    tmp_path: Path, make_scenario: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    Falls(monkeypatch, "at 0x7f00", "at 0x7f10", "at 0x7f20")
    (outcome,) = run_cells(cells(tmp_path, make_scenario, 0), retries=5)
    assert (outcome.status, outcome.attempt) == ("failed", 2)
    assert outcome.failure is not None
    assert outcome.failure.text == "ZeroDivisionError: at 0x7f10"


@pytest.mark.thorough
def test_what_fails_in_another_way_is_tried_on(
    tmp_path: Path, make_scenario: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    Falls(monkeypatch, "one", "two", "one")
    (outcome,) = run_cells(cells(tmp_path, make_scenario, 0), retries=5)
    assert (outcome.status, outcome.attempt) == ("finished", 4)


def test_the_same_words_at_another_place_are_another_failure(
    tmp_path: Path, make_scenario: Make
) -> None:
    (folder,) = cells(tmp_path, make_scenario, 0)
    turns, again = Turns([folder], 5, Unwatched()), Failure("boom", 3, may_pass=True, is_own=True)
    for size in (3, 4):
        (folder.path / "scores.jsonl").write_text(size * "{}\n")
        turns.ended(*turns.take(), Outcome("naive/seed-0", "failed", failure=again))
        assert len(turns) == 1
    turns.ended(*turns.take(), Outcome("naive/seed-0", "failed", failure=again))
    assert len(turns) == 0


@pytest.mark.parametrize(
    ("code", "exit_code", "is_own"), [(0, 3, True), (7, 3, True), (-9, 1, False), (-11, 1, False)]
)
def test_a_death_names_who_was_at_work(code: int, exit_code: int, is_own: bool) -> None:
    failure = Failure.of_death("the worker process", code, "task 'a' (Odd)")
    assert failure.exit_code == exit_code
    assert failure.text.startswith("the worker process ")
    assert "last at work: task 'a' (Odd)" in failure.text
    assert failure.is_like(failure) is is_own  # who sends signals may not do so again


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2)])
def test_a_cell_that_keeps_failing_is_reported(
    tmp_path: Path,
    make_scenario: Make,
    monkeypatch: pytest.MonkeyPatch,
    retries: int,
    attempts: int,
) -> None:
    (folder,) = cells(tmp_path, make_scenario, 0)
    fails(monkeypatch, EnvironmentFailed("the cable"), times=9)
    (outcome,) = run_cells([folder], retries=retries)
    assert (outcome.status, outcome.attempt) == ("failed", attempts)
    assert folder.info()["status"] == "failed"
    assert len(folder.info()["failures"]) == attempts - 1


def test_a_process_that_vanished_counts_as_an_attempt(tmp_path: Path, make_scenario: Make) -> None:
    (folder,) = cells(tmp_path, make_scenario, 0)
    folder.update(status="running")  # as a machine that stopped leaves it
    run_cells([folder])
    (failure,) = folder.info()["failures"]
    assert "killed" in failure["reason"]


# -- in use ----------------------------------------------------------------------------------------


def test_a_cell_in_use_is_left_alone_and_the_others_run(
    tmp_path: Path, make_scenario: Make
) -> None:
    one, two = cells(tmp_path, make_scenario, 0, 1)
    one.update(status="running")
    watched = Watched()
    with one.lock():
        found = run_cells([one, two], watcher=watched)
        assert one.info()["status"] == "running"
        assert "failures" not in one.info()
        note_end(one, "stopped", "by someone else")
        assert one.info()["status"] == "running"
    assert [outcome.status for outcome in found] == ["in use", "finished"]
    assert found[0].user.startswith(f"process {os.getpid()} on ")
    assert watched.told == [("naive/seed-1", "finished", 1), ("naive/seed-0", "in use", 1)]
    assert not (one.path / "log.txt").exists()


@pytest.mark.thorough
def test_a_cell_whose_process_is_gone_meanwhile_is_taken_over(
    tmp_path: Path, make_scenario: Make
) -> None:
    one, two = cells(tmp_path, make_scenario, 0, 1)
    with ExitStack() as other:
        other.enter_context(one.lock())
        found = run_cells([one, two], watcher=Watched(then=other.close))
    assert [outcome.status for outcome in found] == ["finished", "finished"]


def test_a_cell_that_another_process_finished_meanwhile_is_skipped(
    tmp_path: Path, make_scenario: Make
) -> None:
    one, two = cells(tmp_path, make_scenario, 0, 1)
    found = run_cells([one, two], watcher=Watched(then=lambda: two.update(status="finished")))
    assert [outcome.status for outcome in found] == ["finished", "skipped"]
    assert not (two.path / "scores.jsonl").exists()


def test_patience_waits_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    held = ExitStack()
    held.enter_context(folder.lock())
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            held.close()

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with folder.lock(patience_s=60.0):
        assert len(slept) == 3
    with folder.lock(), pytest.raises(InUse, match="in use by process"), folder.lock(0.0):
        pass


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UsageError, match=r"cannot be locked \(Function not implemented\)") as told:
        RunFolder(tmp_path).lock().__enter__()
    assert not isinstance(told.value, InUse)


def test_two_processes_may_create_a_cell_at_the_same_time(
    tmp_path: Path, make_scenario: Make
) -> None:
    (folder,) = cells(tmp_path, make_scenario, 0)
    folder.update(status="running")
    scenario = folder.scenario
    again = RunFolder.create(folder.path, scenario)  # by one who has not seen it yet
    assert again.info()["status"] == "running"


# -- logs ------------------------------------------------------------------------------------------


def test_a_captured_log_has_what_the_whole_process_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with logged(tmp_path, capture=True) as log:
        log.write("== attempt 1")
        os.write(2, b"from compiled code\n")
        os.system("echo from a process")
    os.write(1, b"after it\n")
    text = (tmp_path / "log.txt").read_text("utf-8")
    assert text.splitlines()[1:] == ["from compiled code", "from a process"]
    assert capfd.readouterr().out == "after it\n"


def test_without_capture_warnings_go_on_to_where_they_went(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as told, logged(tmp_path, capture=False):
        warnings.simplefilter("always")
        warnings.warn("the pole is thin", UserWarning, stacklevel=1)
        os.write(1, b"on the terminal\n")
    assert [str(warning.message) for warning in told] == ["the pole is thin"]
    assert "UserWarning: the pole is thin" in (tmp_path / "log.txt").read_text("utf-8")
    assert capfd.readouterr().out == "on the terminal\n"


def test_a_log_does_not_grow_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_log, "MOST_BYTES", 1000)
    with logged(tmp_path, capture=True) as log:
        for number in range(100):
            os.system(f"echo {number} {'x' * 50}") if number == 99 else os.write(
                1, f"{number} {'x' * 50}\n".encode()
            )
            log.limit()
    sizes = [(tmp_path / name).stat().st_size for name in ("log.txt", "log-earlier.txt")]
    assert max(sizes) <= 1000
    assert (tmp_path / "log.txt").read_text("utf-8").startswith(("9", "8"))
    assert (tmp_path / "log.txt").read_text("utf-8").splitlines()[-1].startswith("99 ")


def test_resources_change_no_number(tmp_path: Path, make_scenario: Make) -> None:
    given = {"tasks": [{"name": "a", "env": "CartPole-v1", "steps": 64}]}
    (folder,) = prepare(tmp_path, make_scenario(**given))
    again = make_scenario(**given, resources={"cpus": 2, "gpus": 0.5, "memory_gb": 4})
    assert prepare(tmp_path, again)[0].path == folder.path
    assert "resources" in (folder.path / "scenario.yaml").read_text("utf-8")
    assert json.loads((folder.path / "run.json").read_text())["status"] == "pending"
