"""State of a Stable-Baselines3 model inside a task, beside weights and replay buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer

from holdfast.agents.base.buffers import ring_arrays
from holdfast.agents.base.parameters import Named
from holdfast.agents.sb3.weights_io import optimizers

_OF_THE_CLOCK = ("start_time",)
_PUBLISHED = ("stable_baselines3", "sb3_contrib", "holdfast")


def counters(model: Any) -> Named:
    """Return every attribute of a model that is one number, by name.

    Among them are its steps, updates and episodes, its progress and its rate of exploration; so
    are those of an algorithm of the user's own. Arguments are numbers as well, and do not change.
    """
    found: Named = {}
    for name, value in vars(model).items():
        if name not in _OF_THE_CLOCK and isinstance(value, int | float | np.number | np.bool_):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            kind = torch.int64 if whole else torch.float64
            found[name] = torch.tensor(value, dtype=torch.bool if _is_truth(value) else kind)
    return found


def set_counters(model: Any, tensors: Named) -> None:
    """Put back what ``counters`` gave."""
    for name, value in tensors.items():
        setattr(model, name, value.item())


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def episodes(model: Any) -> Named:
    """Return what a model remembers of its last episodes: return, length, time; success."""
    rows = [[float(info[key]) for key in ("r", "l", "t")] for info in model.ep_info_buffer]
    successes = [float(success) for success in model.ep_success_buffer]
    return {
        "episodes": torch.tensor(rows, dtype=torch.float64).reshape(-1, 3),
        "successes": torch.tensor(successes, dtype=torch.float64),
    }


def set_episodes(model: Any, tensors: Named) -> None:
    """Put back what ``episodes`` gave, into a model that has set up its learning."""
    model.ep_info_buffer.clear()
    for total, length, seconds in tensors["episodes"].tolist():
        model.ep_info_buffer.append({"r": total, "l": int(length), "t": seconds})
    model.ep_success_buffer.clear()
    model.ep_success_buffer.extend(tensors["successes"].tolist())


def learning_rates(model: Any) -> Named:
    """Return the learning rate of every group of every optimizer, by numbers of both."""
    return {
        f"{number}/{place}": torch.as_tensor(group["lr"], dtype=torch.float64)
        for number, optimizer in enumerate(optimizers(model))
        for place, group in enumerate(optimizer.param_groups)
    }


def set_learning_rates(model: Any, tensors: Named) -> None:
    """Put back what ``learning_rates`` gave."""
    for number, optimizer in enumerate(optimizers(model)):
        for place, group in enumerate(optimizer.param_groups):
            group["lr"] = tensors[f"{number}/{place}"].item()


def logged(model: Any) -> dict[str, Any]:
    """Return the numbers that a model has logged and not handed over yet, as plain data."""
    logger = model.logger
    return {
        name: [float(value), int(logger.name_to_count[name]), logger.name_to_excluded[name]]
        for name, value in logger.name_to_value.items()
        if isinstance(value, int | float | np.number) and np.isfinite(value)
    }


def set_logged(model: Any, told: dict[str, Any]) -> None:
    """Put back what ``logged`` gave, in place of what the task's start has logged again."""
    logger = model.logger
    for known in (logger.name_to_value, logger.name_to_count, logger.name_to_excluded):
        known.clear()
    for name, (value, count, excluded) in told.items():
        logger.name_to_value[name] = value
        logger.name_to_count[name] = count
        logger.name_to_excluded[name] = tuple(excluded) if excluded else excluded


def own_arrays(buffer: Any) -> Named:
    """Return what a replay buffer of the user's own keeps beside Stable-Baselines3's rows.

    That is every number, and every array of numbers that has a row for each of the buffer's. It is
    whole each time, as old rows may change. Empty for the buffers of Stable-Baselines3 itself.
    """
    if type(buffer).__module__.partition(".")[0] in (
        "stable_baselines3",
        "sb3_contrib",
        "holdfast",
    ):
        return {}
    rows = ring_arrays(buffer)
    found = {name: number for name, number in counters(buffer).items() if name not in rows}
    for name, value in vars(buffer).items():
        is_rows = isinstance(value, np.ndarray) and value.shape[:1] == (buffer.buffer_size,)
        if is_rows and value.dtype != object and not any(value is known for known in rows.values()):
            found[name] = torch.as_tensor(value.copy())
    return found


def set_own_arrays(buffer: Any, tensors: Named) -> None:
    """Put back what ``own_arrays`` gave."""
    for name, value in tensors.items():
        if value.ndim:
            getattr(buffer, name)[:] = value.numpy()
        else:
            setattr(buffer, name, value.item())


def cut_episodes(model: Any) -> None:
    """Mark where episodes are cut short of their end, for what looks over several rows.

    A row holds its own successor, and is no end; a sum over n steps must not go on into the next
    episode. Noise that has a memory begins again, as at the end of an episode.
    """
    buffer = getattr(model, "replay_buffer", None)
    if isinstance(buffer, NStepReplayBuffer) and buffer.size():
        last = buffer.pos - 1
        ended = np.logical_or(buffer.timeouts[last], np.logical_not(buffer.dones[last]))
        buffer.timeouts[last] = ended
    if getattr(model, "action_noise", None) is not None:
        model.action_noise.reset()


def begin_again(model: Any, env: Any) -> None:
    """Go on in newly built environments, from the start of an episode in each."""
    model.set_env(env)
    model._last_obs = model.env.reset()
    model._last_episode_starts = np.ones((model.env.num_envs,), dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:  # masked at the start of an episode, and kept beside its observation
        zeros = [tuple(torch.zeros_like(t) for t in pair) for pair in states]
        model._last_lstm_states = type(states)(*zeros)


def stacked(waiting: list[tuple[Any, ...]]) -> Named:
    """Return transitions of a team that wait to be stored, one row each, by name."""
    columns: dict[str, list[Any]] = {}
    for observation, following, action, reward, done, info in waiting:
        row = {"actions": action, "rewards": reward, "dones": done}
        row["cut"] = bool(info.get("TimeLimit.truncated", False))
        for name, seen in (("observations", observation), ("next_observations", following)):
            entries = seen if isinstance(seen, dict) else {"": seen}
            row |= {f"{name}.{key}": value for key, value in entries.items()}
        for name, value in row.items():
            columns.setdefault(name, []).append(np.asarray(value))
    return {name: torch.as_tensor(np.stack(values)) for name, values in columns.items()}


def unstacked(tensors: Named) -> list[tuple[Any, ...]]:
    """Return what ``stacked`` was given."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    rows = []
    for place in range(len(arrays.get("actions", ()))):
        seen = [_entries(arrays, name, place) for name in ("observations", "next_observations")]
        own = [np.array(arrays[name][place]) for name in ("actions", "rewards", "dones")]
        rows.append((*seen, *own, {"TimeLimit.truncated": bool(arrays["cut"][place])}))
    return rows


def _entries(arrays: dict[str, Any], name: str, place: int) -> Any:
    found = {
        key.removeprefix(f"{name}."): np.array(values[place])
        for key, values in arrays.items()
        if key.startswith(f"{name}.")
    }
    return found.get("", found)
