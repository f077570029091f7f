"""VDN and QMIX: a team's joint value, decomposed into values that each agent can act by alone.

The learner's environment is a whole group: a joint observation in, a joint action out, and the sum
of the agents' rewards (``envs/multiagent/joint.py``). Both are feed-forward: the published agents
are recurrent and learn from whole episodes, these learn from single transitions, as DQN does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import LinearSchedule, polyak_update
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.algorithms.mixing_policy import MonotonicPolicy, Observations, SumPolicy
from holdfast.scenarios.schema.observation_keys import MASKS


def joint_targets(
    policy: SumPolicy,
    next_observations: Observations,
    rewards: Tensor,
    dones: Tensor,
    gamma: float,
) -> Tensor:
    """Return what joint values are drawn to, shape (batch, 1).

    ``r + gamma (1 - done) Q_target(s', argmax_a Q(s', a))``: the actions are chosen by the learning
    network and judged by the slowly moving one.

    Args:
        policy: The networks.
        next_observations: Successors; agents that are absent there count as nothing.
        rewards: Of the team, shape (batch, 1).
        dones: 1 where the episode terminated, shape (batch, 1).
        gamma: Discount.

    Source: Rashid et al. 2018 (arXiv:1803.11485), equation 6, with the double Q-learning of van
        Hasselt et al. 2015 (arXiv:1509.06461), which its experiments use.
    """
    with torch.no_grad():
        best = policy.best_actions(next_observations)
        chosen = values_of(policy, policy.q_net_target(next_observations), best)
        following = policy.joint_value(chosen, next_observations, target=True)
        return rewards + gamma * (1 - dones) * following


def joint_loss(
    policy: SumPolicy, observations: Observations, actions: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean squared error of the joint values.

    Args:
        policy: The networks.
        observations: Joint observations.
        actions: Of each agent, shape (batch, agents); those of absent ones are not looked at.
        targets: What ``joint_targets`` returned.
    """
    chosen = values_of(policy, policy.q_net(observations), actions)
    joint = policy.joint_value(chosen, observations, target=False)
    return F.mse_loss(joint, targets)


def values_of(policy: SumPolicy, values: Tensor, actions: Tensor) -> Tensor:
    """Return the values of chosen actions, (batch, agents * n) to (batch, agents)."""
    by_agent = values.reshape(*actions.shape, policy.choices)
    return by_agent.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)


class VDN(OffPolicyAlgorithm):
    """Value-decomposition networks: the joint value is the sum of the agents' own values.

    Feed-forward; every agent explores by itself (epsilon-greedy). The learning rate, the discount,
    the ends of exploration, clipping and the optimizer are those of Rashid et al. 2018's code by
    default. It counts the buffer, a batch and the targets' updates in episodes (5,000, 32, 200),
    where here they are steps.

    Args:
        policy: ``MultiInputPolicy``.
        env: Copies of a whole group.
        learning_rate: Of the optimizer.
        buffer_size: Joint transitions kept.
        learning_starts: Steps before the first update; all agents act at random until then.
        batch_size: Joint transitions of an update.
        tau: Share of the learning networks at an update of the targets.
        gamma: Discount.
        train_freq: Steps of all copies between updates.
        gradient_steps: Updates then; -1 for as many as steps were taken.
        target_update_interval: Environment steps between updates of the targets.
        exploration_fraction: Share of the task over which exploration declines.
        exploration_initial_eps: Probability of a random action at first, for each agent.
        exploration_final_eps: That at last.
        max_grad_norm: Gradients are clipped to it.
        stats_window_size: Episodes over which logged returns are averaged.
        policy_kwargs: Of the policy.
        seed: Of everything random.
        device: Where the networks are.

    Source: Sunehag et al. 2017 (arXiv:1706.05296).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiInputPolicy": SumPolicy}
    policy: SumPolicy
    exploration_schedule: Schedule

    def __init__(
        self,
        policy: str | type[SumPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 5e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        target_update_interval: int = 5000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            device=device,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.MultiDiscrete,),
            support_multi_env=True,
        )
        self.target_update_interval = target_update_interval
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_fraction = exploration_fraction
        self.exploration_rate = exploration_initial_eps
        self.max_grad_norm = max_grad_norm
        self._n_calls = 0
        self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Do updates on batches of the replay buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        assert self.replay_buffer is not None
        for _ in range(gradient_steps):
            batch: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            targets = joint_targets(
                self.policy, batch.next_observations, batch.rewards, batch.dones, self.gamma
            )
            loss = joint_loss(self.policy, batch.observations, batch.actions, targets)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # of torch
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            losses.append(loss.item())
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def _on_step(self) -> None:
        """Move the targets where that is due, and the exploration rate."""
        self._n_calls += 1
        if self._n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            policy = self.policy
            polyak_update(policy.q_net.parameters(), policy.q_net_target.parameters(), self.tau)
            polyak_update(policy.mixer.parameters(), policy.mixer_target.parameters(), self.tau)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return the best allowed actions, or epsilon-greedy ones; shape (copies, agents)."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        if not deterministic:
            actions = self._explored(actions, observation[MASKS], self.exploration_rate)
        return actions, state

    def _sample_action(
        self,
        learning_starts: int,
        action_noise: Any = None,  # noqa: ARG002  # of the base class
        n_envs: int = 1,  # noqa: ARG002
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the actions of the next step: at random among those allowed, or as predicted."""
        assert isinstance(self._last_obs, dict)
        if self.num_timesteps >= learning_starts:
            actions, _ = self.predict(self._last_obs)
        else:
            masks = self._last_obs[MASKS]
            actions = self._explored(np.zeros(masks.shape[:-1], np.int64), masks, 1.0)
        return actions, actions

    @staticmethod
    def _explored(actions: NDArray[Any], masks: NDArray[Any], rate: float) -> NDArray[Any]:
        """Return actions of which a share is replaced by others, agent by agent.

        Args:
            actions: Shape (..., agents).
            masks: Which are allowed, shape (..., agents, n).
            rate: Probability of a random action.
        """
        # As DQN, from numpy's global generator, which the model seeds.
        at_random = np.random.rand(*masks.shape[:-1]) < rate
        drawn = np.where(masks > 0, np.random.rand(*masks.shape), -1.0).argmax(-1)
        chosen: NDArray[Any] = np.where(at_random, drawn, actions)
        return chosen

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


class QMIX(VDN):
    """QMIX: the joint value is mixed from the agents' own values by a monotonic network.

    Feed-forward; arguments as VDN's, which differs in the mixing alone.

    Source: Rashid et al. 2018 (arXiv:1803.11485).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiInputPolicy": MonotonicPolicy}
