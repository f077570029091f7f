"""Names that installed packages offer to scenarios, by entry points of Holdfast's groups.

``[project.entry-points."holdfast.methods"]`` with ``tide = "tides.method:Tide"`` lets a scenario
write ``methods: [tide]``. The metadata of packages alone is read here, and only where a name is
none of Holdfast's own; what an offer names is imported once a scenario that uses it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

Group = Literal["environments", "agents", "methods", "changes", "scenarios"]

GROUPS: tuple[Group, ...] = get_args(Group)
"""Of entry points, each as ``holdfast.methods``. A change is a wrapper; scenarios are a package."""

_NAME = re.compile(r"[A-Za-z][\w.+-]*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z]\w*")
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


@dataclass(frozen=True)
class Offer:
    """A name that an installed package offers.

    Attributes:
        name: As scenarios write it.
        target: ``module:Class``; of scenarios, the package that holds their files.
        package: The distribution, as pip knows it.
        version: Of the distribution.
        broken: Why it cannot be used, as its metadata shows; empty where it can.
    """

    name: str
    target: str
    package: str
    version: str
    broken: str = ""

    @property
    def origin(self) -> str:
        """The package and its version, for texts."""
        return f"{self.package} {self.version}"


@cache
def offers(group: Group) -> Mapping[str, Offer]:
    """Return what installed packages offer in a group, by name, broken offers included."""
    found: dict[str, Offer] = {}
    for offer in _metadata(group):
        other = found.get(offer.name)
        if other is not None and other.package != offer.package:
            both = f"{other.origin} and {offer.origin} both offer it; uninstall one"
            offer = Offer(offer.name, offer.target, offer.package, offer.version, both)
        found[offer.name] = offer
    return found


def meant(group: Group, name: str) -> str:
    """Return ``module:Class`` for the name of an offer, and any other name as it is."""
    if ":" in name or "/" in name or name not in offers(group):
        return name
    return offers(group)[name].target


def versions(names: Iterable[tuple[Group, str]]) -> dict[str, str]:
    """Return the version of each package whose offers have these names."""
    used = (offers(group).get(name) for group, name in names if ":" not in name)
    return {offer.package: offer.version for offer in used if offer is not None}


def _metadata(group: Group) -> Iterable[Offer]:
    # Here: it reads the metadata of every installed package, which is seldom needed.
    from importlib.metadata import entry_points

    form = _PACKAGE if group == "scenarios" else _TARGET
    wanted = "a package" if group == "scenarios" else "module:Class"
    for point in entry_points(group=f"holdfast.{group}"):
        broken = ""
        if not _NAME.fullmatch(point.name):
            broken = "its name has other signs than letters, digits, '.', '_', '+' and '-'"
        elif not form.fullmatch(point.value):
            broken = f"it names {point.value!r}, which is not {wanted}"
        package, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        yield Offer(point.name, point.value, package, version, broken)
