"""Progress of running cells: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from holdfast.continual.results.formatting import NA, duration, number, plural
from holdfast.envs.processes.escapes import Escaped, visible

if TYPE_CHECKING:
    from holdfast.continual.jobs.queue import Outcome
    from holdfast.continual.progress import Progress

LINE_S = 10.0
"""Seconds between two plain lines of one cell, unless its task changes."""
_LISTED = 12
"""Most tasks whose scores are listed one by one."""
_REFRESH_S = 0.4
_BAR = 16
_HEAD = len("finished  ")  # of a line: what happened, then to which cell


@contextmanager
def counted(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of a number of things are done: a bar on a terminal, lines elsewhere.

    Args:
        console: Of the standard output.
        what: Is done.

    Yields:
        A function that takes how many of how many are.
    """
    columns = (TextColumn("{task.description}"), BarColumn(_BAR), MofNCompleteColumn())
    told = 0.0
    # Drawn where it is told: a thread of its own would slow down what is counted.
    with Bars(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    ) as bars:
        bar = bars.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            nonlocal told
            bars.update(bar, completed=done, total=total, refresh=True)
            if not console.is_terminal and time.monotonic() - told >= LINE_S:
                told = time.monotonic()
                console.print(f"{what}: {done} of {total}", markup=False, highlight=False)

        yield tell


class Ledger:
    """Record of which cell is where, and how long it will take.

    Args:
        cells: How many there are, finished ones included.
        steps: Environment steps of one cell.

    Attributes:
        running: The latest progress of every running cell, by name.
        attempts: How often each cell was tried, where that is more than once.
        ended: How many cells have ended or were skipped.
    """

    def __init__(self, cells: int, steps: int) -> None:
        self.cells, self.steps = cells, steps
        self.running: dict[str, Progress] = {}
        self.attempts: dict[str, int] = {}
        self.ended = 0
        self._starts: dict[str, tuple[float, int]] = {}
        self._began: float | None = None
        self._done_here = 0

    def progress(self, progress: Progress) -> bool:
        """Take where a cell is; return whether it is the cell's first word."""
        is_first = progress.cell not in self.running
        if is_first:
            self._began = self._began or time.monotonic()
            self._starts[progress.cell] = (time.monotonic(), progress.step)
        self.running[progress.cell] = progress
        return is_first

    def retry(self, outcome: Outcome) -> None:
        """Take that a cell failed and is tried again."""
        self.attempts[outcome.cell] = outcome.attempt + 1
        self._leave(outcome)

    def end(self, outcome: Outcome) -> Progress | None:
        """Take how a cell ended; return its last progress, if it had any."""
        self.ended += 1
        return self._leave(outcome)

    def _leave(self, outcome: Outcome) -> Progress | None:
        last = self.running.pop(outcome.cell, None)
        if last is not None:
            self._done_here += last.step - self._starts[outcome.cell][1]
        return last

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first cell started to learn."""
        return time.monotonic() - self._began if self._began is not None else 0.0

    def left_s(self, cell: str) -> float:
        """Return the seconds that a running cell will still take at its pace; NaN at its start."""
        began, first = self._starts[cell]
        now = self.running[cell]
        taken = now.step - first
        return (
            (time.monotonic() - began) / taken * (now.total - now.step) if taken else float("nan")
        )

    def all_left_s(self) -> float:
        """Return the seconds that all cells will still take at this pace; NaN at the start."""
        here = [(p.step - self._starts[cell][1], p.step) for cell, p in self.running.items()]
        done = self._done_here + sum(taken for taken, _ in here)
        waiting = self.cells - self.ended - len(here)
        left = waiting * self.steps + sum(self.steps - step for _, step in here)
        return self.elapsed_s / done * left if done else float("nan")


class Display:
    """Display of a run: a table drawn again and again on a terminal, plain lines elsewhere.

    A context manager that leaves the terminal as it was.

    Args:
        console: Of the standard output.
        cells: How many there are, finished ones included.
        steps: Environment steps of one cell.
    """

    def __init__(self, console: Console, cells: int, steps: int) -> None:
        self._console, self._ledger = console, Ledger(cells, steps)
        # Drawn here, about twice a second: a thread of its own would slow down the training.
        live = Live(console=console, auto_refresh=False, transient=True)
        self._live = live if console.is_terminal else None
        self._drawn = 0.0
        self._last: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
            # Around rich's own, which shows above the table what is printed meanwhile.
            self._streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = Escaped(sys.stdout), Escaped(sys.stderr)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._live is not None:
            sys.stdout, sys.stderr = self._streams
            self._live.stop()

    def progress(self, progress: Progress) -> None:
        """Show where a cell is, unless that was shown a moment ago."""
        for line in _opening(progress, is_first=self._ledger.progress(progress)):
            self._print(line)
        if self._live is None:
            self._tell(progress)
        elif time.monotonic() - self._drawn >= _REFRESH_S:
            self._draw(self._live)

    def retrying(self, outcome: Outcome) -> None:
        """Show why a cell is tried again."""
        self._ledger.retry(outcome)
        self._print(_again(outcome), "yellow")

    def ended(self, outcome: Outcome) -> None:
        """Show how a cell ended."""
        style = {"failed": "red", "finished": "green"}.get(outcome.status, "dim")
        self._print(_ending(outcome, self._ledger.end(outcome)), style)

    def _tell(self, progress: Progress) -> None:
        """Print a line where a task begins, and every ten seconds."""
        when, task = self._last.get(progress.cell, (0.0, ""))
        if progress.task == task and time.monotonic() - when < LINE_S:
            return
        self._last[progress.cell] = (time.monotonic(), progress.task)
        left_s = self._ledger.left_s(progress.cell)
        line = f"{progress.cell}: {progress.task}, {_steps(progress)} steps"
        if left_s == left_s:  # not at the start of a cell, where it is NaN
            line += f", {_speed(progress)} steps/s, {_time(left_s)} left"
        if any(value == value for value in progress.scores.values()):
            line += f"; {scores_text(progress.scores)}"
        self._print(line)

    def _print(self, line: str, style: str = "") -> None:
        """Print a line, above the table where there is one; only there in colour."""
        line = visible(line)
        text = Text.assemble((line[:_HEAD], style), line[_HEAD:])
        self._console.print(text, soft_wrap=self._live is None, highlight=False)
        if self._live is not None:
            self._draw(self._live)

    def _draw(self, live: Live) -> None:
        live.update(self.table(), refresh=True)
        self._drawn = time.monotonic()

    def table(self) -> RenderableType:
        """Return the table of what is running."""
        ledger = self._ledger
        done = f"{ledger.ended} of {plural(ledger.cells, 'cell')} done"
        whole = f"{done}, {_time(ledger.elapsed_s)} so far, about {_time(ledger.all_left_s())} left"
        table = Table(box=None, pad_edge=False, caption=whole, caption_justify="left")
        for name in ("cell", "task", "", "steps", "steps/s", "left"):
            right = name in ("steps", "steps/s", "left")
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        table.add_column("scores", overflow="fold")
        for cell, progress in ledger.running.items():
            table.add_row(
                _cell(cell, ledger.attempts.get(cell, 1)),
                progress.task,
                ProgressBar(total=progress.total, completed=progress.step, width=_BAR),
                _steps(progress),
                _speed(progress),
                _time(ledger.left_s(cell)),
                scores_text(progress.scores),
            )
        return table


def scores_text(scores: dict[str, float]) -> str:
    """Return the latest score of every task in one line; of many tasks, a summary.

    >>> scores_text({"left": 0.934, "right": float("nan")})
    'left 0.93, right n/a'
    >>> scores_text({f"t{i}": i / 10 for i in range(40)} | {"last": float("nan")})
    'mean 1.95 of 40 tasks measured of 41, lowest 0.00 (t0), highest 3.90 (t39)'
    """
    if len(scores) <= _LISTED:
        return ", ".join(f"{name} {number(value)}" for name, value in scores.items())
    known = {name: value for name, value in scores.items() if value == value}  # not NaN
    if not known:
        return f"none of {len(scores)} tasks measured"
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return (
        f"mean {number(sum(known.values()) / len(known))} of {plural(len(known), 'task')} measured "
        f"of {len(scores)}, lowest {number(known[low])} ({low}), highest {number(known[high])} "
        f"({high})"
    )


def _opening(progress: Progress, *, is_first: bool) -> Sequence[str]:
    """Return the lines for a cell that does not start from nothing."""
    lines = []
    if is_first and progress.step:
        lines.append(f"continued {progress.cell} from its checkpoint at {_steps(progress)} steps")
    if progress.note:
        lines.append(f"warning   {progress.cell}: {progress.note}")
    return lines


def _cell(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name} (attempt {attempt})"


def _again(outcome: Outcome) -> str:
    """Return the line for a cell that failed and is tried again."""
    why = outcome.failure.text.partition("\n")[0] if outcome.failure is not None else ""
    took = duration(outcome.wall_s)
    return f"{'retrying':<{_HEAD}}{outcome.cell}: attempt {outcome.attempt} failed in {took}: {why}"


def _ending(outcome: Outcome, last: Progress | None) -> str:
    """Return the line for a cell that ended; the first word says how."""
    line = f"{outcome.status:<{_HEAD}}{outcome.cell}"
    if outcome.status == "skipped":
        return f"{line}: finished before"
    if outcome.status == "in use":
        return f"{line}: left to {outcome.user}"
    line += f" in {duration(outcome.wall_s)}"
    line += f", attempt {outcome.attempt}" if outcome.attempt > 1 else ""
    if outcome.failure is not None:
        return f"{line}; the error comes at the end"
    return f"{line}: {scores_text(last.scores)}" if last is not None else line


def _steps(progress: Progress) -> str:
    return f"{progress.step:,}/{progress.total:,}"


def _speed(progress: Progress) -> str:
    speed = progress.steps_per_s
    return f"{speed:,.0f}" if speed == speed else NA  # NaN differs from itself


def _time(seconds: float) -> str:
    return duration(seconds) if seconds == seconds else NA
