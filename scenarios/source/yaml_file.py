"""YAML with the place of every key and value; plain values only, and only so many of them.

Scalars are read as YAML 1.2 does: ``3e-4`` is a number, ``no`` is text, ``010`` is ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from holdfast.errors import Problem, ScenarioError
from holdfast.scenarios.source import bounds

KeyPath = tuple[str | int, ...]
"""Keys and list indices that lead to a value: ``("tasks", 0, "env")``."""

_CHARACTERS_PER_VALUE = bounds.CHARACTERS // bounds.VALUES
_CORE = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F_]+|0o[0-7_]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
_OPEN_CALL = re.compile(r"\w+\([^()]*")  # uniform(1
_NO_VALUE = re.compile(r"expected the node content, but found (.+)")
_GLUED = re.compile(r"(\w+):(\S+)")  # algorithm:ppo
_PLAIN_TAGS = {_CORE + kind for kind in ("null", "bool", "int", "float", "str", "merge")}


@dataclass(frozen=True)
class Place:
    """A place in a file, or in an override (``line`` is 0 then)."""

    file: str
    line: int = 0
    column: int = 0
    source_line: str = ""

    def problem(self, message: str, path: KeyPath = ()) -> Problem:
        """Return a problem at this place."""
        return Problem(message, dotted(path), self.file, self.line, self.column, self.source_line)


@dataclass
class Size:
    """What a document holds, with aliases and merges expanded, counted while it is read.

    Attributes:
        values: Values and merged mappings.
        characters: Characters of its texts.
        most: Most values that it may hold.
    """

    values: int = 0
    characters: int = 0
    most: int = bounds.VALUES

    def add(self, values: int, characters: int = 0) -> str:
        """Count more, and return what is too much then; empty where nothing is."""
        self.values += values
        self.characters += characters
        if self.values > self.most:
            return f"with its aliases and merges expanded, it holds more than {self.most:,} values"
        if self.characters > self.most * _CHARACTERS_PER_VALUE:
            most = self.most * _CHARACTERS_PER_VALUE
            return f"with its aliases expanded, it holds more than {most:,} characters of text"
        return ""


@dataclass
class Source:
    """A YAML document: its plain data, and where each key and value stands.

    Attributes:
        file: Its name.
        data: What it says, without what was refused.
        keys: The place of each key.
        values: The place of each value.
        problems: What was refused.
        unread: Paths of values that were refused, which are None now.
        origins: Paths that were written elsewhere, and where.
        size: What it holds, that of its overrides included.
    """

    file: str
    data: Any
    keys: dict[KeyPath, Place]
    values: dict[KeyPath, Place]
    problems: list[Problem]
    unread: set[str] = field(default_factory=set)
    origins: dict[KeyPath, KeyPath] = field(default_factory=dict)
    size: Size = field(default_factory=Size)

    def problem(self, path: KeyPath, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem at a value (or its key), or else at what is nearest around it."""
        path = self._written(path)
        places = self.keys if at_key else self.values
        for end in range(len(path), -1, -1):
            # What is missing is reported at the key of the section that lacks it.
            found = places.get(path[:end]) if end == len(path) else self.keys.get(path[:end])
            place = found or self.values.get(path[:end])
            if place:
                return place.problem(message, path)
        return Place(self.file).problem(message, path)

    def _written(self, path: KeyPath) -> KeyPath:
        """Return the path under which a key was written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.origins:
                return (*self.origins[path[:end]], *path[end:])
        return path


def dotted(path: KeyPath) -> str:
    """Return a path as Python would write it.

    >>> dotted(("tasks", 1, "env"))
    'tasks[1].env'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read(content: bytes, file: str, *, resolved: bool = False) -> Source:
    """Return the document in ``content``; duplicate keys and refused tags are in its ``problems``.

    Args:
        content: Of the file.
        file: Its name.
        resolved: Whether it is the scenario of a run folder, which may be larger.

    Raises:
        ScenarioError: If it is not one YAML document of a reasonable size in UTF-8.
    """
    most = bounds.RESOLVED_BYTES if resolved else bounds.FILE_BYTES
    if len(content) > most:
        message = (
            f"the file is larger than the {most // 1024:,} KiB that a scenario may have; "
            "write what tasks share once, in task_defaults:"
        )
        raise ScenarioError([Place(file).problem(message)])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        message = f"not UTF-8 text (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise ScenarioError([Place(file, line, column).problem(message)]) from error
    return _Reader(text, file, bounds.RESOLVED_VALUES if resolved else bounds.VALUES).read()


_TOO_DEEP = f"nested more than {bounds.DEPTH} levels deep"


class _Composer(yaml.composer.Composer, yaml.resolver.BaseResolver):
    """Makes nodes of a parser's events, with YAML 1.2 scalars and a limit on depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as PyYAML declares it
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > bounds.DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[attr-defined]  # a parser has it
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Loader(_Composer, yaml.SafeLoader):
    """Reads with PyYAML's own parser, whose errors say most."""


_Fast = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader


class _FastLoader(_Composer, _Fast):  # type: ignore[misc, valid-type]  # the base is known at run time
    """Reads with libyaml, where PyYAML was built with it."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        _Fast.__init__(self, stream)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes whatever either YAML version would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  # PyYAML's signature
        return True


for _kind, _pattern, _first in _RESOLVERS:
    for _class in (_Composer, _Dumper):
        _class.add_implicit_resolver(_CORE + _kind, re.compile(f"(?:{_pattern})$"), _first)


def dump(data: Any) -> str:
    """Return plain data as YAML that :func:`read` reads back equal."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


class _Reader:
    """Builds plain data from YAML nodes and notes where everything stands."""

    def __init__(self, text: str, file: str, most: int) -> None:
        self.text, self.file = text, file
        self.lines = text.splitlines()
        self.source = Source(file, None, {}, {}, [], size=Size(most=most))

    def read(self) -> Source:
        node: yaml.Node | None
        try:
            try:
                node = yaml.compose(self.text, Loader=_FastLoader)
            except yaml.YAMLError:
                node = yaml.compose(self.text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            raise ScenarioError([self._syntax(error)]) from error
        except yaml.reader.ReaderError as error:
            message = f"the character U+{int(error.character):04X} cannot stand in YAML"
            raise ScenarioError([self._at(error.position).problem(message)]) from error
        if node is None:
            message = "the file is empty; a scenario needs at least tasks: and agent:"
            raise ScenarioError([Place(self.file, 1, 1).problem(message)])
        self.source.data = self._build(node, (), ())
        return self.source

    def _syntax(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark or error.context_mark
        assert mark is not None
        message = str(error.problem or error.context)
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        if "quoted scalar" in str(error.context) and "end of stream" in message:
            mark = error.context_mark or mark  # where the quote stands, not the end of the file
            return self._place(mark).problem("not valid YAML: this quote is never closed")
        if "\t" in line[: mark.column + 1]:
            message = "a tab indents this line; YAML is indented with spaces"
        elif "<block end>" in message:
            message = "the indentation of this line fits nothing above it"
        elif "mapping values are not allowed" in message:
            message += "; check the indentation, or quote text that holds ': '"
        elif found := _NO_VALUE.fullmatch(message):
            message = f"a value is missing before {found[1].replace('<stream end>', 'the end')}"
        elif "expected a single document" in str(error.context):
            message = "a second document starts here ('---'); a file holds one scenario"
        elif "found duplicate anchor" not in message and error.context_mark:
            start = f"which starts in line {error.context_mark.line + 1}"
            message = f"{message} {error.context or ''}, {start}"
        return self._place(mark).problem(f"not valid YAML: {message}")

    def _at(self, position: int) -> Place:
        before = self.text[:position]
        line = before.count("\n")
        return Place(self.file, line + 1, position - before.rfind("\n"))

    def _place(self, mark: yaml.Mark) -> Place:
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        shown = line.replace("\t", " ")[:200] if mark.column < 200 else ""
        return Place(self.file, mark.line + 1, mark.column + 1, shown.rstrip())

    def _refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.source.problems.append(self._place(node.start_mark).problem(message, path))

    def _build(self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]) -> Any:
        """Return the plain value of a node; ``inside`` holds the nodes around it."""
        self._count(node, path, inside)
        if id(node) in inside:
            message = "this value contains itself, through an alias"
            raise ScenarioError([self._place(node.start_mark).problem(message, path)])
        self.source.values[path] = self._place(node.start_mark)
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path, inside)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [
                self._build(child, (*path, index), inside) for index, child in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            return self._scalar(node, path)
        self.source.unread.add(dotted(path))
        tag = node.tag.replace(_CORE, "!!")
        self._refuse(
            node, path, f"the tag '{tag}' is refused; a scenario holds plain values, never code"
        )
        return None

    def _count(self, node: yaml.Node, path: KeyPath, inside: tuple[int, ...]) -> None:
        """Count a value or a merged mapping before anything below it is read."""
        characters = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        message = self.source.size.add(1, characters)
        if not message and len(inside) >= bounds.DEPTH:
            message = f"with its aliases and merges expanded, it is {_TOO_DEEP}"
        if message:
            raise ScenarioError([self._place(node.start_mark).problem(message, path)])

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.removeprefix(_CORE)
        try:
            if kind == "int":
                digits = text.replace("_", "")
                if len(digits) > bounds.DIGITS:
                    raise ValueError(text)
                base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
                return int(digits, base)
            if kind == "float":
                return self._float(text)
        except ValueError:
            self._refuse(node, path, f"'{text[:40]}' is not a number")
            self.source.unread.add(dotted(path))
            return None
        if kind == "bool":
            return text.lower() == "true"
        return None if kind == "null" else text

    def _float(self, text: str) -> float:
        if text.lower() == ".nan":  # it equals nothing, not even the scenario it stands in
            raise ValueError(text)
        return float(re.sub(r"\.(inf)$", r"\1", text.replace("_", "").lower()))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, inside: tuple[int, ...]) -> Any:
        found: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        last: yaml.Node | None = None
        for key_node, value_node, merged in self._pairs(node, path, inside):
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, path, "a key is a single word, not a list or a mapping")
                continue
            key = self._scalar(key_node, path)
            if wrong := _split_wrongly(key_node, value_node, last):
                self._refuse(key_node, path, wrong)
                self.source.unread.add(dotted((*path, str(key).partition(":")[0])))
                continue
            last = value_node
            if key in found:
                # A merged key gives way to one of the mapping's own, and to the first of several.
                if not merged:
                    line = key_node.start_mark.line + 1
                    message = f"the key is there twice, in lines {lines[key]} and {line}"
                    self._refuse(key_node, (*path, key), message)
                continue
            lines[key] = key_node.start_mark.line + 1
            self.source.keys[*path, key] = self._place(key_node.start_mark)
            found[key] = self._build(value_node, (*path, key), inside)
        return found

    def _pairs(
        self, node: yaml.MappingNode, path: KeyPath, inside: tuple[int, ...]
    ) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Yield keys and values, those of ``<<: *base`` last and marked as merged."""
        bases: list[yaml.Node] = []
        for key, value in _with_calls_whole(node):
            if key.tag == _CORE + "merge":
                bases += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, False
        for base in bases:
            if not isinstance(base, yaml.MappingNode):
                self._refuse(base, path, "'<<' merges mappings: write '<<: *name'")
            elif id(base) in inside:
                self._refuse(base, path, "this mapping is merged into itself")
            else:
                self._count(base, path, inside)
                for key, value, _ in self._pairs(base, path, (*inside, id(base))):
                    self._count(key, path, inside)
                    yield key, value, True


def _with_calls_whole(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """Return keys and values, with ``{g: uniform(1, 2)}`` read as it is meant.

    YAML ends the value at the comma and takes ``2)`` for a key without a value.
    """
    found: list[tuple[yaml.Node, yaml.Node]] = []
    for key, value in node.value:
        before = found[-1][1] if found else None
        if (
            isinstance(before, yaml.ScalarNode)
            and not before.style
            and _OPEN_CALL.fullmatch(before.value)
            and isinstance(key, yaml.ScalarNode)
            and not value.value
        ):
            text = f"{before.value}, {key.value}"
            whole = yaml.ScalarNode(_CORE + "str", text, before.start_mark, key.end_mark)
            found[-1] = found[-1][0], whole
        else:
            found.append((key, value))
    return found


def _split_wrongly(key: yaml.ScalarNode, value: yaml.Node, before: yaml.Node | None) -> str:
    """Return what to write where YAML divides a text otherwise than it is meant; else nothing.

    Args:
        key: A key.
        value: Its value.
        before: The value before the key.
    """
    if key.style or not isinstance(value, yaml.ScalarNode) or value.value or value.style:
        return ""
    if glued := _GLUED.fullmatch(key.value):
        return f"'{key.value}' is one word to YAML; write '{glued[1]}: {glued[2]}', with a space"
    digits = before.value if isinstance(before, yaml.ScalarNode) else ""
    if re.fullmatch(r"\d{3}", key.value) and re.fullmatch(r"\d{1,3}", digits):
        whole = f"{digits}{key.value}"
        return f"a comma ends the value, so that {key.value} is a key; write {whole} without it"
    return ""
