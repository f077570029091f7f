"""Departures: the states in which a later policy acts otherwise than that of the task's end did."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from holdfast.continual.probes.attack import gap
from holdfast.continual.probes.attribution import numbers
from holdfast.continual.probes.visited_states import Seen, View
from holdfast.continual.results.curves import Array

FAR = 0.1
"""Part of the range of an entry of a continuous action by which it counts as another action."""

FEWEST_CLUSTERED, MOST_CLUSTERS = 10, 5
"""States below which there is one cluster, and clusters at most."""


class Departures(NamedTuple):
    """What a policy does otherwise.

    Attributes:
        divergence: Of its output in every state, shape (states,).
        departed: Places of the states in which its most likely action is another one.
    """

    divergence: Array
    departed: NDArray[np.intp]


def departures(view: View, true: View, seen: Seen) -> Departures:
    """Return where a policy departs from another one.

    Args:
        view: The policy.
        true: That of the task's end.
        seen: What both are shown.
    """
    spec, policy = true.agent.output().spec, true.agent.policy
    with torch.no_grad():
        said, before = (one.of(lambda output: output(seen.values)) for one in (view, true))
        divergence = numbers(gap(spec, policy, before, said))
    space = policy.action_space
    actions, own = view.actions(), true.actions()
    far: Any = actions != own
    if isinstance(space, gym.spaces.Box):
        far = np.abs(actions - own) > FAR * (space.high - space.low)
    return Departures(divergence, np.flatnonzero(far.reshape(len(far), -1).any(axis=1)))


def standardised(rows: Array) -> Array:
    """Return columns in standard deviations from their mean; 0 for one that never moves."""
    spread = rows.std(axis=0)
    scaled: Array = (rows - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def clusters(scaled: Array, departed: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return states in clusters, the largest first: as many as have the best mean silhouette.

    Args:
        scaled: What they are told apart by, shape (all states, features).
        departed: Places of the states.
    """
    if len(departed) < FEWEST_CLUSTERED:
        return [departed] if len(departed) else []
    from sklearn.cluster import KMeans  # here: it is slow to import
    from sklearn.metrics import silhouette_score

    rows = scaled[departed]
    distinct = len(np.unique(rows, axis=0))
    best, labels = 0.0, np.zeros(len(rows), dtype=int)
    for count in range(2, min(MOST_CLUSTERS, distinct - 1) + 1):
        tried = KMeans(count, n_init=10, random_state=0).fit_predict(rows)
        score = silhouette_score(rows, tried)
        if score > best:
            best, labels = score, tried
    groups = [departed[labels == label] for label in np.unique(labels)]
    return sorted(groups, key=len, reverse=True)


def middle(scaled: Array, group: NDArray[np.intp]) -> int:
    """Return the place of the state that is nearest to the middle of a cluster."""
    away = np.linalg.norm(scaled[group] - scaled[group].mean(axis=0), axis=1)
    return int(group[away.argmin()])
