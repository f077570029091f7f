"""An environment that runs under another interpreter, with that interpreter's packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from holdfast.envs.processes.process import WorkerFailed, WorkerProcess, close_all
from holdfast.envs.processes.wire import Unusable, assembled, encoded
from holdfast.envs.processes.worker import RESET
from holdfast.errors import EnvironmentFailed, HoldfastError, UsageError
from holdfast.scenarios.schema.sections import Pool


class RemoteEnv(gym.Env[Any, Any]):
    """Stands for an environment in a process of its own, which it starts and ends.

    What the environment returns comes back as it is, mistakes in form included: they are for the
    guard and ``check-env`` to judge. Infos lose what is neither number, text nor array of numbers;
    its name is told on stderr. Other attributes are asked for in the process: action masks work.

    Args:
        target: ``Id-v0``, ``module:Id-v0`` or ``module:Class``, as that interpreter knows it.
        kwargs: Arguments of the constructor.
        python: The interpreter.
        folder: Searched for ``module`` after everything that is installed there.
        time_limit: Steps after which an episode is truncated, instead of what is registered.
        render_mode: Passed on where it is not None.
        limits: The timeouts; None for the usual ones.

    Raises:
        UsageError: That interpreter has no such environment, or lacks a package.
        EnvironmentFailed: The constructor raised something else, hung or ended the process.
    """

    def __init__(
        self,
        target: str,
        kwargs: Mapping[str, Any],
        *,
        python: Path,
        folder: Path | None = None,
        time_limit: int | None = None,
        render_mode: str | None = None,
        limits: Pool | None = None,
    ) -> None:
        self._name = f"environment '{target}' under {python}"
        self._process: WorkerProcess | None = None
        options = {**kwargs, "render_mode": render_mode} if render_mode else dict(kwargs)
        try:
            plan = {"target": target, "kwargs": encoded(options), "time_limit": time_limit}
        except TypeError as error:
            raise UsageError(f"{self._name}, kwargs: {error}") from None
        plan["folder"] = str(folder.resolve()) if folder else None
        process = WorkerProcess([plan], limits or Pool(), python=python, exact=True)
        try:
            found = process.finish_start()
        except BaseException as error:
            process.kill()
            if isinstance(error, WorkerFailed):
                raise _of_construction(self._name, target, python, folder, error) from None
            raise
        self._process = process
        self.observation_space = found["observation_space"]
        self.action_space = found["action_space"]
        self.metadata, self.render_mode = found["metadata"], found["render_mode"]
        if found["spec"] is not None:
            name, limit = found["spec"]
            self.spec = EnvSpec(name, max_episode_steps=limit)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the process must come back in time."""
        super().reset(seed=seed)
        given = {"seeds": [encoded(seed)], "options": [encoded(options)]}
        command = {"do": "reset", "indices": [0], **given}
        try:
            answer = self._alive.ask(command, RESET)
        except WorkerFailed as failure:
            raise self._failed(failure) from None
        if "raw" in answer:
            return _as_returned(answer["raw"])  # type: ignore[no-any-return]  # may be malformed
        return self._observation(), answer.get("reset_infos", {}).get("0", {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment; the process must come back in time."""
        process = self._alive
        try:
            process.begin_step(np.asarray(action)[None])
            answer = process.receive()
        except WorkerFailed as failure:
            raise self._failed(failure) from None
        if "raw" in answer:
            return _as_returned(answer["raw"])  # type: ignore[no-any-return]  # may be malformed
        terminated, truncated = bool(process.terminated[0]), bool(process.truncated[0])
        info = answer.get("infos", {}).get("0", {})
        return self._observation(), float(process.rewards[0]), terminated, truncated, info

    def render(self) -> Any:
        """Return what the environment renders, such as a picture."""
        if self.render_mode is None:
            return None
        return self._call("render")

    def close(self) -> None:
        """Close the environment and end its process, and what that started, within a second."""
        if self._process is not None:
            close_all([self._process])
            self._process = None

    def __getattr__(self, name: str) -> Any:
        """Ask the process for what else the environment has, such as its action masks."""
        if name.startswith("_") or self.__dict__.get("_process") is None:
            raise AttributeError(name)
        found = self._ask({"do": "get", "name": name})
        if "missing" in found:
            raise AttributeError(f"{self._name} has no attribute '{name}'")
        if "method" in found:
            return lambda *given, **named: self._call(name, *given, **named)
        return found["value"]

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        command = {"do": "call", "name": name, "given": encoded(given), "named": encoded(named)}
        return self._ask(command)["value"]

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Ask between steps; an exception there is no reason to end the process."""
        try:
            return self._alive.ask({**command, "index": 0})
        except WorkerFailed as failure:
            if failure.what == "raised":
                raise failure.as_error(self._name) from None
            raise self._failed(failure) from None

    @property
    def _alive(self) -> WorkerProcess:
        if self._process is None:
            raise EnvironmentFailed(f"{self._name} is closed")
        return self._process

    def _observation(self) -> Any:
        observed = self._alive.observed
        return assembled({path: array[0].copy() for path, array in observed.items()})

    def _failed(self, failure: WorkerFailed) -> EnvironmentFailed:
        """Return the error that a failure is, once the process has been ended."""
        self._alive.kill()
        self._process = None
        return failure.as_error(self._name)

    def __str__(self) -> str:
        return f"<{self._name}>"


def _as_returned(raw: Any) -> Any:
    """Return what the environment returned: JSON has no tuples."""
    return tuple(raw) if isinstance(raw, list) else raw


def _of_construction(
    name: str, target: str, python: Path, folder: Path | None, failure: WorkerFailed
) -> HoldfastError:
    """Return the error of an environment that could not be built."""
    told = failure.told
    module, missing = target.rpartition(":")[0], told.get("missing")
    if missing and (missing == module or module.startswith(f"{missing}.")):
        place = f", and none is in {folder.resolve()}" if folder else ""
        return UsageError(f"{name}: no module '{missing}' is installed there{place}")
    if missing:
        return UsageError(
            f"{name} needs the package '{missing}'; if that is its name on the registry, install "
            f"it with: {python} -m pip install {missing}"
        )
    if told.get("type") == Unusable.__name__ and not told["cause"].startswith(Unusable.__name__):
        return UsageError(f"{name}: {told['text']}\n{failure.trace.rstrip()}")
    if told.get("type") == Unusable.__name__ or told.get("module") == "gymnasium.error":
        return UsageError(f"{name}: {told['text']}")
    if told.get("type") == "TypeError" and "argument" in told["text"]:
        return UsageError(f"{name}, kwargs: {told['text']}")
    return failure.as_error(f"{name}, in its constructor")
