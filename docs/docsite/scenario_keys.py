"""The reference of scenarios: every key of the schema, with an example that a test validates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from holdfast.scenarios.json_schema import json_schema
from holdfast.scenarios.source.task_defaults import KEY as TASK_DEFAULTS

EXAMPLES = Path(__file__).with_name("examples.yaml")
IN_A_TASK = "tasks[]."
_NAMED = {"Method": "method", "Wrapper": "wrapper"}
"""Definitions whose keys are names: those of ``docs/arguments.md``, and two wrappers."""


class Key(NamedTuple):
    """One key of scenarios.

    Attributes:
        path: As the reference writes it: ``tasks[].drift.*.sine``. ``*`` stands for any name.
        form: What it takes, in words.
        default: As YAML writes it; empty where the key is required, or has none of its own.
        required: Whether it must be there.
        description: A sentence or two.
    """

    path: str
    form: str
    default: str
    required: bool
    description: str


class Example(NamedTuple):
    """An example of a key.

    Attributes:
        base: Name of the scenario that it is put into.
        text: YAML, as inside a task where the key is one of tasks.
    """

    base: str
    text: str


@cache
def keys() -> list[Key]:
    """Return every key in the order of the schema, each section's keys below it."""
    schema = json_schema()
    return list(_below(schema, schema["$defs"], ""))


def examples() -> dict[str, Example]:
    """Return the example of each key by its path."""
    found = yaml.safe_load(EXAMPLES.read_text("utf-8"))
    return {
        path: Example(base, text) for base, texts in found.items() for path, text in texts.items()
    }


def page() -> str:
    """Return the reference in markdown, a section for each key of the first level."""
    shown = examples()
    lines: list[str] = []
    for key in keys():
        level = "##" if "." not in key.path.removeprefix(IN_A_TASK) else "###"
        if key.path in _SECTIONS:
            lines += [f"## {_SECTIONS[key.path]}", ""]
        lines += _entry(key, shown[key.path], "###" if level == "##" else "####")
    return "\n".join(lines)


_SECTIONS = {
    "name": "The scenario",
    "tasks": "Tasks",
    "stream": "The stream",
    "spaces": "Environments",
    "agent": "The agent",
    "methods": "Methods and seeds",
    "evaluation": "Measuring",
    "checkpoint": "Checkpoints",
    "sweep": "Studies",
    "score": "Scores",
    TASK_DEFAULTS: "What all tasks share",
}
"""Headings, each above the key that it begins with."""


def _entry(key: Key, example: Example, heading: str) -> list[str]:
    where = "in a task of" if key.path.startswith(IN_A_TASK) else "in"
    default = f" **Default:** `{key.default}`." if key.default else ""
    return [
        f"{heading} `{key.path}` {{ #{anchor(key.path)} }}",
        "",
        key.description,
        "",
        f"**Takes:** {key.form}.{' **Required.**' if key.required else default}",
        "",
        f'```yaml title="{where} {example.base}"',
        example.text.rstrip(),
        "```",
        "",
    ]


def anchor(path: str) -> str:
    """Return the anchor of a key on its page.

    >>> anchor("tasks[].drift.*.sine")
    'tasks.drift.any.sine'
    """
    return path.replace("[]", "").replace("*", "any")


def _below(section: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> Iterator[Key]:
    """Yield the keys of a section and, after each, those below it."""
    for name, entry in section.get("properties", {}).items():
        own = f"{path}{name}"
        is_required = name in section.get("required", ())
        about = _sentence(entry.get("description", ""))
        default = _default(entry, about)
        yield Key(own, _form(entry, defs), default, is_required, about)
        if own == TASK_DEFAULTS:
            continue
        for mark, inner in _sections(entry, defs):
            yield from _below(inner, defs, f"{own}{mark}.")


def _default(entry: Mapping[str, Any], about: str) -> str:
    """Return a default as YAML writes it; nothing where the description tells a better one."""
    value = entry.get("default")
    if value is None or value == "" or "Default:" in about:
        return ""
    return json.dumps(value, ensure_ascii=False).strip('"')


def _sections(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the sections that a key may hold, and the mark between its path and theirs."""
    name = entry.get("$ref", "").rpartition("/")[2]
    if name and name not in _NAMED:
        yield "", defs[name]
    for kind in ("anyOf", "oneOf"):
        for form in entry.get(kind, ()):
            yield from _sections(form, defs)
    if "items" in entry:
        yield from (("[]" + mark, inner) for mark, inner in _sections(entry["items"], defs))
    named = [*entry.get("patternProperties", {}).values(), entry.get("additionalProperties")]
    for form in named:
        if isinstance(form, dict):
            yield from ((".*" + mark, inner) for mark, inner in _sections(form, defs))


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "mapping",
    "array": "list",
    "null": "nothing",
}


def _form(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Return what a key takes, in words."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return _NAMED.get(name, "mapping of the keys below")
    for union in ("anyOf", "oneOf"):
        if union in entry:
            forms = [_form(form, defs) for form in entry[union] if form.get("type") != "null"]
            return ", or ".join(dict.fromkeys(forms))
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    kind: str = entry.get("type", "any value")
    if kind == "array" and "prefixItems" in entry:
        return "list of two: " + ", ".join(_form(form, defs) for form in entry["prefixItems"])
    if kind == "array" and "items" in entry:
        return f"list, each entry: {_form(entry['items'], defs)}"
    if kind == "object":
        return _mapping(entry, defs)
    return _WORDS.get(kind, kind) + _bounds(entry)


def _mapping(entry: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    values = [*entry.get("patternProperties", {}).values(), entry.get("additionalProperties")]
    known = [value for value in values if isinstance(value, dict)]
    if known:
        return f"mapping of names, each: {_form(known[0], defs)}"
    names = [f"`{name}`" for name in entry.get("properties", {})]
    return f"mapping with one of {', '.join(names)}" if entry.get("maxProperties") else "mapping"


def _bounds(entry: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "below {}",
        "le": "at most {}",
        "maxLength": "at most {} characters",
    }
    known = {name: entry[name] for name in words if name in entry}
    if "le" in known:  # the narrower of two
        known.pop("maximum", None)
    told = [words[name].format(f"{bound:,}") for name, bound in known.items()]
    return f" ({', '.join(told)})" if told else ""


def _sentence(text: str) -> str:
    """Return a description as one paragraph that ends in a stop."""
    joined = " ".join(text.split()).replace("*", r"\*")
    return joined if joined.endswith((".", ":")) else joined + "."
