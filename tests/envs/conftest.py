"""Environments and models that the tests of this folder share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from pools import SLOW

import holdfast.envs.make
from holdfast.envs.processes.pool import ProcessPool
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.schema.sections import Pool


@pytest.fixture
def make_task() -> Callable[..., Task]:
    def make(env: str = "CartPole-v1", **keys: Any) -> Task:
        return Task.model_validate({"name": "task", "env": env, "steps": 100, **keys})

    return make


@pytest.fixture
def make_scenario() -> Callable[..., Scenario]:
    def make(*tasks: dict[str, Any], algorithm: str = "ppo", **keys: Any) -> Scenario:
        named = [{"name": f"task{index}", "steps": 100, **task} for index, task in enumerate(tasks)]
        return Scenario.model_validate({"tasks": named, "agent": {"algorithm": algorithm}, **keys})

    return make


@pytest.fixture
def make_env() -> Callable[..., gym.Env[Any, Any]]:
    """Make a task's environment in a scenario of that task alone, which lies in a folder."""

    def make(task: Task, folder: Path | None = None, **keys: Any) -> gym.Env[Any, Any]:
        scenario = Scenario(tasks=(task,), agent={"algorithm": "ppo"})
        scenario._folder = folder
        return holdfast.envs.make.make_env(scenario, task, **keys)

    return make


@pytest.fixture
def make_pool() -> Iterator[Callable[..., ProcessPool]]:
    pools = []

    def make(makers: Any, limits: Pool = SLOW, seed: int = 11, **keys: Any) -> ProcessPool:
        pools.append(ProcessPool(makers, limits, seed=seed, **keys))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    """Return whether a process runs; one that has ended and was not reaped yet does not."""

    def is_alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return is_alive


@pytest.fixture
def all_dead(is_alive: Callable[[int], bool]) -> Callable[..., bool]:
    """Return whether processes have ended, after a while."""

    def all_dead(pids: Iterable[int], within_s: float = 2.0) -> bool:
        pids, until = list(pids), time.monotonic() + within_s
        while any(map(is_alive, pids)) and time.monotonic() < until:
            time.sleep(0.01)
        return not any(map(is_alive, pids))

    return all_dead


@pytest.fixture
def same() -> Callable[[Any, Any], None]:
    """Assert that two results of environments are equal, times apart."""

    def same(one, two):
        assert isinstance(one, dict) == isinstance(two, dict)
        if isinstance(one, dict):
            one, two = dict(one), dict(two)
            for entry in (one, two):
                entry.get("episode", {}).pop("t", None)  # seconds
                entry.pop("object", None)  # which cannot travel
            assert one.keys() == two.keys()
            for key in one:
                same(one[key], two[key])
        elif isinstance(one, list):
            for pair in zip(one, two, strict=True):
                same(*pair)
        elif isinstance(one, np.ndarray | np.generic):
            assert (one.dtype, one.shape) == (two.dtype, two.shape)
            assert np.array_equal(one, two)
        else:
            assert (one, type(one)) == (two, type(two))

    return same
