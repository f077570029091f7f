"""Two balls that fall, of which one is to be caught, seen as a picture.

One file beside its scenario, nothing registered. The scenario names it ``catch:Catch``.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_COLOURS = {"red": (214, 40, 40), "blue": (40, 90, 214)}
_GROUND, _BASKET = (24, 24, 24), (220, 220, 220)


class Catch(gym.Env[NDArray[np.uint8], np.int64]):
    """Be below the ball of the wanted colour when it comes down.

    ## Description
    A field of 9 by 9 cells. A red and a blue ball fall side by side, a cell in each step, and a
    basket of one cell moves along the lowest row. After `Catch` of bsuite (Osband et al. 2020,
    arXiv:1908.03568), with a second ball, so that tasks differ in which of them is wanted.

    ## Action Space
    `Discrete(3)`: the basket goes left, stays, goes right.

    ## Observation Space
    `Box(0, 255, (36, 36, 3), uint8)`: the field, 4 by 4 pixels a cell. Which ball is wanted is not
    shown: it must be learned, or known from the task.

    ## Rewards
    1 in the last step if the basket is below the wanted ball, else 0.

    ## Starting State
    The balls are in the highest row, in two different columns; the basket is in the middle.

    ## Episode End
    After 8 steps, when the balls are in the lowest row. `info["is_success"]` tells whether the
    wanted one was caught.

    ## Arguments
    * `wanted`: `red` or `blue`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012  # Gymnasium's form

    cells, pixels = 9, 4

    def __init__(
        self, wanted: Literal["red", "blue"] = "red", render_mode: str | None = None
    ) -> None:
        if wanted not in _COLOURS:
            raise ValueError(f"wanted is {wanted!r}; it must be red or blue")
        self.wanted, self.render_mode = wanted, render_mode
        side = self.cells * self.pixels
        self.action_space = spaces.Discrete(3)
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)
        self.columns, self.row, self.basket = {"red": 0, "blue": 1}, 0, self.cells // 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Let two balls fall from new places."""
        super().reset(seed=seed, options=options)
        drawn = self.np_random.choice(self.cells, len(_COLOURS), replace=False)
        self.columns = {name: int(column) for name, column in zip(_COLOURS, drawn, strict=True)}
        self.row, self.basket = 0, self.cells // 2
        return self._picture(), {"is_success": False}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the basket, and let the balls fall by a cell."""
        self.basket = min(max(self.basket + int(action) - 1, 0), self.cells - 1)
        self.row += 1
        is_over = self.row == self.cells - 1
        is_caught = is_over and self.basket == self.columns[self.wanted]
        return self._picture(), float(is_caught), is_over, False, {"is_success": is_caught}

    def render(self) -> NDArray[np.uint8]:
        """Return the picture, larger."""
        return self._picture().repeat(8, axis=0).repeat(8, axis=1)

    def _picture(self) -> NDArray[np.uint8]:
        field = np.full((self.cells, self.cells, 3), _GROUND, np.uint8)
        field[-1, self.basket] = _BASKET
        for name, column in self.columns.items():
            field[self.row, column] = _COLOURS[name]
        return field.repeat(self.pixels, axis=0).repeat(self.pixels, axis=1)
