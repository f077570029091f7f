"""Stream Q(lambda): action values that are learned from one step at a time."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from holdfast.agents.streaming.learner import Step, StreamingAlgorithm, moments_of, network_of
from holdfast.agents.streaming.moments import Moments
from holdfast.agents.streaming.networks import Arithmetic, SparseNetwork
from holdfast.agents.streaming.obgd import ObGD


class StreamQPolicy(BasePolicy):
    """A network of action values, with the statistics of what it is shown and of rewards.

    Args:
        observation_space: One array of numbers.
        action_space: Discrete.
        lr_schedule: Gives the learning rate; unused, the algorithm makes the optimizer.
        use_sde: Unused.
        net_arch: Width of each hidden layer.
        sparsity: Share of zeros among the connections of each unit at the start.
        id_width: Entries of a one-hot task id at the end of an observation.
    """

    optimizer: ObGD

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,  # noqa: ARG002  # Stable-Baselines3 hands it to every policy
        use_sde: bool = False,  # noqa: ARG002  # likewise
        net_arch: list[int] | None = None,
        sparsity: float = 0.9,
        id_width: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.id_width = id_width
        self.moments, self.reward_moments = moments_of(observation_space, id_width), Moments(())
        hidden = [32, 32] if net_arch is None else net_arch
        self.q_net = network_of(self.moments, id_width, hidden, int(action_space.n), sparsity)

    def networks(self) -> tuple[SparseNetwork, ...]:
        """Return the networks that learn."""
        return (self.q_net,)

    def forward(self, observations: Tensor, deterministic: bool = True) -> Tensor:
        """Return the greedy action of each observation, shape (batch,)."""
        return self._predict(observations, deterministic)

    def _predict(
        self,
        observation: Any,
        deterministic: bool = False,  # noqa: ARG002  # exploration is the algorithm's
    ) -> Tensor:
        values: Tensor = self.q_net(observation)  # (batch, actions)
        return values.argmax(dim=1)


class StreamQ(StreamingAlgorithm):
    """Watkins's Q(lambda) with a network, one update for each step, and no memory.

    The trace is cleared after the update of an action that was not greedy, as the authors' code
    has it; the paper's pseudocode clears it before, which they call an inaccuracy (issue 9 of
    mohmdelsayed/streaming-drl). A truncated episode is bootstrapped, where their code takes it for
    a terminated one.

    Args:
        policy: MlpPolicy.
        env: One environment with Discrete actions.
        learning_rate: The largest step of ObGD.
        gamma: Discount.
        trace_lambda: With gamma, how fast traces fade.
        kappa: How far below overshooting the steps of ObGD stay; larger is more careful.
        exploration_fraction: Share of the task in which exploration falls.
        exploration_initial_eps: Share of random actions at the start.
        exploration_final_eps: Share of random actions from then on.
        stats_window_size: Episodes that logs average over.
        policy_kwargs: ``net_arch`` and ``sparsity``.
        verbose: As in Stable-Baselines3.
        seed: Of weights and actions.
        device: The processor: single observations of small networks gain nothing elsewhere.
        tensorboard_log: As in Stable-Baselines3.
        _init_setup_model: As in Stable-Baselines3.

    Source: arXiv:2410.14606, algorithm Stream Q(lambda), with the constants of the authors' code.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": StreamQPolicy}

    def __init__(
        self,
        policy: str | type[StreamQPolicy],
        env: GymEnv,
        learning_rate: float = 1.0,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        kappa: float = 2.0,
        exploration_fraction: float = 0.05,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.01,
        stats_window_size: int = 100,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        self.trace_lambda, self.kappa = trace_lambda, kappa
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self._is_greedy = True
        super().__init__(
            policy,
            env,
            gamma=gamma,
            learning_rate=learning_rate,
            stats_window_size=stats_window_size,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            _init_setup_model=_init_setup_model,
            supported_action_spaces=(spaces.Discrete,),
        )

    def _setup_model(self) -> None:
        """Build the policy and the optimizer."""
        super()._setup_model()
        network: SparseNetwork = self.policy.q_net
        self._values, self._actions = Arithmetic(network), len(network.layers[-1].bias)  # type: ignore[arg-type]  # a Linear's
        self.optimizer = self.policy.optimizer = ObGD(
            network.flat,
            lr=float(self.learning_rate),  # type: ignore[arg-type]  # never a schedule here
            decay=self.gamma * self.trace_lambda,
            kappa=self.kappa,
        )

    @property
    def exploration_rate(self) -> float:
        """Share of random actions at the current step: falls linearly, then stays."""
        duration = self.exploration_fraction * self._total_timesteps
        gap = self.exploration_final_eps - self.exploration_initial_eps
        passed = min(1.0, (self.num_timesteps + 1) / duration) if duration else 1.0
        return self.exploration_initial_eps + gap * passed

    def _act(self, seen: NDArray[Any]) -> int:
        self._outputs = self._values.forward(seen)
        action = greedy = int(self._outputs.argmax())
        if np.random.random() < self.exploration_rate:
            action = int(np.random.randint(self._actions))
        self._is_greedy = action == greedy
        return action

    def _learn(self, step: Step, reward: float, following: NDArray[Any]) -> float:
        chosen = np.zeros_like(self._outputs)
        chosen[step.action] = 1.0
        # First the gradient: it is of the observation that was acted on, the newest forward.
        gradient = self._values.backward(chosen)
        error = reward - float(self._outputs[step.action])
        if not step.terminated:
            error += self.gamma * float(self._values.forward(following).max())
        self.optimizer.update(gradient, error)
        if step.ended or not self._is_greedy:
            self._clear_traces()
        return error

    def _clear_traces(self) -> None:
        self.optimizer.clear()

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Return greedy actions; where they are not deterministic, random ones as in training."""
        actions, state = self.policy.predict(observation, state, episode_start, True)
        if not deterministic:
            rows = np.random.random(np.shape(actions)) < self.exploration_rate
            drawn = np.random.randint(self._actions, size=np.shape(actions))
            actions = np.where(rows, drawn, actions)
        return actions, state
