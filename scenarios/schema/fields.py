"""The kinds of values that scenario fields take: strict, but ``1e5`` is a whole number too."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

SECTION = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=False)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def whole(value: Any) -> Any:
    """Return an int for a float without a fraction (``1e5``), anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is listed twice")
    return values


def _permutation(values: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(values) != list(range(len(values))):
        raise ValueError(f"must hold every index from 0 to {len(values) - 1} once")
    return values


Whole = Annotated[int, Field(strict=True), BeforeValidator(whole)]
Positive = Annotated[int, Field(strict=True, gt=0), BeforeValidator(whole)]
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


class Sparse(BaseModel):
    """A section that is written out with the fields alone that say something."""

    model_config = SECTION

    @model_serializer(mode="wrap")
    def _only_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value not in (None, {})}
