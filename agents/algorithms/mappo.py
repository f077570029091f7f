"""MAPPO: PPO whose critic sees the global state, while the actor sees its own observation."""

from __future__ import annotations

from typing import Any, ClassVar

from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.ppo.ppo import PPO

from holdfast.scenarios.schema.observation_keys import OBSERVATION, STATE


class CentralCriticPolicy(MultiInputActorCriticPolicy):
    """Stable-Baselines3's policy with one encoder for the actor and one for the critic.

    Of a Dict observation with an entry ``state``, the actor is shown everything but that, and the
    critic everything but the agent's own ``observation``; both are shown a task id.
    """

    def make_features_extractor(self) -> Any:
        """Return the actor's; the published constructor calls this."""
        return self._encoder(hidden=STATE)

    def _encoder(self, hidden: str) -> Any:
        """Return an encoder of all entries but one, which it never reads."""
        assert isinstance(self.observation_space, spaces.Dict)
        entries = {key: s for key, s in self.observation_space.spaces.items() if key != hidden}
        return self.features_extractor_class(spaces.Dict(entries), **self.features_extractor_kwargs)

    def _build_mlp_extractor(self) -> None:
        """Build both trunks, each as wide at its start as what its side is shown."""
        super()._build_mlp_extractor()
        self.share_features_extractor = False
        self.vf_features_extractor = self._encoder(hidden=OBSERVATION)
        self.mlp_extractor.value_net = MlpExtractor(
            self.vf_features_extractor.features_dim,
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            device=self.device,
        ).value_net


class MAPPO(PPO):
    """Multi-agent PPO: Stable-Baselines3's PPO with a central critic.

    Everything but the policy is PPO as published, and so are the defaults: of the paper's further
    choices, value normalisation and the pruned agent-specific state are left out, and parameters
    are shared by the agents of a group (``agent.policies: shared``).

    Source: Yu et al. 2022, The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games
        (arXiv:2103.01955), section 3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MultiInputPolicy": CentralCriticPolicy,
    }
