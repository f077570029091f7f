"""EnvPool as a vector environment of Stable-Baselines3's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from holdfast.envs.envpool.batch import Batch, Ids, write
from holdfast.envs.envpool.single import rows
from holdfast.envs.wrappers.guard import NAN_KEY, copied
from holdfast.envs.wrappers.monitor import episode
from holdfast.errors import UsageError

if TYPE_CHECKING:
    import gymnasium as gym


class EnvPoolVector(VecEnv):
    """``n_envs`` copies of a task, stepped by EnvPool in one call.

    Autoreset is same-step: EnvPool would reset a finished environment at the *next* step, whose
    action it ignores, so the finished ones are reset here at once, in one partial reset. Seeds are
    those of ``make_vec_env``: environment ``i`` begins with ``seed + i``, and later resets go on
    from there.

    Infos are empty dicts while an episode runs: filling them would cost more than stepping. At its
    end one holds EnvPool's own values, ``terminal_observation``, ``TimeLimit.truncated``,
    ``episode`` as Stable-Baselines3's Monitor writes it, and ``is_success`` where the family
    reports success: at any step of the episode, as Continual World counts it.

    Args:
        env: The task as ``task_env`` returns it, with ``backend: envpool``.
        n_envs: How many copies.
        seed: Seed of the first.
        task_name: For error texts.
    """

    def __init__(self, env: gym.Env[Any, Any], n_envs: int, seed: int, task_name: str) -> None:
        self._batch = Batch(env, task_name)
        super().__init__(n_envs, env.observation_space, env.action_space)
        self.action_space.seed(seed)
        self._all: Ids = np.arange(n_envs, dtype=np.int32)
        self._started = False
        self._began = time.time()
        self._infos: list[dict[str, Any]] = []
        self._totals = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, np.int64)
        self._succeeded = np.zeros(n_envs, np.bool_)
        self.seed(seed)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seeds of the next reset, which rebuilds the simulators; None draws one."""
        drawn = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self._seeds = [drawn + index for index in range(self.num_envs)]
        self._started = False
        return self._seeds

    def reset(self) -> VecEnvObs:
        """Begin new episodes everywhere and return their observations."""
        if self._started:
            observations = self._batch.restart(self._all)
        else:
            observations = self._batch.start([int(seed or 0) for seed in self._seeds])
        self._started = True
        self._totals[:], self._lengths[:], self._succeeded[:] = 0.0, 0, False
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observations  # type: ignore[no-any-return]

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step of every environment; what needs no result is done meanwhile."""
        self._batch.send(actions, self._all)
        self._lengths += 1
        self._infos = [{} for _ in range(self.num_envs)]

    def step_wait(self) -> VecEnvStepReturn:
        """End the step, and reset the environments whose episode is over."""
        batch, infos = self._batch.receive(), self._infos
        self._totals += batch.rewards
        if batch.successes is not None:
            self._succeeded |= batch.successes
        dones = batch.terminated | batch.truncated
        observations = batch.observations
        if dones.any():
            over = np.flatnonzero(dones).astype(np.int32)
            for i in over.tolist():
                infos[i] = self._final_info(i, batch)
                infos[i]["terminal_observation"] = copied(rows(observations, i))
            write(observations, over, self._batch.restart(over))
            self._totals[over], self._lengths[over], self._succeeded[over] = 0.0, 0, False
        return observations, batch.rewards.astype(np.float32), dones, infos

    def _final_info(self, i: int, batch: Any) -> dict[str, Any]:
        info = {
            key: copied(value[i])
            for key, value in batch.info.items()
            if isinstance(value, np.ndarray) and key != "env_id"
        }
        info["TimeLimit.truncated"] = bool(batch.truncated[i] and not batch.terminated[i])
        info["episode"] = episode(float(self._totals[i]), int(self._lengths[i]), self._began)
        if batch.successes is not None:
            info["is_success"] = bool(self._succeeded[i])
        if batch.bad is not None and batch.bad[i]:
            info[NAN_KEY] = True
        return info

    def close(self) -> None:
        """Release the simulators."""
        self._batch.close()
        self._started = False

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return no pictures; one environment is drawn by ``task_env(render_mode=...)``."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the described environment, the same for every copy."""
        value = self._batch.env.get_wrapper_attr(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: EnvPool's environments have no attributes of their own.

        Raises:
            UsageError: Always.
        """
        raise _no("attribute", attr_name, "set")

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Refuse: EnvPool's environments have no methods of their own.

        Raises:
            UsageError: Always.
        """
        raise _no("method", method_name, "call")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return whether the copies are wrapped; by a Monitor they are in effect."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]


def _no(noun: str, name: str, verb: str) -> UsageError:
    text = f"EnvPool's environments have no {noun} '{name}' to {verb}"
    return UsageError(f"{text}; write `backend: gymnasium`")
