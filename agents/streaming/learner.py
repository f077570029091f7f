"""The frame of streaming learners: one environment step, one update, and nothing is kept of it."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from holdfast.agents.compiled import account
from holdfast.agents.streaming.moments import Moments
from holdfast.agents.streaming.networks import SparseNetwork
from holdfast.errors import Diverged

LOG_EVERY = 1000
"""Steps between two rows of logged numbers."""


class Step(NamedTuple):
    """One step of the environment.

    Attributes:
        action: What was chosen, before bounds are applied.
        reward: As the environment gave it.
        following: Raw observation after it: the last one of an ending episode, not the next one's.
        ended: Whether the episode ended, by termination or truncation.
        terminated: Whether nothing comes after it.
    """

    action: Any
    reward: float
    following: NDArray[Any]
    ended: bool
    terminated: bool


class StreamingAlgorithm(OnPolicyAlgorithm):
    """A learner whose rollout is one step, learned from at once.

    To Stable-Baselines3 it is on-policy with ``n_steps`` 1: ``collect_rollouts`` takes the step and
    ``train`` learns from it. Neither a batch nor a replay buffer exists. Observations are
    normalised by the moments of all that were seen, rewards divided by the deviation of the
    discounted return. Both belong to the policy, and move in training alone. Eligibility traces
    begin empty with every episode, be it new because the last one ended, or because it was cut.

    Args:
        policy: Name or class of the policy.
        env: One environment.
        gamma: Discount.
        more: Arguments of Stable-Baselines3's base class.
    """

    policy: Any
    _last_obs: Any

    def __init__(self, policy: Any, env: GymEnv, *, gamma: float, **more: Any) -> None:
        super().__init__(
            policy,
            env,
            n_steps=1,
            gamma=gamma,
            gae_lambda=1.0,
            ent_coef=more.pop("ent_coef", 0.0),
            vf_coef=0.0,
            max_grad_norm=math.inf,
            use_sde=False,
            sde_sample_freq=-1,
            **more,
        )

    def _setup_model(self) -> None:
        """Build the policy and set the traces up."""
        super()._setup_model()
        if self.n_envs != 1:
            raise ValueError(f"a streaming learner has one environment, not {self.n_envs}")
        self._moments: Moments = self.policy.moments
        self._reward_moments: Moments = self.policy.reward_moments
        self._id_width: int = self.policy.id_width
        self._dtype = self.policy.networks()[0].flat.numpy().dtype
        self.discounted_return = 0.0
        self._seen: NDArray[Any] | None = None  # the normalised form of ``_seen_of``
        self._seen_of: Any = None
        self._step: Step | None = None

    # -- what an algorithm says of itself ----------------------------------------------------------

    @abstractmethod
    def _act(self, seen: NDArray[Any]) -> Any:
        """Choose an action for a normalised observation."""

    @abstractmethod
    def _learn(self, step: Step, reward: float, following: NDArray[Any]) -> float:
        """Learn from a step; return its temporal-difference error.

        Args:
            step: What happened.
            reward: Scaled.
            following: The observation after it, normalised.
        """

    @abstractmethod
    def _clear_traces(self) -> None:
        """Begin an episode."""

    # -- steps and updates -------------------------------------------------------------------------

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: Any,  # noqa: ARG002  # Stable-Baselines3 hands it over; nothing is kept
        n_rollout_steps: int,
    ) -> bool:
        """Take one step; arguments are those of Stable-Baselines3, of which the buffer is unused.

        Returns:
            True: there is always another.
        """
        assert n_rollout_steps == 1
        callback.on_rollout_start()
        action = self._act(self._observed())
        taken = action
        if isinstance(self.action_space, spaces.Box):
            taken = np.clip(action, self.action_space.low.ravel(), self.action_space.high.ravel())
            taken = taken.reshape(self.action_space.shape).astype(self.action_space.dtype)
        given: Any = env.step(np.array([taken]))
        observations, rewards, dones, infos = given
        self.num_timesteps += 1
        callback.update_locals({"dones": dones, "infos": infos, "rewards": rewards})
        callback.on_step()
        self._update_info_buffer(infos, dones)
        ended, info = bool(dones[0]), infos[0]
        self._step = Step(
            action,
            float(rewards[0]),
            info["terminal_observation"] if ended else observations[0],
            ended,
            ended and not info.get("TimeLimit.truncated", False),
        )
        self._last_obs, self._last_episode_starts = observations, dones
        if not ended:
            self._seen_of = observations
        callback.on_rollout_end()
        return True

    def _observed(self) -> NDArray[Any]:
        """Return the normalised current observation.

        That of a new episode is counted here. Another was counted as the successor of the step
        before, and is normalised again only where a checkpoint has put it back.
        """
        assert self._last_episode_starts is not None
        if self._last_episode_starts[0]:
            self._clear_traces()
            self._seen = self._counted(self._last_obs[0])
        elif self._seen is None or self._seen_of is not self._last_obs:
            self._seen = self._normalized(self._last_obs[0])
        self._seen_of = self._last_obs
        return self._seen

    def train(self) -> None:
        """Learn from the newest step."""
        step = self._step
        assert step is not None
        fading = self.gamma * (not step.ended)
        self.discounted_return = fading * self.discounted_return + step.reward
        self._reward_moments.update(np.float64(self.discounted_return))
        following = self._counted(step.following)
        error = self._learn(step, self._reward_moments.scaled(step.reward), following)
        if not math.isfinite(error):
            raise Diverged(
                f"the temporal-difference error of step {self.num_timesteps} is not finite; the "
                "last task boundary is kept. Lower agent.learning_rate or raise agent.kappa, or "
                "look for the cause in the environment with: holdfast check-env"
            )
        self._seen, self._step = following, None
        self._n_updates += 1
        account.add(steps=len(self.policy.networks()))
        if self.num_timesteps % LOG_EVERY == 0:
            self.logger.record("train/td_error", error)

    def _counted(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Take a raw observation into the moments and return it normalised by them."""
        row = observation.reshape(-1)
        self._moments.update(row[: len(row) - self._id_width])
        return self._normalized(observation)

    def _normalized(self, observation: NDArray[Any]) -> NDArray[Any]:
        row = observation.reshape(-1)
        if not self._id_width:
            return self._moments.centred(row).astype(self._dtype)
        seen = row.astype(self._dtype)
        seen[: -self._id_width] = self._moments.centred(row[: -self._id_width])
        return seen

    def dump_logs(self, iteration: int = 0) -> None:
        """Write logs, but not after each step."""
        if self.num_timesteps % LOG_EVERY == 0:
            super().dump_logs(iteration)


def moments_of(observations: spaces.Space[Any], id_width: int) -> Moments:
    """Return the moments of the entries of an observation, without those of a task id.

    Raises:
        ValueError: If it is not one array of numbers.
    """
    if not isinstance(observations, spaces.Box):
        raise ValueError(f"streaming learners take one array, not {observations}")
    return Moments((int(np.prod(observations.shape)) - id_width,))


def network_of(
    moments: Moments, id_width: int, hidden: list[int], outputs: int, sparsity: float
) -> SparseNetwork:
    """Return a new network on observations of these moments; see ``SparseNetwork``."""
    inputs = moments.mean.shape[0] + id_width
    return SparseNetwork(moments, inputs, hidden, outputs, sparsity=sparsity)
