"""A hand on a table that reaches for a place, or pushes a puck there.

One file beside its scenario, nothing registered. The scenario names it ``push:Table``.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Table(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Bring the hand, or the puck, to the goal.

    ## Description
    A table of 2 by 2 metres, seen from above, its middle at the origin. The hand moves as it is
    told, at once and without inertia. A puck that the hand touches slides away from it, straight
    from the hand's middle to its own, and stays where it is left (quasi-static pushing, much
    friction).

    ## Action Space
    `Box(-1, 1, (2,), float32)`, the speed of the hand along x and y, in units of `speed`.

    ## Observation Space
    `Box(-inf, inf, (6,), float32)`, positions in metres.

    | Num | Observation      |
    |-----|------------------|
    | 0-1 | hand, x and y    |
    | 2-3 | puck, x and y    |
    | 4-5 | from the hand to the puck, x and y |

    The goal is not shown: where it is must be learned.

    ## Rewards
    Minus the distance from the goal of what shall be there, the hand or the puck, in metres.

    ## Starting State
    The hand is below the puck, at (0, -0.7) and (0, -0.2), each off by up to 0.1 m along both axes.

    ## Episode End
    When what shall be at the goal is within 10 cm of it, which `info["is_success"]` tells. Give it
    a time limit.

    ## Arguments
    * `moves`: `hand` (reaching) or `puck` (pushing).
    * `goal`: Where to, x and y.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium's own form

    speed = 0.15  # m in a step
    touch = 0.2  # m between the middles of hand and puck
    tolerance = 0.1  # m

    def __init__(
        self, moves: Literal["hand", "puck"] = "puck", goal: tuple[float, float] = (0.4, 0.1)
    ) -> None:
        if moves not in ("hand", "puck"):
            raise ValueError(f"moves is {moves!r}; it must be hand or puck")
        self.moves, self.goal = moves, np.array(goal, np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
        self.hand, self.puck = np.zeros(2), np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put hand and puck near their starting positions."""
        super().reset(seed=seed, options=options)
        off = self.np_random.uniform(-0.1, 0.1, (2, 2))
        self.hand, self.puck = np.array([0.0, -0.7]) + off[0], np.array([0.0, -0.2]) + off[1]
        return self._observation(), {"is_success": False}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move the hand, and the puck out of its way."""
        self.hand = np.clip(self.hand + self.speed * np.clip(action, -1, 1), -1, 1)
        gap = self.puck - self.hand
        distance = float(np.linalg.norm(gap))
        if 0 < distance < self.touch:
            self.puck = np.clip(self.hand + gap * (self.touch / distance), -1, 1)
        apart = self._from_goal()
        is_there = apart < self.tolerance
        return self._observation(), -apart, is_there, False, {"is_success": is_there}

    def _from_goal(self) -> float:
        there = self.hand if self.moves == "hand" else self.puck
        return float(np.linalg.norm(there - self.goal))

    def _observation(self) -> NDArray[np.float32]:
        return np.array([*self.hand, *self.puck, *(self.puck - self.hand)], np.float32)


# -- who shows how: for `holdfast record --controller push:push` -----------------------------------

REACH, PUSH = (0.3, 0.4), (0.4, 0.1)


def reach(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the action that brings the hand to its goal."""
    return _towards(observation[:2], np.array(REACH))


def push(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an action that pushes the puck to its goal."""
    return _pushing(observation, np.array(PUSH))


def _pushing(observation: NDArray[np.float32], goal: NDArray[Any]) -> NDArray[np.float32]:
    """Return the action that goes behind the puck, or pushes it straight to the goal."""
    hand, puck = observation[:2], observation[2:4]
    left = float(np.linalg.norm(goal - puck))
    if left < 0.02:
        return np.zeros(2, np.float32)
    along = (goal - puck) / left
    behind = float((puck - hand) @ along)  # how far
    aside = hand - puck + behind * along
    if behind < Table.touch - 0.03 or np.linalg.norm(aside) > 0.02:
        return _towards(hand, puck - (Table.touch + 0.1) * along)
    step = min(left + max(0.0, behind - Table.touch), Table.speed)
    return _towards(hand, hand + step * along - 0.5 * aside)


def _towards(hand: NDArray[Any], place: NDArray[Any]) -> NDArray[np.float32]:
    action: NDArray[np.float32] = np.clip((place - hand) / Table.speed, -1, 1).astype(np.float32)
    return action
