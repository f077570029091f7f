"""Compiled programs: a traced update, repeated over what each of many updates gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Step = Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]]
"""State, what all updates share, what this one gets; to state, figures, what is finite, sayings."""


class Done(NamedTuple):
    """What a program did.

    Attributes:
        state: After the last update.
        count: Updates that were begun; the last one was not taken where a limit was passed.
        figures: By tag, shape (updates,); of a single one, shape ().
        well: Whether all gradients were finite.
        finite: By parameter, whether its gradients were.
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
        stops: Whether such a limit counts.
    """

    def __init__(self, step: Step, *, stops: bool) -> None:
        self._step, self._stops = step, stops
        self.one, self.many = jax.jit(self._one), jax.jit(self._many)

    def _one(self, state: Any, shared: Any, own: Any) -> Done:
        after, figures, finite, said = self._step(state, shared, own)
        is_over = jnp.array(False)
        if self._stops:
            is_over = figures["approx_kl"] > shared["numbers"]["most_kl"]
            after = jax.tree.map(lambda old, new: jnp.where(is_over, old, new), state, after)
        well = jnp.all(jnp.stack(jax.tree.leaves(finite))) | is_over
        return Done(after, jnp.array(1), figures, well, finite, said, is_over)

    def _many(self, state: Any, shared: Any, each: Any, count: Any) -> Done:
        """Take ``count`` of the updates that ``each`` has rows for."""
        first = jax.tree.map(lambda rows: rows[0], each)
        kinds = jax.eval_shape(self._one, state, shared, first)
        length = len(jax.tree.leaves(each)[0])
        rows = jax.tree.map(
            lambda kind: jnp.zeros((length, *kind.shape), kind.dtype), (kinds.figures, kinds.said)
        )
        begun = jax.tree.map(lambda kind: jnp.ones(kind.shape, kind.dtype), kinds)
        state = jax.tree.map(lambda v, kind: jnp.asarray(v, kind.dtype), state, kinds.state)
        begun = begun._replace(state=state, is_over=jnp.array(False))

        def goes_on(carry: Any) -> Any:
            number, last, _ = carry
            return (number < count) & last.well & ~last.is_over

        def body(carry: Any) -> Any:
            number, last, rows = carry
            own = jax.tree.map(lambda values: values[number], each)
            done = self._one(last.state, shared, own)
            told = (done.figures, done.said)
            rows = jax.tree.map(lambda of, value: of.at[number].set(value), rows, told)
            return number + 1, done, rows

        number, last, rows = jax.lax.while_loop(goes_on, body, (jnp.array(0), begun, rows))
        return last._replace(count=number, figures=rows[0], said=rows[1])
