"""A robot arm that follows a target while its payload, friction and motors change for ever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

_LENGTHS, _MASS, _TORQUE, _STEP_S = np.array([0.5, 0.5]), 1.0, 10.0, 0.02
_SUBSTEPS = 2


class WearingArm(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Keep the fingertip of a two-joint arm at a target that wanders, as the arm wears.

    ## Description
    The arm lies in a horizontal plane (no gravity), its shoulder at the origin. Its two links are
    0.5 m long, massless rods with 1 kg at the end; the payload is added to the fingertip. Three
    things change with time, none of which is observed and none of which ever comes to rest:

    | what     | value at step t                                                                |
    |----------|--------------------------------------------------------------------------------|
    | payload  | `1 + sin(2 pi t / period) / 2 + sin(2 pi t / (period * sqrt 2)) / 2` kg        |
    | friction | `1 + sin(2 pi t / (period * sqrt 3))` N m s, of both joints                    |
    | wear     | motors lose `1 - 2 ** (-t / half_life)` of `most_wear` of their torque         |

    As the periods share no multiple, the arm is never twice the same.

    ## Action Space
    `Box(-1, 1, (2,), float32)`: torque of shoulder and elbow in units of 10 N m.

    ## Observation Space
    `Box(-inf, inf, (8,), float32)`: cosine and sine of the shoulder's angle, of the elbow's;
    velocity of both (rad/s); target minus fingertip, x and y (m).

    ## Rewards
    Minus the distance between fingertip and target in metres, minus 0.01 times the squared action.

    ## Starting State
    Straight ahead, at rest, with angles off by up to 0.1 rad; after `show_step(n)`, at step `n` of
    the wear. The target goes to a place within reach, 1 cm a step, and then to the next.

    ## Episode End
    Never.

    ## Arguments
    * `period`: steps, above 0.
    * `half_life`: of the motors' wear, steps, above 0.
    * `most_wear`: share of the torque that is lost in the end, from 0 to below 1.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(
        self, period: float = 10_000, half_life: float = 100_000, most_wear: float = 0.6
    ) -> None:
        if period <= 0 or half_life <= 0 or not 0 <= most_wear < 1:
            raise ValueError("period and half_life must be above 0, most_wear from 0 to below 1")
        self.period, self.half_life, self.most_wear = period, half_life, most_wear
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
        self.angles = np.array([np.pi / 2, 0.0]) + self.np_random.uniform(-0.1, 0.1, 2)
        self.velocities = np.zeros(2)
        self.target, self.goal = self._reachable(), self._reachable()
        return self._seen(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply torques for 20 ms."""
        given = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        torque = given * _TORQUE * (1.0 - self.wear)
        for _ in range(_SUBSTEPS):
            # Semi-implicit Euler. Velocities are bounded, as a real arm's are by its drives.
            self.velocities = self.velocities + _STEP_S / _SUBSTEPS * self._acceleration(torque)
            self.velocities = np.clip(self.velocities, -20.0, 20.0)
            self.angles = self.angles + _STEP_S / _SUBSTEPS * self.velocities
        self.angles = (self.angles + np.pi) % (2 * np.pi) - np.pi
        self._move_target()
        self.time += 1
        away = float(np.hypot(*(self.target - self.fingertip)))
        return self._seen(), -away - 0.01 * float(given @ given), False, False, {}

    # -- what changes ------------------------------------------------------------------------------

    @property
    def payload(self) -> float:
        """Mass at the fingertip, kg."""
        return 1.0 + 0.5 * self._wave(1.0) + 0.5 * self._wave(2.0)

    @property
    def friction(self) -> float:
        """Viscous friction of both joints, N m s."""
        return 1.0 + self._wave(3.0)

    @property
    def wear(self) -> float:
        """Share of the torque that the motors have lost."""
        return self.most_wear * float(1.0 - 2.0 ** (-self.time / self.half_life))

    def _wave(self, of: float) -> float:
        return float(np.sin(2 * np.pi * self.time / (self.period * np.sqrt(of))))

    # -- the body ----------------------------------------------------------------------------------

    @property
    def fingertip(self) -> NDArray[np.float64]:
        """Position of the fingertip, x and y in metres."""
        absolute = np.cumsum(self.angles)
        return np.array([_LENGTHS @ np.cos(absolute), _LENGTHS @ np.sin(absolute)])

    def _acceleration(self, torque: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the acceleration of both joints, rad/s^2: of two point masses on rods."""
        (first, second), tip = _LENGTHS, _MASS + self.payload
        cos, sin = np.cos(self.angles[1]), np.sin(self.angles[1])
        v1, v2 = self.velocities
        coupling = tip * first * second
        m12 = tip * second**2 + coupling * cos
        m11 = (_MASS + tip) * first**2 + tip * second**2 + 2 * coupling * cos
        inertia = np.array([[m11, m12], [m12, tip * second**2]])
        turning = coupling * sin * np.array([-(2 * v1 * v2 + v2**2), v1**2])
        force = torque - self.friction * self.velocities - turning
        return np.linalg.solve(inertia, force)

    def _reachable(self) -> NDArray[np.float64]:
        angle, radius = self.np_random.uniform(-np.pi, np.pi), self.np_random.uniform(0.3, 0.9)
        return radius * np.array([np.cos(angle), np.sin(angle)])

    def _move_target(self) -> None:
        way = self.goal - self.target
        left = float(np.hypot(*way))
        if left <= 0.01:
            self.target, self.goal = self.goal, self._reachable()
        else:
            self.target = self.target + 0.01 * way / left

    def _seen(self) -> NDArray[np.float32]:
        (a, b), away = self.angles, self.target - self.fingertip
        row = [np.cos(a), np.sin(a), np.cos(b), np.sin(b), *self.velocities, *away]
        return np.array(row, dtype=np.float32)

    # -- its state ---------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """Return all that changes in a life."""
        moving = {name: getattr(self, name).copy() for name in _MOVING}
        return {"time": self.time, **moving, "random": self.np_random.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``get_state`` gave."""
        self.time = int(state["time"])
        for name in _MOVING:
            setattr(self, name, np.array(state[name]))
        self.np_random.bit_generator.state = state["random"]


_MOVING = ("angles", "velocities", "target", "goal")
