"""The program of a worker process: environments behind a pipe, their arrays in shared memory.

It is started as a script, perhaps by another interpreter: it imports the standard library,
gymnasium and numpy only, and is written for Python 3.8 and numpy 1 as well. The other end is
:mod:`holdfast.envs.processes.process`.

Commands come as lines on what was stdin, answers go out as lines on what was stdout: ``s`` steps
every environment, any other command is JSON; an answer is the command's number, then JSON if there
is something to say. Actions, observations, rewards and ends of episodes lie in shared memory. What
an environment itself prints goes to stderr. The process ends when its stdin does.

Of the rest of the package, which is not there, it takes ``wire.py`` and ``escapes.py`` along.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # A script's own folder comes first on the path: modules beside it would hide the user's.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]  # noqa: PTH120

import base64
import ctypes
import difflib
import faulthandler
import importlib
import json
import mmap
import pickle
import signal
import time
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


def _beside(name: str) -> Any:
    """Return a file beside this one, under a name that no module of the user's has."""
    path = Path(__file__).with_name(f"{name}.py")
    spec: Any = spec_from_file_location(f"holdfast_{name}", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wire: Any
escapes: Any
if __name__ == "__main__":
    wire, escapes = _beside("wire"), _beside("escapes")
else:
    from holdfast.envs.processes import escapes, wire

OTHER, STEP, RESET, BUILD = 0, 1, 2, 3
"""Kinds of work, as a worker notes them in shared memory."""

CLOCK_BYTES = mmap.PAGESIZE
"""At the start of the shared memory, as doubles: since when, with what, with which environment."""


class Host:
    """The environments of this process, and the commands that they are given.

    Args:
        memory: Descriptor of the shared memory.
        answers: Descriptor that answers are written to.
    """

    def __init__(self, memory: int, answers: int) -> None:
        self._memory, self._answers = memory, answers
        self._clock = memoryview(mmap.mmap(memory, CLOCK_BYTES)).cast("d")
        self._envs: list[Any] = []
        self._arrays: dict[str, Any] = {}
        self._observed: list[Any] = []
        self._last: list[Any] = []
        self._exact = False
        self._left_out: set[str] = set()

    def serve(self, commands: Any) -> None:
        """Obey one command after another until there are no more."""
        for number, line in enumerate(iter(commands.readline, b""), start=1):
            try:
                found = self.step() if line == b"s\n" else self._obey(line)
            except BaseException as error:  # all of it is the other side's to judge
                found = {"error": self._told(error)}
            text = " " + json.dumps(found) if found else ""
            _write(self._answers, f"{number}{text}\n".encode())
        for env in self._envs:
            _close(env)

    def _obey(self, line: bytes) -> dict[str, Any]:
        command = json.loads(line, object_hook=wire.decoded)
        return getattr(self, command.pop("do"))(**command)  # type: ignore[no-any-return]  # a dict

    def _busy(self, kind: int, index: int) -> None:
        self._clock[0] = time.monotonic()  # first: an old start would be held against a new kind
        self._clock[1], self._clock[2] = kind, index

    # -- commands ----------------------------------------------------------------------------------

    def build(self, path: list[str] | None, plans: list[dict[str, Any]]) -> dict[str, Any]:
        """Make the environments; ``path`` replaces the search path of modules."""
        if path is not None:
            sys.path[:] = path
        for index, plan in enumerate(plans):
            self._busy(BUILD, index)
            seed = plan.pop("action_seed", None)
            if "pickled" in plan:  # by our own parent, of the same interpreter
                made = pickle.loads(base64.b64decode(plan["pickled"]))()  # noqa: S301
            else:
                made = _made(**plan)
            self._envs.append(made)
            if seed is not None:
                made.action_space.seed(seed)
        env = self._envs[0]
        spec = getattr(env, "spec", None)
        return {
            "observation_space": wire.describe_space(env.observation_space),
            "action_space": wire.describe_space(env.action_space),
            "render_mode": getattr(env, "render_mode", None),
            "metadata": self._sendable(getattr(env, "metadata", None) or {}),
            "spec": [spec.id, spec.max_episode_steps] if spec is not None else None,
        }

    def rebuild(self, plans: list[dict[str, Any]]) -> dict[str, Any]:
        """Close the environments and make others of the same spaces in their places."""
        for env in self._envs:
            _close(env)
        self._envs.clear()
        self.build(None, plans)
        return {}

    def share(self, size: int, blocks: list[dict[str, Any]], exact: bool) -> dict[str, Any]:
        """View the shared memory; its layout is the other side's.

        Args:
            size: Bytes.
            blocks: Name, path in the observation, dtype, shape and offset of each array.
            exact: One environment, for whose caller nothing is cast, reset or refused.
        """
        self._exact, memory = exact, mmap.mmap(self._memory, size)
        found = wire.viewed(memory, blocks)
        self._observed, self._last = (
            [(path, array, array.shape[1:]) for path, array in found.pop(name).items()]
            for name in ("observed", "last")
        )
        self._arrays = {name: arrays[()] for name, arrays in found.items()}
        return {}

    def actions(self, dtype: str) -> dict[str, Any]:
        """Read actions as this type from now on."""
        raw = self._arrays["actions"]
        view = np.frombuffer(raw.data, np.dtype(dtype), raw.size).reshape(raw.shape)
        self._arrays["typed_actions"] = view
        return {}

    def reset(self, indices: list[int], seeds: list[Any], options: list[Any]) -> dict[str, Any]:
        """Reset some environments."""
        infos = {}
        for index, seed, option in zip(indices, seeds, options):
            self._busy(RESET, index)
            given = {} if option is None else {"options": option}
            found = self._envs[index].reset(seed=seed, **given)
            if self._exact and not wire.is_reset(found):
                return {"raw": wire.encoded(found)}
            if self._exact and not self._fits(found[0]):
                return {"raw": wire.encoded([found[0], self._sendable(found[1])])}
            self._put(self._observed, index, found[0])
            if found[1]:
                infos[index] = self._sendable(found[1])
        return {"reset_infos": infos} if infos else {}

    def step(self) -> dict[str, Any]:
        """Step every environment with its action; begin the next episode where one ended."""
        arrays, infos, reset_infos = self._arrays, {}, {}
        actions, rewards = arrays["typed_actions"], arrays["rewards"]
        terminations, truncations = arrays["terminated"], arrays["truncated"]
        for index, env in enumerate(self._envs):
            self._busy(STEP, index)
            action = actions[index]
            # A copy: the environment may keep it, and the memory is written again.
            result = env.step(action.copy() if action.ndim else action)
            if self._exact and not (wire.is_step(result) and self._fits(result[0])):
                return {"raw": self._raw(result)}
            observation, reward, terminated, truncated, info = result
            rewards[index] = reward
            terminations[index], truncations[index] = bool(terminated), bool(truncated)
            if info:
                infos[index] = self._sendable(info)
            if (terminated or truncated) and not self._exact:
                self._put(self._last, index, observation)
                self._busy(RESET, index)
                observation, reset_info = env.reset()
                if reset_info:
                    reset_infos[index] = self._sendable(reset_info)
            self._put(self._observed, index, observation)
        found = {"infos": infos} if infos else {}
        return {**found, "reset_infos": reset_infos} if reset_infos else found

    def call(self, index: int, name: str, given: list[Any], named: dict[str, Any]) -> Any:
        """Call a method of one environment."""
        self._busy(RESET, index)
        method = _attribute(self._envs[index], name)
        return {"value": wire.encoded(method(*given, **named))}

    def get(self, index: int, name: str) -> dict[str, Any]:
        """Return an attribute of one environment; of a method, that it is one."""
        self._busy(OTHER, index)
        try:
            value = _attribute(self._envs[index], name)
        except AttributeError:
            return {"missing": True}
        return {"method": True} if callable(value) else {"value": wire.encoded(value)}

    def set(self, index: int, name: str, value: Any) -> dict[str, Any]:
        """Set an attribute of one environment's outermost layer, as SB3's environments do."""
        setattr(self._envs[index], name, value)
        return {}

    def wrapped(self, index: int, name: str) -> dict[str, Any]:
        """Return whether a wrapper of that class, ``module:Class``, is around an environment."""
        env, found = self._envs[index], False
        while isinstance(env, gym.Wrapper):
            found |= any(f"{c.__module__}:{c.__qualname__}" == name for c in type(env).__mro__)
            env = env.env
        return {"value": found}

    # -- values ------------------------------------------------------------------------------------

    def _fits(self, observation: Any) -> bool:
        """Return whether an observation has the types and shapes of its space."""
        try:
            for path, array, shape in self._observed:
                entry = np.asarray(wire.at(observation, path))
                if entry.shape != shape or entry.dtype != array.dtype:
                    return False
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def _put(self, leaves: list[Any], index: int, observation: Any) -> None:
        for path, array, shape in leaves:
            entry = wire.at(observation, path) if path else observation
            found = getattr(entry, "shape", None)
            if (np.shape(entry) if found is None else found) != shape:
                place = f" at {path}" if path else ""
                raise wire.Malformed(
                    f"an observation{place} has the shape {np.shape(entry)}, its space {shape}"
                )
            array[index] = entry

    def _raw(self, result: Any) -> Any:
        if isinstance(result, tuple) and result and isinstance(result[-1], dict):
            result = (*result[:-1], self._sendable(result[-1]))
        return wire.encoded(result)

    def _sendable(self, info: dict[str, Any]) -> dict[str, Any]:
        """Return what of an info can travel; the rest is named once on stderr."""
        try:
            return wire.encoded(info)  # type: ignore[no-any-return]  # a dict
        except TypeError:
            pass
        found = {}
        for key, value in info.items():
            why = wire.cannot_travel(value)
            if not why and isinstance(key, str):
                found[key] = wire.encoded(value)
            elif key not in self._left_out:
                self._left_out.add(key)
                sys.stderr.write(f"holdfast: info[{key!r}] is left out: {why or 'no text'}\n")
        return found

    def _told(self, error: BaseException) -> dict[str, Any]:
        """Return an exception as text: its own kind and words, the way to it."""
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return {
            "type": type(error).__name__,
            "module": type(error).__module__,
            "text": str(error),
            "exit_code": getattr(error, "exit_code", None),
            "cause": f"{type(cause).__name__}: {cause}",
            "missing": cause.name if isinstance(cause, ModuleNotFoundError) else None,
            "trace": wire.traced(cause, __file__),
        }


def _made(
    target: str, kwargs: dict[str, Any], folder: str | None = None, time_limit: int | None = None
) -> Any:
    """Return the environment called ``Id-v0``, ``module:Id-v0`` or ``module:Class``."""
    module, _, name = target.rpartition(":")
    source = None
    if module:
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
        source = _imported(module)
    found = getattr(source, name, None)
    if found is not None:
        if not (isinstance(found, type) and issubclass(found, gym.Env)):
            raise wire.Unusable(f"'{target}' is not a class derived from gymnasium.Env")
        env = found(**kwargs)
        return env if time_limit is None else gym.wrappers.TimeLimit(env, time_limit)
    if source is not None:
        _check_registered(name, source)
    if time_limit is not None:
        kwargs = {**kwargs, "max_episode_steps": time_limit}
    return gym.make(name, disable_env_checker=True, **kwargs)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise  # told with the package that is missing
    except (Exception, SystemExit) as error:
        text = f"importing '{module}' failed: {type(error).__name__}: {error}"
        raise wire.Unusable(text) from error


def _check_registered(name: str, source: Any) -> None:
    """Raise, with the nearest name, if neither the module nor Gymnasium has this one."""
    try:
        gym.spec(name)
    except gym.error.Error:
        module = source.__name__
        known = [key for key, value in vars(source).items() if isinstance(value, type)]
        near = difflib.get_close_matches(name, [*known, *gym.registry], 1)
        hint = f"; did you mean '{module}:{near[0]}'?" if near else ""
        raise wire.Unusable(
            f"no environment or class '{name}' in module '{module}'{hint}"
        ) from None


def _attribute(env: Any, name: str) -> Any:
    """Return an attribute of the environment or of a layer inside, as Gymnasium finds it."""
    while True:
        if hasattr(env, name):
            return getattr(env, name)
        if not isinstance(env, gym.Wrapper):
            raise AttributeError(name)
        env = env.env


def _close(env: Any) -> None:
    try:
        env.close()
    except Exception:
        traceback.print_exc()


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _own_pipes() -> tuple[Any, int]:
    """Return the ends of both pipes, out of the reach of what environments read and print."""
    commands, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr = escapes.Escaped(sys.stderr)
    return os.fdopen(commands, "rb"), answers


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process once its starting thread is gone; elsewhere, stdin ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    """Serve until stdin ends."""
    memory, trace, parent = (int(text) for text in sys.argv[1:4])
    commands, answers = _own_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent acts
    _die_with_parent(parent)
    for descriptor in (memory, trace):
        os.set_inheritable(descriptor, False)
    file = os.fdopen(trace, "w")
    faulthandler.enable(file)
    faulthandler.register(signal.SIGUSR1, file)  # where an environment hangs
    Host(memory, answers).serve(commands)


if __name__ == "__main__":
    main()
