"""``holdfast new``: a skeleton that works, to be changed into one's own."""

from __future__ import annotations

import importlib.util
import keyword
import re
from importlib.resources import files
from pathlib import Path

from holdfast.errors import UsageError

_FILES: dict[str, tuple[str, ...]] = {
    "env": ("{}.py", "{}.yaml", "test_{}.py"),
    "method": ("{}.py", "{}.yaml", "test_{}.py"),
    "scenario": ("{}.yaml",),
}


def new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the files of a skeleton and return them.

    Args:
        kind: ``env`` or ``method`` (a module, a scenario and tests), or ``scenario``.
        name: In small letters, digits and underscores; its class is named alike: ``my_arm``,
            ``MyArm``.
        folder: Where the files go.

    Raises:
        UsageError: If the name cannot be a module's or is taken, or a file is there already.
            Nothing was written then.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        near = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
        fit = near if re.match(r"[a-z]", near) and not keyword.iskeyword(near) else "my_arm"
        raise UsageError(
            f"'{name}' cannot name a module; use small letters, digits and underscores: {fit}"
        )
    template = f"my_{kind}"
    targets = {folder / form.format(name): form.format(template) for form in _FILES[kind]}
    there = [path.name for path in targets if path.exists()]
    if there:
        raise UsageError(f"{', '.join(there)} is in {folder} already; choose another name")
    if kind != "scenario" and importlib.util.find_spec(name) is not None:
        raise UsageError(f"a module '{name}' is installed already, and would be found first")
    for path, source in targets.items():
        text = files("holdfast").joinpath("templates", source).read_text("utf-8")
        path.write_text(_renamed(text, template, name), "utf-8")
    return list(targets)


def _renamed(text: str, template: str, name: str) -> str:
    """Return the template's text under its new names.

    >>> _renamed("from my_env import MyEnv", "my_env", "big_arm")
    'from big_arm import BigArm'
    """
    return text.replace(template, name).replace(_class_name(template), _class_name(name))


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
