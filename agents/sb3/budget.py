"""Exactly as many environment steps as a task has, with Stable-Baselines3's own pieces.

``learn(total_timesteps)`` takes a lower bound: it rounds up to whole rollouts, and a callback that
stops it drops data. These two loops are ``learn`` with the last rollout cut to what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from holdfast.agents.base.agent import Log, Watch
from holdfast.agents.sb3.model_state import begin_again, cut_episodes

Updated = Callable[[int], None]
"""Called between rounds of collecting and updating with the steps taken so far."""

Resume = Callable[[], None] | None
"""Puts back what a checkpoint inside the task holds."""

Open = Callable[[], None] | None
"""Takes first steps of a task that has begun, without learning from them."""


def learn_on_policy(
    model: Any,
    steps: int,
    callback: BaseCallback,
    updated: Updated,
    resume: Resume = None,
    *,
    opening: Open = None,
) -> None:
    """Train a rollout-based algorithm for exactly ``steps``, a multiple of its ``n_envs``.

    Args:
        model: The algorithm.
        steps: Of the task.
        callback: Told of every step.
        updated: Called after each round.
        resume: Puts the model back to where it was inside the task; None begins it.
        opening: What a task that begins is opened with; None where nothing.
    """
    started = _begin(model, steps, callback, resume)
    started.on_training_start(locals(), globals())
    if opening is not None and resume is None:
        opening()
    iteration = 0
    while model.num_timesteps < steps:
        length = min(model.n_steps, (steps - model.num_timesteps) // model.n_envs)
        set_length(model.rollout_buffer, length)
        model.collect_rollouts(model.env, started, model.rollout_buffer, n_rollout_steps=length)
        iteration += 1
        model._update_current_progress_remaining(model.num_timesteps, steps)
        model.dump_logs(iteration)
        if model.rollout_buffer.buffer_size:  # 0: the agents of a team's group were all absent
            model.train()
        updated(model.num_timesteps)
    started.on_training_end()


def learn_off_policy(
    model: Any,
    steps: int,
    callback: BaseCallback,
    updated: Updated,
    resume: Resume = None,
    *,
    opening: Open = None,
) -> None:
    """Train a replay-based algorithm for exactly ``steps``, a multiple of its ``n_envs``.

    Arguments are those of ``learn_on_policy``.
    """
    started = _begin(model, steps, callback, resume)
    started.on_training_start(locals(), globals())
    if opening is not None and resume is None:
        opening()
    while model.num_timesteps < steps:
        left = (steps - model.num_timesteps) // model.n_envs
        rollout = model.collect_rollouts(
            model.env,
            train_freq=TrainFreq(min(model.train_freq.frequency, left), TrainFrequencyUnit.STEP),
            action_noise=model.action_noise,
            callback=started,
            learning_starts=model.learning_starts,
            replay_buffer=model.replay_buffer,
            log_interval=4,
        )
        if model.num_timesteps > model.learning_starts:
            updates = model.gradient_steps
            updates = rollout.episode_timesteps if updates < 0 else updates
            if updates > 0:
                model.train(batch_size=model.batch_size, gradient_steps=updates)
        updated(model.num_timesteps)
    started.on_training_end()


def _begin(model: Any, steps: int, callback: BaseCallback, resume: Resume) -> Any:
    """Set the learning up, and return the callback as the loops call it."""
    if resume is None:
        return model._setup_learn(steps, callback, True, "task", False)[1]
    model._setup_learn(steps, callback, True, "task", False)
    resume()
    # What is left, without a reset of the counters: the environments have been begun already.
    return model._setup_learn(steps - model.num_timesteps, callback, False, "task", False)[1]


def act(model: Any, steps: int, *, takes_masks: bool = False) -> list[float]:
    """Take steps as the policy is, greedily and without an update, then begin new episodes.

    They count as steps of the model; an off-policy algorithm stores them.

    Args:
        model: The algorithm, at the start of an episode in each environment.
        steps: A multiple of its ``n_envs``.
        takes_masks: Whether its environments say which actions are allowed.

    Returns:
        Returns of the episodes that ended; of an environment in which none did, that of the one
        that was cut short.
    """
    env, totals = model.env, np.zeros(model.n_envs)
    ended: list[list[float]] = [[] for _ in totals]
    replay_buffer: Any = getattr(model, "replay_buffer", None)
    for _ in range(steps // model.n_envs):
        masks = np.stack(env.env_method("action_masks")) if takes_masks else None
        given = {} if masks is None else {"action_masks": masks}
        actions, _ = model.predict(model._last_obs, deterministic=True, **given)
        new_obs, rewards, dones, infos = env.step(actions)
        model.num_timesteps += model.n_envs
        model._update_info_buffer(infos, dones)
        normalizer = model._vec_normalize_env
        totals += rewards if normalizer is None else normalizer.get_original_reward()
        for index in np.flatnonzero(dones):
            ended[index].append(float(totals[index]))
            totals[index] = 0.0
        if isinstance(model, OffPolicyAlgorithm):
            is_box = isinstance(model.action_space, spaces.Box)
            stored = model.policy.scale_action(actions) if is_box else actions
            # Of the class: the instance's may be that of an exploration.
            row = stored, new_obs, rewards, dones, infos
            type(model)._store_transition(model, replay_buffer, *row)
        else:
            model._last_obs = new_obs
    cut_episodes(model)
    begin_again(model, env)
    return [one for own, cut in zip(ended, totals, strict=True) for one in own or [float(cut)]]


def set_length(buffer: Any, length: int) -> None:
    """Make a rollout buffer of another length; collect_rollouts resets it before it is filled."""
    if buffer.buffer_size == length:
        return
    buffer.buffer_size = length
    if hasattr(buffer, "hidden_state_shape"):  # RecurrentPPO
        buffer.hidden_state_shape = (length, *buffer.hidden_state_shape[1:])


class Watching(BaseCallback):
    """Tells the loop of every step, and the memory door of every finished rollout."""

    def __init__(self, watch: Watch, on_rollout: Callable[[], None] | None) -> None:
        super().__init__()
        self._watch = watch
        self._rollout_ended = on_rollout

    def _on_step(self) -> bool:
        self._watch(self.num_timesteps)
        return True  # never False: that would drop the last step's data

    def at_start(self, env: Any) -> bool:
        """Return whether every environment is at the start of an episode."""
        told = getattr(env, "at_start", None)  # of a team, whose agents may end before it
        return bool(np.all(self.locals["dones"])) if told is None else bool(told())

    def beside(self, own: BaseCallback | None) -> BaseCallback:
        """Return this callback followed by the user's own, where there are any."""
        return self if own is None else CallbackList([self, own])

    def _on_rollout_end(self) -> None:
        if self._rollout_ended is not None:
            self._rollout_ended()


class _StreamWriter(KVWriter):
    """Stable-Baselines3's scalars on the step axis of the whole stream."""

    def __init__(self, log: Log, first_step: int) -> None:
        self._log, self._first_step = log, first_step

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        scalars = {
            key: float(value)
            for key, value in key_values.items()
            if "tensorboard" not in (key_excluded[key] or ()) and not isinstance(value, str)
        }
        self._log(scalars, self._first_step + step)

    def close(self) -> None:
        """Nothing is open here: the writer belongs to the loop."""


def stream_logger(log: Log, first_step: int) -> Logger:
    """Return a Stable-Baselines3 logger whose steps continue over the stream; it opens no file."""
    return Logger(folder=None, output_formats=[_StreamWriter(log, first_step)])
