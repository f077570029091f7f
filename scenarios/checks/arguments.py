"""Checks of arguments: do plain values fit a class or function whose source is read?"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.scenarios.checks.messages import (
    Checked,
    Finding,
    choice,
    did_you_mean,
    show,
    value_hint,
)
from holdfast.scenarios.schema.fields import whole
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import Signature

_LISTS = {
    *("list", "tuple", "set", "frozenset", "List", "Tuple"),
    *("Sequence", "Iterable", "Collection"),
}
_MAPPINGS = {"dict", "Mapping", "Dict", "MutableMapping"}
_SCHEDULES = {"Schedule", "Callable"}
_NOISE = ("normal", "ornstein_uhlenbeck")


class Mismatch(Exception):  # a finding about the scenario, caught where it is placed
    """A value does not fit; the text says what was expected."""


class _Unlike(Exception):  # caught where the kinds of an annotation are tried
    """A value is not of one kind, which the text names."""


def fit_arguments(given: Mapping[Any, Any], name: str, known: Signature, path: KeyPath) -> Checked:
    """Return arguments as ``convert`` does, and which are wrong, unknown or missing.

    Args:
        given: What the scenario gives, by name.
        name: What takes them, for the text.
        known: Its signature; its arguments, or its attribute ``limits``, have the range of numbers.
        path: Of the mapping in the scenario.
    """
    found: list[Finding] = []
    fitted = dict(given)
    arguments = {argument.name: argument for argument in known.arguments}
    for key, value in given.items():
        if key in arguments:
            try:
                fitted[key] = convert(arguments[key].annotation, value)
            except Mismatch as error:
                found.append(Finding((*path, key), str(error)))
                continue
            limits = arguments[key].limits or known.attributes.get("limits", {}).get(key)
            if wrong := limits and out_of_range(fitted[key], *limits):
                found.append(Finding((*path, key), wrong))
        elif not known.takes_any:
            hint = did_you_mean(str(key), arguments, "it takes") or "; it takes none"
            message = f"'{name}' has no argument '{key}'{hint}"
            found.append(Finding((*path, key), message, at_key=True))
    for argument in known.arguments:
        if argument.required and argument.name not in given:
            kind = f" ({argument.annotation})" if argument.annotation else ""
            found.append(Finding(path, f"'{name}' needs the argument '{argument.name}'{kind}"))
    return Checked(found, fitted)


def out_of_range(value: Any, low: float, high: float | None, is_open: bool = False) -> str:
    """Return that a number lies outside of its range; empty for what lies inside, or is none.

    Args:
        value: Anything.
        low: The lowest number.
        high: The highest, or None.
        is_open: Whether the lowest is refused itself.
    """
    if not _is_number(value) or (
        (low < value or (low == value and not is_open))
        and value < math.inf
        and (high is None or value <= high)
    ):
        return ""
    if high is None:
        span = f"{'greater than' if is_open else 'at least'} {low:g}"
    else:
        span = f"above {low:g} and at most {high:g}" if is_open else f"from {low:g} to {high:g}"
    return f"must be {span}, got {value}"


def convert(annotation: str, value: Any) -> Any:
    """Return ``value`` as the annotation wants it: ``1e5`` becomes an int for ``int``.

    >>> convert("int", 1e5), convert("float | Schedule", {"linear": [3e-4, 0]})
    (100000, {'linear': [0.0003, 0]})
    >>> convert("Literal['separate', 'online']", "onlin")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    holdfast.scenarios.checks.arguments.Mismatch: 'onlin' is not one of separate, online; ...

    Raises:
        Mismatch: If it fits none of the kinds that the annotation names.
    """
    options = annotation_options(annotation)
    return _convert(options, value) if options else value


def annotation_options(annotation: str) -> list[ast.expr]:
    """Return the kinds that an annotation names; none where there is no annotation."""
    try:
        return _options(ast.parse(annotation, mode="eval").body) if annotation else []
    except SyntaxError:
        return []  # quoted text that is not Python says nothing


def _convert(options: list[ast.expr], value: Any) -> Any:
    expected: list[str] = []
    inside: list[str] = []  # the kind fits, but something in the value does not
    literals: list[Any] = []
    for option in options:
        kind = form_of(option)
        if kind == "Literal":
            literals += literal_values(option)
            continue
        try:
            return _fit(option, kind, value)
        except _Unlike as error:
            expected.append(str(error))
        except Mismatch as error:
            expected.append(str(error))
            inside.append(str(error))
    for literal in literals:
        if literal == value and type(literal) is type(value):
            return value
    if inside:
        raise Mismatch(inside[0])
    if literals and not expected:
        raise Mismatch(choice(value, [str(literal) for literal in literals]))
    raise Mismatch(_expected([*map(str, literals), *expected], value))


def _expected(expected: list[str], value: Any) -> str:
    words = list(dict.fromkeys(word for word in expected if word != "nothing")) or ["nothing"]
    hints = [hint for word in words if (hint := value_hint(value, word))]
    ending = f"; {hints[0]}" if hints else ""
    return f"expected {' or '.join(words)}, got {show(value)}{ending}"


def _options(node: ast.expr) -> list[ast.expr]:
    """Return the kinds that a union names."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return [*_options(left), *_options(right)]
        case ast.Constant(value=str(text)):
            return _options(ast.parse(text, mode="eval").body)
        case ast.Subscript(value=value, slice=inner):
            elements = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if form_of(value) == "Union":
                return [option for element in elements for option in _options(element)]
            if form_of(value) == "Optional":
                return [*_options(elements[0]), ast.Constant(None)]
            if form_of(value) in ("Annotated", "Final", "Required"):
                return _options(elements[0])
    return [node]


def form_of(node: ast.expr) -> str:
    """Return the bare name of a kind: ``list`` for ``list[int]``, ``Module`` for ``nn.Module``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return form_of(value)
        case ast.Constant(value=None):
            return "None"
    return ""


def literal_values(node: ast.expr) -> list[Any]:
    """Return what a ``Literal[...]`` lists."""
    assert isinstance(node, ast.Subscript)
    elements = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [element.value for element in elements if isinstance(element, ast.Constant)]


def _fit(option: ast.expr, kind: str, value: Any) -> Any:
    """Return the value as this kind wants it.

    Raises:
        _Unlike: If it is of another kind.
        Mismatch: If it is of this kind, but something inside it is wrong.
    """
    if kind in _LISTS:
        return _fit_list(option, value)
    if kind == "int":
        value = whole(value)
    words, test = _KINDS.get(kind, ("", None))
    if test is not None and not test(value):
        raise _Unlike(words)
    return value  # the constructor says what it thinks of a kind that is not known here


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_schedule(value: Any) -> bool:
    if not isinstance(value, Mapping) or list(value) != ["linear"]:
        return False
    ends = value["linear"]
    return isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))


def _is_noise(value: Any) -> bool:
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    ((kind, sigma),) = value.items()
    return kind in _NOISE and _is_number(sigma) and sigma >= 0


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": ("a number", _is_number),
    "str": ("text", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "None": ("nothing", lambda value: value is None),
    "type": ("module:Class", lambda value: isinstance(value, str) and ":" in value),
    "ActionNoise": ("{normal: sigma} or {ornstein_uhlenbeck: sigma}", _is_noise),
    **dict.fromkeys(_SCHEDULES, ("{linear: [start, end]}", _is_schedule)),
    **dict.fromkeys(_MAPPINGS, ("a mapping", lambda value: isinstance(value, Mapping))),
}


def _fit_list(option: ast.expr, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _Unlike("a list")
    elements: list[ast.expr] = []
    if isinstance(option, ast.Subscript):
        inner = option.slice
        elements = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
    if form_of(option) in ("tuple", "Tuple") and elements and not _is_ellipsis(elements[-1]):
        if len(elements) != len(value):
            raise _Unlike(f"a list of {len(elements)}")
        pairs = list(zip(elements, value, strict=True))
    else:
        pairs = [(elements[0], entry) for entry in value] if elements else []
    fitted = list(value)
    for index, (element, entry) in enumerate(pairs):
        try:
            fitted[index] = _convert(_options(element), entry)
        except Mismatch as error:
            raise Mismatch(f"entry {index}: {error}") from error
    return fitted


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
