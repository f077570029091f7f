"""A team that learns with skrl's IPPO or MAPPO, in copies of a PettingZoo environment.

The agents, memories, losses and optimizers are skrl's, as published. The loop around them is that
of its ``SequentialTrainer``, but for two things. Several copies run side by side, and an episode
that ends shows its own last observation, where skrl's vector environments show the next episode's
first. And what an update draws (skrl samples actions in it that nobody uses) is not missing from
the stream of random numbers that actions are sampled from, so that equal agents act alike.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import skrl
import torch
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.multi_agents.torch.ippo import IPPO, IPPO_CFG
from skrl.multi_agents.torch.mappo import MAPPO, MAPPO_CFG
from torch import Tensor, nn

Networks = Mapping[str, tuple[nn.Sequential, nn.Sequential]]
"""Of each agent: the actor, from observations to logits, and the critic, to a value."""

UNUSED = (
    *("observation_preprocessor", "state_preprocessor", "value_preprocessor"),
    "learning_rate_scheduler",
)

skrl.logger.setLevel("WARNING")


class Actor(CategoricalMixin, Model):  # type: ignore[misc]  # skrl is untyped where it is missing
    """A network from an agent's own observations to logits."""

    def __init__(self, actions: gym.Space[Any], network: nn.Module) -> None:
        Model.__init__(self, action_space=actions, device="cpu")
        CategoricalMixin.__init__(self)
        self.network = network

    def compute(self, inputs: Mapping[str, Tensor], role: str = "") -> tuple[Tensor, Any]:  # noqa: ARG002  # skrl's signature
        """Return logits, shape (batch, actions)."""
        return self.network(inputs["observations"]), {}


class Critic(DeterministicMixin, Model):  # type: ignore[misc]  # as above
    """A network to a value, from an agent's ``observations`` or the ``states``."""

    def __init__(self, shown: str, network: nn.Module) -> None:
        Model.__init__(self, device="cpu")
        DeterministicMixin.__init__(self)
        self.shown, self.network = shown, network

    def compute(self, inputs: Mapping[str, Tensor], role: str = "") -> tuple[Tensor, Any]:  # noqa: ARG002  # skrl's signature
        """Return values, shape (batch, 1)."""
        return self.network(inputs[self.shown]), {}


def make_team(
    algorithm: str, env: Any, networks: Networks, copies: int, ppo: Mapping[str, Any]
) -> Any:
    """Return skrl's agents, each with an actor, a critic and an optimizer of its own.

    Args:
        algorithm: ``ippo``, whose critics see what the agent sees, or ``mappo``: the global state.
        env: One of the copies.
        networks: Copied, so that they stay as they are.
        copies: How many run side by side.
        ppo: Stable-Baselines3's arguments of PPO. ``batch_size`` must be the whole rollout: skrl
            scales advantages over the rollout, Stable-Baselines3 over each batch.
    """
    assert ppo["batch_size"] == ppo["n_steps"] * copies
    agents: list[str] = env.possible_agents
    own = copy.deepcopy(dict(networks))
    shown = "states" if algorithm == "mappo" else "observations"
    team_class, settings = (MAPPO, MAPPO_CFG) if algorithm == "mappo" else (IPPO, IPPO_CFG)
    config = settings(
        rollouts=ppo["n_steps"],
        learning_epochs=ppo["n_epochs"],
        mini_batches=1,
        discount_factor=ppo["gamma"],
        gae_lambda=ppo["gae_lambda"],
        learning_rate=ppo["learning_rate"],
        grad_norm_clip=ppo["max_grad_norm"],
        ratio_clip=ppo["clip_range"],
        value_clip=0.0,  # off, as clip_range_vf is by default
        entropy_loss_scale=ppo["ent_coef"],
        value_loss_scale=ppo["vf_coef"],
        kl_threshold=0.0,  # off, as target_kl is by default
        time_limit_bootstrap=True,
        experiment={"write_interval": 0, "checkpoint_interval": 0},
        # Their defaults, for each agent: skrl 2.1 takes an empty dict for agents left out.
        **{f"{kind}_kwargs": {name: {} for name in agents} for kind in UNUSED},
    )
    team = team_class(
        possible_agents=agents,
        models={
            name: {"policy": Actor(env.action_space(name), actor), "value": Critic(shown, critic)}
            for name, (actor, critic) in own.items()
        },
        memories={
            name: RandomMemory(memory_size=ppo["n_steps"], num_envs=copies, device="cpu")
            for name in agents
        },
        observation_spaces={name: env.observation_space(name) for name in agents},
        state_spaces=dict.fromkeys(agents, env.state_space),
        action_spaces={name: env.action_space(name) for name in agents},
        device="cpu",
        cfg=config,
    )
    for optimizer in team.optimizers.values():
        optimizer.param_groups[0]["eps"] = 1e-5  # Stable-Baselines3's
    return team


def networks_of(team: Any) -> Networks:
    """Return the networks as they are now."""
    return {
        name: (models["policy"].network, models["value"].network)
        for name, models in team.models.items()
    }


def learn(team: Any, envs: Sequence[Any], steps: int, seed: int) -> None:
    """Let a team learn from so many environment steps, all copies' together.

    Args:
        team: What ``make_team`` returned.
        envs: The copies; number ``i`` begins with ``seed + i``, later episodes give no seed.
        steps: Of whole rollouts: skrl learns from no other.
        seed: See ``envs``.
    """
    assert steps % (team.cfg.rollouts * len(envs)) == 0
    rounds = steps // len(envs)
    team.init()
    team.enable_training_mode(True)
    seen = [env.reset(seed=seed + number)[0] for number, env in enumerate(envs)]
    states = [env.state() for env in envs]
    for number in range(rounds):
        when = {"timestep": number, "timesteps": rounds}
        before = {"observations": stacked(seen), "states": shared(states, team)}
        with torch.no_grad():
            actions, _ = team.act(**before, **when)
            results = _step(envs, {name: own.flatten().numpy() for name, own in actions.items()})
            seen, rewards, ended, cut = (list(part) for part in zip(*results, strict=True))
            states = [env.state() for env in envs]
            team.record_transition(
                **before,
                actions=actions,
                rewards=_column(rewards, np.float32),
                next_observations=stacked(seen),
                next_states=shared(states, team),
                terminated=_column(ended, np.bool_),
                truncated=_column(cut, np.bool_),
                infos={},
                **when,
            )
        with torch.random.fork_rng(devices=[]):
            team.post_interaction(**when)
        for copy_number, env in enumerate(envs):
            if not env.agents:
                seen[copy_number], states[copy_number] = env.reset()[0], env.state()


def _step(envs: Sequence[Any], actions: Mapping[str, Any]) -> list[tuple[dict[str, Any], ...]]:
    """Return observations, rewards, terminations and truncations of each copy."""
    return [
        env.step({name: int(own[number]) for name, own in actions.items()})[:4]
        for number, env in enumerate(envs)
    ]


def stacked(copies: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return what each agent sees in all copies, shape (copies, features)."""
    return {name: torch.as_tensor(np.stack([seen[name] for seen in copies])) for name in copies[0]}


def shared(states: Sequence[Any], team: Any) -> dict[str, Tensor]:
    """Return the global states of all copies, which every agent is shown alike."""
    return dict.fromkeys(team.possible_agents, torch.as_tensor(np.stack(states)))


def _column(copies: Sequence[Mapping[str, Any]], dtype: Any) -> dict[str, Tensor]:
    """Return a number for each agent in all copies, shape (copies, 1)."""
    return {
        name: torch.as_tensor(np.array([[own[name]] for own in copies], dtype))
        for name in copies[0]
    }
