"""PPO's, MaskablePPO's and A2C's ``train``, compiled: all minibatches of a rollout in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from holdfast.agents.algorithms import losses
from holdfast.agents.base.buffers import Arrays, rollout_arrays
from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.base.parameters import Named
from holdfast.agents.compiled import account
from holdfast.agents.compiled.attributes import kept_tensors, replaced_by, settings
from holdfast.agents.compiled.rounds import Outcome, Planned, Rounds
from holdfast.agents.compiled.transfer import arrays_of, padded, state_of, tensors_of, write
from holdfast.agents.compiled.update import NORM, State, Update, filled, norms_in
from holdfast.agents.doors.gradients import Tensors

_NOT_LEARNED_FROM = ("rewards", "episode_starts")


class RolloutLearning:
    """Learns from rollouts in the place of a model's ``train``.

    Args:
        model: PPO, MaskablePPO or A2C.
        update: Of its only optimizer.
        norms: Takes how large gradients are.
    """

    def __init__(self, model: Any, update: Update, norms: GradientNorms) -> None:
        self._model, self._update, self._norms = model, update, norms
        self._epochs = getattr(model, "n_epochs", 1)
        self._limit = getattr(model, "target_kl", None)
        self._kept = kept_tensors(settings(model.policy))
        self._rounds = Rounds(self._one, stops=self._limit is not None)

    def train(self) -> None:
        """Do what the model's own ``train`` does.

        Raises:
            Diverged: If a gradient is not finite.
        """
        model, update = self._model, self._update
        model.policy.set_training_mode(True)
        model._update_learning_rate(model.policy.optimizer)
        rows = self._rows()
        indices, random_states = self._indices(len(rows["actions"]))
        buffers = dict(model.policy.named_buffers())  # as a method has them by now
        shared = {
            "rows": padded(rows, model.n_steps * model.n_envs),
            "kept": arrays_of([own[name] for own, name in self._kept]),
            "numbers": self._numbers(),
            "buffers": arrays_of(buffers),
        }
        first = {name: torch.as_tensor(values[indices[0]]) for name, values in rows.items()}
        update.begin(lambda parameters: self._loss(parameters, first, tensors_of(shared)))
        planned = []
        for index in indices:
            called, given = update.draw()
            planned.append(Planned((called, update.form), {"index": index, "given": given}))
        shared["fixed"] = arrays_of(update.fixed())
        begun = self._rounds.begun(arrays_of(state_of(update)))
        outcome = self._rounds.run(begun, shared, planned)
        write(update, self._rounds.told(outcome.state))
        taken = outcome.begun - outcome.is_over
        account.add(steps=taken)
        told = norms_in(outcome.figures)
        self._norms.add(update.optimizer, {group: of[:taken] for group, of in told.items()})
        update.undraw(len(planned) - taken)
        update.tell(outcome.said)
        batches = len(indices) // self._epochs
        if outcome.is_over:  # go on where Stable-Baselines3 does, which shuffles epoch by epoch
            np.random.set_state(random_states[(outcome.begun - 1) // batches])
        self._log(outcome, batches)

    def _one(
        self, how: Any, state: State, shared: Tensors, own: Tensors
    ) -> tuple[State, Named, Named, Any]:
        """Return what one update makes of the state: a pure function."""
        batch = {name: rows[own["index"]] for name, rows in shared["rows"].items()}

        def loss(parameters: Named) -> tuple[Tensor, Named]:
            with replaced_by(self._kept, shared["kept"]):
                return self._loss(parameters, batch, shared)

        called, _ = how
        rates = shared["numbers"]["rates"]
        # PPO and A2C have no other tensors but buffers, and no temperature.
        fixed, given = shared["fixed"], filled(own["given"], shared["buffers"], torch.zeros(()))
        return self._update.function(loss, called, state, fixed, given, rates)[:4]

    def _loss(self, parameters: Named, batch: Named, shared: Tensors) -> tuple[Tensor, Named]:
        spans = {name: n for name, n in shared["numbers"].items() if name.startswith("clip")}
        inputs = {**batch, **spans, "others": dict(shared["buffers"])}
        return losses.loss_and_figures(self._model, parameters, inputs)

    def _rows(self) -> Arrays:
        """Return the rows of the rollout, environment after environment."""
        rows = {
            name: values.swapaxes(0, 1).reshape(-1, *values.shape[2:])
            for name, values in rollout_arrays(self._model.rollout_buffer).items()
            if name not in _NOT_LEARNED_FROM
        }
        # As Stable-Baselines3's buffers give them out, whatever numbers the space has.
        return rows | {"actions": rows["actions"].astype(np.float32, copy=False)}

    def _indices(self, rows: int) -> tuple[list[Any], list[Any]]:
        """Return the rows of each minibatch, epoch after epoch, and NumPy's state after each."""
        size = getattr(self._model, "batch_size", rows)
        indices, states = [], []
        for _ in range(self._epochs):
            shuffled = np.random.permutation(rows)  # as Stable-Baselines3
            indices += [shuffled[start : start + size] for start in range(0, rows, size)]
            states.append(np.random.get_state())
        return indices, states

    def _numbers(self) -> dict[str, Any]:
        model, kind = self._model, next(self._model.policy.parameters()).detach().numpy().dtype
        rates = [np.asarray(group["lr"], kind) for group in model.policy.optimizer.param_groups]
        numbers: dict[str, Any] = {"rates": rates}
        if self._limit is not None:
            numbers["most_kl"] = np.asarray(1.5 * self._limit, kind)
        spans = losses.inputs_of(model, {}, {}, torch.Generator())
        for name in ("clip_range", "clip_range_vf"):
            if name in spans:
                numbers[name] = [np.asarray(end.numpy(), kind) for end in spans[name]]
        return numbers

    def _log(self, outcome: Outcome, batches: int) -> None:
        """Record what ``train`` records, under its names."""
        model, logger = self._model, self._model.logger
        is_ppo = "approx_kl" in outcome.figures
        model._n_updates += -(-outcome.begun // batches)
        for tag, values in outcome.figures.items():
            if tag == "loss" or tag.startswith(NORM):
                continue
            within = values[(outcome.begun - 1) // batches * batches :]  # of the last epoch
            named = "policy_loss" if tag == "policy_gradient_loss" and not is_ppo else tag
            logger.record(f"train/{named}", np.mean(within if tag == "approx_kl" else values))
        if is_ppo:
            logger.record("train/loss", outcome.figures["loss"][-1])
            progress = model._current_progress_remaining
            logger.record("train/clip_range", model.clip_range(progress))
            if model.clip_range_vf is not None:
                logger.record("train/clip_range_vf", model.clip_range_vf(progress))
        buffer = model.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        logger.record("train/explained_variance", explained)
        if hasattr(model.policy, "log_std"):
            logger.record("train/std", model.policy.log_std.detach().exp().mean().item())
        logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
