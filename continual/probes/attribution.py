"""Attributions: how much a policy's action hangs on each entry or pixel, and whether that is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.doors.outputs import Output, OutputSpec
from holdfast.continual.results.curves import Array
from holdfast.errors import MissingExtra

PATH_STEPS = 32
"""Points of the path on which gradients are taken, by Gauss and Legendre."""

DRAWS = 10
"""Draws of random entries, which the entries of highest attribution are compared with."""

_ROWS, _NUMBERS = 8192, 1 << 24
"""Points of paths that are looked at in one go, and numbers in them, at most."""


def attributions(
    output: Callable[[Tensor], Output], spec: OutputSpec, seen: Tensor, base: Tensor
) -> Tensor:
    """Return how much the policy's action hangs on each entry, as integrated gradients.

    They are those of the likeliest category's log-probability, of every action value, or of every
    entry of a continuous action's mean; absolute, and added up: over the channels of a pixel, too.

    Source: Sundararajan, Taly and Yan 2017 (arXiv:1703.01365), equation 1.

    Args:
        output: What the policy says of observations.
        spec: How to read it.
        seen: Observations, shape (states, entries), or pictures (states, channels, height, width).
        base: Where the path begins, of the shape of one observation.

    Returns:
        From 0 on, shape (states, entries), or (states, height x width) of pictures.
    """
    integrated = captum()
    found = torch.zeros_like(seen)
    for decide in _decisions(output, spec, seen):
        method = integrated(lambda rows, decide=decide: decide(rows))
        of_one = method.attribute(
            seen,
            baselines=base.expand_as(seen),
            n_steps=PATH_STEPS,
            internal_batch_size=max(min(_ROWS, _NUMBERS // seen[0].numel()), len(seen)),
        )
        found += of_one.detach().abs().to(found)
    return found if found.ndim == 2 else found.sum(dim=1).flatten(1)


def _decisions(
    output: Callable[[Tensor], Output], spec: OutputSpec, seen: Tensor
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Yield what the action hangs on, each as a function of observations, shape (rows,).

    What was decided is that of the observations that are explained, also on the path to them: a row
    of the path is told by its place, as Captum lays copies of all rows after each other.
    """
    with torch.no_grad():
        said = output(seen)
    if spec.kind != "categorical":
        name = "logits" if spec.kind == "bernoulli" else "mean"
        for entry in range(said[name].shape[-1]):
            yield lambda rows, entry=entry: output(rows)[name][:, entry]  # type: ignore[misc]
        return
    for place, logits in enumerate(torch.split(said["logits"], spec.splits, -1)):
        chosen = logits.argmax(dim=-1)  # (states,)

        def likelihood(rows: Tensor, place: int = place, chosen: Tensor = chosen) -> Tensor:
            part = torch.split(output(rows)["logits"], spec.splits, -1)[place]
            at = chosen.repeat(len(rows) // len(chosen))[:, None]
            return part.log_softmax(-1).gather(1, at)[:, 0]

        yield likelihood


def deleted(
    distance: Callable[[Output], Tensor],
    output: Callable[[Tensor], Output],
    seen: Tensor,
    shares: Tensor,
    removed: int,
) -> tuple[Array, Array]:
    """Return how far the output moves where entries are replaced by their means.

    Args:
        distance: From the output of the true observations, shape (states,).
        output: What the policy says of observations.
        seen: Observations, shape (states, entries), or pictures (states, channels, height, width),
            of which whole pixels are replaced.
        shares: Attributions of the entries that may be replaced, which come first, or of pixels.
        removed: How many are.

    Returns:
        Where those of highest attribution are, and where random ones are, shape (states,) each.
    """
    generator = torch.Generator().manual_seed(0)
    count, base = shares.shape[1], seen.mean(dim=0)

    def moved(order: Tensor) -> Tensor:
        gone = torch.zeros_like(shares, dtype=torch.bool)
        gone.scatter_(1, order[:, :removed], value=True)
        return distance(output(torch.where(_laid_over(seen, gone), base, seen)))

    with torch.no_grad():
        top = moved(shares.argsort(dim=1, descending=True))
        drawn = [
            moved(
                torch.rand((len(seen), count), generator=generator).argsort(dim=1).to(seen.device)
            )
            for _ in range(DRAWS)
        ]
    return numbers(top), numbers(torch.stack(drawn).mean(dim=0))


def _laid_over(seen: Tensor, gone: Tensor) -> Tensor:
    """Return which numbers of observations belong to entries, or pixels, that are gone."""
    if seen.ndim == 2:
        rest = seen.shape[1] - gone.shape[1]
        return torch.nn.functional.pad(gone, (0, rest))
    return gone.reshape(len(seen), 1, *seen.shape[2:])  # in all channels


def captum() -> Any:
    """Return Captum's class of integrated gradients.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise MissingExtra("holdfast explain", "captum", "explain") from error
    return IntegratedGradients


def numbers(found: Tensor) -> Array:
    """Return a tensor as an array of float64."""
    return np.asarray(found.detach().double().cpu())
