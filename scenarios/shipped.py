"""The scenarios that come with Holdfast, by family, and where a name leads."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

FAMILIES = {
    "": "The scenario to begin with.",
    "continual_world": "Continual World: robot arms of Meta-World, in the orders of the paper.",
    "custom_env": "An environment of one's own, with the scenario beside it.",
    "endless": "One life in a world without episodes, which changes and never begins again.",
    "games": "Turn-based games, played against opponents and past selves.",
    "grids": "Rooms, doors and keys on small grids, seen from inside.",
    "locomotion": "Robots of MuJoCo that walk, under changed bodies, gravity and ground.",
    "methods": "Small tasks on which many methods are compared.",
    "pictures": "What is learned from pixels: Atari, ViZDoom, and classes of digits.",
    "playground": "Robots of MuJoCo Playground: terrain, commands and objects.",
    "teams": "Many agents: shared policies, partners and roles.",
}
"""Folders, each with what its scenarios have in common."""


LITE = "lite.yaml"
"""Overrides for the scenarios of a folder, with which they end within an hour: ``@lite.yaml``."""


@cache
def shipped() -> dict[str, Path]:
    """Return the file of every scenario by its name, family by family."""
    files = (path for family in FAMILIES for path in sorted((FOLDER / family).glob("*.yaml")))
    return {path.stem: path for path in files if path.name != LITE}


def located(named: str | Path) -> Path:
    """Return the file that a path or the name of a shipped scenario means.

    A file that exists wins; of what does not, a word without a suffix may be a shipped scenario.

    >>> located("cw10").parent.name, str(located("my/cw10")), str(located("cw10.yaml"))
    ('continual_world', 'my/cw10', 'cw10.yaml')
    """
    path = Path(named)
    return path if path.is_file() else shipped().get(str(named), path)
