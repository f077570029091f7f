"""The task id inside observations: showing a policy another one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdfast.scenarios.schema.observation_keys import TASK_ID


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
