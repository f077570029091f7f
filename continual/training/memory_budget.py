"""Memory budget: what replay buffers take, what agents and methods keep, what the machine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import Tensor

from holdfast.continual.results.formatting import plural, size
from holdfast.errors import ScenarioError, UsageError
from holdfast.registry import algorithm
from holdfast.scenarios.checks.memory import memory_bytes
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.signature import signature

SEED_BYTES = 80_000_000
"""What a cell of SAC with layers of 256 takes in a process in which others learn in lockstep: a
sixth of what eight took (1.67 GB) beyond two (1.19 GB)."""
PROCESS_BYTES = 1_030_000_000
"""What their process takes itself."""
_FLOAT = 4  # bytes of each reward, done and timeout


class Buffer(NamedTuple):
    """The size of a replay buffer.

    Attributes:
        row: Bytes of one transition.
        rows: Transitions that it can hold.
        filled: Transitions that it will hold at most: memory that is never written is never taken.
    """

    row: int
    rows: int
    filled: int


def replay_buffer(scenario: Scenario, observation: Any, action: Any) -> Buffer | None:
    """Return the size of the scenario's replay buffer; None for an on-policy algorithm.

    Args:
        scenario: The scenario.
        observation: Space of the observations as the agent sees them, with the task id.
        action: Space of the actions.
    """
    rows = argument(scenario, "buffer_size")
    if algorithm(scenario.agent.algorithm).on_policy or not isinstance(rows, int):
        return None
    copies = 1 if argument(scenario, "optimize_memory_usage") else 2
    row = copies * _bytes(observation) + _bytes(action) + 3 * _FLOAT
    stages = scenario.stage_steps
    goes_on = scenario.carry.replay_buffer or scenario.is_one_task
    written = sum(stages) if goes_on else max(stages)
    return Buffer(row, rows, min(rows, written))


def check_room(scenario: Scenario, buffer: Buffer | None, jobs: int = 1) -> None:
    """Raise if replay buffers of ``jobs`` cells side by side are larger than the memory.

    Raises:
        ScenarioError: Names the largest size that fits. Stable-Baselines3 itself only warns.
    """
    if buffer is None:
        return
    # What is reserved must fit once, what is filled must fit for every cell that runs.
    memory, needed = memory_bytes(), max(buffer.rows, buffer.filled * jobs) * buffer.row
    if needed <= memory:
        return
    beside = f" in {jobs} cells side by side" if buffer.rows * buffer.row <= memory else ""
    most = memory // buffer.row // (jobs if beside else 1) // 2
    text = (
        f"{buffer.rows:,} transitions of {size(buffer.row)} each{beside} take {size(needed)}, and "
        f"this machine has {size(memory)} of memory; {most:,} would take half of it"
    )
    raise ScenarioError([scenario.problem("agent.buffer_size", text)])


def check_seeds(scenario: Scenario, jobs: int = 1) -> None:
    """Raise if seeds in lockstep, in ``jobs`` processes, take more than the memory.

    Raises:
        ScenarioError: Names how many fit.
    """
    seeds, memory = scenario.seeds_in_lockstep, memory_bytes()
    needed = jobs * (PROCESS_BYTES + seeds * SEED_BYTES)
    if seeds == 1 or needed <= memory:
        return
    in_jobs = f" in each of {jobs} processes" if jobs > 1 else ""
    most = max((memory // jobs - PROCESS_BYTES) // SEED_BYTES, 1)
    text = (
        f"{seeds} seeds at once{in_jobs} take about {size(needed)}, and this machine has "
        f"{size(memory)} of memory; take {most} at most"
    )
    raise ScenarioError([scenario.problem("agent.seeds_at_once", text)])


def kept_bytes(files: Iterable[Mapping[str, Tensor]]) -> int:
    """Return the bytes of what a checkpoint holds of agent and methods."""
    return sum(t.numel() * t.element_size() for tensors in files for t in tensors.values())


def check_growth(kept: Sequence[int], stages: int, memory: int | None = None) -> str:
    """Raise if the coming task would need more than the memory; warn of a later one.

    Args:
        kept: Bytes of agent and methods after each finished task, one task at least.
        stages: Tasks of the whole stream.
        memory: Bytes there are; by default those of this machine or container.

    Returns:
        A warning that names the task at which memory runs out, if growth goes on; else "".

    Raises:
        UsageError: With the numbers. What was learned so far is saved: on a machine with more
            memory the run goes on.

    >>> check_growth([40, 60], stages=4, memory=100)
    ''
    >>> check_growth([40, 60], stages=6, memory=100)
    'agent and methods keep 60 B after 2 tasks and grow by 20 B a task: task 5 of 6 will not fit'
    >>> check_growth([40, 60, 90], stages=6, memory=100)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    holdfast.errors.UsageError: agent and methods keep 90 B after 3 tasks and grow by 30 B ...
    """
    memory = memory_bytes() if memory is None else memory
    done, left = len(kept), stages - len(kept)
    growth = max(kept[-1] - kept[-2], 0) if done > 1 else 0
    if not left or not growth or kept[-1] + growth * left <= memory:
        return ""
    text = (
        f"agent and methods keep {size(kept[-1])} after {plural(done, 'task')} "
        f"and grow by {size(growth)} a task: "
    )
    fitting = int((memory - kept[-1]) // growth)
    if fitting > 0:
        return f"{text}task {done + fitting + 1} of {stages} will not fit"
    raise UsageError(
        f"{text}task {done + 1} of {stages} does not fit into {size(memory)}. What was learned is "
        "saved: the same command goes on where there is more memory; or keep less (fewer samples, "
        "a method that does not grow)"
    )


def argument(scenario: Scenario, name: str) -> Any:
    """Return an argument of the algorithm, given or by default; None where it has none."""
    known = signature(algorithm(scenario.agent.algorithm).target, scenario.folder).arguments
    return scenario.agent.arguments.get(name, {a.name: a.default for a in known}.get(name))


def _bytes(space: gym.Space[Any]) -> int:
    """Return the bytes of one value as Stable-Baselines3's buffers store it."""
    if isinstance(space, spaces.Dict):
        return sum(_bytes(entry) for entry in space.spaces.values())
    dtype = np.dtype(space.dtype or np.float32)
    return dtype.itemsize * int(np.prod(space.shape or (1,)))
