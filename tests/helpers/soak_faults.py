"""Cases that go wrong in every way that the soak suite must notice."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from soak.watch import Watch


def make(_lane: int, folder: Path) -> Callable[[int], tuple[str, str]]:
    """Return what ends in another way for each number."""
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    watch = Watch(inside)

    def raises() -> None:
        raise ValueError("raw")

    def swallows() -> None:
        with contextlib.suppress(Exception):
            time.sleep(60)

    acts: list[Callable[[], object]] = [
        lambda: (inside / "own.txt").write_text("mine"),
        raises,
        swallows,
        lambda: os._exit(0),
        lambda: (folder / "outside.txt").write_text("not mine"),
        lambda: (folder / "outside.txt").unlink(),
        lambda: os.system("true"),
        lambda: (inside / "own.txt").rename(folder / "moved.txt"),
    ]

    def run(case: int) -> tuple[str, str]:
        watch.begin()
        try:
            acts[case]()
        finally:
            seen = watch.end()
        return ("touched", "; ".join(seen)) if seen else ("fine", "")

    return run
