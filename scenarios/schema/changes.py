"""Changes that turn one environment into many tasks, as the scenario states them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, Tag, field_validator

from holdfast.scenarios.schema.fields import (
    AboveZero,
    AtLeastZero,
    Index,
    Indices,
    Number,
    Permutation,
    Positive,
    Sparse,
    Text,
    told_by,
)

OneOrEach = Annotated[
    Annotated[Number, Tag("number")]
    | Annotated[tuple[Number, ...], Field(min_length=1), Tag("list")],
    told_by(list, tuple, tag="list", other="number"),
]
Actuator = Annotated[
    Annotated[Index, Tag("index")] | Annotated[Text, Tag("name")],
    told_by(str, tag="name", other="index"),
]


OF_AN_AGENT = (
    *("action_map", "action_gain", "dead_actuators"),
    *("observation_permutation", "observation_mask", "reward_scale"),
)
"""Changes to what one agent sees, does and is paid at one moment, which teams can have, too."""


class MujocoChanges(Sparse):
    """Factors on the physics of a MuJoCo model; 1.0 leaves it as it is."""

    gravity: Number | None = None
    """Factor on gravity; 2.0 doubles it."""
    mass: dict[str, AboveZero] = Field(default_factory=dict)
    """Factor on the mass (and inertia) of each named body; '*' is every one."""
    friction: dict[str, AtLeastZero] = Field(default_factory=dict)
    """Factor on the friction of each named geom; '*' is every one."""
    damping: dict[str, AtLeastZero] = Field(default_factory=dict)
    """Factor on the damping of each named joint; '*' is every one."""
    gear: dict[str, Number] = Field(default_factory=dict)
    """Factor on the gear of each named actuator; '*' is every one."""


class Changes(Sparse):
    """Changes to one task's environment, applied in the order of the fields below."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Attributes of the unwrapped environment: {gravity: 12.0}; may be dotted."""
    mujoco: MujocoChanges | None = None
    """Factors on a MuJoCo model's physics."""
    action_map: Annotated[tuple[Index, ...], Field(min_length=1)] | None = None
    """Discrete: action i becomes entry i. Box: a permutation of dimensions."""
    action_gain: OneOrEach | None = None
    """Factor on the actions, one number or one for each dimension."""
    action_delay: Index | None = None
    """Steps by which every action arrives late."""
    dead_actuators: Annotated[tuple[Actuator, ...], Field(min_length=1)] | None = None
    """Action dimensions that do nothing: indices, or MuJoCo actuator names."""
    observation_noise: AtLeastZero | None = None
    """Standard deviation of the Gaussian noise added to observations."""
    observation_offset: OneOrEach | None = None
    """Added to the observation, one number or one for each entry: a sensor that is off."""
    observation_permutation: Permutation | None = None
    """Order in which the entries of the observation are shown."""
    observation_mask: Indices | None = None
    """Indices of the observation that are set to zero."""
    reward_scale: Number | None = None
    """Factor on the reward; negative flips its sign."""
    time_limit: Positive | None = None
    """Steps after which an episode is cut."""

    @field_validator("reward_scale")
    @classmethod
    def _not_zero(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("must not be 0: no reward would be left to learn from")
        return value
