"""Changes that turn one environment into many tasks, as the scenario states them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    Discriminator,
    Field,
    Tag,
    field_validator,
)

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
)


def _one_or_list(value: Any) -> str:
    return "list" if isinstance(value, list | tuple) else "number"


def _index_or_name(value: Any) -> str:
    return "name" if isinstance(value, str) else "index"


Gain = Annotated[
    Annotated[Number, Tag("number")]
    | Annotated[tuple[Number, ...], Field(min_length=1), Tag("list")],
    Discriminator(_one_or_list),
]
Actuator = Annotated[
    Annotated[Index, Tag("index")] | Annotated[Text, Tag("name")], Discriminator(_index_or_name)
]


OF_AN_AGENT = (
    *("action_map", "action_gain", "dead_actuators"),
    *("observation_permutation", "observation_mask", "reward_scale"),
)
"""Changes to what one agent sees, does and is paid at one moment, which teams can have, too."""


class MujocoChanges(Sparse):
    """Factors on the physics of a MuJoCo model; 1.0 leaves it as it is."""

    gravity: Number | None = Field(default=None, description="Factor on gravity; 2.0 doubles it.")
    mass: dict[str, AboveZero] = Field(
        default_factory=dict,
        description="Factor on the mass (and inertia) of each named body; '*' is every one.",
    )
    friction: dict[str, AtLeastZero] = Field(
        default_factory=dict,
        description="Factor on the friction of each named geom; '*' is every one.",
    )
    damping: dict[str, AtLeastZero] = Field(
        default_factory=dict,
        description="Factor on the damping of each named joint; '*' is every one.",
    )
    gear: dict[str, Number] = Field(
        default_factory=dict,
        description="Factor on the gear of each named actuator; '*' is every one.",
    )


class Changes(Sparse):
    """Changes to one task's environment, applied in the order of the fields below."""

    set: dict[str, Any] = Field(
        default_factory=dict,
        description="Attributes of the unwrapped environment: {gravity: 12.0}; may be dotted.",
    )
    mujoco: MujocoChanges | None = Field(
        default=None, description="Factors on a MuJoCo model's physics."
    )
    action_map: Annotated[tuple[Index, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Discrete: action i becomes entry i. Box: a permutation of dimensions.",
    )
    action_gain: Gain | None = Field(
        default=None, description="Factor on the actions, one number or one for each dimension."
    )
    action_delay: Index | None = Field(
        default=None, description="Steps by which every action arrives late."
    )
    dead_actuators: Annotated[tuple[Actuator, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Action dimensions that do nothing: indices, or MuJoCo actuator names.",
    )
    observation_noise: AtLeastZero | None = Field(
        default=None, description="Standard deviation of the Gaussian noise added to observations."
    )
    observation_permutation: Permutation | None = Field(
        default=None, description="Order in which the entries of the observation are shown."
    )
    observation_mask: Indices | None = Field(
        default=None, description="Indices of the observation that are set to zero."
    )
    reward_scale: Number | None = Field(
        default=None, description="Factor on the reward; negative flips its sign."
    )
    time_limit: Positive | None = Field(
        default=None, description="Steps after which an episode is cut."
    )

    @field_validator("reward_scale")
    @classmethod
    def _not_zero(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("must not be 0: no reward would be left to learn from")
        return value
