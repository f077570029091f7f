"""The kinds of values that scenario fields take: strict, but ``1e5`` is a whole number too."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from holdfast.scenarios.source import bounds


@cache
def descriptions(section: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a section.

    Read when it is asked for: pydantic's ``use_attribute_docstrings`` reads every model at import,
    which takes a fifth of the time of ``validate``.
    """
    (node,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(node, ast.ClassDef)
    found: dict[str, str] = {}
    for pair in pairwise(node.body):
        match pair:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=text)):
                found[name] = " ".join(str(text).split())
    return found


def _described(schema: dict[str, Any], section: type[BaseModel]) -> None:
    """Add the descriptions of a section to its JSON Schema."""
    for name, text in descriptions(section).items():
        schema["properties"][name]["description"] = text


SECTION = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_described)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def whole(value: Any) -> Any:
    """Return an int for a float without a fraction (``1e5``), anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    seen: set[int] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{value!r} is listed twice")
        seen.add(value)
    return values


def _permutation(values: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(values) != list(range(len(values))):
        raise ValueError(f"must hold every index from 0 to {len(values) - 1} once")
    return values


Whole = Annotated[int, Field(strict=True), BeforeValidator(whole)]
Positive = Annotated[int, Field(strict=True, gt=0), BeforeValidator(whole)]
Steps = Annotated[int, Field(strict=True, gt=0, le=bounds.STEPS), BeforeValidator(whole)]
Index = Annotated[int, Field(strict=True, ge=0), BeforeValidator(whole)]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1), BeforeValidator(whole)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
AtLeastZero = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]
AboveZero = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Name = Annotated[str, Field(strict=True, pattern=NAME_PATTERN, max_length=100)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
Indices = Annotated[tuple[Index, ...], Field(min_length=1), AfterValidator(_distinct)]
Permutation = Annotated[tuple[Index, ...], Field(min_length=1), AfterValidator(_permutation)]


def _listed(value: Any) -> Any:
    """Return one name as a list of one."""
    return [value] if isinstance(value, str) else value


Tracker = Literal["wandb", "mlflow", "trackio"]
Trackers = Annotated[tuple[Tracker, ...], BeforeValidator(_listed)]


def told_by(*kinds: type, tag: str, other: str) -> Discriminator:
    """Return the discriminator of a union of two tagged forms, so that one alone is reported.

    Args:
        *kinds: Types of the values that have the first form.
        tag: Of that form.
        other: Tag of the other form.
    """
    return Discriminator(lambda value: tag if isinstance(value, kinds) else other)


class Sparse(BaseModel):
    """A section that is written out with the fields alone that say something."""

    model_config = SECTION

    @model_serializer(mode="wrap")
    def _only_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value not in (None, {})}
