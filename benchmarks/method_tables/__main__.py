"""Run what the published tables lack, write them, put them into the pages, say what changed.

Below the pages' marks ``<!-- SCENARIO:begin -->`` stand the tables themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from method_tables import continual_control
from method_tables.comparison import markdown, rows, tuned
from method_tables.table import TABLES, Table, cells_of, changes, finished, run, text_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]


def main(chosen: list[Table], runs: Path, jobs: int, only_read: bool) -> None:
    """Do it for each table in turn."""
    for table in chosen:
        if not only_read:
            run(table, runs, jobs)
        before = table.path.read_text("utf-8") if table.path.exists() else ""
        found = finished(table, runs)
        print(f"\n{table.name}\n")
        if not found:
            print("No cell is there.")
            continue
        after = text_of(table, found)
        table.path.write_text(after, encoding="utf-8")
        cells = cells_of(after)
        if len(cells) < len(table.cells):
            print(
                f"{len(cells)} of {len(table.cells)} cells are there; the pages stay as they are."
            )
        elif table.tuning:
            best = tuned(cells, table.methods, table.measure)
            print(*(f"{label}: {mean:.3f}" for label, mean in best.values()), sep="\n")
        else:
            text = text_on_page(table, cells)
            print(text)
            show(table.name, text)
        print("", *(changes(before, after) or ["Nothing changed."]), sep="\n")


def text_on_page(table: Table, cells: list[dict[str, str]]) -> str:
    """Return a table as the pages show it."""
    if table.name == continual_control.SCENARIO:
        return continual_control.markdown(cells)
    return markdown(rows(cells, table.measure))


def show(name: str, text: str) -> None:
    """Put a table between its marks on every page that has them."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    for page in PAGES:
        content = page.read_text("utf-8")
        if begin in content:
            head, _, rest = content.partition(begin)
            tail = rest.partition(end)[2]
            page.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    names = [table.name for table in TABLES]
    parser = argparse.ArgumentParser(prog="python -m method_tables", description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="the folder of results")
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side")
    parser.add_argument("--read", action="store_true", help="run nothing; read what is there")
    parser.add_argument("--only", choices=names, nargs="+", default=names, help="scenarios")
    given = parser.parse_args()
    main(
        [table for table in TABLES if table.name in given.only],
        given.runs,
        given.jobs,
        given.read,
    )
