"""Rounds of updates, run as compiled programs: one for each way in which an update is done."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from torch.utils._pytree import tree_flatten, tree_unflatten

from holdfast.agents.compiled import programs
from holdfast.agents.compiled.trace import traced
from holdfast.agents.compiled.transfer import array_of, arrays_of, tensors_of
from holdfast.agents.doors.gradients import diverged

Function = Callable[[Any, Any, Any, Any], tuple[Any, Any, Any, Any]]
"""How it is done, state, what all updates share, what this one gets: to state, figures, what is
finite, and sayings of projections."""


class Planned(NamedTuple):
    """An update that is to be done.

    Attributes:
        how: The way in which it is done, which a program is traced for.
        own: What it gets, as nested tensors or arrays.
    """

    how: Hashable
    own: Any


class Outcome(NamedTuple):
    """What came of a round.

    Attributes:
        state: After it, as arrays of the compiled programs.
        figures: By tag, a number for each update that was begun.
        said: What projections said, for each update.
        count: Updates that were begun.
        is_over: Whether the last of them was not taken, as it passed a limit.
    """

    state: Any
    figures: dict[str, list[float]]
    said: list[Any]
    count: int
    is_over: bool = False


class Rounds:
    """Traces and compiles updates as they come, and runs them.

    Args:
        function: One update.
        stops: Whether a round ends before an update that passes a limit; see ``programs``.
    """

    def __init__(self, function: Function, *, stops: bool = False) -> None:
        self._function, self._stops = function, stops
        self._programs: dict[Any, Any] = {}
        self._lengths: dict[Any, int] = {}

    def run(self, state: Any, shared: Any, planned: list[Planned]) -> Outcome:
        """Run a round of updates.

        Args:
            state: Before it, as nested arrays.
            shared: What all updates share, as nested arrays.
            planned: The updates, in their order.

        Raises:
            Diverged: If a gradient is not finite.
        """
        if len(planned) == 1:
            return self._single(state, shared, planned[0])
        figures: dict[str, list[float]] = {}
        said: list[Any] = []
        count = 0
        for key, owns in _segments(planned):
            program = self._program(key, state, shared, owns[0])
            length = self._lengths[key] = max(self._lengths.get(key, 1), _power(len(owns)))
            done = program.many(state, shared, stacked(owns, length), len(owns))
            state, taken = done.state, int(done.count)
            _check(done)
            for tag, values in done.figures.items():
                figures.setdefault(tag, []).extend(np.asarray(values)[:taken].tolist())
            said += [
                jax.tree.map(lambda rows, n=n: np.asarray(rows[n]), done.said) for n in range(taken)
            ]
            count += taken
            if done.is_over:
                return Outcome(state, figures, said, count, is_over=True)
        return Outcome(state, figures, said, count)

    def _single(self, state: Any, shared: Any, update: Planned) -> Outcome:
        """Run a round of one update, as most off-policy ones are: what is around it counts."""
        own = arrays_of(update.own)
        program = self._program(_key(update.how, own), state, shared, own)
        done = program.one(state, shared, own)
        _check(done)
        figures = {tag: [value] for tag, value in done.figures.items()}
        return Outcome(done.state, figures, [done.said], 1, bool(done.is_over))

    def _program(self, key: Any, state: Any, shared: Any, own: Any) -> Any:
        if key not in self._programs:
            how = key[0]

            def one(state: Any, shared: Any, own: Any) -> Any:
                return self._function(how, state, shared, own)

            step = traced(one, *(tensors_of(given) for given in (state, shared, own)))
            self._programs[key] = programs.Program(step.on(jnp), stops=self._stops)
        return self._programs[key]


def _segments(planned: list[Planned]) -> Iterator[tuple[Any, list[Any]]]:
    """Return updates in a row that one program does: its key, and what each gets."""
    for found, updates in groupby(planned, lambda update: _key(update.how, update.own)):
        yield found, [update.own for update in updates]


def _key(how: Hashable, own: Any) -> Any:
    leaves, spec = tree_flatten(own)
    return how, tuple(tuple(np.shape(leaf)) for leaf in leaves), str(spec)


def _check(done: programs.Done) -> None:
    """Raise where a gradient was not finite."""
    if not done.well:
        raise diverged([name for name, well in done.finite.items() if not well])


def stacked(owns: list[Any], length: int) -> Any:
    """Return what updates get as arrays with a row for each, padded with zeros.

    Args:
        owns: Nested tensors or arrays of equal structure and shapes.
        length: Rows.
    """
    spec = tree_flatten(owns[0])[1]
    columns = zip(*(tree_flatten(own)[0] for own in owns), strict=True)
    rows = []
    for column in columns:
        first = array_of(column[0])
        made = np.zeros((length, *first.shape), first.dtype)
        for number, value in enumerate(column):
            made[number] = array_of(value)
        rows.append(made)
    return tree_unflatten(rows, spec)


def _power(count: int) -> int:
    """Return the least power of two that is not below ``count``: few shapes are compiled."""
    return 1 << (count - 1).bit_length()
