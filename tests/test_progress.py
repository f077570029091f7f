"""What is shown while cells run."""

import io
import math

import pytest
from rich.console import Console

from holdfast import progress as shown
from holdfast.continual.jobs.queue import Outcome
from holdfast.continual.progress import Progress
from holdfast.continual.results.failure import Failure
from holdfast.progress import Display, Ledger, counted


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shown, "time", clock)
    return clock


def at(step: int, cell: str = "ewc/seed-0", task: str = "left", note: str = "") -> Progress:
    scores = {"left": 0.5 if step else math.nan, "right": math.nan}
    return Progress(cell, task, step, 1000, 250.0 if step else math.nan, scores, note)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, no_color=True)


def text_of(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_time_left_is_by_the_clock_and_counts_what_was_done_here(clock: Clock) -> None:
    ledger = Ledger(4, 1000)
    ledger.end(Outcome("naive/seed-0", "skipped"))
    assert ledger.progress(at(400))  # continued: 400 steps are of an earlier session
    assert math.isnan(ledger.left_s("ewc/seed-0"))
    assert math.isnan(ledger.all_left_s())
    clock.now = 10.0
    assert not ledger.progress(at(500))
    assert ledger.left_s("ewc/seed-0") == pytest.approx(50.0)  # 100 steps in 10 s, 500 left
    assert ledger.all_left_s() == pytest.approx(250.0)  # and two cells that wait
    ledger.progress(at(1000))
    ledger.end(Outcome("ewc/seed-0", "finished", 10.0))
    assert (ledger.ended, ledger.running) == (2, {})
    assert ledger.all_left_s() == pytest.approx(10 / 600 * 2000)


def test_what_is_counted_is_told_now_and_then(clock: Clock) -> None:
    clock.now = 100.0
    screen = console(terminal=False)
    with counted(screen, "games") as tell:
        for done in range(4):
            tell(done, 3)
            clock.now += 6.0
    assert text_of(screen) == "games: 0 of 3\ngames: 2 of 3\n"
    screen = console(terminal=True)
    with counted(screen, "games") as tell:
        tell(2, 3)
    assert "2/3" in text_of(screen)


def test_plain_lines_say_what_is_new_and_no_more(clock: Clock) -> None:
    screen = console(terminal=False)
    with Display(screen, 3, 1000) as lines:
        lines.ended(Outcome("naive/seed-0", "skipped"))
        lines.progress(at(0))
        for second in range(1, 13):
            clock.now = float(second)
            lines.progress(at(second * 10))
        lines.progress(at(130, task="right"))
        lines.ended(Outcome("ewc/seed-0", "finished", 12.0))
        lines.progress(at(500, cell="ewc/seed-1", note="a file is damaged"))
        lines.ended(Outcome("ewc/seed-1", "failed", 1.0, Failure("boom", 3)))
    assert text_of(screen).splitlines() == [
        "skipped   naive/seed-0: finished before",
        "ewc/seed-0: left, 0/1,000 steps",
        "ewc/seed-0: left, 100/1,000 steps, 250 steps/s, 1 min 30 s left; left 0.50, right n/a",
        "ewc/seed-0: right, 130/1,000 steps, 250 steps/s, 1 min 20 s left; left 0.50, right n/a",
        "finished  ewc/seed-0 in 12.0 s: left 0.50, right n/a",
        "continued ewc/seed-1 from its checkpoint at 500/1,000 steps",
        "warning   ewc/seed-1: a file is damaged",
        "ewc/seed-1: left, 500/1,000 steps; left 0.50, right n/a",
        "failed    ewc/seed-1 in 1.0 s; the error comes at the end",
    ]


def test_a_cell_that_is_tried_again_says_why_and_begins_anew(clock: Clock) -> None:
    failed = Outcome("ewc/seed-0", "failed", 3.0, Failure("the cable\nis out", 3), attempt=1)
    screen = console(terminal=False)
    with Display(screen, 2, 1000) as lines:
        lines.progress(at(600))
        lines.retrying(failed)
        lines.progress(at(500))
        lines.ended(Outcome("ewc/seed-0", "finished", 12.0, attempt=2))
        lines.ended(Outcome("ewc/seed-1", "in use", user="process 7 on node3"))
    told = text_of(screen).splitlines()
    assert told[2] == "retrying  ewc/seed-0: attempt 1 failed in 3.0 s: the cable"
    assert told[3] == "continued ewc/seed-0 from its checkpoint at 500/1,000 steps"
    assert told[-2:] == [
        "finished  ewc/seed-0 in 12.0 s, attempt 2: left 0.50, right n/a",
        "in use    ewc/seed-1: left to process 7 on node3",
    ]
    screen = console(terminal=True)
    with Display(screen, 2, 1000) as table:
        table.progress(at(600))
        table.retrying(failed)
        clock.now = 1.0
        table.progress(at(500))
    assert "ewc/seed-0 (attempt 2)" in text_of(screen)


def test_a_terminal_shows_a_table_and_gets_its_cursor_back(clock: Clock) -> None:
    screen = console(terminal=True)
    with Display(screen, 2, 1000) as table:
        clock.now = 1.0
        table.progress(at(0))
        clock.now = 11.0
        table.progress(at(100))
        assert "\x1b[?25l" in text_of(screen)  # the cursor is hidden while it draws
    text = text_of(screen)
    assert text.count("\x1b[?25h") == 1
    for part in ("cell", "ewc/seed-0", "100/1,000", "250", "1 min 30 s", "left 0.50, right n/a"):
        assert part in text
    assert "0 of 2 cells done, 10.0 s so far, about 3 min 10 s left" in text


def test_a_terminal_is_drawn_at_most_about_twice_a_second(clock: Clock) -> None:
    screen = console(terminal=True)
    with Display(screen, 1, 1000) as table:
        clock.now = 1.0
        table.progress(at(0))
        drawn = len(text_of(screen))
        clock.now = 1.3
        table.progress(at(10))
        assert len(text_of(screen)) == drawn
        clock.now = 1.5
        table.progress(at(20))
        assert len(text_of(screen)) > drawn
