"""Compiled programs: a traced update, repeated over what each of many updates gets.

The state goes in and comes out as one vector: a call costs by the arrays that it is handed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Step = Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]]
"""State, what all updates share, what this one gets; to state, figures, what is finite, sayings."""


class Layout:
    """Where nested arrays lie in one vector; those of another type stay beside it.

    Args:
        state: Nested arrays.
    """

    def __init__(self, state: Any) -> None:
        leaves, self._tree = jax.tree.flatten(state)
        kinds = [np.asarray(leaf).dtype for leaf in leaves]
        self._shapes = [np.shape(leaf) for leaf in leaves]
        self._kind = next((kind for kind in kinds if np.issubdtype(kind, np.floating)), None)
        self._is_inside = [kind == self._kind for kind in kinds]
        sizes = [
            int(np.prod(shape)) if inside else 0
            for shape, inside in zip(self._shapes, self._is_inside, strict=True)
        ]
        self._ends = np.cumsum(sizes).tolist()

    def places(self) -> Any:
        """Return where each array lies in the vector, nested; None for one beside it."""
        spans = zip([0, *self._ends[:-1]], self._ends, self._is_inside, strict=True)
        leaves = [slice(start, end) if inside else None for start, end, inside in spans]
        return jax.tree.unflatten(self._tree, leaves)

    def packed(self, state: Any, arrays: Any = np) -> Any:
        """Return the vector, and what is beside it.

        Args:
            state: Nested as the one that this was made of.
            arrays: NumPy, or JAX's NumPy inside a program.
        """
        leaves = jax.tree.leaves(state)
        split = list(zip(leaves, self._is_inside, strict=True))
        inside = [arrays.ravel(leaf) for leaf, is_inside in split if is_inside]
        vector = arrays.concatenate(inside) if inside else arrays.zeros(0)
        return vector, [leaf for leaf, is_inside in split if not is_inside]

    def unpacked(self, packed: Any) -> Any:
        """Return the nested arrays, views of NumPy's vector."""
        vector, rest = packed
        beside = iter(rest)
        starts = [0, *self._ends[:-1]]
        leaves = [
            vector[start:end].reshape(shape) if inside else next(beside)
            for start, end, shape, inside in zip(
                starts, self._ends, self._shapes, self._is_inside, strict=True
            )
        ]
        return jax.tree.unflatten(self._tree, leaves)


class Done(NamedTuple):
    """What a program did.

    Attributes:
        state: After the last update, packed.
        count: Updates that were begun; the last one was not taken where a limit was passed.
        figures: Shape (updates, figures + 1); of a single one, shape (figures + 1,). The last says
            once more whether all gradients were finite: a host reads one array faster than two.
        well: Whether all gradients were finite.
        finite: Shape (parameters,): whether the gradients of each were.
        said: What projections say, a row for each update.
        is_over: Whether a limit was passed.
    """

    state: Any
    count: Any
    figures: Any
    well: Any
    finite: Any
    said: Any
    is_over: Any


class Program:
    """A traced update, compiled for one of them and for many.

    Many end early where a gradient is not finite or, with ``stops``, before an update whose
    ``approx_kl`` is above ``shared["numbers"]["most_kl"]``.

    Args:
        step: One update, on JAX's arrays.
        layout: Of the state.
        stops: Whether such a limit counts.

    Attributes:
        tags: What the figures are, in their order; known once it has been called.
        names: Parameters, in the order of ``Done.finite``.
    """

    def __init__(self, step: Step, layout: Layout, *, stops: bool) -> None:
        self._step, self._layout, self._stops = step, layout, stops
        self.tags: list[str] = []
        self.names: list[str] = []
        self.one, self.many = jax.jit(self._one, static_argnums=3), jax.jit(self._many)

    def _one(self, packed: Any, shared: Any, leaves: list[Any], form: Any) -> Done:
        """Take one update, which gets leaves of this form."""
        state, own = self._layout.unpacked(packed), jax.tree.unflatten(form, leaves)
        return self._done(*self._taken(state, shared, own))

    def _taken(self, state: Any, shared: Any, own: Any) -> tuple[Any, Done]:
        """Return the state after an update, and what is told of it."""
        after, figures, finite, said = self._step(state, shared, own)
        is_over = jnp.array(False)
        if self._stops:
            is_over = figures["approx_kl"] > shared["numbers"]["most_kl"]
            after = jax.tree.map(lambda old, new: jnp.where(is_over, old, new), state, after)
        self.tags, self.names = list(figures), list(finite)
        wells = jnp.stack(list(finite.values()))
        well = jnp.all(wells) | is_over
        told = jnp.stack([*figures.values(), well])
        return after, Done(None, jnp.array(1), told, well, wells, said, is_over)

    def _done(self, state: Any, done: Done) -> Done:
        return done._replace(state=self._layout.packed(state, jnp))

    def _many(self, packed: Any, shared: Any, each: Any, count: Any) -> Done:
        """Take ``count`` of the updates that ``each`` has rows for."""
        state = self._layout.unpacked(packed)
        first = jax.tree.map(lambda rows: rows[0], each)
        kinds = jax.eval_shape(self._taken, state, shared, first)
        length = len(jax.tree.leaves(each)[0])
        rows = jax.tree.map(
            lambda kind: jnp.zeros((length, *kind.shape), kind.dtype),
            (kinds[1].figures, kinds[1].said),
        )
        begun = jax.tree.map(lambda kind: jnp.ones(kind.shape, kind.dtype), kinds[1])
        begun = begun._replace(is_over=jnp.array(False))

        def goes_on(carry: Any) -> Any:
            number, _, last, _ = carry
            return (number < count) & last.well & ~last.is_over

        def body(carry: Any) -> Any:
            number, state, _, rows = carry
            own = jax.tree.map(lambda values: values[number], each)
            state, done = self._taken(state, shared, own)
            told = (done.figures, done.said)
            rows = jax.tree.map(lambda of, value: of.at[number].set(value), rows, told)
            return number + 1, state, done, rows

        carry = (jnp.array(0), state, begun, rows)
        number, state, last, rows = jax.lax.while_loop(goes_on, body, carry)
        return self._done(state, last._replace(count=number, figures=rows[0], said=rows[1]))
