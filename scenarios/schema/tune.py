"""The ``tune:`` section: what ``holdfast tune`` looks for, and on what it may look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from holdfast.scenarios.schema.fields import SECTION, Index, Positive, Seeds, Text
from holdfast.scenarios.schema.sweep import in_short, numbers, values

FORMS = (
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
            raise ValueError(f"{dict(given)!r} is no range; {FORMS}")
        if kind == "range":
            in_short(given)
            return {kind: list(given[kind])}
        bounds = numbers(given[kind], kind, ("low", "high"))
        if kind == "int" and any(bound != int(bound) for bound in bounds):
            raise ValueError(f"int: [low, high] has whole numbers, got {bounds}")
        return {kind: [int(bound) for bound in bounds] if kind == "int" else bounds}
    if not isinstance(given, list | tuple):
        raise ValueError(f"a single value leaves nothing to look for; {FORMS}")
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


_TWO = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_SCHEMA = {
    "anyOf": [
        {"type": "array", "minItems": 2, "description": "Choices without an order."},
        {
            "type": "object",
            "properties": {
                "log": {**_TWO, "description": "low, high; logarithms are uniform"},
                "linear": {**_TWO, "description": "low, high"},
                "int": {**_TWO, "description": "low, high; whole numbers"},
                "range": {**_TWO, "minItems": 3, "maxItems": 3, "description": "low, high, step"},
            },
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        },
    ]
}

Dimension = Annotated[Any, BeforeValidator(dimension), WithJsonSchema(_SCHEMA)]
Percent = Annotated[float, Field(strict=True, gt=0, le=100, allow_inf_nan=False)]


class Tune(BaseModel):
    """What is looked for, and the part of the study that it may be looked for on."""

    model_config = SECTION

    space: dict[Text, Dimension] = Field(
        min_length=1,
        description="Keys and where their values lie: {agent.learning_rate: {log: [1e-5, 1e-3]}}.",
    )
    percent: Percent | None = Field(
        default=None,
        description="Of the stream's steps, from its start: all that tuning sees (arXiv:2404.02113)"
        ". Default: the whole stream, on seeds of its own.",
    )
    seeds: Seeds | None = Field(
        default=None,
        description="Held-out seeds for tuning. Default, with percent: those of the scenario.",
    )
    metric: Text = Field(
        default="average_performance/cw", description="What is best, averaged over the seeds."
    )
    method: Text | None = Field(
        default=None, description="The label of the method; needed where several are listed."
    )
    trials: Positive = Field(default=20, description="How many points are tried.")
    seed: Index = Field(default=0, description="Of the sampler.")
