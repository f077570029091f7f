"""The ``sweep:`` and ``tune:`` sections: values that are compared, and ranges that are searched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from holdfast.scenarios.schema.fields import SECTION, Index, Positive, Seeds, Text
from holdfast.scenarios.source import bounds

SWEEP_FORMS = (
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
        raise ValueError(f"a single value is no sweep; {SWEEP_FORMS}")
    if not given:
        raise ValueError(f"must not be empty; {SWEEP_FORMS}")
    _few(len(given))
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
    if len(given) != 1 or kind not in ("range", "linear", "log"):
        raise ValueError(f"{dict(given)!r} is no range; {SWEEP_FORMS}")
    third = "step" if kind == "range" else "count"
    low, high, last = numbers(given[kind], kind, ("low", "high", third))
    if kind == "range":
        return _in_steps(low, high, last)
    parts = _count(last) - 1
    if kind == "log":
        inside = [low * (high / low) ** (index / parts) for index in range(1, parts)]
    else:
        inside = [low + (high - low) * index / parts for index in range(1, parts)]
    return [low, *map(_rounded, inside), high]


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
    if not math.isfinite(high - low) or (kind == "log" and not math.isfinite(high / low)):
        raise ValueError(f"{form}: {low:g} and {high:g} lie too far apart")
    return list(given)


def same(value: Any) -> Any:
    """Return what is equal for equal values alone: 1 and true are two."""
    return (isinstance(value, bool), value)


def _in_steps(low: float, high: float, step: float) -> list[float]:
    if step <= 0:
        raise ValueError(f"range goes in steps above zero, got {step:g}")
    parts = (high - low) / step * (1 + 1e-9)
    if not math.isfinite(parts):
        raise ValueError(f"step {step:g} is too small between {low:g} and {high:g}")
    count = _few(math.floor(parts) + 1)
    return [_rounded(low + index * step) for index in range(count)]


def _rounded(number: float) -> float:
    """Return a number without the last digits, in which 0.3 differs from 3 x 0.1."""
    return number if isinstance(number, int) else float(f"{number:.12g}")


def _count(count: float) -> int:
    if count != int(count) or count < 2:
        raise ValueError(f"count is a whole number from 2, got {count:g}")
    return _few(int(count))


def _few(count: int) -> int:
    if count > bounds.SWEPT_VALUES:
        raise ValueError(f"means {count:,} values; at most {bounds.SWEPT_VALUES:,} are taken")
    return count


def _schema(choices: dict[str, Any], **ranges: tuple[int, str]) -> WithJsonSchema:
    """Return the schema of a list of choices, or one of the ranges: how many numbers, and which."""
    numbers = {"type": "array", "items": {"type": "number"}}
    properties = {
        name: {**numbers, "minItems": count, "maxItems": count, "description": which}
        for name, (count, which) in ranges.items()
    }
    one = {"additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    either = {"type": "array", **choices}, {"type": "object", "properties": properties, **one}
    return WithJsonSchema({"anyOf": [*either]})


Values = Annotated[
    tuple[Any, ...],
    BeforeValidator(values),
    _schema(
        {"minItems": 1},
        range=(3, "low, high, step; both ends included"),
        linear=(3, "low, high, count"),
        log=(3, "low, high, count"),
    ),
]


SPACE_FORMS = (
    "write a list of choices, {log: [low, high]}, {linear: [low, high]}, {int: [low, high]} or "
    "{range: [low, high, step]}"
)


def dimension(given: Any) -> Any:
    """Return one dimension of a search space as it is, where it is one.

    Raises:
        ValueError: If it is of another form.

    >>> dimension({"log": [1e-5, 1e-3]}), dimension(["relu", "tanh"])
    ({'log': [1e-05, 0.001]}, ['relu', 'tanh'])
    """
    if isinstance(given, Mapping):
        kind = next(iter(given), None)
        if len(given) != 1 or kind not in ("log", "linear", "int", "range"):
            raise ValueError(f"{dict(given)!r} is no range; {SPACE_FORMS}")
        if kind == "range":
            in_short(given)
            return {kind: list(given[kind])}
        bounds = numbers(given[kind], kind, ("low", "high"))
        if kind == "int" and any(bound != int(bound) for bound in bounds):
            raise ValueError(f"int: [low, high] has whole numbers, got {bounds}")
        return {kind: [int(bound) for bound in bounds] if kind == "int" else bounds}
    if not isinstance(given, list | tuple):
        raise ValueError(f"a single value leaves nothing to look for; {SPACE_FORMS}")
    if len(values(given)) < 2:
        raise ValueError("one choice leaves nothing to look for; give the key that value")
    return list(given)


def probes(given: Any) -> list[Any]:
    """Return values of a dimension that stand for all: both ends and one between, or all choices.

    >>> probes({"int": [1, 9]}), probes({"linear": [0, 1]})
    ([1, 5, 9], [0, 0.5123, 1])
    """
    if not isinstance(given, Mapping):
        return list(given)
    ((kind, bounds),) = given.items()
    low, high = bounds[:2]
    if kind == "range":
        return in_short(given)
    if kind == "int":
        return [low, (low + high) // 2, high]
    return [low, low + 0.5123 * (high - low), high]  # a fraction, wherever it lies


Dimension = Annotated[
    Any,
    BeforeValidator(dimension),
    _schema(
        {"minItems": 2, "description": "Choices without an order."},
        log=(2, "low, high; logarithms are uniform"),
        linear=(2, "low, high"),
        int=(2, "low, high; whole numbers"),
        range=(3, "low, high, step"),
    ),
]
Percent = Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)]


class Tune(BaseModel):
    """A search for the best values, and the part of the study that it may see."""

    model_config = SECTION

    space: dict[Text, Dimension] = Field(min_length=1)
    """Keys and where their values lie: {agent.learning_rate: {log: [1e-5, 1e-3]}}."""
    percent: Percent | None = None
    """Share of the stream's steps that tuning sees, from its start (arXiv:2404.02113).
    Default: the whole stream, on seeds of its own.
    """
    seeds: Seeds | None = None
    """Held-out seeds for tuning. Default, with percent: those of the scenario."""
    metric: Text = "average_performance/cw"
    """Metric by which points are compared, averaged over the seeds."""
    method: Text | None = None
    """The label of the method; needed where several are listed."""
    trials: Annotated[Positive, Field(le=bounds.TRIALS)] = 20
    """Number of points to try."""
    seed: Index = 0
    """Seed of the sampler."""
