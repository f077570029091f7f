"""Output of the commands: errors without tracebacks, markdown, labels in colour on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from holdfast.envs.processes.escapes import inside, visible
from holdfast.errors import FolderUnwritable, HoldfastError, Stopped, UsageError

if TYPE_CHECKING:
    from holdfast.continual.results.failure import Failure


@contextmanager
def errors_told() -> Iterator[None]:
    """Print our errors as text, without a traceback, and exit with their code."""
    try:
        yield
    except HoldfastError as error:
        tell_failure(failure_of(error))
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        told = FolderUnwritable.of(error)
        if told is None:
            raise
        tell_failure(failure_of(told))
        raise typer.Exit(told.exit_code) from error


@contextmanager
def stop_told() -> Iterator[None]:
    """Stop the block on Ctrl-C and SIGTERM, with one line and exit code 75."""
    from holdfast.continual.jobs.attempt import stoppable

    try:
        with stoppable():
            yield
    except KeyboardInterrupt:
        raise Stopped("the same command continues every cell from its last checkpoint") from None


def failure_of(error: HoldfastError) -> Failure:
    """Return an error as text, with the traceback of its cause where that is not ours."""
    from holdfast.continual.results.failure import Failure

    return Failure.of(error)


def tell_failure(failure: Failure, label: str = "error:") -> None:
    """Print a failure to stderr; coloured on a terminal only."""
    stopped = failure.exit_code == Stopped.exit_code
    style = "yellow" if stopped else "bold red"
    text = failure.trace + failure.text
    print_labelled(console(stderr=True), "stopped:" if stopped else label, style, text)


def print_labelled(to: Any, label: str, style: str, text: str) -> None:
    """Print a coloured label and a text after it, or below it where it has several lines."""
    from rich.text import Text

    line = Text.assemble((label, style), "\n" if "\n" in text else " ", visible(text))
    to.print(line, soft_wrap=True, highlight=False)


def print_note(text: str) -> None:
    """Print a line to stderr that ends nothing."""
    print_labelled(console(stderr=True), "note:", "yellow", text)


def print_markdown(text: str) -> None:
    """Print markdown: drawn on a terminal, as it is elsewhere."""
    text, to = visible(text), console()
    if not to.is_terminal:
        print(text)
        return
    from rich.markdown import Markdown

    to.print(Markdown(text))


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Return rows as lines of columns.

    Args:
        rows: All of one length.
        right: Whether columns after the first one end alike, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if right and column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def console(*, stderr: bool = False) -> Any:
    """Return rich's console of the standard output, or of the standard error."""
    from rich.console import Console

    # The stream itself: its own escape sequences are the only ones that may pass.
    return Console(file=inside(sys.stderr if stderr else sys.stdout))


def write_file(path: Path, text: str) -> None:
    """Write a file that the user named."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
