"""Tensors of a model as arrays of a compiled program, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from holdfast.agents.base.buffers import Arrays
from holdfast.agents.compiled.update import State, Update
from holdfast.errors import UsageError


def arrays_of(tensors: Any) -> Any:
    """Return nested tensors as arrays that share their memory."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().numpy(), tensors)


def tensors_of(arrays: Any) -> Any:
    """Return nested arrays, a compiled program's among them, as tensors of their own memory."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone()
        return torch.from_numpy(np.array(value)) if hasattr(value, "__array__") else value

    return tree_map(copied, arrays)


def state_of(update: Update) -> State:
    """Return the state of an update: views of the model's tensors and of its optimizer's.

    Raises:
        UsageError: If parameters of one optimizer have counted different steps.
    """
    parameters = {name: parameter.detach() for name, parameter in update.parameters.items()}
    known = {name: update.optimizer.state.get(p, {}) for name, p in update.parameters.items()}
    counts = {int(own["step"]) for own in known.values() if "step" in own} or {0}
    if len(counts) > 1:
        raise UsageError(
            "engine: compiled: the parameters of one optimizer have taken different numbers of "
            f"steps ({min(counts)} to {max(counts)}); use engine: sb3, or carry no optimizer"
        )
    start = update.stepper.initial(parameters)
    moments = {
        quantity: {name: known[name].get(quantity, value) for name, value in named.items()}
        for quantity, named in start.items()
    }
    first = next(iter(parameters.values()))
    count = torch.tensor(float(counts.pop()), dtype=first.dtype)
    return {
        "parameters": parameters,
        "moments": moments,
        "count": count,
        "works": update.moving(),
    }


def write(update: Update, state: Any) -> None:
    """Write a state, as arrays, into the model, its optimizer and the methods' functions."""
    count = float(state["count"])
    for name, parameter in update.parameters.items():
        copy_into(parameter.detach(), state["parameters"][name])
        if not count or not update.stepper.remembers(name):
            continue
        own = update.optimizer.state[parameter]
        for quantity, named in state["moments"].items():
            if quantity not in own:
                own[quantity] = torch.empty_like(parameter.detach())
            copy_into(own[quantity], named[name])
        if update.stepper.counts:
            # torch's own optimizers count in a tensor, Stable-Baselines3's port in a number.
            is_tensor = update.stepper.counts == "tensor"
            own["step"] = torch.tensor(count) if is_tensor else int(count)
    for kind, states in state["works"].items():
        for (_, part), one in zip(update.parts[kind], states, strict=True):
            if one:
                part.state = tensors_of(one)


def padded(rows: Arrays, most: int) -> Arrays:
    """Return rows as many as a whole rollout has: a short one needs no program of its own."""
    missing = most - len(next(iter(rows.values())))
    if not missing:
        return rows
    return {
        name: np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
        for name, values in rows.items()
    }


def copy_into(into: Tensor, array: Any) -> None:
    """Copy an array into a tensor's memory, which views of it share."""
    np.copyto(into.numpy(), np.asarray(array))


def array_of(value: Any) -> Any:
    """Return a tensor as an array that shares its memory; anything else as an array."""
    return value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
