"""The values of ``sweep:``: a list, or a range in short, ``{log: [1e-5, 1e-3, 3]}``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

MOST_VALUES = 1000
FORMS = (
    "write a list, {range: [low, high, step]}, {linear: [low, high, count]} or "
    "{log: [low, high, count]}"
)


def values(given: Any) -> tuple[Any, ...]:
    """Return the values of a key that is swept.

    Raises:
        ValueError: If they are of another form, none, or one of them is there twice.

    >>> values({"range": [1, 10, 3]}), values({"log": [1e-5, 1e-3, 3]})
    ((1, 4, 7, 10), (1e-05, 0.0001, 0.001))
    """
    if isinstance(given, Mapping):
        given = in_short(given)
    if not isinstance(given, list | tuple):
        raise ValueError(f"a single value is no sweep; {FORMS}")
    if not given:
        raise ValueError(f"must not be empty; {FORMS}")
    seen = [same(value) for value in given]
    for index, value in enumerate(seen):
        if value in seen[:index]:
            raise ValueError(f"{given[index]!r} is listed twice")
    return tuple(given)


def in_short(given: Mapping[Any, Any]) -> list[Any]:
    """Return the values that a range means.

    Raises:
        ValueError: If it is none.
    """
    kind = next(iter(given), None)
    if len(given) != 1 or kind not in _RANGES:
        raise ValueError(f"{dict(given)!r} is no range; {FORMS}")
    third = "step" if kind == "range" else "count"
    low, high, last = numbers(given[kind], kind, ("low", "high", third))
    return _RANGES[kind](low, high, last)


def numbers(given: Any, kind: str, names: tuple[str, ...]) -> list[float]:
    """Return the numbers of a form such as ``log: [low, high]``, low below high.

    Raises:
        ValueError: If they are others.
    """
    form = f"{kind}: [{', '.join(names)}]"
    if not isinstance(given, list | tuple) or len(given) != len(names):
        raise ValueError(f"write {{{form}}}")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{form} has numbers, got {number!r}")
        if not math.isfinite(number):
            raise ValueError(f"{form} has finite numbers, got {number}")
    low, high = given[:2]
    if low >= high:
        raise ValueError(f"{form} goes upwards, but {low:g} is not below {high:g}")
    if kind == "log" and low <= 0:
        raise ValueError(f"{form} begins above zero, got {low:g}")
    return list(given)


def same(value: Any) -> Any:
    """Return what is equal for equal values alone: 1 and true are two."""
    return (isinstance(value, bool), value)


def _range(low: float, high: float, step: float) -> list[float]:
    if step <= 0:
        raise ValueError(f"range goes in steps above zero, got {step:g}")
    count = math.floor((high - low) / step * (1 + 1e-9)) + 1
    _check_count(count)
    return [_rounded(low + index * step) for index in range(count)]


def _linear(low: float, high: float, count: float) -> list[float]:
    between = _count(count) - 1
    inside = [_rounded(low + (high - low) * index / between) for index in range(1, between)]
    return [low, *inside, high]


def _log(low: float, high: float, count: float) -> list[float]:
    between = _count(count) - 1
    inside = [_rounded(low * (high / low) ** (index / between)) for index in range(1, between)]
    return [low, *inside, high]


def _rounded(number: float) -> float:
    """Return a number without the last digits, in which 0.3 differs from 3 x 0.1."""
    return number if isinstance(number, int) else float(f"{number:.12g}")


def _count(count: float) -> int:
    if count != int(count) or count < 2:
        raise ValueError(f"count is a whole number from 2, got {count:g}")
    _check_count(int(count))
    return int(count)


def _check_count(count: int) -> None:
    if count > MOST_VALUES:
        raise ValueError(f"means {count:,} values; at most {MOST_VALUES:,} are taken")


_RANGES: dict[str, Callable[[float, float, float], list[float]]] = {
    "range": _range,
    "linear": _linear,
    "log": _log,
}

_THREE = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
_SCHEMA = {
    "anyOf": [
        {"type": "array", "minItems": 1},
        {
            "type": "object",
            "properties": {
                "range": {**_THREE, "description": "low, high, step; both ends included"},
                "linear": {**_THREE, "description": "low, high, count"},
                "log": {**_THREE, "description": "low, high, count"},
            },
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        },
    ]
}

Values = Annotated[tuple[Any, ...], BeforeValidator(values), WithJsonSchema(_SCHEMA)]
