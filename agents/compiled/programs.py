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
        figures: By tag, shape (updates,).
        finite: By parameter, whether its gradients were finite.
        said: What projections say, a row for each update.
        is_over: Whether a limit was passed.
    """

    state: Any
    count: Any
    figures: Any
    finite: Any
    said: Any
    is_over: Any


def repeated(step: Step, *, stops: bool = False) -> Callable[..., Done]:
    """Return a compiled function that takes ``count`` of the updates whose rows it is given.

    It ends early where a gradient is not finite or, with ``stops``, before an update whose
    ``approx_kl`` is above ``shared["numbers"]["most_kl"]``.

    Args:
        step: One update.
        stops: Whether such a limit counts.
    """

    def one(state: Any, shared: Any, own: Any) -> tuple[Any, Any, Any, Any, Any]:
        after, figures, finite, said = step(state, shared, own)
        if not stops:
            return after, figures, finite, said, jnp.array(False)
        is_over = figures["approx_kl"] > shared["numbers"]["most_kl"]
        kept = jax.tree.map(lambda old, new: jnp.where(is_over, old, new), state, after)
        return kept, figures, finite, said, is_over

    def all_of(state: Any, shared: Any, each: Any, count: Any) -> Done:
        first = jax.tree.map(lambda rows: rows[0], each)
        kinds = jax.eval_shape(one, state, shared, first)
        length = len(jax.tree.leaves(each)[0])
        _, figures, finite, said, _ = kinds
        rows = jax.tree.map(lambda s: jnp.zeros((length, *s.shape), s.dtype), (figures, said))
        well = jax.tree.map(lambda s: jnp.ones(s.shape, bool), finite)

        def goes_on(carry: Any) -> Any:
            number, _, _, well, is_over = carry
            fine = jnp.all(jnp.stack(jax.tree.leaves(well)))
            return (number < count) & fine & ~is_over

        def body(carry: Any) -> Any:
            number, state, rows, well, _ = carry
            own = jax.tree.map(lambda values: values[number], each)
            state, figures, finite, said, is_over = one(state, shared, own)
            rows = jax.tree.map(lambda r, v: r.at[number].set(v), rows, (figures, said))
            return number + 1, state, rows, finite, is_over

        begun = (jnp.array(0), _shaped(state, kinds[0]), rows, well, jnp.array(False))
        number, state, rows, well, is_over = jax.lax.while_loop(goes_on, body, begun)
        return Done(state, number, rows[0], well, rows[1], is_over)

    return jax.jit(all_of)


def _shaped(state: Any, like: Any) -> Any:
    """Return a state in the types that an update gives it."""
    return jax.tree.map(lambda value, kind: jnp.asarray(value, kind.dtype), state, like)
