"""Run the soak suite, or parts of it, and print one table.

    python -m soak                       all parts at full size
    python -m soak kills deaths --share 0.1
    python -m soak scenarios --first 123 --cases 1     one case again

Run it in ``benchmarks/``; ``make soak`` does. Exit status 1 where anything was wrong; every fault
is printed with the number of its case, from which it can be made again.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from soak import deaths, disk, folders, kills, lanes, scenarios
from soak.lanes import Ended

FAULTS = {"raised", "hung", "died", "changed", "empty", "touched", "unclear", "differs", "stuck"}
FAULTS |= {"outlived", "read"}


class Part(NamedTuple):
    """A part of the suite.

    Attributes:
        cases: How many there are at full size.
        run: Runs cases from a first number, in so many lanes.
        what: What is tried, in a few words.
    """

    cases: int
    run: Callable[[range, int], Iterable[Ended]]
    what: str


def _in_lanes(
    make: Callable[..., lanes.Case], *given: object, limit_s: float = lanes.LIMIT_S
) -> Callable[[range, int], Iterator[Ended]]:
    def run(cases: range, count: int) -> Iterator[Ended]:
        return lanes.run(make, given, cases, lanes=count, limit_s=limit_s)

    return run


PARTS = {
    "scenarios": Part(20_000, _in_lanes(scenarios.make_files), "mutated scenario files loaded"),
    "overrides": Part(2_000, _in_lanes(scenarios.make_overrides), "mutated overrides loaded"),
    "hostile": Part(
        245, _in_lanes(folders.make_hostile, limit_s=300.0), "hostile run folders, all readers"
    ),
    "folders": Part(
        5_000, _in_lanes(folders.make, limit_s=folders.LIMIT_S), "mutated files of run folders"
    ),
    "deaths": Part(
        1_000, _in_lanes(deaths.make, deaths.KINDS, limit_s=60.0), "deaths at a file operation"
    ),
    "kills": Part(200, kills.run, "cold processes killed at a moment"),
    "disk": Part(20, lambda cases, _: disk.full_disk(cases), "disks too small, then room"),
    "two": Part(5, lambda cases, _: disk.two_processes(cases), "two processes on one folder"),
    "long": Part(
        1, lambda cases, _: kills.long_task(cases), "10^6 steps of PPO, killed every 60 s"
    ),
}


class Row(NamedTuple):
    """How a part went."""

    part: str
    what: str
    cases: int
    ended: str
    slowest_s: float
    faults: int
    minutes: float


def measured(name: str, cases: range, count: int) -> Row:
    """Run a part; print its faults as they come."""
    part, began = PARTS[name], time.monotonic()
    words: Counter[str] = Counter()
    slowest, faults = 0.0, 0
    for ended in part.run(cases, count):
        words[ended.word] += 1
        slowest = max(slowest, ended.seconds)
        if ended.word in FAULTS:
            faults += 1
            print(f"{name} {ended.case}: {ended.word}: {ended.text}", flush=True)
    minutes = round((time.monotonic() - began) / 60, 1)
    told = ", ".join(f"{word} {number}" for word, number in sorted(words.items()))
    return Row(name, part.what, words.total(), told, round(slowest, 1), faults, minutes)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the full size")
    parser.add_argument("--cases", type=int, help="instead: so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--lanes", type=int, default=os.cpu_count(), help="processes side by side")
    parser.add_argument("--csv", type=Path, help="where the table is kept too")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    state = tempfile.TemporaryDirectory(prefix="soak-state-")
    os.environ["XDG_STATE_HOME"] = state.name  # where runs of one's own are remembered
    rows = []
    for name in given.parts or PARTS:
        count = given.cases or max(1, round(PARTS[name].cases * given.share))
        rows.append(measured(name, range(given.first, given.first + count), given.lanes))
        print(*rows[-1], sep=" | ", flush=True)
    if given.csv:
        with given.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *rows])
    sys.exit(any(row.faults for row in rows))


if __name__ == "__main__":
    main()
