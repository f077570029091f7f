"""Resets: the networks of a learner begin again now and then, and its replay buffer stays."""

from __future__ import annotations

from typing import Any

import torch

from holdfast import seeding
from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT
from holdfast.agents.doors.networks import target_pairs
from holdfast.agents.modules.initialisation import fresh_weights
from holdfast.agents.sb3.weights_io import optimizers
from holdfast.errors import UsageError


class Resets:
    """Begins the networks of one model again after every so many gradient updates.

    Actor, critics and what extracts their features are drawn as they were built, targets become
    copies, the entropy coefficient takes its first value, and all optimizers forget their moments.
    The replay buffer stays, and so do schedules. A reset waits for the end of a round of updates.

    What is drawn depends on the seed and the number of the reset alone, and how many there have
    been on the model's count of updates: a checkpoint needs nothing of it.

    Source: Nikishin et al. 2022, The Primacy Bias in Deep Reinforcement Learning
    (arXiv:2205.07802), which resets SAC whole.

    Args:
        model: Newly built, nothing loaded into it yet.
        every: Updates between two resets.
        seed: Of the task.

    Raises:
        UsageError: If the policy has parameters of which nothing tells how to draw them.
    """

    def __init__(self, model: Any, every: int, seed: int) -> None:
        self._model, self._every, self._seed = model, every, seed
        names = {name for name, _ in model.policy.named_parameters()}
        known = fresh_weights(model.policy, names, seeding.generator(seed, "resets", 0))
        if unknown := sorted(names - known.keys()):
            raise UsageError(
                f"agent.resets: nothing tells how policy.{unknown[0]} begins, which is no weight "
                "of a layer or a normalisation; remove resets:"
            )
        coefficient = getattr(model, ENTROPY_COEFFICIENT, None)
        self._coefficient = None if coefficient is None else coefficient.detach().clone()
        self.count_again()

    def count_again(self) -> None:
        """Count the resets so far by the model's updates, as where a checkpoint was put back."""
        self._done = self._model._n_updates // self._every

    @property
    def is_due(self) -> bool:
        """Whether the model has done the updates of one more reset."""
        return bool(self._model._n_updates // self._every > self._done)

    @torch.no_grad()
    def reset(self) -> None:
        """Begin again; of resets that one round of updates passed, only the last."""
        self.count_again()
        model, policy = self._model, self._model.policy
        parameters = dict(policy.named_parameters())
        rng = seeding.generator(self._seed, "resets", self._done)
        for name, value in fresh_weights(policy, parameters.keys(), rng).items():
            parameters[name].copy_(value)
        for online, target in target_pairs(policy):
            target.load_state_dict(online.state_dict())
        if self._coefficient is not None:
            getattr(model, ENTROPY_COEFFICIENT).copy_(self._coefficient)
        for optimizer in optimizers(model):
            optimizer.state.clear()
        model.logger.record("train/resets", self._done)
