"""What stands on the pages: their blocks of code, and the scenarios that fragments belong to."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.scenarios.source.yaml_file import read

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[\w.: -]+) -->\n)?^ *```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^ *```",
    re.M | re.S,
)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page: Path of its page in the repository.
        mark: Text of the comment above it: ``run``, ``file: NAME``, ``base: NAME``, ``in: NAME``.
        kind: Its language; empty for a shell's and for diagrams.
        text: What it holds.
    """

    page: str
    mark: str
    kind: str
    text: str

    def named(self, mark: str) -> str:
        """Return what a mark names: the file of ``file: NAME``; empty where it is another mark."""
        kind, _, name = self.mark.partition(": ")
        return name if kind == mark else ""


def texts() -> dict[str, str]:
    """Return every page that is written by hand, by its path."""
    from docsite.staging import pages

    return {path.as_posix(): (ROOT / path).read_text("utf-8") for path in pages()}


def blocks(page: str, text: str) -> list[Block]:
    """Return the blocks of a page in their order."""
    return [
        Block(page, (found["mark"] or "").strip(), found["kind"], found["text"])
        for found in _BLOCK.finditer(text)
    ]


def bases() -> dict[str, dict[str, Any]]:
    """Return the scenarios of ``docs/keys.md`` that fragments are put into."""
    page = (ROOT / "docs" / "keys.md").read_text("utf-8")
    named = {block.named("base"): block for block in blocks("docs/keys.md", page)}
    return {name: parsed(block.text) for name, block in named.items() if name}


def parsed(text: str) -> dict[str, Any]:
    """Return what a scenario's text says, as Holdfast reads YAML."""
    source = read(text.encode(), "")
    assert not source.problems, source.problems
    data: dict[str, Any] = source.data
    return data


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another one's keys put in, mappings into mappings.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    """
    together = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(together.get(key), Mapping)
        together[key] = merged(together[key], value) if both else value
    return together


def make_room(folder: Path) -> Path:
    """Write what scenarios on pages name; return the folder that such a scenario lies in.

    It holds modules, a model and demonstrations; beside it are earlier runs, and an interpreter of
    a lab's own.
    """
    study, lab = folder / "study", folder / "lab-venv" / "bin" / "python"
    study.mkdir()
    code = "import gymnasium as gym\n\n\nclass {}(gym.Env):\n    def __init__(self, **_): ...\n"
    (study / "lab.py").write_text(code.format("Reach"), "utf-8")
    own = "class Own:\n    needs = ()\n    doors = ()\n    def __init__(self): ...\n"
    (study / "mine.py").write_text(own, "utf-8")
    for file in ("model.zip", "expert.safetensors"):
        (study / file).touch()
    for run in ("runs/crew/naive/seed-0", "runs/four/naive/seed-0"):
        (folder / run / "checkpoints").mkdir(parents=True)
    lab.parent.mkdir(parents=True)
    lab.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', "utf-8")
    lab.chmod(0o755)
    return study
