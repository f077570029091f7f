"""Nested arguments and results: dicts, lists, tuples and NamedTuples of tensors or arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from holdfast.errors import UsageError

Read = Callable[[Any, list[Any]], None]
"""``read(tree, into)`` appends the arrays of a tree to a list."""

Build = Callable[[list[Any]], Any]
"""``build(values)`` makes a tree of arrays out of a list that has them at known places."""


@dataclass(frozen=True)
class Slot:
    """Stands for the entry of a list of arrays."""

    index: int


def copied(tree: Any, path: str, leaves: list[Tensor]) -> Callable[[Iterator[Tensor]], Any]:
    """Append copies of a tree's tensors to ``leaves``; return what rebuilds it from as many others.

    They are copies, because two arguments that are one tensor would be one input of a trace.

    Raises:
        UsageError: If something in the tree is no tensor.
    """
    if tree is None:
        return lambda given: None
    if isinstance(tree, Tensor):
        leaves.append(tree.detach().clone())
        return next
    if isinstance(tree, Mapping):
        parts = {key: copied(one, f"{path}[{key!r}]", leaves) for key, one in tree.items()}
        return lambda given: {key: part(given) for key, part in parts.items()}
    if isinstance(tree, list | tuple):
        items = [copied(one, f"{path}[{i}]", leaves) for i, one in enumerate(tree)]
        return lambda given: _like(tree, [item(given) for item in items])
    raise UsageError(
        f"{path} is {tree!r}; a function is traced on tensors and on dicts, lists and tuples of "
        "them: bind what is no tensor with functools.partial"
    )


def reader(tree: Any, path: str) -> Read:
    """Return what appends the arrays of trees of this form, in the order of ``copied``."""
    if tree is None:
        return lambda given, into: None
    if isinstance(tree, Tensor):
        return _leaf_reader(tuple(tree.shape), path)
    keys = list(tree) if isinstance(tree, Mapping) else range(len(tree))
    # By key: JAX hands in dicts that are sorted.
    parts = [(key, reader(tree[key], f"{path}[{key!r}]")) for key in keys]

    def read(given: Any, into: list[Any]) -> None:
        if len(given) != len(parts):
            raise UsageError(f"{path} has {len(given)} entries, not {len(parts)} as when traced")
        for key, part in parts:
            part(given[key], into)

    return read


def _leaf_reader(shape: tuple[int, ...], path: str) -> Read:
    def read(given: Any, into: list[Any]) -> None:
        if given.shape != shape:
            raise UsageError(f"{path} has the shape {given.shape}, not {shape} as when traced")
        into.append(given)

    return read


def numbered(tree: Any, found: list[Tensor]) -> Any:
    """Return a result with slots for its tensors, which are appended to ``found``."""
    if isinstance(tree, Tensor):
        found.append(tree)
        return Slot(len(found) - 1)
    if isinstance(tree, Mapping):
        return {key: numbered(one, found) for key, one in tree.items()}
    if isinstance(tree, list | tuple):
        return _like(tree, [numbered(one, found) for one in tree])
    return tree


def builder(tree: Any, results: list[Slot], as_array: Callable[[Any], Any]) -> Build:
    """Return what makes a result.

    Args:
        tree: As ``numbered`` returned it.
        results: Where the tensors that it found are among the values.
        as_array: Makes an array of a value that may be a number.
    """
    if isinstance(tree, Slot):
        index = results[tree.index].index
        return lambda values: as_array(values[index])
    if isinstance(tree, Mapping):
        parts = {key: builder(one, results, as_array) for key, one in tree.items()}
        return lambda values: {key: part(values) for key, part in parts.items()}
    if isinstance(tree, list | tuple):
        items = [builder(one, results, as_array) for one in tree]
        return lambda values: _like(tree, [item(values) for item in items])
    return lambda values: tree


def _like(tree: Any, items: list[Any]) -> Any:
    """Return items as a list, a tuple, or the NamedTuple that ``tree`` is."""
    if isinstance(tree, list):
        return items
    return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
