"""The scenarios that come with Holdfast or with other packages, and where a name leads."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from holdfast.offers import Offer, offers
from holdfast.signature import find_source

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


class Family(NamedTuple):
    """Scenarios of an installed package.

    Attributes:
        offer: What names them.
        files: By name.
        broken: Why there are none; empty where there are.
    """

    offer: Offer
    files: dict[str, Path]
    broken: str = ""


@cache
def offered() -> tuple[Family, ...]:
    """Return the scenarios that other packages offer; none of them is imported."""
    return tuple(_family(offer) for offer in offers("scenarios").values())


def _family(offer: Offer) -> Family:
    if offer.broken:
        return Family(offer, {}, offer.broken)
    try:
        folder = find_source(offer.target).parent
    except ModuleNotFoundError as error:
        return Family(offer, {}, str(error))
    files = {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.name != LITE}
    return Family(offer, files, "" if files else f"there is no .yaml file in {offer.target}")


def located(named: str | Path) -> Path:
    """Return the file that a path or the name of a scenario means: a shipped or an offered one.

    A file that exists wins; of what does not, a word without a suffix may be the name of a
    scenario. Those that come with Holdfast win over those of other packages.

    >>> located("cw10").parent.name, str(located("my/cw10")), str(located("cw10.yaml"))
    ('continual_world', 'my/cw10', 'cw10.yaml')
    """
    path, name = Path(named), str(named)
    if path.is_file() or len(path.parts) != 1 or path.suffix:
        return path
    if name in shipped():
        return shipped()[name]
    found = (family.files[name] for family in offered() if name in family.files)
    return next(found, path)
