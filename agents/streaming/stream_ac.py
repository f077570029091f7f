"""Stream AC(lambda): an actor and a critic that are learned from one step at a time."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.streaming.learner import Step, StreamingAlgorithm, moments_of, network_of
from holdfast.agents.streaming.moments import Moments
from holdfast.agents.streaming.networks import Arithmetic, SparseNetwork
from holdfast.agents.streaming.obgd import ObGD


class StreamACPolicy(BasePolicy):
    """An actor and a critic, with the statistics of what they are shown and of rewards.

    The actor puts out a logit for each action; on boxes, the mean of each entry of an action and
    what softplus makes its standard deviation.

    Args:
        observation_space: One array of numbers.
        action_space: Discrete, or a Box.
        lr_schedule: Gives the learning rate; unused, the algorithm makes the optimizers.
        use_sde: Unused.
        net_arch: Width of each hidden layer of both.
        sparsity: Share of zeros among the connections of each unit at the start.
        id_width: Entries of a one-hot task id at the end of an observation.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,  # noqa: ARG002  # Stable-Baselines3 hands it to every policy
        use_sde: bool = False,  # noqa: ARG002  # likewise
        net_arch: list[int] | None = None,
        sparsity: float = 0.9,
        id_width: int = 0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.id_width = id_width
        self.moments, self.reward_moments = moments_of(observation_space, id_width), Moments(())
        hidden = [128, 128] if net_arch is None else net_arch
        is_box = isinstance(action_space, spaces.Box)
        outputs = 2 * int(np.prod(action_space.shape)) if is_box else int(action_space.n)  # type: ignore[attr-defined,arg-type]  # of Discrete; a Box has a shape
        self.actor = network_of(self.moments, id_width, hidden, outputs, sparsity)
        self.critic = network_of(self.moments, id_width, hidden, 1, sparsity)

    def networks(self) -> tuple[SparseNetwork, ...]:
        """Return the networks that learn."""
        return self.actor, self.critic

    def forward(self, observations: Tensor, deterministic: bool = False) -> Tensor:
        """Return an action for each observation, shape (batch, ...)."""
        return self._predict(observations, deterministic)

    def predict_values(self, observations: Tensor) -> Tensor:
        """Return the value of each observation in scaled rewards, shape (batch, 1)."""
        values: Tensor = self.critic(observations)
        return values

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        outputs: Tensor = self.actor(observation)
        if not isinstance(self.action_space, spaces.Box):
            if deterministic:
                return outputs.argmax(dim=1)  # (batch,)
            return torch.multinomial(outputs.softmax(dim=1), 1).squeeze(1)
        mean, spread = outputs.chunk(2, dim=1)  # (batch, n) each
        if not deterministic:
            mean = mean + F.softplus(spread) * torch.randn_like(mean)
        return mean.reshape(-1, *self.action_space.shape)


class StreamAC(StreamingAlgorithm):
    """Actor-critic with eligibility traces, one update for each step, and no memory.

    The actor's trace is of the log-likelihood of the action and of its entropy, whose sign follows
    that of the error: an action that did better than expected, or worse, never narrows the policy
    by its entropy term. A truncated episode is bootstrapped, where the authors' code takes it for a
    terminated one.

    Args:
        policy: MlpPolicy.
        env: One environment with Discrete actions or a Box.
        learning_rate: The largest step of ObGD.
        gamma: Discount.
        trace_lambda: With gamma, how fast traces fade.
        kappa_policy: How far below overshooting the actor's steps stay; larger is more careful.
        kappa_value: The same of the critic.
        ent_coef: Weight of the entropy in the actor's trace.
        stats_window_size: Episodes that logs average over.
        policy_kwargs: ``net_arch`` and ``sparsity``.
        verbose: As in Stable-Baselines3.
        seed: Of weights and actions.
        device: The processor: single observations of small networks gain nothing elsewhere.
        tensorboard_log: As in Stable-Baselines3.
        _init_setup_model: As in Stable-Baselines3.

    Source: arXiv:2410.14606, algorithm Stream AC(lambda), with the constants of the authors' code.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": StreamACPolicy}

    def __init__(
        self,
        policy: str | type[StreamACPolicy],
        env: GymEnv,
        learning_rate: float = 1.0,
        gamma: float = 0.99,
        trace_lambda: float = 0.8,
        kappa_policy: float = 3.0,
        kappa_value: float = 2.0,
        ent_coef: float = 0.01,
        stats_window_size: int = 100,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        tensorboard_log: str | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        self.trace_lambda = trace_lambda
        self.kappa_policy, self.kappa_value = kappa_policy, kappa_value
        super().__init__(
            policy,
            env,
            gamma=gamma,
            learning_rate=learning_rate,
            ent_coef=ent_coef,
            stats_window_size=stats_window_size,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            tensorboard_log=tensorboard_log,
            _init_setup_model=_init_setup_model,
            supported_action_spaces=(spaces.Discrete, spaces.Box),
        )

    def _setup_model(self) -> None:
        """Build the policy and both optimizers."""
        super()._setup_model()
        self._actor, self._critic = map(Arithmetic, self.policy.networks())
        self._optimizers = []
        kappas = (self.kappa_policy, self.kappa_value)
        for network, kappa in zip(self.policy.networks(), kappas, strict=True):
            network.optimizer = ObGD(
                network.flat,
                lr=float(self.learning_rate),  # type: ignore[arg-type]  # never a schedule here
                decay=self.gamma * self.trace_lambda,
                kappa=kappa,
            )
            self._optimizers.append(network.optimizer)
        is_box = isinstance(self.action_space, spaces.Box)
        self._output_gradient = gaussian_gradient if is_box else categorical_gradient

    def _act(self, seen: NDArray[Any]) -> Any:
        self._seen_by_actor, self._outputs = seen, self._actor.forward(seen)
        if not isinstance(self.action_space, spaces.Box):
            chances = softmax(self._outputs).cumsum()
            return int(np.searchsorted(chances[:-1], np.random.random(), side="right"))
        mean, spread = np.split(self._outputs, 2)
        return mean + np.logaddexp(0.0, spread) * np.random.standard_normal(len(mean))

    def _learn(self, step: Step, reward: float, following: NDArray[Any]) -> float:
        actor, critic = self._optimizers
        value = float(self._critic.forward(self._seen_by_actor)[0])
        gradient = self._critic.backward(np.ones(1, self._dtype))
        error = reward - value
        if not step.terminated:
            error += self.gamma * float(self._critic.forward(following)[0])
        weight = self.ent_coef * np.sign(error)
        outputs = self._output_gradient(self._outputs, step.action, float(weight))
        actor.update(self._actor.backward(outputs.astype(self._dtype)), error)
        critic.update(gradient, error)
        if step.ended:
            self._clear_traces()
        return error

    def _clear_traces(self) -> None:
        for optimizer in self._optimizers:
            optimizer.clear()


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Return the chances of logits, shape (actions,).

    >>> softmax(np.log([1.0, 3.0])).round(2)
    array([0.25, 0.75])
    """
    chances = np.exp(logits - logits.max())
    return np.asarray(chances / np.add.reduce(chances))


def categorical_gradient(logits: NDArray[Any], action: int, entropy: float) -> NDArray[Any]:
    """Return the gradient in the logits of log p(action) + entropy * H(p), shape (actions,).

    >>> categorical_gradient(np.log([1.0, 3.0]), 0, 0.0).round(2)
    array([ 0.75, -0.75])
    """
    logs = logits - logits.max()
    logs = logs - math.log(np.add.reduce(np.exp(logs)))
    chances = np.exp(logs)
    gradient = -chances
    gradient[action] += 1.0
    whole = -float(chances.dot(logs))  # H
    return np.asarray(gradient - entropy * chances * (logs + whole))


def gaussian_gradient(outputs: NDArray[Any], action: NDArray[Any], entropy: float) -> NDArray[Any]:
    """Return the gradient in mean and spread of log p(action) + entropy * H(p), shape (2 n,).

    The standard deviation is softplus(spread).

    Args:
        outputs: Mean and spread of each entry of the action, shape (2 n,).
        action: As it was drawn, shape (n,).
        entropy: Weight of the entropy.

    >>> gaussian_gradient(np.array([1.0, math.log(math.e - 1)]), np.array([3.0]), 0.0).round(3)
    array([2.   , 1.896])
    """
    mean, spread = np.split(outputs, 2)
    deviation = np.logaddexp(0.0, spread)
    apart = (action - mean) / deviation
    slope = 1.0 / (1.0 + np.exp(-spread))  # of softplus
    in_deviation = (apart * apart - 1.0 + entropy) / deviation
    return np.concatenate([apart / deviation, in_deviation * slope])
