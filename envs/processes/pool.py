"""Pool of environments in watched processes: one that hangs, crashes or dies is restarted."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from holdfast.envs.processes.process import WorkerFailed, WorkerProcess, close_all
from holdfast.envs.processes.wire import assembled, encoded, leaves
from holdfast.envs.processes.worker import BUILD, RESET
from holdfast.envs.wrappers.monitor import episode
from holdfast.errors import UsageError
from holdfast.scenarios.schema.sections import Pool
from holdfast.seeding import derive

RESTARTED = "holdfast.restarted"
"""Key of ``info`` where a transition stands for one that a failed process did not deliver."""

OnFailure = Callable[[dict[str, Any]], None]
"""Takes the record of a failure; its entries are listed in ``runs/README.md``."""


class ProcessPool(VecEnv):
    """Environments shared out to worker processes, as one Stable-Baselines3 environment.

    Without failures, trajectories equal those of ``vectorize`` in one process bit for bit: the
    first reset gives environment ``i`` the seed ``seed + i``, an episode's end is followed by a
    reset in the same step, and infos hold what SB3's Monitor and DummyVecEnv put there.

    A worker that hangs, dies, answers nonsense or whose environment raises is killed and restarted.
    The episodes of all its environments end as truncated there: reward 0, the last good
    observation as ``terminal_observation``, ``info["holdfast.restarted"]``. Their new episodes
    get seeds derived from the seed, the environment and the number of the restart. An error of
    ours that is no crash, such as NaN in an observation, is raised as in one process.

    Args:
        makers: Build one environment each, in a worker; pickled there by cloudpickle.
        limits: Number of workers, timeouts, restarts.
        seed: Seed of the first environment.
        on_failure: Takes a record of every failure, before the restart.
        name: Of the task, for error texts.

    Attributes:
        restarts: Restarts of workers so far.

    Raises:
        UsageError: As the makers do.
        EnvironmentFailed: A constructor raised, hung or took its process with it.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        limits: Pool,
        *,
        seed: int,
        on_failure: OnFailure | None = None,
        name: str = "",
    ) -> None:
        self._limits, self._on_failure = limits, on_failure
        self._name = f"{name}, " if name else ""
        self._plans = _plans(makers, seed)
        self.restarts = 0
        self._processes: list[WorkerProcess] = []
        shares = np.array_split(np.arange(len(makers)), min(limits.workers, len(makers)))
        self._spans = [slice(int(share[0]), int(share[-1]) + 1) for share in shares]
        try:
            for span in self._spans:
                self._processes.append(WorkerProcess(self._plans[span], limits))
            described = [process.finish_start() for process in self._processes]
        except BaseException as error:
            self.close()
            if isinstance(error, WorkerFailed):
                where = f"{self._name}building an environment in a worker process"
                raise error.as_error(where) from None
            raise
        found = described[0]
        self._render_mode = found["render_mode"]
        super().__init__(len(makers), found["observation_space"], found["action_space"])
        self.action_space.seed(seed)  # as that of the first environment, which it is in one process
        self.metadata = found["metadata"]
        self.seed(seed)
        count = len(makers)
        self._begin(count)
        self._observations = {
            leaf.path: np.zeros((count, *leaf.shape), leaf.dtype)
            for leaf in leaves(self.observation_space)
        }

    def _begin(self, count: int) -> None:
        """Begin to count episodes, in as many environments that were just built."""
        self._episodes = [0] * count
        self._given: list[int | None] = [None] * count
        self._rewards: list[list[float]] = [[] for _ in range(count)]
        self._actions: NDArray[Any] = np.zeros(0)
        self._cuts: dict[int, list[dict[str, Any]]] = {}  # infos of restarted workers, to tell
        self._began = time.time()

    def rebuild(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]], seed: int) -> None:
        """Close all environments, and build others of the same spaces in the same processes.

        What a process costs to start is not paid again; restarts go on to be counted.

        Args:
            makers: As of the constructor, and as many.
            seed: Seed of the first environment.

        Raises:
            EnvironmentFailed: A constructor raised, hung or took its process with it.
        """
        self._plans = _plans(makers, seed)
        try:
            for number, span in enumerate(self._spans):
                command = {"do": "rebuild", "plans": self._plans[span]}
                self._processes[number].send(command, BUILD)
            for process in self._processes:
                process.receive()
        except WorkerFailed as failure:
            raise failure.as_error("building an environment again in a worker process") from None
        self.action_space.seed(seed)
        self.seed(seed)
        self._begin(len(makers))

    # -- stepping ----------------------------------------------------------------------------------

    def reset(self) -> Any:
        """Begin an episode in every environment, with the seeds and options given before."""
        self._cuts = {}
        for number, span in enumerate(self._spans):
            for index in _indices(span):
                seed = self._seeds[index]
                self._given[index] = self._given[index] if seed is None else seed
            seeds, options = self._seeds[span], [given or None for given in self._options[span]]
            self._processes[number].send(_reset_command(seeds, options), RESET)
        for number, span in enumerate(self._spans):
            try:
                answer = self._processes[number].receive()
            except WorkerFailed as failure:
                self._restart(number, failure)
                continue
            self._take(number, answer, _indices(span))
        self._reset_seeds()
        self._reset_options()
        return self._shown()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Begin a step of every environment."""
        self._actions = np.asarray(actions)
        for number, span in enumerate(self._spans):
            if number in self._cuts:
                continue
            try:
                self._processes[number].begin_step(self._actions[span])
            except WorkerFailed as failure:
                self._cut(number, failure)

    def step_wait(self) -> Any:
        """Return observations, rewards, ends of episodes and infos once all have taken it."""
        count = self.num_envs
        rewards = np.zeros(count)
        terminated, truncated = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
        infos: list[dict[str, Any]] = [{} for _ in range(count)]
        for number, span in enumerate(self._spans):
            process = self._processes[number]
            try:
                answer = {} if number in self._cuts else process.receive()
            except WorkerFailed as failure:
                self._cut(number, failure)
            if number in self._cuts:
                truncated[span] = 1
                infos[span] = self._cuts.pop(number)
                continue
            rewards[span], terminated[span] = process.rewards, process.terminated
            truncated[span] = process.truncated
            for index, info in answer.get("infos", {}).items():
                infos[span.start + int(index)] = info
            ended = []
            for index, reward in enumerate(process.rewards.tolist(), start=span.start):
                cut = bool(truncated[index] and not terminated[index])
                infos[index]["TimeLimit.truncated"] = cut
                self._rewards[index].append(reward)
                if cut or terminated[index]:
                    ended.append(index)
                    last = _rows(process.last, index - span.start)
                    total, length = sum(self._rewards[index]), len(self._rewards[index])
                    told = episode(total, length, self._began)
                    infos[index] |= {"episode": told, "terminal_observation": last}
            self._take(number, answer, ended)
        dones = (terminated | truncated).astype(bool)
        return self._shown(), rewards.astype(np.float32), dones, infos

    def _take(self, number: int, answer: dict[str, Any], begun: Sequence[int]) -> None:
        """Take a worker's observations, and the infos of the episodes that have begun."""
        span, found = self._spans[number], answer.get("reset_infos", {})
        for index in begun:
            self.reset_infos[index] = found.get(str(index - span.start), {})
            self._rewards[index] = []
            self._episodes[index] += 1
        for path, array in self._processes[number].observed.items():
            self._observations[path][span] = array

    def _shown(self) -> Any:
        return _rows(self._observations, slice(None))

    # -- failures ----------------------------------------------------------------------------------

    def _cut(self, number: int, failure: WorkerFailed) -> None:
        """End the episodes of a failed worker at the last good observation; restart it."""
        cuts = []
        for index in _indices(self._spans[number]):
            info = {RESTARTED: f"{failure.what}: {failure.text}", "TimeLimit.truncated": True}
            cuts.append({**info, "terminal_observation": _rows(self._observations, index)})
        self._restart(number, failure)
        self._cuts[number] = cuts

    def _restart(self, number: int, failure: WorkerFailed) -> None:
        """Restart a worker, and begin an episode in each of its environments."""
        span = self._spans[number]
        indices = _indices(span)
        while True:
            self._processes[number].kill()
            self._record(number, failure)
            if self.restarts >= self._limits.restarts:
                done = f"given up after {self.restarts} restarts (pool.restarts)"
                hint = f"; {done}" if self.restarts else "; pool.restarts is 0"
                where = f"{self._name}environment {span.start + failure.env}"
                raise failure.as_error(where, hint) from None
            self.restarts += 1
            try:
                process = WorkerProcess(self._plans[span], self._limits)
                self._processes[number] = process
                process.finish_start()
                for index in indices:
                    self._given[index] = derive(self._seed, "restart", index, self.restarts)
                command = _reset_command(self._given[span], [None] * len(indices))
                answer = process.ask(command, RESET)
                break
            except WorkerFailed as again:
                failure = again
        self._take(number, answer, indices)

    def _record(self, number: int, failure: WorkerFailed) -> None:
        if self._on_failure is None:
            return
        indices = _indices(self._spans[number])
        culprit = indices[min(failure.env, len(indices) - 1)]
        action = self._actions[culprit].tolist() if len(self._actions) else None
        self._on_failure(
            {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "what": failure.what,
                "place": failure.place,
                "text": failure.text,
                "env": culprit,
                "envs": indices,
                "seed": self._given[culprit],
                "episode": self._episodes[culprit],
                "step": len(self._rewards[culprit]) + 1,
                "action": action,
                "restarts": self.restarts,
                "traceback": failure.trace,
            }
        )

    # -- what else Stable-Baselines3 asks for ------------------------------------------------------

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seeds of the next reset: ``seed + i`` for environment ``i``."""
        seeds = super().seed(seed)
        self._seed = int(seeds[0] or 0)
        return seeds

    def close(self) -> None:
        """End all workers, and what they started, within a second."""
        close_all(self._processes)
        self._processes = []

    def has_attr(self, attr_name: str) -> bool:
        """Return whether every environment has an attribute, in any of its layers."""
        return all("missing" not in self._get(index, attr_name) for index in range(self.num_envs))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of environments; a method as a function that calls it there."""
        return [self._attribute(index, attr_name) for index in self._get_indices(indices)]

    def _attribute(self, index: int, name: str) -> Any:
        if name == "render_mode":
            return self._render_mode
        found = self._get(index, name)
        if "missing" in found:
            raise AttributeError(f"the environments have no attribute '{name}'")
        if "method" in found:
            return lambda *given, **named: self.env_method(name, *given, indices=index, **named)[0]
        return found["value"]

    def _get(self, index: int, name: str) -> dict[str, Any]:
        return self._ask(index, {"do": "get", "name": name})

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of environments, at their outermost layer."""
        for index in self._get_indices(indices):
            self._ask(index, {"do": "set", "name": attr_name, "value": _sendable(value)})

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of environments and return what each returned."""
        command = {"do": "call", "name": method_name}
        command |= {"given": _sendable(method_args), "named": _sendable(method_kwargs)}
        return [self._ask(i, command)["value"] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return whether environments have a wrapper; the work of Monitor is done here."""
        chosen = list(self._get_indices(indices))
        if issubclass(Monitor, wrapper_class):
            return [True for _ in chosen]
        name = f"{wrapper_class.__module__}:{wrapper_class.__qualname__}"
        return [self._ask(index, {"do": "wrapped", "name": name})["value"] for index in chosen]

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return a picture of every environment, where they render pictures."""
        return self.env_method("render")

    def _ask(self, index: int, command: dict[str, Any]) -> dict[str, Any]:
        """Ask the worker of one environment; a failure here is not one of an episode."""
        number = next(n for n, span in enumerate(self._spans) if index < span.stop)
        local = index - self._spans[number].start
        try:
            return self._processes[number].ask({**command, "index": local})
        except WorkerFailed as failure:
            if failure.what == "raised":
                if failure.told["type"] == "AttributeError":
                    raise AttributeError(failure.told["text"]) from None
                raise failure.as_error(f"{self._name}environment {index}") from None
            self._cut(number, failure)  # the next step tells that the episodes have ended
        return self._processes[number].ask({**command, "index": local})


def _plans(makers: Sequence[Callable[[], gym.Env[Any, Any]]], seed: int) -> list[dict[str, Any]]:
    """Return what tells a worker how to build each environment."""
    return [
        {"pickled": base64.b64encode(cloudpickle.dumps(make)).decode(), "action_seed": seed + i}
        for i, make in enumerate(makers)
    ]


def _indices(span: slice) -> list[int]:
    return list(range(span.start, span.stop))


def _rows(arrays: Mapping[tuple[str, ...], NDArray[Any]], index: int | slice) -> Any:
    """Return a copy of some rows as an observation; a number is copied, too."""
    return assembled({path: np.array(array[index]) for path, array in arrays.items()})


def _reset_command(seeds: Sequence[int | None], options: Sequence[Any]) -> dict[str, Any]:
    command = {"do": "reset", "indices": list(range(len(seeds)))}
    return {**command, "seeds": _sendable(seeds), "options": _sendable(options)}


def _sendable(value: Any) -> Any:
    try:
        return encoded(value)
    except TypeError as error:
        raise UsageError(f"environments in worker processes: {error}") from None
