"""What an installation takes on disk: Holdfast's dependencies, and what each extra adds to them.

    cd docs && python -m docsite.installed_sizes

Measured where it runs, which needs ``.[all]`` and every other extra that is asked about; one that
is not installed is named. Sizes are those of the files that installed packages list as theirs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


Sizes = dict[str, int]
"""Bytes by the name of a package; with an extra, ``gymnasium[mujoco]``, it counts nothing again."""


def take(requirements: Iterable[str], into: Sizes) -> set[str]:
    """Take packages, and all that they need here, into sizes; return what is not installed."""
    wanted = [Requirement(text) for text in requirements]
    missing: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name == "holdfast":  # of the extra `all`
            own = PROJECT["optional-dependencies"]
            wanted += [Requirement(text) for extra in requirement.extras for text in own[extra]]
            continue
        if not _holds(requirement, ""):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        below = [Requirement(text) for text in found.requires or ()]
        for extra in ("", *requirement.extras):
            key = f"{name}[{extra}]" if extra else name
            if key not in into:
                into[key] = 0 if extra else _bytes(found)
                wanted += [_unmarked(one) for one in below if _holds(one, extra)]
    return missing


def _bytes(found: Distribution) -> int:
    files = [Path(str(file.locate())) for file in found.files or ()]
    return sum(path.stat().st_size for path in files if path.is_file())


def _unmarked(requirement: Requirement) -> Requirement:
    """Return a requirement whose marker has been looked at."""
    requirement.marker = None
    return requirement


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def main() -> None:
    """Print a line for the lean installation, its largest packages, and each extra."""
    lean: Sizes = {}
    missing = sorted(take(PROJECT["dependencies"], lean))
    print(f"lean: {_told(lean)}; missing: {', '.join(missing) or 'none'}")
    for name in sorted(lean, key=lambda one: -lean[one])[:12]:
        print(f"    {name}: {_size([lean[name]])}")
    for extra, requirements in PROJECT["optional-dependencies"].items():
        more = dict(lean)
        missing = sorted(take(requirements, more))
        new = {name: size for name, size in more.items() if name not in lean}
        print(f"{extra}: {_told(new)}{'; missing: ' if missing else ''}{', '.join(missing)}")


def _told(sizes: Sizes) -> str:
    packages = [name for name in sizes if not name.endswith("]")]
    return f"{_size(sizes.values())} in {len(packages)} packages"


def _size(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
