"""A field in which food grows, of two kinds whose worth changes with the seasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
_FIRST, _SECOND = 1, 2


class ForagingField(gym.Env[NDArray[np.float32], np.int64]):
    """Eat what the season makes good, in a field without edges and without an end.

    ## Description
    A torus of cells. Each is empty or holds one of two plants. In summer the first kind is food and
    the second is bitter, in winter it is the other way round, and in between both are worth little.
    What is eaten grows again somewhere else: the first kind near the middle of a patch that wanders
    round the field once a year, the second opposite of it. The season is not observed.

    ## Action Space
    `Discrete(4)`: one cell up, down, left, right.

    ## Observation Space
    `Box(0, 1, (2 * sight ** 2,), float32)`: for each cell around the forager, row by row, whether
    the first kind grows there; then the same of the second kind.

    ## Rewards
    `cos(2 pi t / year)` for eating the first kind at step `t`, minus that for the second; 0 else.

    ## Starting State
    The middle of the field, at the first step of summer (after `show_step(n)`, at step `n`).

    ## Episode End
    Never.

    ## Arguments
    * `size`: cells along each side.
    * `sight`: cells along each side that are seen, odd.
    * `plants`: of each kind.
    * `year`: steps; above 0.
    """

    def __init__(self, size: int = 15, sight: int = 5, plants: int = 20, year: int = 10_000):
        if not 1 <= sight <= size or sight % 2 == 0:
            raise ValueError(f"sight must be odd and at most size ({size}), not {sight}")
        if not 0 < 2 * plants < size * size or year <= 0:
            raise ValueError("plants of both kinds must leave a cell free, and a year must last")
        self.size, self.plants, self.year = size, plants, year
        self._around = np.arange(sight) - sight // 2
        self.observation_space = spaces.Box(0.0, 1.0, (2 * sight * sight,), np.float32)
        self.action_space = spaces.Discrete(4)
        self._first_step = 0

    def show_step(self, step: int) -> None:
        """Begin at this step of the world's life from the next reset on, for evaluation."""
        self._first_step = step

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002  # there are none
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a life."""
        super().reset(seed=seed)
        self.time = self._first_step
        self.place = np.array([self.size // 2, self.size // 2])
        self.field = np.zeros((self.size, self.size), dtype=np.int8)
        for kind in (_FIRST, _SECOND):
            for _ in range(self.plants):
                self._grow(kind)
        return self._seen(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move by one cell, and eat what grows there."""
        self.place = (self.place + _MOVES[int(action)]) % self.size
        eaten = int(self.field[self.place[0], self.place[1]])
        reward = 0.0
        if eaten:
            self.field[self.place[0], self.place[1]] = 0
            reward = self.worth if eaten == _FIRST else -self.worth
            self._grow(eaten)
        self.time += 1
        return self._seen(), reward, False, False, {}

    @property
    def worth(self) -> float:
        """Reward for the first kind now, -1 to 1."""
        return float(np.cos(2 * np.pi * (self.time % self.year) / self.year))

    def get_state(self) -> dict[str, Any]:
        """Return all that changes in a life."""
        return {
            "time": self.time,
            "place": self.place.copy(),
            "field": self.field.copy(),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``get_state`` gave."""
        self.time = int(state["time"])
        self.place, self.field = state["place"].copy(), state["field"].copy()
        self.np_random.bit_generator.state = state["random"]

    def _grow(self, kind: int) -> None:
        """Let a plant grow on a free cell near the patch of its kind, not under the forager."""
        turn = 2 * np.pi * ((self.time % self.year) / self.year + 0.5 * (kind == _SECOND))
        middle = self.size / 2 + self.size / 4 * np.array([np.cos(turn), np.sin(turn)])
        spread = self.size / 6
        while True:
            cell = np.rint(self.np_random.normal(middle, spread)).astype(int) % self.size
            if not self.field[cell[0], cell[1]] and (cell != self.place).any():
                self.field[cell[0], cell[1]] = kind
                return
            spread *= 1.1  # a full patch grows at its edge

    def _seen(self) -> NDArray[np.float32]:
        rows = (self.place[0] + self._around) % self.size
        columns = (self.place[1] + self._around) % self.size
        near = self.field[np.ix_(rows, columns)].ravel()  # (sight * sight,)
        return np.concatenate([near == _FIRST, near == _SECOND]).astype(np.float32)
