"""Networks of a team's joint value: one of each agent's action values, and one that mixes them.

Shapes: a batch has ``batch`` copies of ``agents`` agents with ``n`` actions each; observations are
those of ``envs/multiagent/joint.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor, nn

from holdfast.errors import UsageError
from holdfast.scenarios.schema.observation_keys import MASKS, OBSERVATION, PRESENT, STATE, TASK_ID

Observations = dict[str, Tensor]


class AgentFeatures(BaseFeaturesExtractor):
    """Each agent's own observation, a one-hot of its place in the team, and the task id.

    The agents share one network, and the place is what lets them differ (Sunehag et al. 2017,
    section 3.2).

    Attributes:
        task_id_start: First column of the task id among the features.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        agents, own = observation_space[OBSERVATION].shape or (0, 0)
        task_id = observation_space.spaces.get(TASK_ID)
        width = 0 if task_id is None else spaces.flatdim(task_id)
        super().__init__(observation_space, own + agents + width)
        self.task_id_start = own + agents

    def forward(self, observations: Observations) -> Tensor:
        """Return the features of every agent, shape (batch * agents, features)."""
        own = observations[OBSERVATION]  # (batch, agents, features)
        batch, agents, _ = own.shape
        places = torch.eye(agents, dtype=own.dtype, device=own.device)
        parts = [own, places.expand(batch, -1, -1)]
        if TASK_ID in observations:
            parts.append(observations[TASK_ID].unsqueeze(1).expand(-1, agents, -1))
        return torch.cat(parts, -1).flatten(0, 1)


class TeamValues(QNetwork):
    """The action values of all agents, of one network that they share."""

    def forward(self, obs: PyTorchObs) -> Tensor:
        """Return the values, shape (batch, agents * n); zeros for absent agents."""
        assert isinstance(obs, dict)
        values: Tensor = super().forward(obs)  # (batch * agents, n)
        present = obs[PRESENT].to(values)  # (batch, agents)
        by_agent = values.reshape(*present.shape, -1) * present.unsqueeze(-1)
        return by_agent.flatten(1)


class Sum(nn.Module):
    """The joint value of VDN. Source: Sunehag et al. 2017 (arXiv:1706.05296), equation 3."""

    def forward(self, values: Tensor, _: Tensor) -> Tensor:
        """Return the sum over agents, (batch, agents) to (batch, 1)."""
        return values.sum(-1, keepdim=True)


class MonotonicMixer(nn.Module):
    """The joint value of QMIX: a network of the agents' values that grows in each of them.

    Its weights are absolute values of what linear layers make of the state, its first bias is
    linear in the state, and its last is a network with one hidden layer; ELU between its layers.

    Args:
        agents: Values that are mixed.
        state: Length of the state.
        embed_dim: Hidden units of the mixing network.
        hypernet_dim: Hidden units of the network of the last bias.

    Source: Rashid et al. 2018 (arXiv:1803.11485), section 4 and figure 2.
    """

    def __init__(self, agents: int, state: int, embed_dim: int, hypernet_dim: int) -> None:
        super().__init__()
        self.agents, self.embed_dim = agents, embed_dim
        self.first_weight = nn.Linear(state, agents * embed_dim)
        self.first_bias = nn.Linear(state, embed_dim)
        self.last_weight = nn.Linear(state, embed_dim)
        self.last_bias = nn.Sequential(
            nn.Linear(state, hypernet_dim), nn.ReLU(), nn.Linear(hypernet_dim, 1)
        )

    def forward(self, values: Tensor, state: Tensor) -> Tensor:
        """Return the joint value, (batch, agents) and (batch, state) to (batch, 1)."""
        weight = self.first_weight(state).abs().reshape(-1, self.agents, self.embed_dim)
        mixed = (values.unsqueeze(-2) @ weight).squeeze(-2)  # (batch, embed)
        hidden = nn.functional.elu(mixed + self.first_bias(state))
        last = (hidden * self.last_weight(state).abs()).sum(-1, keepdim=True)
        joint: Tensor = last + self.last_bias(state)
        return joint


class SumPolicy(BasePolicy):
    """VDN's networks: action values that are added up.

    The optimizer is RMSprop with the papers' constants unless another is named.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.MultiDiscrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.RMSprop,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if optimizer_kwargs is None and optimizer_class is torch.optim.RMSprop:
            optimizer_kwargs = {"alpha": 0.99, "eps": 1e-5}  # as in Rashid et al. 2018's code
        super().__init__(
            observation_space,
            action_space,
            AgentFeatures,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.agents, self.choices = len(action_space.nvec), int(action_space.nvec[0])
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.q_net, self.q_net_target = self._make_values(), self._make_values()
        self.mixer, self.mixer_target = self._make_mixer(), self._make_mixer()
        for online, target in ((self.q_net, self.q_net_target), (self.mixer, self.mixer_target)):
            target.load_state_dict(online.state_dict())
            target.train(False)
        learned = [*self.q_net.parameters(), *self.mixer.parameters()]
        self.optimizer = self.optimizer_class(learned, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]  # of every optimizer

    def _make_values(self) -> TeamValues:
        extractor = self.make_features_extractor()
        return TeamValues(
            self.observation_space,
            spaces.Discrete(self.choices),
            extractor,
            extractor.features_dim,
            self.net_arch,
            self.activation_fn,
        )

    def _make_mixer(self) -> nn.Module:
        return Sum()

    def joint_value(self, values: Tensor, observations: Observations, *, target: bool) -> Tensor:
        """Return the value of a joint action.

        Args:
            values: Of the action that each agent takes, shape (batch, agents).
            observations: Where they are taken; absent agents count as nothing.
            target: Whether the slowly moving mixer is asked.

        Returns:
            Shape (batch, 1).
        """
        present = observations[PRESENT].to(values)
        mixer = self.mixer_target if target else self.mixer
        joint: Tensor = mixer(values * present, self._state(observations))
        return joint

    def _state(self, observations: Observations) -> Tensor:
        """Return what the mixer is conditioned on, shape (batch, ...)."""
        return observations[PRESENT]  # a sum is conditioned on nothing

    def best_actions(self, observations: Observations) -> Tensor:
        """Return the allowed action of highest value of each agent, shape (batch, agents)."""
        masks = observations[MASKS]
        values: Tensor = self.q_net(observations).reshape(masks.shape)
        return values.masked_fill(masks == 0, -torch.inf).argmax(-1)

    def forward(self, observation: Observations, deterministic: bool = True) -> Tensor:
        """Return the best actions."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> Tensor:  # noqa: ARG002  # of the base class
        assert isinstance(observation, dict)
        return self.best_actions(observation)

    def set_training_mode(self, mode: bool) -> None:
        """Put what learns into training or evaluation mode; targets stay in evaluation mode."""
        self.q_net.set_training_mode(mode)
        self.mixer.train(mode)
        self.training = mode


class MonotonicPolicy(SumPolicy):
    """QMIX's networks: action values, mixed by a network that the state conditions.

    Args:
        observation_space: Joint, with a state.
        action_space: Joint.
        lr_schedule: Of the optimizer.
        net_arch: Of the agents' values; ``SumPolicy``'s four, spelled out because ``validate``
            reads from this signature what ``policy_kwargs`` may hold.
        activation_fn: As above.
        optimizer_class: As above.
        optimizer_kwargs: As above.
        embed_dim: See ``MonotonicMixer``.
        hypernet_dim: See ``MonotonicMixer``.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.MultiDiscrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.RMSprop,
        optimizer_kwargs: dict[str, Any] | None = None,
        embed_dim: int = 32,
        hypernet_dim: int = 32,
    ) -> None:
        if is_image_space(observation_space[STATE]):
            raise UsageError(
                f"qmix mixes by a state that is a vector, and this is {observation_space[STATE]}; "
                "use algorithm: vdn or mappo"
            )
        self.embed_dim, self.hypernet_dim = embed_dim, hypernet_dim
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch,
            activation_fn,
            optimizer_class,
            optimizer_kwargs,
        )

    def _conditions(self) -> tuple[str, ...]:
        assert isinstance(self.observation_space, spaces.Dict)
        return tuple(key for key in (STATE, TASK_ID) if key in self.observation_space.spaces)

    def _make_mixer(self) -> MonotonicMixer:
        assert isinstance(self.observation_space, spaces.Dict)
        width = sum(spaces.flatdim(self.observation_space[key]) for key in self._conditions())
        return MonotonicMixer(self.agents, width, self.embed_dim, self.hypernet_dim)

    def _state(self, observations: Observations) -> Tensor:
        assert isinstance(self.observation_space, spaces.Dict)
        parts: list[Any] = [
            preprocess_obs(observations[key], self.observation_space[key])
            for key in self._conditions()
        ]
        return torch.cat([part.flatten(1) for part in parts], -1)  # (batch, state + task id)
