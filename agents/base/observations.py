"""Observations on their way into a policy: running normalisation, and the task id inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from holdfast.errors import UsageError
from holdfast.scenarios.schema.agent import Normalize
from holdfast.scenarios.schema.observation_keys import OBSERVATION, TASK_ID


class ActingMeanStd(RunningMeanStd):
    """Moments of the rows of agents that act, in a team of which some may be absent.

    Args:
        shape: Of one agent's signal; all agents of a group have the same moments.
        acting: Returns which rows count, shape (rows,) or (copies, agents).
    """

    def __init__(self, shape: tuple[int, ...], acting: Callable[[], NDArray[np.bool_]]) -> None:
        super().__init__(shape=shape)
        self._acting = acting

    def update(self, arr: NDArray[Any]) -> None:
        """Take a batch, shape (rows, ...) or (copies, agents, ...)."""
        acting: NDArray[Any] = self._acting()
        if arr.ndim - self.mean.ndim < acting.ndim:  # one row for all agents of a copy
            acting = np.asarray(acting.any(axis=1))
        rows = arr.reshape(-1, *self.mean.shape)[acting.reshape(-1)]
        if len(rows):
            super().update(rows)


class TaskNormalize(VecNormalize):
    """Stable-Baselines3's VecNormalize that leaves the task id alone.

    In a team, the statistics are those of the group, and of agents that act.

    Args:
        venv: Training environments; a team's tell ``present`` and ``absent`` (see ``Seats``).
        options: What is normalised, and when its statistics stop moving.
        gamma: Discount of the running return that scales rewards.
        id_width: Width of the one-hot task id at the end of a vector observation, or 0.
        stage: Position of the task in the stream; ``first_task`` freezes after stage 0.
    """

    def __init__(
        self, venv: VecEnv, options: Normalize, gamma: float, id_width: int, *, stage: int
    ) -> None:
        space = venv.observation_space
        keys = None
        if isinstance(space, gym.spaces.Dict):
            keys = [
                key
                for key, sub in space.spaces.items()
                if key != TASK_ID and isinstance(sub, gym.spaces.Box) and not is_image_space(sub)
            ]
        elif options.observations and not isinstance(space, gym.spaces.Box):
            raise UsageError(
                f"agent.normalize.observations: {type(space).__name__} observations cannot be "
                "normalised; only Box observations and Box entries of a Dict can"
            )
        self.id_width = 0 if keys is not None else id_width
        super().__init__(
            venv,
            norm_obs=options.observations is not None,
            norm_reward=options.rewards is not None,
            clip_obs=options.clip,
            clip_reward=options.clip,
            gamma=gamma,
            norm_obs_keys=keys if options.observations else None,
        )
        if hasattr(venv, "present"):
            self._leave_out_absent(venv)
        if stage > 0 and options.observations == "first_task":
            for statistics in self._observation_statistics().values():
                _freeze(statistics)
        if stage > 0 and options.rewards == "first_task":
            _freeze(self.ret_rms)

    def _leave_out_absent(self, seats: Any) -> None:
        """Leave absent agents out of the statistics of observations and rewards."""
        self.ret_rms = ActingMeanStd((), lambda: ~seats.absent)
        if not self.norm_obs:
            return
        if not isinstance(self.obs_rms, dict):
            self.obs_rms = ActingMeanStd(self.obs_rms.mean.shape, seats.present)
            return
        joint = seats.present().ndim > 1  # a row is that of all agents
        for key, moments in self.obs_rms.items():
            shape = moments.mean.shape[1:] if joint and key == OBSERVATION else moments.mean.shape
            self.obs_rms[key] = ActingMeanStd(shape, seats.present)

    # shape (..., features)
    def _normalize_obs(self, obs: NDArray[Any], obs_rms: RunningMeanStd) -> NDArray[Any]:
        return self._with_id_of(obs, super()._normalize_obs(obs, obs_rms))

    def _unnormalize_obs(self, obs: NDArray[Any], obs_rms: RunningMeanStd) -> NDArray[Any]:
        return self._with_id_of(obs, super()._unnormalize_obs(obs, obs_rms))

    def _with_id_of(self, obs: NDArray[Any], changed: NDArray[Any]) -> NDArray[Any]:
        if self.id_width:
            changed[..., -self.id_width :] = obs[..., -self.id_width :]
        return changed

    def _observation_statistics(self) -> dict[str, RunningMeanStd]:
        if not self.norm_obs:
            return {}
        return self.obs_rms if isinstance(self.obs_rms, dict) else {"": self.obs_rms}

    def _statistics(self, *, rewards: bool = True) -> dict[str, RunningMeanStd]:
        statistics = {f"observations.{k}": v for k, v in self._observation_statistics().items()}
        return statistics | ({"rewards": self.ret_rms} if self.norm_reward and rewards else {})

    def tensors(self) -> dict[str, Tensor]:
        """Return the statistics as float64 tensors: mean, variance and count of each signal."""
        return {
            f"{name}/{part}": torch.as_tensor(np.array(getattr(moments, part), dtype=np.float64))
            for name, moments in self._statistics().items()
            for part in ("mean", "var", "count")
        }

    def load_tensors(self, tensors: dict[str, Tensor], *, rewards: bool = True) -> None:
        """Take the statistics back; those that are absent stay as they are."""
        for name, moments in self._statistics(rewards=rewards).items():
            if f"{name}/mean" in tensors:
                shape = np.shape(moments.mean)
                for part in ("mean", "var"):
                    if tuple(tensors[f"{name}/{part}"].shape) != shape:
                        raise UsageError(
                            f"normalization: {name}/{part} has the shape "
                            f"{tuple(tensors[f'{name}/{part}'].shape)}, here {shape}"
                        )
                moments.mean = tensors[f"{name}/mean"].numpy().copy()
                moments.var = tensors[f"{name}/var"].numpy().copy()
                moments.count = float(tensors[f"{name}/count"])


def restated(
    normalizer: TaskNormalize | None, observations: Any, statistics: dict[str, Tensor]
) -> Any:
    """Return normalised observations as they would be under other statistics.

    What was clipped stays where it was clipped.

    Args:
        normalizer: The one that normalised them; None where nothing is normalised.
        observations: Tensors as the policy takes them, shape (batch, ...) or such by key.
        statistics: As ``TaskNormalize.tensors`` gave them.
    """
    if normalizer is None or not normalizer.norm_obs:
        return observations
    if isinstance(observations, dict):
        return observations | {
            key: _restated(normalizer, observations[key], statistics, key)
            for key in normalizer.norm_obs_keys or ()
        }
    changed = _restated(normalizer, observations, statistics, "")
    if normalizer.id_width:
        changed[..., -normalizer.id_width :] = observations[..., -normalizer.id_width :]
    return changed


def _restated(
    normalizer: TaskNormalize, values: Tensor, statistics: dict[str, Tensor], key: str
) -> Tensor:
    now = normalizer.tensors()

    def moments(of: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        mean, var = (of[f"observations.{key}/{part}"].to(values) for part in ("mean", "var"))
        return mean, (var + normalizer.epsilon).sqrt()

    (mean, deviation), (old_mean, old_deviation) = moments(now), moments(statistics)
    raw = values * deviation + mean
    return ((raw - old_mean) / old_deviation).clamp(-normalizer.clip_obs, normalizer.clip_obs)


def carried_statistics(tensors: dict[str, Tensor], options: Normalize) -> dict[str, Tensor]:
    """Return the statistics that a new task starts from: all but those reset per task."""
    reset = tuple(
        prefix
        for prefix, mode in (("observations", options.observations), ("rewards", options.rewards))
        if mode == "per_task"
    )
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(reset)}


def _freeze(statistics: RunningMeanStd) -> None:
    statistics.update = lambda *_: None  # type: ignore[method-assign]  # of this instance only


# -- the task id ---------------------------------------------------------------------------------


def with_task_ids(observations: Any, tasks: NDArray[np.int64], width: int) -> Any:
    """Return a batch of observations that shows these tasks instead; the batch stays as it was.

    Args:
        observations: An array or tensor of shape (batch, features) whose last ``width`` entries are
            the one-hot, or a dict of such with an entry ``task_id``.
        tasks: Task index of each row, shape (batch,).
        width: Length of the one-hot.
    """
    one_hot = np.eye(width, dtype=np.float32)[tasks]  # (batch, width)
    if isinstance(observations, dict):
        return {**observations, TASK_ID: _like(observations[TASK_ID], one_hot)}
    if isinstance(observations, Tensor):
        return torch.cat([observations[:, :-width], _like(observations, one_hot)], -1)
    return np.concatenate([observations[:, :-width], _like(observations, one_hot)], -1)


def _like(batch: Any, one_hot: NDArray[np.float32]) -> Any:
    if isinstance(batch, Tensor):
        return torch.as_tensor(one_hot, dtype=batch.dtype, device=batch.device)
    return one_hot.astype(batch.dtype)
