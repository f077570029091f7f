"""Numbers, names and tables as markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NA = "n/a"

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_BYTES = ("B", "kB", "MB", "GB", "TB")


def number(value: float) -> str:
    """Return a score or a return in few digits.

    >>> number(0.25), number(-0.001), number(1234.5), number(float("nan"))
    ('0.25', '0.00', '1,234.5', 'n/a')
    """
    if math.isnan(value):
        return NA
    text = f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def duration(seconds: float) -> str:
    """Return a wall time.

    >>> duration(9.87), duration(90), duration(7260)
    ('9.9 s', '1 min 30 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def size(count: float) -> str:
    """Return a number of bytes in decimal units.

    >>> size(0), size(999), size(36_864)
    ('0 B', '999 B', '36.9 kB')
    """
    power = min(int(math.log(count, 1000)), len(_BYTES) - 1) if count >= 1 else 0
    return f"{count / 1000**power:.{1 if power else 0}f} {_BYTES[power]}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "seed"), plural(5, "seed")
    ('1 seed', '5 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code of markdown, which it cannot end by itself.

    >>> print(fenced("a: 1", "yaml"))
    ```yaml
    a: 1
    ```
    """
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def coded(text: str) -> str:
    """Return text as code within a line of markdown, and within a cell of its tables."""
    whole = " ".join(printed(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", whole)), default=0))
    return f"{fence}{whole}{fence}" if "`" not in whole else f"{fence} {whole} {fence}"


def printed(text: str) -> str:
    r"""Return text without control characters, which a terminal would obey.

    >>> printed("a\x1b[31mb")
    'a�[31mb'
    """
    return _CONTROL.sub("\ufffd", text)


def plain(text: str) -> str:
    """Return text that markdown takes for text: names and reasons come from files."""
    text = printed(text)
    for special in "\\|*[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, its first column aligned left and the others right."""
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, aligned, *rows))


def cut_note(scores: Iterable[Mapping[str, Any]]) -> str:
    """Return that some of these episodes were cut, and what to do; empty where none was."""
    scores = list(scores)
    found = [score for score in scores if score.get("cut")]
    if not found:
        return ""
    tasks = ", ".join(dict.fromkeys(score["task"] for score in found))
    return (
        f"{len(found):,} of {len(scores):,} evaluation episodes did not end within "
        f"{found[0]['length']:,} steps and were cut there (task {tasks}): their returns are of so "
        "many steps. Give the task a time limit (changes: {time_limit: steps}), or say how long "
        "they last (evaluation: {most_steps: steps})"
    )
