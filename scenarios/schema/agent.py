"""The ``agent:`` section: who learns, by which algorithm, and which agents share a policy."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, Tag

from holdfast.errors import UsageError
from holdfast.registry import ALGORITHMS, SUPERVISED
from holdfast.scenarios.schema.cost import Constraint
from holdfast.scenarios.schema.fields import SECTION, AboveZero, Name, Positive, Text, told_by
from holdfast.scenarios.schema.method_spec import Callback

AUTO_SEEDS = 8
"""Seeds that ``seeds_at_once: auto`` takes together."""

Policies = Literal["shared", "independent"] | dict[Name, tuple[Text, ...]]
Statistics = Literal["running", "first_task", "per_task"]


class Normalize(BaseModel):
    """Running statistics that scale what the agent sees; never applied to the task id."""

    model_config = SECTION

    observations: Statistics | None = None
    """running, first_task (frozen after it) or per_task (reset at each)."""
    rewards: Statistics | None = None
    """running, first_task (frozen after it) or per_task (reset at each)."""
    clip: AboveZero = 10.0
    """Scaled values are cut at plus and minus this."""


def _device(value: str) -> str:
    kind, _, number = value.partition(":")
    if value in ("cpu", "cuda", "auto") or (kind == "cuda" and number.isdecimal()):
        return value
    raise ValueError(f"{value!r} is not a device; write cpu, cuda, cuda:0 or auto")


class Resets(BaseModel):
    """Networks that begin again now and then, while the replay buffer stays."""

    model_config = SECTION

    every: Positive
    """Gradient updates between two resets."""


class Agent(BaseModel):
    """The learner: an algorithm and its own arguments, as further keys of this section."""

    model_config = SECTION | {"extra": "allow"}

    algorithm: Text
    """ppo, a2c, dqn, sac, td3, ... or module:Class."""
    policies: (
        Annotated[
            Annotated[Literal["shared", "independent"], Tag("word")]
            | Annotated[
                dict[Name, Annotated[tuple[Text, ...], Field(min_length=1)]],
                Field(min_length=1),
                Tag("groups"),
            ],
            told_by(Mapping, tag="groups", other="word"),
        ]
        | None
    ) = None
    """For tasks with many agents (PettingZoo): one policy shared by all, or independent
    ones, or groups by name: {predators: [adversary_*], prey: [agent_0]}.
    """
    policy: Text = "auto"
    """auto chooses MlpPolicy, CnnPolicy or MultiInputPolicy."""
    device: Annotated[Text, AfterValidator(_device)] = "cpu"
    """cpu, cuda, cuda:0 or auto."""
    normalize: Normalize | None = None
    """Scaling of observations and rewards."""
    engine: Literal["sb3", "compiled"] = "sb3"
    """sb3: Stable-Baselines3's own updates. compiled: the same ones, compiled; faster."""
    seeds_at_once: Annotated[
        Annotated[Positive, Tag("number")] | Annotated[Literal["auto"], Tag("word")],
        told_by(str, tag="word", other="number"),
    ] = 1
    """Seeds of a method that learn in lockstep in one process. Needs engine: compiled."""
    constraint: Constraint | None = Field(default=None, exclude_if=operator.not_)
    """Keeps the agent within the limits of cost: of its tasks."""
    resets: Resets | None = Field(default=None, exclude_if=operator.not_)
    """Fresh networks at times, so that a high replay ratio keeps learning: {every: 100_000}."""
    callbacks: Annotated[tuple[Callback, ...], Field(exclude_if=operator.not_)] = ()
    """Callbacks of Stable-Baselines3, your own: module:Class, or {module:Class: {arguments}}."""
    init: Text | None = None
    """Weights to start from: a run folder or a Stable-Baselines3 zip."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The algorithm's own arguments, in plain form, as the scenario gives them."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def most_in_lockstep(self) -> int:
        """How many seeds learn in lockstep at most; ``auto`` where that was measured to pay."""
        if self.engine != "compiled":
            return 1
        if self.seeds_at_once == "auto":
            return AUTO_SEEDS if self._is_small else 1
        return self.seeds_at_once

    @property
    def _is_small(self) -> bool:
        """Whether it learns from rollouts, with layers that calls cost more than arithmetic."""
        networks = self.arguments.get("policy_kwargs") or {}
        layers = networks.get("net_arch", [64, 64])
        parts = layers.values() if isinstance(layers, Mapping) else [layers]
        is_narrow = set(networks) <= {"net_arch"} and all(
            isinstance(width, int) and width <= 64 for part in parts for width in part
        )
        known = ALGORITHMS.get(self.algorithm)
        has_rollouts = known is not None and known.on_policy is True
        return has_rollouts and self.policy in ("auto", "MlpPolicy") and is_narrow


def is_supervised(agent: Any) -> bool:
    """Return whether an ``agent:`` section, read or not, means the supervised agent."""
    if isinstance(agent, Mapping):
        return agent.get("algorithm") == SUPERVISED
    return getattr(agent, "algorithm", None) == SUPERVISED


def grouped(policies: Policies, agents: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """Return the agents of each group.

    >>> grouped("shared", ["a", "b"], ""), grouped("independent", ["a", "b"], "")
    ({'shared': ('a', 'b')}, {'a': ('a',), 'b': ('b',)})
    >>> grouped({"hunters": ("wolf_*",), "prey": ("hare",)}, ["wolf_0", "hare", "wolf_1"], "")
    {'hunters': ('wolf_0', 'wolf_1'), 'prey': ('hare',)}

    Raises:
        UsageError: An agent is in no group, or in two.
    """
    if policies == "shared":
        return {"shared": tuple(agents)}
    if policies == "independent":
        return {agent: (agent,) for agent in agents}
    assert isinstance(policies, Mapping)
    groups = {
        name: tuple(a for a in agents if any(fnmatchcase(a, pattern) for pattern in patterns))
        for name, patterns in policies.items()
    }
    for agent in agents:
        inside = [name for name, members in groups.items() if agent in members]
        if len(inside) != 1:
            what = f"is in the groups {' and '.join(inside)}" if inside else "is in no group"
            raise UsageError(f"{where}: agent '{agent}' {what} of agent.policies")
    return groups
