"""What a learner carries from one task to the next: taken at its end, loaded at a start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from holdfast.agents.base.agent import Files
from holdfast.agents.base.buffers import buffer_arrays, load_buffer_arrays
from holdfast.agents.base.observations import TaskNormalize, carried_statistics
from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT, Named
from holdfast.agents.doors.lifecycle import Plan
from holdfast.agents.sb3.callbacks import Callbacks
from holdfast.agents.sb3.past_selves import PastSelves
from holdfast.agents.sb3.weights_io import (
    load_optimizers,
    load_policy,
    optimizer_tensors,
    policy_tensors,
)
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario


class Carrying(Protocol):
    """The parts of a learner that are carried, and what says which."""

    model: Any
    scenario: Scenario
    plan: Plan
    initial: Files
    normalizer: TaskNormalize | None
    past: PastSelves
    current_task: int
    entropies: Named
    callbacks: Callbacks | None


def load(
    agent: Carrying, files: Files, told: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Load what is carried; ``told`` names a file of a checkpoint that does not fit."""
    carry, options = agent.scenario.carry, agent.scenario.agent
    source = files if carry.weights and "policy" in files else agent.initial
    with told("policy") if source is files else _of_init(options.init):
        tensors = source.get("policy", {})
        if tensors and source is files:
            tensors = agent.plan.blended(tensors, policy_tensors(agent.model))
        if tensors := _with_entropy(agent, tensors, files):
            load_policy(agent.model, tensors, agent.plan.is_fresh)
    if agent.normalizer is not None and options.normalize is not None:
        own = files.get("normalization")
        statistics = own or agent.initial.get("normalization", {})
        with told("normalization") if own else nullcontext():
            agent.normalizer.load_tensors(carried_statistics(statistics, options.normalize))
    if carry.optimizer and "optimizer" in files:
        with told("optimizer"):
            # Moments belong to the value that they moved: where every task starts from its
            # own entropy coefficient, those of the task before do not fit it.
            is_same = carry.entropy_coefficient is True
            load_optimizers(agent.model, files["optimizer"], with_entropy=is_same)
    if carry.replay_buffer and "replay_buffer" in files:
        with told("replay_buffer"):
            arrays = {name: t.numpy() for name, t in files["replay_buffer"].items()}
            load_buffer_arrays(agent.model.replay_buffer, arrays)


@contextmanager
def _of_init(init: str | None) -> Iterator[None]:
    """Name the zip whose weights do not fit."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"agent.init: {init}: {error}") from error


def _with_entropy(agent: Carrying, tensors: Named, files: Files) -> Named:
    """Return the policy's tensors with the entropy coefficient that the task starts from.

    Without one it starts as a newly built model does.
    """
    source = agent.initial.get("policy", {}).get(ENTROPY_COEFFICIENT)
    match agent.scenario.carry.entropy_coefficient:
        case True:
            source = files.get("policy", {}).get(ENTROPY_COEFFICIENT, source)
        case "per_task":
            source = files.get("entropy", {}).get(str(agent.current_task), source)
    rest = {name: tensor for name, tensor in tensors.items() if name != ENTROPY_COEFFICIENT}
    return rest if source is None else rest | {ENTROPY_COEFFICIENT: source}


def files_of(agent: Carrying) -> Files:
    """Return what the next task start of an agent needs; each tensor a contiguous copy."""
    files = {"policy": policy_tensors(agent.model)}
    if agent.scenario.carry.entropy_coefficient == "per_task":
        learned = files["policy"].get(ENTROPY_COEFFICIENT)
        own = {} if learned is None else {str(agent.current_task): learned}
        files["entropy"] = agent.entropies | own
    if agent.past.selves:
        files["past_selves"] = agent.past.tensors()
    if agent.callbacks is not None:
        files["callbacks"] = agent.callbacks.tensors()
    if agent.normalizer is not None:
        files["normalization"] = agent.normalizer.tensors()
    if agent.scenario.carry.optimizer:
        files["optimizer"] = optimizer_tensors(agent.model)
    if agent.scenario.carry.replay_buffer:
        arrays = buffer_arrays(agent.model.replay_buffer)
        files["replay_buffer"] = {name: torch.as_tensor(a) for name, a in arrays.items()}
    return files
