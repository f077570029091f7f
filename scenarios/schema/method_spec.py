"""Methods and wrappers in their plain form: a name, or ``{name: {arguments}}``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from holdfast.registry import METHODS, PLUGINS
from holdfast.scenarios.schema.fields import SECTION, Text

WRAPPERS = {"frame_stack": "n", "atari": ""}  # value: the argument of the short form

ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "leaky_relu", "silu", "crelu")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
LAYER_NORMS = ("all", "first", "critics")

_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_LONGEST = 100


def named(value: Any, noun: str, short: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return ``{"name": ..., "arguments": {...}}`` for a name or a mapping of one name.

    Args:
        value: What the scenario holds.
        noun: What it is, for the error text.
        short: Names that may be given one value instead of a mapping, with the argument it means.

    Raises:
        ValueError: If the form is another one; the text says how to write it.
    """
    if isinstance(value, str):
        return {"name": value, "arguments": {}}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a {noun}: a name, or {{name: {{argument: value}}}}")
    if len(value) != 1:
        raise ValueError(_several_keys(value, noun))
    ((name, arguments),) = value.items()
    if not isinstance(name, str):
        raise ValueError(f"expected the name of a {noun}, got {name!r}")
    if arguments is not None and not isinstance(arguments, Mapping):
        argument = (short or {}).get(name)
        if not argument:
            raise ValueError(
                f"expected the arguments of '{name}' as {{argument: value}}, got {arguments!r}"
            )
        arguments = {argument: arguments}
    wrong = [key for key in arguments or {} if not isinstance(key, str)]
    if wrong:
        raise ValueError(f"the arguments of '{name}' have names, got {wrong[0]!r}")
    return {"name": name, "arguments": dict(arguments or {})}


def composed(value: Any) -> list[dict[str, Any]]:
    """Return what ``named`` does, for one method or each of a list; it raises alike."""
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries:
        raise ValueError("expected methods to compose, got an empty list")
    parts = [named(entry, "method") for entry in entries]
    for index, part in enumerate(parts):
        if part["name"] in [other["name"] for other in parts[:index]]:
            raise ValueError(f"'{part['name']}' is composed with itself")
    return parts


def parts_of(entry: Any) -> list[dict[str, Any]]:
    """Return what ``composed`` does; nothing for a wrong form, which the model reports."""
    try:
        parts = composed(entry)
    except ValueError:
        return []
    return parts if all(part["name"] for part in parts) else []


def wrapper_of(entry: Any) -> dict[str, Any] | None:
    """Return what ``named`` does for a wrapper; None for a wrong form, which the model reports."""
    try:
        wrapper = named(entry, "wrapper", WRAPPERS)
    except ValueError:
        return None
    return wrapper if wrapper["name"] else None


def callback_of(entry: Any) -> dict[str, Any] | None:
    """Return what ``wrapper_of`` does, for a callback."""
    try:
        return named(entry, "callback")
    except ValueError:
        return None


def _several_keys(value: Mapping[Any, Any], noun: str) -> str:
    if not value:
        return f"expected the name of a {noun}, got an empty mapping"
    keys = list(value)
    if "name" in value:
        rest = ", ".join(f"{key}: {value[key]}" for key in keys if key != "name")
        return f"write a {noun} as its name with its arguments: '{value['name']}: {{{rest}}}'"
    return (
        f"one {noun} an entry, but this one has the keys {', '.join(map(repr, keys))}; "
        f"arguments go under the name: '{keys[0]}: {{{keys[1]}: ...}}'"
    )


def _plain(name: str, arguments: dict[str, Any]) -> str | dict[str, Any]:
    return {name: arguments} if arguments else name


class Named(BaseModel):
    """A name with arguments, in short: ``module:Class``, or ``{module:Class: {arguments}}``."""

    model_config = SECTION

    name: Text
    arguments: dict[str, Any] = Field(default_factory=dict)

    noun: ClassVar[str]
    known: ClassVar[Mapping[str, str]] = {}
    takes: ClassVar[dict[str, Any]] = {"type": ["object", "null"]}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return value if _is_model_form(value) else named(value, cls.noun, cls.known)

    @model_serializer
    def _write(self) -> str | dict[str, Any]:
        return _plain(self.name, self.arguments)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the plain form, which is what files hold."""
        return {"description": cls.__doc__, **_named_schema(cls.known, cls.takes)}


class Wrapper(Named):
    """A wrapper around the environment: ``frame_stack``, ``atari``, or ``module:Class``."""

    noun: ClassVar[str] = "wrapper"
    known: ClassVar[Mapping[str, str]] = WRAPPERS
    takes: ClassVar[dict[str, Any]] = {"type": ["object", "null", "integer"]}


class Callback(Named):
    """A callback of Stable-Baselines3: ``module:Class``, or ``{module:Class: {arguments}}``."""

    noun: ClassVar[str] = "callback"


class MethodPart(BaseModel):
    """One method of a composition: its name in the registry or ``module:Name``, and arguments."""

    model_config = SECTION

    name: Text
    arguments: dict[str, Any] = Field(default_factory=dict)


class Method(BaseModel):
    """A mitigation that a scenario compares with others, or several composed."""

    model_config = SECTION

    parts: tuple[MethodPart, ...]

    _label: str = PrivateAttr("")

    @classmethod
    def of(cls, *names: str) -> Method:
        """Return the method (or composition) of these names, with default arguments."""
        return cls(parts=tuple(MethodPart(name=name) for name in names))

    @property
    def label(self) -> str:
        """File-name safe name, unique among the scenario's methods: ``ewc-strength=10``."""
        return self._label or self.base_label

    @property
    def base_label(self) -> str:
        """The names alone: ``ewc``, ``ewc+cloning``; the class's own name for ``module:Name``."""
        return safe("+".join(part.name.rpartition(":")[2] for part in self.parts))

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and set(value) == {"parts"}:
            return value
        return {"parts": composed(value)}

    @model_serializer
    def _write(self) -> Any:
        plain = [_plain(part.name, part.arguments) for part in self.parts]
        return plain[0] if len(plain) == 1 else plain

    def __eq__(self, other: object) -> bool:
        """Compare names and arguments; the label depends on the scenario around it."""
        return isinstance(other, Method) and self.parts == other.parts

    __hash__ = None  # type: ignore[assignment]  # holds dicts; pydantic would hash the fields

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the plain form, which is what files hold."""
        one = _named_schema([*METHODS, *PLUGINS], {"type": ["object", "null"]})
        several = {"type": "array", "items": one, "minItems": 1, "description": "Composed."}
        return {"description": cls.__doc__, "anyOf": [*one["anyOf"], several]}


Arguments = Collection[tuple[int, str]]
"""Arguments of a method: the position of the part that takes it, and its name."""


def labelled(
    methods: tuple[Method, ...], shown: Sequence[Arguments] | None = None
) -> tuple[Method, ...]:
    """Return the methods, each labelled by its names and what tells it from others of the same.

    Args:
        methods: The methods.
        shown: For each method, arguments that its label names in any case.
    """
    methods = tuple(method.model_copy() for method in methods)  # another scenario may hold them too
    groups: dict[str, list[tuple[Method, Arguments]]] = {}
    for method, own in zip(methods, shown or [()] * len(methods), strict=True):
        # Folded, because some file systems take `EWC` and `ewc` for one folder.
        groups.setdefault(method.base_label.casefold(), []).append((method, own))
    taken: set[str] = set()
    for group in groups.values():
        for method, own in group:
            wanted = _distinguishing(method, [other for other, _ in group], own)
            method._label = numbered(wanted, taken)
    return methods


def numbered(wanted: str, taken: set[str]) -> str:
    """Return a text, numbered where it is taken already, and take it."""
    text, number = wanted, 1
    while text.casefold() in taken:
        number += 1
        text = f"{wanted}-{number}"
    taken.add(text.casefold())
    return text


def _distinguishing(method: Method, group: list[Method], shown: Arguments) -> str:
    """Return the base label with the names and arguments in which the group differs."""
    names = [[part.name for part in other.parts] for other in group]
    label = method.base_label
    if any(other != names[0] for other in names):
        label = "+".join(part.name for part in method.parts)
    for position, part in enumerate(method.parts):
        others = [other.parts[position].arguments for other in group]
        for key, value in part.arguments.items():
            differs = any(key not in other or other[key] != value for other in others)
            if differs or (position, key) in shown:
                label += f"-{key}={short(value)}"
    return safe(label)


def short(value: Any) -> str:
    """Return a value as labels have it.

    >>> short(1e-4), short(0.12345678), short([64, 64]), short({"linear": [3e-4, 0]})
    ('0.0001', '0.12345678', '64x64', 'linear.0.0003x0')
    """
    if isinstance(value, float):
        text = f"{value:g}"
        return text if float(text) == value else repr(value)
    if isinstance(value, list | tuple):
        return "x".join(map(short, value))
    if isinstance(value, Mapping):
        return ".".join(f"{key}.{short(inner)}" for key, inner in value.items())
    return str(value)


def safe(text: str) -> str:
    """Return a text as the name of a folder."""
    return _UNSAFE.sub(".", text).strip(".")[:_LONGEST] or "method"


def _is_model_form(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"name", "arguments"}


def _named_schema(names: Collection[str], arguments: dict[str, Any]) -> dict[str, Any]:
    own = {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "module:Class of your own"}
    return {
        "anyOf": [
            *([{"enum": sorted(names)}] if names else []),
            own,
            {
                "type": "object",
                "properties": dict.fromkeys(sorted(names), arguments),
                "patternProperties": {r"^[\w.]+:\w+$": arguments},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
        ]
    }
