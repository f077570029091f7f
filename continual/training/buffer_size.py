"""Room for a replay buffer: what it takes, and what the machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from holdfast.continual.results.formatting import size
from holdfast.errors import ScenarioError
from holdfast.registry import algorithm
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.signature import Signature, signature

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
    entry = algorithm(scenario.agent.algorithm)
    known = signature(entry.target, scenario.folder)
    rows = _argument(scenario, known, "buffer_size")
    if entry.on_policy or not isinstance(rows, int):
        return None
    copies = 1 if _argument(scenario, known, "optimize_memory_usage") else 2
    row = copies * _bytes(observation) + _bytes(action) + 3 * _FLOAT
    stages = scenario.stage_steps
    written = sum(stages) if scenario.carry.replay_buffer else max(stages)
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


def memory_bytes() -> int:
    """Return the memory that this process may have: the machine's, or its container's if less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdecimal() else machine


def _argument(scenario: Scenario, known: Signature, name: str) -> Any:
    defaults = {argument.name: argument.default for argument in known.arguments}
    return scenario.agent.arguments.get(name, defaults.get(name))


def _bytes(space: gym.Space[Any]) -> int:
    """Return the bytes of one value as Stable-Baselines3's buffers store it."""
    if isinstance(space, spaces.Dict):
        return sum(_bytes(entry) for entry in space.spaces.values())
    dtype = np.dtype(space.dtype or np.float32)
    return dtype.itemsize * int(np.prod(space.shape or (1,)))
