"""Search for the environments that a word of the command line means: ids, classes, files."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import keyword
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium as gym

from holdfast.envs.base.loading import ImportFailed, MissingPackage, imported, is_old_gym
from holdfast.errors import UsageError
from holdfast.offers import offers
from holdfast.registry import append_path, suggestion

_FILE = re.compile(r"(?P<file>.+\.py)(:(?P<name>.*))?")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Place(NamedTuple):
    """A module, and the folder from which it is imported.

    Attributes:
        module: Its name, as a scenario in that folder writes it.
        folder: Searched after what is installed.
    """

    module: str
    folder: Path


class Found(NamedTuple):
    """Environments, and where a scenario must lie to name them so.

    Attributes:
        targets: ``Id-v0``, ``module:Id-v0`` or ``module:Class``.
        folder: Where ``module`` is looked for after what is installed.
        in_file: Whether a file was named, so that the names are news.
    """

    targets: tuple[str, ...]
    folder: Path
    in_file: bool = False


def find(named: str, folder: Path, *, imports: bool = True) -> Found:
    """Return the environments that a word means.

    Args:
        named: ``Id-v0``, ``module:Class``, ``module:Id-v0``; ``module``, which means all
            environment classes in it and all ids that it registers; ``path/to/file.py`` likewise,
            or with ``:Class`` or ``:Id-v0`` one of them.
        folder: Where modules and files are looked for.
        imports: Whether the module may be imported to see what is in it.

    Raises:
        UsageError: There is no such file or module, or no environment in it.
    """
    file = _FILE.fullmatch(named)
    if file:
        return _in_file(folder / Path(file["file"]).expanduser(), file["name"], imports=imports)
    path = folder / named
    if path.is_dir() and not (path / "__init__.py").is_file():
        raise UsageError(f"'{named}' is a folder; {_to_name_in(path, named)}")
    if named in gym.registry or ":" in named:
        return Found((named,), folder)
    if named.startswith((".", "/", "~")):
        raise UsageError(f"there is no file {named}; environments are in .py files or modules")
    append_path(folder)
    if _MODULE.fullmatch(named):
        if _is_there(named):
            return Found(_all_in(Place(named, folder), named, imports=imports), folder)
        if named in offers("environments"):
            return Found((named,), folder)
        modules = [entry.stem for entry in folder.glob("*.py")]
        ids = "holdfast list envs shows the ids"
        hint = suggestion(named, [*gym.registry, *modules, *offers("environments")], otherwise=ids)
        raise UsageError(f"no environment and no module is called '{named}'; {hint}")
    return Found((named,), folder)


def _in_file(path: Path, name: str | None, *, imports: bool) -> Found:
    """Return one environment of a file, or all.

    A file is imported by its bare name, as a scenario beside it does; one with relative imports as
    part of its package; one that needs a module of the folder in which the command was given, from
    there.
    """
    if not path.is_file():
        files = [entry.name for entry in path.parent.glob("*.py")]
        hint = suggestion(path.name, files, "; did you mean '{}'?")
        raise UsageError(f"there is no file {path}{hint}")
    if name == "":
        raise UsageError(f"'{path.name}:' ends in a colon; a class or an id comes after it")
    place = _place(path)
    if imports:
        place = _importable(path, place)
    if name is not None:
        return Found((f"{place.module}:{name}",), place.folder, in_file=True)
    return Found(_all_in(place, path.name, imports=imports), place.folder, in_file=True)


def _place(path: Path) -> Place:
    """Return how a file can be imported, by its own form alone."""
    stem = path.stem
    if not stem.isidentifier() or keyword.iskeyword(stem):
        better = re.sub(r"\W", "_", stem)
        raise UsageError(
            f"{path.name} cannot be imported: a module's name has letters, digits and underscores; "
            f"rename the file, for example to {better}{'_env' if better == stem else ''}.py"
        )
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        text = getattr(error, "msg", error)
        raise UsageError(f"{path.name} is not valid Python: {text} ({path}{where})") from error
    relative = any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    folder, parts = path.resolve().parent, [stem]
    while relative and (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if relative and len(parts) == 1:
        raise UsageError(
            f"{path.name} has relative imports (from . import ...), but its folder is no package; "
            "put an empty __init__.py there, or import without the dot"
        )
    return Place(".".join(parts), folder)


def _importable(path: Path, place: Place) -> Place:
    """Return the place from which the file can be imported, importing it.

    Raises:
        UsageError: It cannot, or a module of the same name would be found first.
    """
    try:
        module = imported(place.module, place.folder)
    except MissingPackage as error:
        other = _from_here(path)
        if other is None or other == place:
            raise
        try:
            module = imported(other.module, other.folder)
        except (MissingPackage, ImportFailed):
            raise error from None
        place = other
    origin = Path(getattr(module, "__file__", None) or place.module)
    if origin.resolve() != path.resolve():
        raise UsageError(
            f"a module '{place.module}' is there already ({origin}) and is found before {path}; "
            "rename the file"
        )
    return place


def _from_here(path: Path) -> Place | None:
    """Return how the file is imported from the current folder: ``envs/arm.py`` as ``envs.arm``."""
    here, resolved = Path.cwd().resolve(), path.resolve()
    if not resolved.is_relative_to(here):
        return None
    module = ".".join(resolved.relative_to(here).with_suffix("").parts)
    return Place(module, here) if _MODULE.fullmatch(module) else None


def _all_in(place: Place, named: str, *, imports: bool) -> tuple[str, ...]:
    """Return every environment of a module: its ids, and its classes that no id stands for."""
    if not imports:
        raise UsageError(
            f"what is in {named} is seen by importing it here; with --python, name one: "
            f"{named}:Class"
        )
    before = set(gym.registry)
    module = imported(place.module, place.folder)
    ids = [name for name in gym.registry if _belongs(gym.registry[name].entry_point, module)]
    ids += [name for name in gym.registry if name not in before and name not in ids]
    stood_for = {_class_of(gym.registry[name].entry_point) for name in ids}
    classes = [found for found in _classes(module) if found not in stood_for]
    targets = [*ids, *(found.__name__ for found in classes)]
    if not targets:
        raise UsageError(
            f"{named} holds no environment: no class derived from gymnasium.Env, and no id that it "
            f"registers{_almost(module)}"
        )
    return tuple(f"{place.module}:{target}" for target in targets)


def _classes(module: ModuleType) -> Iterator[type]:
    """Yield the module's own environment classes, those that are only bases of others left out."""
    own = [
        found
        for name, found in _own_classes(module)
        if found.__name__ == name
        and not name.startswith("_")
        and (issubclass(found, gym.Env) or is_old_gym(found))
    ]
    for found in own:
        step = getattr(found, "step", None)
        unfinished = inspect.isabstract(found) or step is gym.Env.step
        if not (unfinished and any(found in other.__mro__[1:] for other in own)):
            yield found


def _own_classes(module: ModuleType) -> list[tuple[str, type]]:
    """Return the classes that a module defines, with their names; wrappers left out."""
    return [
        (name, found)
        for name, found in vars(module).items()
        if inspect.isclass(found)
        and _is_of(found.__module__, module)
        and not issubclass(found, gym.Wrapper)
    ]


def _almost(module: ModuleType) -> str:
    """Return what to say of classes that have step and reset but are no environments."""
    near = [
        name
        for name, found in _own_classes(module)
        if callable(getattr(found, "step", None)) and callable(getattr(found, "reset", None))
    ]
    return f"; derive {near[0]} from gymnasium.Env" if near else ""


def _belongs(entry_point: Any, module: ModuleType) -> bool:
    named = entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
    return _is_of(str(named).partition(":")[0], module)


def _is_of(name: str, module: ModuleType) -> bool:
    return name == module.__name__ or name.startswith(f"{module.__name__}.")


def _class_of(entry_point: Any) -> Any:
    """Return the class that an id is registered with, where that is a name or the class itself."""
    if not isinstance(entry_point, str):
        return entry_point
    module, _, name = entry_point.partition(":")
    # What is not imported by now is checked under its id alone.
    return getattr(sys.modules.get(module), name, None)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _to_name_in(path: Path, named: str) -> str:
    """Return what to write instead of a folder."""
    inside = sorted([*path.glob("*.py"), *path.glob("*.y*ml")])
    if not inside:
        return "name a .py file with an environment, or a scenario"
    return f"name a file in it: {Path(named) / inside[0].name}"
