"""Rounds of updates, run as compiled programs: one for each way in which an update is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import jax
import numpy as np

from holdfast.agents.base import garbage
from holdfast.agents.compiled import account, programs
from holdfast.agents.compiled.lockstep import here
from holdfast.agents.compiled.transfer import array_of, tensors_of
from holdfast.agents.doors.gradients import diverged
from holdfast.agents.tracing.trace import traced
from holdfast.errors import UsageError

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
        state: After it; ``Rounds.told`` reads it.
        figures: By tag, a number for each update that was begun, shape (updates,).
        said: What projections said, for each update.
        begun: Updates that were begun.
        is_over: Whether the last of them was not taken, as it passed a limit.
    """

    state: Any
    figures: dict[str, Any]
    said: list[Any]
    begun: int
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
        self._called: set[Any] = set()
        self._waited_s = 0.0
        self._form: Any = None
        self._layout: Any = None

    def begun(self, state: Any) -> Any:
        """Return a state as ``run`` takes it.

        Args:
            state: Nested arrays, of the same form as any before it.
        """
        form = jax.tree.structure(state)
        if self._layout is None or form != self._form:
            self._form, self._layout = form, programs.Layout(state)
        return self._layout.packed(state)

    def places(self) -> Any:
        """Return where in the vector of a state each of its arrays lies, nested."""
        return self._layout.places()

    def parts(self, state: Any) -> tuple[Any, list[Any]]:
        """Return the vector of a state, and what is beside it, for reading."""
        vector, rest = state.packed() if isinstance(state, programs.Row) else state
        return np.asarray(vector), rest

    def told(self, state: Any) -> Any:
        """Return a state as nested arrays, for reading."""
        return self._layout.unpacked(self.parts(state))

    def run(self, state: Any, shared: Any, planned: list[Planned]) -> Outcome:
        """Run a round of updates.

        Args:
            state: Before it, as ``begun`` or a round gave it.
            shared: What all updates share, as nested arrays.
            planned: The updates, in their order.

        Raises:
            Diverged: If a gradient is not finite.
        """
        if len(planned) == 1:
            return self._single(state, shared, planned[0])
        figures: list[dict[str, Any]] = []
        said: list[Any] = []
        count, is_over = 0, False
        for key, owns in _segments(planned):
            length = self._lengths[key] = max(self._lengths.get(key, 1), _power(len(owns)))
            with self._made(key, length):
                program = self._program(key, state, shared, owns[0])
                call = programs.Call(state, shared, stacked(owns, length), len(owns), None)
                done = self._done(program, call)
            state, taken = done.state, int(done.count)
            _check(program, done, is_well=done.well)
            told = np.asarray(done.figures)[:taken, :-1]
            figures.append(dict(zip(program.tags, told.T, strict=True)))
            if jax.tree.leaves(done.said):
                rows = jax.tree.map(np.asarray, done.said)
                said += [jax.tree.map(lambda of, n=n: of[n], rows) for n in range(taken)]
            count += taken
            if done.is_over:
                is_over = True
                break
        return Outcome(state, joined(figures), said, count, is_over)

    def _single(self, state: Any, shared: Any, update: Planned) -> Outcome:
        """Run a round of one update, as most off-policy ones are: what is around it counts."""
        leaves, form = jax.tree.flatten(update.own)
        arrays = [array_of(leaf) for leaf in leaves]
        key = update.how, form, tuple(array.shape for array in arrays)
        with self._made(key, 1):
            program = self._program(key, state, shared, update.own)
            done = self._done(program, programs.Call(state, shared, arrays, None, form))
        told = np.asarray(done.figures)
        _check(program, done, is_well=told[-1])
        figures = {tag: told[place : place + 1] for place, tag in enumerate(program.tags)}
        said = [done.said] if jax.tree.leaves(done.said) else []
        return Outcome(done.state, figures, said, 1, self._stops and bool(done.is_over))

    def _done(self, program: programs.Program, call: programs.Call) -> programs.Done:
        """Take updates, with those of others that learn in lockstep."""
        member = here()
        if member is None:
            return program.alone(call)
        done: programs.Done

        def together(calls: list[programs.Call]) -> list[tuple[programs.Done, float]]:
            began = time.monotonic()
            done = program.together(calls)
            return [(one, time.monotonic() - began) for one in done]

        began = time.monotonic()
        done, worked_s = member.meet((program, call.kind), call, together)
        self._waited_s += time.monotonic() - began - worked_s
        return done

    @contextmanager
    def _made(self, key: Any, length: int) -> Iterator[None]:
        """Count the time of a first call, in which a program is traced and compiled."""
        if (key, length) in self._called:
            yield
            return
        began, waited_s = time.monotonic(), self._waited_s
        yield
        self._called.add((key, length))
        garbage.set_apart_again()  # tracing leaves as many objects as imports do
        account.add(making_s=time.monotonic() - began - (self._waited_s - waited_s))

    def _program(self, key: Any, state: Any, shared: Any, own: Any) -> Any:
        if key not in self._programs:
            how = key[0]

            def one(state: Any, shared: Any, own: Any) -> Any:
                return self._function(how, state, shared, own)

            given = (self.told(state), shared, own)
            examples = [tensors_of(one) for one in given]
            try:
                step = traced(one, *examples, name="an update, the methods' functions included,")
            except UsageError as error:
                # Its text has the place; what torch passed through on the way says nothing more.
                raise UsageError(f"agent.engine: compiled: {error}; or write engine: sb3") from None
            self._programs[key] = programs.program_of(step, self._layout, stops=self._stops)
        return self._programs[key]


def _segments(planned: list[Planned]) -> Iterator[tuple[Any, list[Any]]]:
    """Return updates in a row that one program does: its key, and what each gets."""
    for found, updates in groupby(planned, lambda update: _key(update.how, update.own)):
        yield found, [update.own for update in updates]


def _key(how: Hashable, own: Any) -> Any:
    leaves, form = jax.tree.flatten(own)
    return how, form, tuple(tuple(leaf.shape) for leaf in leaves)


def _check(program: programs.Program, done: programs.Done, *, is_well: Any) -> None:
    """Raise where a gradient was not finite."""
    if not is_well:
        finite = np.asarray(done.finite).tolist()
        raise diverged([n for n, well in zip(program.names, finite, strict=True) if not well])


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return figures of several rounds as those of one, shape (updates,) by tag."""
    tags = dict.fromkeys(tag for part in parts for tag in part)
    return {tag: np.concatenate([part[tag] for part in parts if tag in part]) for tag in tags}


def stacked(owns: list[Any], length: int) -> Any:
    """Return what updates get as arrays with a row for each, padded with zeros.

    Args:
        owns: Nested tensors or arrays of equal structure and shapes.
        length: Rows.
    """
    form = jax.tree.structure(owns[0])
    columns = zip(*(jax.tree.leaves(own) for own in owns), strict=True)
    rows = []
    for column in columns:
        first = array_of(column[0])
        made = np.zeros((length, *first.shape), first.dtype)
        for number, value in enumerate(column):
            made[number] = array_of(value)
        rows.append(made)
    return jax.tree.unflatten(form, rows)


def _power(count: int) -> int:
    """Return the least power of two that is not below ``count``: few shapes are compiled."""
    return 1 << (count - 1).bit_length()
