"""A pool of EnvPool's whose environments are built anew for every episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdfast.seeding import derive


class FreshPool:
    """Environments side by side, as in one pool of EnvPool's, that no reset has spoilt.

    Environments that are reset together come into a new pool together: where all episodes have the
    same length, as in Meta-World, there is never more than one. Building one takes as long as some
    300 steps.

    An environment's first episode has the seed that it would have in one pool; later ones have
    seeds derived from that and the number of the episode.

    Args:
        build: Returns a pool of EnvPool's with an environment for each seed; its observations must
            be arrays.
        seeds: One for each environment.
    """

    def __init__(self, build: Callable[[Sequence[int]], Any], seeds: Sequence[int]) -> None:
        self._build, self._seeds = build, list(seeds)
        self._episodes = [0] * len(self._seeds)
        self._pools: list[Any] = [None] * len(self._seeds)
        self._places = np.zeros(len(self._seeds), np.int32)  # of each environment in its pool
        self._sent: list[list[int]] = []  # rows of the actions, for each pool that is stepping
        self._stepping: list[Any] = []

    def reset(self, ids: NDArray[np.int32] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in some of the environments, or in all; rows in the order of ``ids``."""
        chosen = range(len(self._seeds)) if ids is None else ids.tolist()
        pool = self._build([self._seed(index) for index in chosen])
        for place, index in enumerate(chosen):
            self._pools[index], self._places[index] = pool, place
            self._episodes[index] += 1
        return pool.reset()  # type: ignore[no-any-return]  # EnvPool ships no types

    def step(self, actions: NDArray[Any], ids: NDArray[np.int32] | None = None) -> tuple[Any, ...]:
        """Step some of the environments, or all; rows in the order of ``ids``."""
        self.send(actions, np.arange(len(self._seeds), dtype=np.int32) if ids is None else ids)
        return self.recv()

    def send(self, actions: NDArray[Any], ids: NDArray[np.int32]) -> None:
        """Begin a step of some of the environments."""
        groups: dict[int, list[int]] = {}
        for row, index in enumerate(ids.tolist()):
            groups.setdefault(id(self._pools[index]), []).append(row)
        self._sent = list(groups.values())
        for rows in self._sent:
            within = ids[rows]
            self._pools[within[0]].send(actions[rows], self._places[within])
        self._stepping = [self._pools[ids[rows[0]]] for rows in self._sent]

    def recv(self) -> tuple[Any, ...]:
        """End the step that was begun; rows in the order of its ``ids``."""
        parts = [pool.recv() for pool in self._stepping]
        if len(parts) == 1:
            return parts[0]  # type: ignore[no-any-return]
        back = np.argsort(np.concatenate(self._sent))
        *arrays, infos = zip(*parts, strict=True)
        joined = [np.concatenate(array)[back] for array in arrays]
        keys = [key for key, value in infos[0].items() if isinstance(value, np.ndarray)]
        return *joined, {key: np.concatenate([info[key] for info in infos])[back] for key in keys}

    def render(self) -> Any:
        """Return pictures of the environments that were reset together with the first."""
        return self._pools[0].render()

    def _seed(self, index: int) -> int:
        seed, episode = self._seeds[index], self._episodes[index]
        return derive(seed, "episode", episode) if episode else seed
