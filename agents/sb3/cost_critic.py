"""A critic of costs: what is still to be paid, learned beside what is still to be gained."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from copy import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import obs_as_tensor, update_learning_rate

from holdfast import seeding
from holdfast.agents.algorithms import losses
from holdfast.agents.base.buffers import Arrays, by_name
from holdfast.agents.base.parameters import Named, below, flat
from holdfast.agents.sb3.weights_io import load_optimizers, optimizer_tensors

Weighed = Callable[[Any, Any], Any]
Floats = NDArray[np.float32]


class CostCritic:
    """A second critic for algorithms that learn from rollouts, of the costs alone.

    With A_r and A_c the generalised advantages of rewards and costs and m the multiplier, the
    policy learns from (A_r - m A_c) / (1 + m). Its own critic is that of the reward, whatever m
    does; where costs are part of the reward, it has to follow m instead.

    The critic is a network of the policy's class and arguments, with an optimizer of its own; its
    values alone are used, and what methods build into the policy is not in it. It is fitted to the
    rollout's returns of costs in as many epochs, and by as large steps, as the policy's. Discounts
    are those of the rewards. Where rewards are normalised, costs are divided by the same number, so
    that m has the same meaning.

    Source: PPO-Lagrangian of Ray et al. 2019, Benchmarking Safe Exploration in Deep Reinforcement
    Learning. Its code (github.com/openai/safety-starter-agents) weighs the two objectives so, of
    which PPO clips that of the reward alone, with A_r standardised and A_c centred before. Here
    the advantages are weighed, and what the algorithm does to advantages is done to them together.

    Args:
        model: An algorithm that learns from rollouts, whose rollout buffer it takes over.
        weighed: Weighs rewards and costs against each other; see ``Multiplier.weighed``.
        is_compiled: Whether it is fitted by the compiled engine.

    Attributes:
        loss: Mean squared error of the last rollout's fit; None before.
    """

    def __init__(self, model: Any, weighed: Weighed, *, is_compiled: bool = False) -> None:
        self._model, self._weighed, self._is_compiled = model, weighed, is_compiled
        self._compiled: Any = None
        with seeding.isolated(seeding.derive(model.seed or 0, "cost critic")):
            self._policy = model.policy_class(
                model.observation_space,
                model.action_space,
                model.lr_schedule,
                **model.policy_kwargs,
            ).to(model.device)
        self._cuts: deque[dict[int, Any]] = deque(maxlen=model.n_steps)
        self.loss: float | None = None
        model.rollout_buffer.compute_returns_and_advantage = self._estimate

    def watch(self, ends: NDArray[np.bool_], infos: list[Any]) -> None:
        """Remember which episodes were cut at a step of all environments."""
        self._cuts.append(
            {
                int(place): infos[place]
                for place in np.flatnonzero(ends)
                if infos[place].get("TimeLimit.truncated", False)
            }
        )

    def _estimate(self, last_values: torch.Tensor, dones: NDArray[np.bool_]) -> None:
        """Do what the buffer does, for rewards and for costs, and let its advantages be of both."""
        buffer = self._model.rollout_buffer
        estimate = type(buffer).compute_returns_and_advantage
        estimate(buffer, last_values=last_values, dones=dones)
        paid = copy(buffer)
        paid.rewards = self._costs(buffer.buffer_size)
        paid.values = self._values(_flat(buffer.observations)).reshape(paid.rewards.shape)
        paid.advantages = np.zeros_like(paid.values)
        following = torch.as_tensor(self._values(self._model._last_obs))
        estimate(paid, last_values=following, dones=dones)
        buffer.advantages[:] = self._weighed(buffer.advantages, paid.advantages)
        self._fit(buffer.observations, paid.returns)

    def _costs(self, length: int) -> Floats:
        """Return what the rollout's steps cost, and what would still come where they were cut.

        ``act`` takes steps that are in no rollout, so that the last ones count.
        """
        costs: Floats = self._model.rollout_buffer.costs[:length] / np.float32(self._scale())
        for step, cut in enumerate([*self._cuts][-length:]):
            for place, info in cut.items():
                # Normalised by now, as the policy's own critic sees it.
                last = _one(info["terminal_observation"])
                costs[step, place] += self._model.gamma * self._values(last)[0]
        self._cuts.clear()
        return costs

    def _scale(self) -> float:
        normalizer = self._model.get_vec_normalize_env()
        if normalizer is None or not normalizer.norm_reward:
            return 1.0
        return float(np.sqrt(normalizer.ret_rms.var + normalizer.epsilon))

    def _values(self, observations: Any) -> Floats:
        """Return what is still to be paid, shape (rows,)."""
        with torch.no_grad():
            seen = obs_as_tensor(observations, self._model.device)
            found: Floats = self._policy.predict_values(seen).flatten().cpu().numpy()
        return found

    def _fit(self, observations: Any, returns: Floats) -> None:
        """Take the policy's epochs of minibatches towards the returns."""
        model, rows = self._model, returns.size
        rng = seeding.generator(model.seed or 0, "cost critic", model.num_timesteps)
        size = getattr(model, "batch_size", rows)
        shuffled = [rng.permutation(rows) for _ in range(getattr(model, "n_epochs", 1))]
        indices = [one[start : start + size] for one in shuffled for start in range(0, rows, size)]
        seen = by_name("observations", _flat(observations))
        rate = model.lr_schedule(model._current_progress_remaining)
        errors = self._steps_on(seen | {"returns": returns.reshape(-1)}, indices, rate)
        self.loss = float(np.mean(errors))

    def _steps_on(self, rows: Arrays, indices: list[Any], rate: float) -> Any:
        """Take a step on each minibatch of rows; return the errors before them."""
        policy, norm = self._policy, self._model.max_grad_norm
        if self._is_compiled:
            if self._compiled is None:
                # Here: it imports jax, which only this engine needs.
                from holdfast.agents.compiled.value_fit import ValueFit

                most = self._model.n_steps * self._model.n_envs
                self._compiled = ValueFit(policy, norm, most)
            return self._compiled.fit(rows, indices, rate)
        update_learning_rate(policy.optimizer, rate)
        tensors = {name: torch.as_tensor(of, device=policy.device) for name, of in rows.items()}
        errors = []
        for index in indices:
            error = losses.value_error(policy, {name: of[index] for name, of in tensors.items()})
            policy.optimizer.zero_grad()
            torch.autograd.backward(error)
            torch.nn.utils.clip_grad_norm_(policy.parameters(), norm)
            policy.optimizer.step()
            errors.append(error.item())
        return errors

    # -- checkpoints inside a task -----------------------------------------------------------------

    def tensors(self) -> Named:
        """Return all that it is between two rollouts."""
        weights = {name: one.detach().clone() for name, one in self._policy.state_dict().items()}
        state = optimizer_tensors(SimpleNamespace(policy=self._policy))
        return flat({"weights": weights, "optimizer": state})

    def load_tensors(self, tensors: Named) -> None:
        """Take back what ``tensors`` gave."""
        self._policy.load_state_dict(below(tensors, "weights"))
        load_optimizers(SimpleNamespace(policy=self._policy), below(tensors, "optimizer"))


def _flat(observations: Any) -> Any:
    """Return observations of shape (steps, n_envs, ...) as rows."""
    if isinstance(observations, dict):
        return {key: _flat(part) for key, part in observations.items()}
    return observations.reshape(-1, *observations.shape[2:])


def _one(observation: Any) -> Any:
    """Return an observation as one row."""
    if isinstance(observation, dict):
        return {key: _one(part) for key, part in observation.items()}
    return np.asarray(observation)[None]
