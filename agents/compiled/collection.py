"""Stable-Baselines3's ``collect_rollouts`` with less of its own work for each environment step.

What comes of it is the same: steps, buffers, callbacks and counters, in the same order. Networks
act in NumPy where they can, environments side by side in this process are stepped without copies of
copies, and plain buffers are written to row by row. What is replaced or not plain, as another class
of buffers or of environments, is called as Stable-Baselines3 calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import DummyVecEnv

from holdfast.agents.compiled.actors import Actor, Predict, actor_critic, predictor

Stepped = tuple[Any, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]
"""Observations, rewards, ends of episodes, infos."""


@contextmanager
def collecting(model: Any) -> Iterator[None]:
    """Make a model collect as this module does it, inside the block.

    A model whose ``collect_rollouts`` is not one of those that are known here keeps its own, and so
    does one that explores with state-dependent noise.
    """
    collector = collector_of(model)
    if collector is None:
        yield
        return
    model.collect_rollouts = collector.collect_rollouts
    try:
        yield
    finally:
        vars(model).pop("collect_rollouts", None)  # the instance's; the class's shows again


def collector_of(model: Any) -> RolloutCollector | TransitionCollector | None:
    """Return what collects for a model; None where Stable-Baselines3 itself has to."""
    if getattr(model, "use_sde", False):
        return None
    published = type(model).collect_rollouts
    if published in (OnPolicyAlgorithm.collect_rollouts, MaskablePPO.collect_rollouts):
        return RolloutCollector(model)
    return TransitionCollector(model) if published is OffPolicyAlgorithm.collect_rollouts else None


# -- environments ----------------------------------------------------------------------------------


def stepping(env: Any) -> Callable[[NDArray[Any]], Stepped]:
    """Return a function that steps environments.

    Args:
        env: Stable-Baselines3's ``DummyVecEnv`` is stepped as its ``step_wait`` does it, but infos
            are those of the environments, not copies; others step themselves.
    """
    replaced = vars(env).keys() & {"step", "step_async", "step_wait", "_save_obs", "_obs_from_buf"}
    if type(env) is not DummyVecEnv or replaced:
        return env.step  # type: ignore[no-any-return]  # VecEnv is typed more loosely
    return partial(_step_each, env)


def _step_each(env: DummyVecEnv, actions: NDArray[Any]) -> Stepped:
    env.actions = actions
    seen: Any = env.buf_obs
    single = seen[None] if env.keys == [None] else None
    infos = env.buf_infos
    for index, one in enumerate(env.envs):
        observation, reward, terminated, truncated, info = one.step(actions[index])
        done = terminated or truncated
        info["TimeLimit.truncated"] = truncated and not terminated
        if done:
            info["terminal_observation"] = observation
            observation, env.reset_infos[index] = one.reset()
        env.buf_rews[index], env.buf_dones[index], infos[index] = reward, done, info
        if single is not None:
            single[index] = observation
        else:
            env._save_obs(index, observation)
    observations: Any = single.copy() if single is not None else env._obs_from_buf()
    return observations, env.buf_rews.copy(), env.buf_dones.copy(), list(infos)


def _seen(stepped: Stepped) -> dict[str, Any]:
    """Return what environments gave, by the names that callbacks know."""
    new_obs, rewards, dones, infos = stepped
    return {"new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}


def _ended(dones: NDArray[np.bool_]) -> list[int]:
    """Return which episodes ended; mostly none, which is found out faster than by NumPy."""
    told = dones.tolist()
    return [index for index, done in enumerate(told) if done] if True in told else []


# -- on-policy -------------------------------------------------------------------------------------


class RolloutCollector:
    """Collects rollouts for PPO, A2C and MaskablePPO.

    Args:
        model: The algorithm.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._actor: Actor | None = None
        self._is_masked = isinstance(model, MaskablePPO)
        space = model.action_space
        self._bounds = (space.low, space.high) if isinstance(space, spaces.Box) else None
        self._is_discrete = isinstance(space, spaces.Discrete)

    def collect_rollouts(
        self,
        env: Any,
        callback: Any,
        rollout_buffer: Any,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """Fill a rollout buffer; arguments and result as Stable-Baselines3's.

        The locals that callbacks see have arrays for ``values`` and ``log_probs``, not tensors.
        """
        model = self.model
        use_masking = use_masking and self._is_masked
        self._begin(env, rollout_buffer, use_masking=use_masking)
        callback.on_rollout_start()
        actor, step, add = self._ready(n_rollout_steps), stepping(env), _adding(rollout_buffer)
        seen = {"self": model, "env": env, "callback": callback, "rollout_buffer": rollout_buffer}
        callback.update_locals(seen | {"n_rollout_steps": n_rollout_steps})
        for n_steps in range(n_rollout_steps):
            masks = get_action_masks(env) if use_masking else None
            acted = actor.act(model._last_obs, masks)
            taken = self._clipped(acted.actions)
            new_obs, rewards, dones, infos = stepped = step(taken)
            model.num_timesteps += env.num_envs
            told = {"n_steps": n_steps, **_seen(stepped), **acted._asdict()}
            callback.update_locals(told | {"clipped_actions": taken, "action_masks": masks})
            if not callback.on_step():
                return False
            model._update_info_buffer(infos, dones)
            if ended := _ended(dones):
                self._bootstrap(actor, stepped, ended)
            actions = acted.actions.reshape(-1, 1) if self._is_discrete else acted.actions
            row = (model._last_obs, actions, rewards, model._last_episode_starts)
            add(row, acted.values, acted.log_probs, masks)
            model._last_obs, model._last_episode_starts = new_obs, dones
        values = actor.values(model._last_obs)
        _estimate_advantages(rollout_buffer, values, model._last_episode_starts)
        callback.update_locals({"n_steps": n_rollout_steps, "values": values})
        callback.on_rollout_end()
        return True

    def _begin(self, env: Any, rollout_buffer: Any, *, use_masking: bool) -> None:
        assert self.model._last_obs is not None, "No previous observation was provided"
        self.model.policy.set_training_mode(False)
        rollout_buffer.reset()
        if use_masking and not is_masking_supported(env):
            raise ValueError(
                "Environment does not support action masking. Consider using ActionMasker wrapper"
            )

    def _clipped(self, actions: NDArray[Any]) -> NDArray[Any]:
        if self._bounds is None:
            return actions
        # Faster than numpy.clip on few numbers.
        clipped: NDArray[Any] = np.minimum(np.maximum(actions, self._bounds[0]), self._bounds[1])
        return clipped

    def _ready(self, steps: int) -> Actor:
        if self._actor is None or not self._actor.is_current:
            self._actor = actor_critic(self.model, self.model._last_obs)
        self._actor.refresh(steps)
        return self._actor

    def _bootstrap(self, actor: Actor, stepped: Stepped, ended: list[int]) -> None:
        """Add the value of the last observation to rewards of episodes that were cut short."""
        new_obs, rewards, _, infos = stepped
        cut = [
            index
            for index in ended
            if infos[index].get("terminal_observation") is not None
            and infos[index].get("TimeLimit.truncated", False)
        ]
        if not cut:
            return
        last = _with_last(new_obs, infos, cut)
        rewards[cut] = rewards[cut] + self.model.gamma * actor.values(last)[cut]


def _with_last(new_obs: Any, infos: list[dict[str, Any]], ended: list[int]) -> Any:
    """Return a copy of observations in which episodes that ended have their own last one."""
    if isinstance(new_obs, dict):
        copies = {key: rows.copy() for key, rows in new_obs.items()}
        for index in ended:
            for key, rows in copies.items():
                rows[index] = infos[index]["terminal_observation"][key]
        return copies
    rows = new_obs.copy()
    for index in ended:
        rows[index] = infos[index]["terminal_observation"]
    return rows


Add = Callable[[tuple[Any, ...], NDArray[Any], NDArray[Any], Any], None]


def _adding(buffer: Any) -> Add:
    """Return what adds a row to a rollout buffer: observations, actions, rewards, starts."""
    if type(buffer) is RolloutBuffer and "add" not in vars(buffer):
        return partial(_add_row, buffer)
    masked = isinstance(buffer, MaskableRolloutBuffer | MaskableDictRolloutBuffer)

    def add(row: tuple[Any, ...], values: Any, log_probs: Any, masks: Any) -> None:
        given = {"action_masks": masks} if masked else {}
        buffer.add(*row, torch.from_numpy(values), torch.from_numpy(log_probs), **given)

    return add


def _add_row(buffer: Any, row: tuple[Any, ...], values: Any, log_probs: Any, _: Any) -> None:
    at = buffer.pos
    observations, actions, rewards, starts = row
    if observations.ndim == 1:  # Discrete
        observations = observations[:, None]
    buffer.observations[at] = observations
    buffer.actions[at] = actions.reshape(buffer.n_envs, -1)
    buffer.rewards[at] = rewards
    buffer.episode_starts[at] = starts
    buffer.values[at] = values
    buffer.log_probs[at] = log_probs
    buffer.pos = at + 1
    if buffer.pos == buffer.buffer_size:
        buffer.full = True


def _estimate_advantages(buffer: Any, last_values: NDArray[Any], dones: Any) -> None:
    """Do what ``compute_returns_and_advantage`` does; what needs no loop over steps has none."""
    if type(buffer) is not RolloutBuffer or "compute_returns_and_advantage" in vars(buffer):
        values = torch.from_numpy(last_values)
        buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        return
    goes_on = 1.0 - np.concatenate([buffer.episode_starts[1:], dones[None].astype(np.float32)])
    following = np.concatenate([buffer.values[1:], last_values[None]])
    deltas = buffer.rewards + buffer.gamma * following * goes_on - buffer.values
    kept = buffer.gamma * buffer.gae_lambda * goes_on
    sums = np.zeros_like(last_values)
    for step in range(len(deltas) - 1, -1, -1):
        sums = deltas[step] + kept[step] * sums
        buffer.advantages[step] = sums
    buffer.returns = buffer.advantages + buffer.values


# -- off-policy ------------------------------------------------------------------------------------


class TransitionCollector:
    """Collects transitions for DQN, QR-DQN, SAC, TQC, CrossQ, TD3, DDPG and kin.

    Args:
        model: The algorithm.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._predict: Predict | None = None
        self._is_ready = False
        self._is_box = isinstance(model.action_space, spaces.Box)
        self._samples = type(model)._sample_action is OffPolicyAlgorithm._sample_action
        self._stores = type(model)._store_transition is OffPolicyAlgorithm._store_transition

    def collect_rollouts(
        self,
        env: Any,
        callback: Any,
        train_freq: TrainFreq,
        replay_buffer: Any,
        action_noise: Any = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Store transitions in a replay buffer; arguments and result as Stable-Baselines3's."""
        model, n_envs = self.model, env.num_envs
        if model.policy.training:
            model.policy.set_training_mode(False)
        assert train_freq.frequency > 0, "Should at least collect one step or episode."
        if n_envs > 1:
            assert train_freq.unit == TrainFrequencyUnit.STEP, (
                "You must use only one env when doing episodic training."
            )
        self._is_ready = False
        callback.on_rollout_start()
        step, store = self._storing(env, replay_buffer)
        seen = {"self": model, "env": env, "callback": callback, "replay_buffer": replay_buffer}
        seen |= {"train_freq": train_freq, "action_noise": action_noise}
        seen |= {"learning_starts": learning_starts, "log_interval": log_interval}
        callback.update_locals(seen | {"continue_training": True})
        steps = episodes = 0
        while should_collect_more_steps(train_freq, steps, episodes):
            actions, stored = self._sample(learning_starts, action_noise, n_envs)
            new_obs, rewards, dones, infos = stepped = step(actions)
            model.num_timesteps += n_envs
            steps += 1
            told = {"actions": actions, "buffer_actions": stored, **_seen(stepped)}
            counted = {"num_collected_steps": steps, "num_collected_episodes": episodes}
            callback.update_locals(told | counted)
            if not callback.on_step():
                return RolloutReturn(steps * n_envs, episodes, continue_training=False)
            model._update_info_buffer(infos, dones)
            store(replay_buffer, stored, new_obs, rewards, dones, infos)
            model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
            model._on_step()
            for index in _ended(dones):
                episodes += 1
                self._episode_ended(index, action_noise, log_interval)
        callback.on_rollout_end()
        return RolloutReturn(steps * n_envs, episodes, continue_training=True)

    def _episode_ended(self, index: int, action_noise: Any, log_interval: int | None) -> None:
        model = self.model
        model._episode_num += 1
        if action_noise is not None:
            action_noise.reset(**({"indices": [index]} if model.n_envs > 1 else {}))
        if log_interval is not None and model._episode_num % log_interval == 0:
            model.dump_logs()

    def _sample(
        self, learning_starts: int, action_noise: Any, n_envs: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return actions, and those that are stored, as ``_sample_action`` does."""
        model = self.model
        if not self._samples or vars(model).keys() & {"_sample_action", "predict"}:
            found: tuple[NDArray[Any], NDArray[Any]] = model._sample_action(
                learning_starts, action_noise, n_envs
            )
            return found
        if model.num_timesteps < learning_starts:
            actions = np.array([model.action_space.sample() for _ in range(n_envs)])
        else:
            actions = self._predictor()(model._last_obs)
        if not self._is_box:
            return actions, actions
        stored = model.policy.scale_action(actions)
        if action_noise is not None:
            stored = np.clip(stored + action_noise(), -1, 1)
        return model.policy.unscale_action(stored), stored

    def _predictor(self) -> Predict:
        """Return what acts; between two calls of ``collect_rollouts`` it is looked after once."""
        if self._is_ready and self._predict is not None:
            return self._predict
        if self._predict is None or not self._predict.is_current:
            self._predict = predictor(self.model, self.model._last_obs)
        self._predict.refresh()
        self._is_ready = True
        return self._predict

    def _storing(self, env: Any, buffer: Any) -> tuple[Callable[..., Stepped], Callable[..., None]]:
        """Return what steps environments, and what stores transitions."""
        if type(buffer) is not ReplayBuffer or "add" in vars(buffer):
            return env.step, self._stored  # it may keep infos, which then have to be copies
        is_plain = self._stores and self.model._vec_normalize_env is None
        is_plain = is_plain and not buffer.optimize_memory_usage
        return stepping(env), self._store if is_plain else self._stored

    def _stored(self, *transition: Any) -> None:
        self.model._store_transition(*transition)

    def _store(
        self,
        buffer: Any,
        actions: NDArray[Any],
        new_obs: Any,
        rewards: NDArray[Any],
        dones: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> None:
        """Do what ``_store_transition`` and a plain buffer's ``add`` do."""
        model, at = self.model, buffer.pos
        if "_store_transition" in vars(
            model
        ):  # as while exploring like earlier tasks, until it ends
            model._store_transition(buffer, actions, new_obs, rewards, dones, infos)
            return
        last = model._last_original_obs = model._last_obs
        ended = [i for i in _ended(dones) if infos[i].get("terminal_observation") is not None]
        following = _with_last(new_obs, infos, ended) if ended else new_obs
        for into, rows in (
            (buffer.observations[at], last),
            (buffer.next_observations[at], following),
            (buffer.actions[at], actions),
        ):
            into[...] = rows.reshape(into.shape)
        buffer.rewards[at], buffer.dones[at] = rewards, dones
        if buffer.handle_timeout_termination:
            buffer.timeouts[at] = [info.get("TimeLimit.truncated", False) for info in infos]
        buffer.pos = at + 1
        if buffer.pos == buffer.buffer_size:
            buffer.full, buffer.pos = True, 0
        model._last_obs = new_obs
