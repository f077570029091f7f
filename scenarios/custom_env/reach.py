"""A planar arm with two joints that reaches for a target on its left or right.

An example of an environment of your own: one file beside the scenario, nothing registered. The
scenario names it ``reach:Reach``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Reach(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Bring the fingertip of a two-joint arm to a target and hold it there.

    ## Description
    The arm lies in a horizontal plane (no gravity), its shoulder at the origin. Each link is a
    massless rod with a mass of 1 kg at its end; the payload is added to the fingertip. Motors work
    against viscous friction. The target is not observed: which side it is on must be learned, or
    known from the task.

    ## Action Space
    `Box(-1, 1, (2,), float32)`, motor torques in units of `max_torque`.

    | Num | Action          | Min | Max |
    |-----|-----------------|-----|-----|
    | 0   | shoulder torque | -1  | 1   |
    | 1   | elbow torque    | -1  | 1   |

    ## Observation Space
    `Box(-inf, inf, (8,), float32)`.

    | Num | Observation                               | Unit  |
    |-----|-------------------------------------------|-------|
    | 0-1 | cosine of the shoulder and elbow angle    |       |
    | 2-3 | sine of the shoulder and elbow angle      |       |
    | 4-5 | angular velocity of the shoulder, elbow   | rad/s |
    | 6-7 | position of the fingertip, x and y        | m     |

    ## Rewards
    Minus the distance between fingertip and target in metres, minus 0.01 times the squared action.

    ## Starting State
    The arm points straight ahead (along y), at rest; both angles are off by up to 0.1 rad.

    ## Episode End
    It never ends by itself: give it a time limit. `info["is_success"]` tells whether the fingertip
    is within 5 cm of the target.

    ## Arguments
    * `target_side`: `left` or `right`.
    * `link_lengths`: upper arm and forearm, in metres. The target moves with them.
    * `payload`: mass in the gripper, in kg.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # Gymnasium's own form

    max_torque = 4.0  # N m
    friction = 2.0  # N m s/rad
    control_period = 0.1  # s
    physics_steps = 10  # in one control period
    tolerance = 0.05  # m

    def __init__(
        self,
        target_side: Literal["left", "right"] = "right",
        link_lengths: tuple[float, float] = (0.5, 0.5),
        payload: float = 0.0,
    ) -> None:
        if target_side not in ("left", "right"):
            raise ValueError(f"target_side is {target_side!r}; it must be left or right")
        self.upper_arm, self.forearm = link_lengths
        self.payload = payload
        reach = self.upper_arm + self.forearm
        sign = 1.0 if target_side == "right" else -1.0
        self.target = (sign * 0.6 * reach, 0.4 * reach)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (8,), np.float32)
        self.angles = [math.pi / 2, 0.0]
        self.velocities = [0.0, 0.0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Put the arm near its starting position."""
        super().reset(seed=seed, options=options)
        off = self.np_random.uniform(-0.1, 0.1, 2)
        self.angles = [math.pi / 2 + float(off[0]), float(off[1])]
        self.velocities = [0.0, 0.0]
        return self._observation(), {"is_success": False}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply the torques for one control period."""
        shoulder, elbow = (min(max(float(torque), -1.0), 1.0) for torque in action)
        for _ in range(self.physics_steps):
            self._move(shoulder * self.max_torque, elbow * self.max_torque)
        x, y = self._fingertip()
        distance = math.hypot(x - self.target[0], y - self.target[1])
        reward = -distance - 0.01 * (shoulder**2 + elbow**2)
        return self._observation(), reward, False, False, {"is_success": distance < self.tolerance}

    def _move(self, shoulder_torque: float, elbow_torque: float) -> None:
        """Advance the arm by one physics step (semi-implicit Euler)."""
        upper, fore, tip = self.upper_arm, self.forearm, 1.0 + self.payload
        (_, elbow), (w1, w2) = self.angles, self.velocities
        # Mass matrix of two point masses (1 kg at the elbow, `tip` at the fingertip).
        cross = tip * upper * fore * math.cos(elbow)
        m22 = tip * fore**2
        m12 = m22 + cross
        m11 = upper**2 * (1.0 + tip) + m22 + 2.0 * cross
        coriolis = tip * upper * fore * math.sin(elbow)
        f1 = shoulder_torque - self.friction * w1 + coriolis * (2.0 * w1 * w2 + w2**2)
        f2 = elbow_torque - self.friction * w2 - coriolis * w1**2
        determinant = m11 * m22 - m12**2
        dt = self.control_period / self.physics_steps
        w1 += dt * (m22 * f1 - m12 * f2) / determinant
        w2 += dt * (m11 * f2 - m12 * f1) / determinant
        self.velocities = [w1, w2]
        self.angles = [self.angles[0] + dt * w1, elbow + dt * w2]

    def _fingertip(self) -> tuple[float, float]:
        shoulder, elbow = self.angles
        x = self.upper_arm * math.cos(shoulder) + self.forearm * math.cos(shoulder + elbow)
        y = self.upper_arm * math.sin(shoulder) + self.forearm * math.sin(shoulder + elbow)
        return x, y

    def _observation(self) -> NDArray[np.float32]:
        cosines = [math.cos(angle) for angle in self.angles]
        sines = [math.sin(angle) for angle in self.angles]
        return np.array([*cosines, *sines, *self.velocities, *self._fingertip()], np.float32)
