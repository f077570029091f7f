"""The reference of arguments: what methods and algorithms take, as their docstrings tell it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import griffe

from holdfast.registry import AGENTS, METHODS, PLUGINS
from holdfast.scenarios.describe import MethodRow, describe_algorithms, describe_methods
from holdfast.signature import Argument, find_source


def page() -> str:
    """Return the arguments of every method and every algorithm in markdown."""
    lines = ["## Methods", ""]
    for row in describe_methods():
        lines += [f"### `{row.name}`", "", row.summary, "", *_told(row), ""]
        plugin = PLUGINS.get(row.name)
        told = meanings(METHODS[row.name] if plugin is None else plugin.target)
        lines += _table(row.arguments, told)
    lines += ["## Algorithms", ""]
    for algorithm in describe_algorithms():
        spaces = f"Actions: {', '.join(algorithm.actions)}." if algorithm.actions else ""
        lines += [f"### `{algorithm.name}`", "", spaces, ""]
        lines += _table(algorithm.arguments, meanings(AGENTS[algorithm.name].target))
    return "\n".join(lines)


def meanings(target: str) -> dict[str, str]:
    """Return what the docstrings of a class say of each argument, without importing it.

    Args:
        target: ``module:Class``.
    """
    module, _, name = target.partition(":")
    tree = ast.parse(find_source(module).read_bytes())
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found: dict[str, str] = {}
    for text in _docstrings(classes[name]) if name in classes else ():
        docstring = griffe.Docstring(text)
        style: Any = "sphinx" if ":param" in text else "google"
        for section in docstring.parse(style, warnings=False):
            if section.kind is griffe.DocstringSectionKind.parameters:
                found |= {one.name: " ".join(one.description.split()) for one in section.value}
    return found


def _docstrings(node: ast.ClassDef) -> Iterator[str]:
    """Yield the docstrings of a class and of its constructor, where it has them."""
    made = [item for item in node.body if getattr(item, "name", "") == "__init__"]
    for item in (*made, node):
        assert isinstance(item, ast.FunctionDef | ast.ClassDef)
        text = ast.get_docstring(item)
        if text:
            yield text


def _told(row: MethodRow) -> list[str]:
    told = {
        "Must be told": ", ".join(row.needs) or "nothing",
        "Reaches the agent by": ", ".join(row.doors) or "no door",
        "Algorithms": ", ".join(row.algorithms),
        "Keeps": row.memory,
        "Works beside training": row.extra,
        "Strength": row.convention,
        "Not in teams": row.not_in_teams,
    }
    return [f"- **{what}:** {_plain(text)}" for what, text in told.items() if text]


def _table(arguments: tuple[Argument, ...], told: Mapping[str, str]) -> list[str]:
    if not arguments:
        return ["No arguments.", ""]
    lines = ["| argument | type | default | meaning |", "| --- | --- | --- | --- |"]
    for argument in arguments:
        default = "required" if argument.required else f"`{argument.default_text}`"
        meaning = _plain(told.get(argument.name, ""))
        kind = _kind(argument.annotation)
        lines.append(f"| `{argument.name}` | {kind} | {default} | {meaning} |")
    return [*lines, ""]


def _kind(annotation: str) -> str:
    """Return an annotation in a table, its choices one by one.

    >>> _kind("Literal['a', 'b'] | None"), _kind("")
    ("`'a'`, `'b'`, `None`", '`any`')
    """
    choices = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | "), annotation)
    return ", ".join(f"`{choice}`" for choice in (choices or "any").split(" | "))


def _plain(text: str) -> str:
    """Return a sentence of a docstring as one of markdown: its signs mean nothing there."""
    for sign in ("*", "|", "<", "_", "["):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("``", "`")
