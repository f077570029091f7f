"""Make the environment of a task: an id or a class, its changes, its wrappers, the guard."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled, UnregisteredEnv
from gymnasium.wrappers import (
    AtariPreprocessing,
    FlattenObservation,
    FrameStackObservation,
    TimeLimit,
)

from holdfast.envs.envpool.single import EnvPoolSingle
from holdfast.envs.processes.remote import RemoteEnv
from holdfast.envs.wrappers.changes import apply_changes
from holdfast.envs.wrappers.drift import Applied, Drifting, Randomized
from holdfast.envs.wrappers.guard import Guard
from holdfast.envs.wrappers.pace import Paced
from holdfast.errors import EnvironmentFailed, HoldfastError, MissingExtra, UsageError
from holdfast.registry import append_path, closest
from holdfast.scenarios.checks.processes import check_interpreter, interpreter
from holdfast.scenarios.checks.references import NotUsable
from holdfast.scenarios.schema.scenario import Pool, Scenario, Task, Wrapper

# Packages that register their environments only when they are imported, by the start of the id.
_REGISTERED_BY = {"ALE/": "ale_py", "MiniGrid-": "minigrid", "BabyAI-": "minigrid"}
_EXTRAS = {"mujoco": "mujoco", "minigrid": "minigrid", "envpool": "envpool"}


class UnknownEnvironment(UsageError):
    """No environment has this id, or the module has no class of this name."""


class MissingPackage(UsageError):
    """A package that an environment needs is not installed; the text says how to install it."""


class ImportFailed(UsageError):
    """The module of an environment was found, but importing it raised an exception (the cause)."""


class OldGym(UsageError):
    """The environment is written for the old ``gym`` package, not for Gymnasium."""


def make_env(
    scenario: Scenario,
    task: Task,
    *,
    render_mode: str | None = None,
    n_envs: int = 1,
    applied: Applied | None = None,
) -> gym.Env[Any, Any]:
    """Return a new environment for the task: what drifts, ``changes``, ``wrappers``, the guard.

    Where the task asks for no changes, trajectories equal those of ``gymnasium.make`` bit for bit.

    Args:
        scenario: Its folder is searched for ``module:`` names after what is installed; its
            ``backend``, ``pool`` (the timeouts) and ``on_nan`` hold for all tasks.
        task: One of its tasks, which samples nothing any more.
        render_mode: For example ``rgb_array``; None renders nothing.
        n_envs: How many will be stepped side by side; what drifts does so by their common steps.
        applied: Is told what a drift sets.

    Raises:
        UsageError: A name, argument or change is wrong; see the classes in this module.
        EnvironmentFailed: The constructor raised something else.
    """
    env = bare(scenario, task, render_mode)
    env = changed(env, scenario, task, n_envs=n_envs, applied=applied)
    return Guard(env, task.name, scenario.on_nan)


def bare(scenario: Scenario, task: Task, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return the task's environment as its author made it, with the task's time limit.

    Arguments and errors are those of :func:`make_env`.
    """
    assert task.env is not None  # a benchmark's task never comes here
    assert scenario.backend != "auto"  # settled before anything is built
    limit = task.changes.time_limit
    with _told_of(task):
        if task.opponents is not None:
            # Here: only games need PettingZoo.
            from holdfast.envs.multiagent.self_play import SelfPlay

            return SelfPlay(scenario, task, render_mode)
        if scenario.backend == "envpool":
            return EnvPoolSingle(task.env, task.kwargs, time_limit=limit, render_mode=render_mode)
        return build(
            task.env,
            task.kwargs,
            folder=scenario.folder,
            time_limit=limit,
            render_mode=render_mode,
            python=task.python,
            limits=scenario.pool,
        )


def changed(
    env: gym.Env[Any, Any],
    scenario: Scenario,
    task: Task,
    *,
    n_envs: int = 1,
    applied: Applied | None = None,
) -> gym.Env[Any, Any]:
    """Return the environment with all that the task does to it, the guard left out.

    Arguments and errors are those of :func:`make_env`; after one, the environment is closed.
    """
    with _told_of(task):
        try:
            if task.rate is not None:
                env = Paced(env, task.rate)
            if task.randomize:
                env = Randomized(env, task.randomize)
            if task.drift:
                env = Drifting(env, task.drift, task.steps, n_envs, applied)
            env = apply_changes(env, task.changes)
            for wrapper in task.wrappers:
                env = _wrapped(env, wrapper, scenario.folder)
        except BaseException:
            env.close()
            raise
    return env


@contextlib.contextmanager
def _told_of(task: Task) -> Iterator[None]:
    """Put the task's name before what goes wrong inside."""
    try:
        yield
    except HoldfastError as error:
        error.args = (f"task '{task.name}': {error}",)
        raise


def build(
    target: str,
    kwargs: Mapping[str, Any],
    *,
    folder: Path | None = None,
    time_limit: int | None = None,
    render_mode: str | None = None,
    python: str | None = None,
    limits: Pool | None = None,
) -> gym.Env[Any, Any]:
    """Return the environment called ``target``, as its author made it.

    Args:
        target: ``Id-v0``, ``module:Id-v0`` (imports the module first) or ``module:Class``.
        kwargs: Arguments of the constructor.
        folder: Searched for ``module`` after everything that is installed.
        time_limit: Steps after which an episode is truncated, instead of what the id is registered
            with. A class of its own has no limit unless this gives one.
        render_mode: Passed on where it is not None.
        python: Another interpreter, in whose process the environment is built.
        limits: Timeouts of that process.

    Raises:
        UsageError: As :func:`make_env`.
        EnvironmentFailed: As :func:`make_env`.
    """
    if python is not None:
        found = interpreter(python, folder)
        try:
            check_interpreter(found)
        except NotUsable as error:
            raise UsageError(f"python: {error}") from None
        return RemoteEnv(
            target,
            kwargs,
            python=found,
            folder=folder,
            time_limit=time_limit,
            render_mode=render_mode,
            limits=limits,
        )
    options = copy.deepcopy(dict(kwargs))  # the environment may keep and change them
    if render_mode is not None:
        options["render_mode"] = render_mode
    module, _, name = target.rpartition(":")
    source = imported(module, folder) if module else None
    if hasattr(source, name):
        env = _constructed(target, _checked_class(getattr(source, name), target), options)
        return env if time_limit is None else TimeLimit(env, time_limit)
    _check_registered(name, source)
    if time_limit is not None:
        if "max_episode_steps" in options:
            raise UsageError("changes.time_limit and kwargs.max_episode_steps: give one of the two")
        options["max_episode_steps"] = time_limit
    # The passive checker tests every step; `holdfast check-env` tests more, once.
    return _constructed(target, gym.make, {"id": name, "disable_env_checker": True, **options})


def imported(module: str, folder: Path | None) -> ModuleType:
    """Return a module, imported; a folder is searched after everything that is installed.

    Raises:
        MissingPackage: It, or a package that it imports, is not there.
        ImportFailed: Importing it raised something else.
    """
    append_path(folder)
    if module not in sys.modules:
        importlib.invalidate_caches()  # a file written a moment ago would otherwise not be seen
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        if not (module == missing or module.startswith(f"{missing}.")):
            raise MissingPackage(
                f"importing '{module}' needs the package '{missing}', which is not installed; "
                f"{_install(missing)}"
            ) from error
        near = closest(module, [file.stem for file in folder.glob("*.py")] if folder else [])
        hint = f"did you mean '{near}'?" if near else _install(missing.partition(".")[0])
        place = f" and none in {folder.resolve()}" if folder else ""
        raise MissingPackage(f"no module '{missing}' is installed{place}; {hint}") from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(
            f"importing '{module}' failed: {type(error).__name__}: {error}"
        ) from error


def _install(package: str) -> str:
    if package in _EXTRAS:
        return f'install it with: pip install "holdfast[{_EXTRAS[package]}]"'
    return f"if that is its name on the registry, install it with: pip install {package}"


def is_old_gym(found: type) -> bool:
    """Return whether a class descends from the old ``gym`` package."""
    return any(base.__module__.partition(".")[0] == "gym" for base in found.__mro__)


def _checked_class(found: Any, target: str) -> type[gym.Env[Any, Any]]:
    """Return ``found`` if it is a Gymnasium environment class; nothing else is ever called."""
    if isinstance(found, type) and issubclass(found, gym.Env):
        return found
    if isinstance(found, type) and is_old_gym(found):
        raise OldGym(
            f"'{target}' is written for the old gym; derive it from gymnasium.Env, let "
            "reset(seed=, options=) return (observation, info) and step() five values"
        )
    kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
    raise UsageError(
        f"'{target}' is {kind}, not a class derived from gymnasium.Env; "
        "a function that builds an environment can be registered: gymnasium.register(id, function)"
    )


def _check_registered(name: str, source: ModuleType | None) -> None:
    """Raise UnknownEnvironment, with the nearest name, if Gymnasium has no ``name``."""
    try:
        gym.spec(name)
    except UnregisteredEnv as error:
        known = [str(known) for known in gym.registry]
        where, prefix = f"no environment '{name}'", ""
        if source is not None:
            known += _classes(source)
            where = f"no environment or class '{name}' in module '{source.__name__}'"
            prefix = f"{source.__name__}:"
        near = closest(name, known)
        hint = f"did you mean '{prefix}{near}'?" if near else str(error)
        for start, package in _REGISTERED_BY.items():
            if name.startswith(start) and source is None:
                hint = f"name the package that has it: '{package}:{name}'"
        raise UnknownEnvironment(f"{where}; {hint}") from error
    except gym.error.Error as error:
        raise UnknownEnvironment(f"'{name}' is no environment id: {error}") from error


def _classes(source: ModuleType) -> list[str]:
    return [name for name, value in vars(source).items() if inspect.isclass(value)]


def _constructed(target: str, construct: Any, options: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        env: gym.Env[Any, Any] = construct(**options)
    except HoldfastError:
        raise
    except DependencyNotInstalled as error:
        extra = next((extra for word, extra in _EXTRAS.items() if word in str(error).lower()), None)
        if extra:
            raise MissingExtra(f"environment '{target}'", extra, extra) from error
        raise MissingPackage(f"environment '{target}': {error}") from error
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"environment '{target}' needs the package '{error.name}'; {_install(error.name or '')}"
        ) from error
    except (Exception, SystemExit) as error:
        text = str(error)
        if isinstance(error, TypeError) and "incompatible with Gymnasium" in text:
            raise OldGym(f"environment '{target}': {text}") from error
        if isinstance(error, TypeError) and (
            "keyword argument" in text or "required positional argument" in text
        ):
            raise UsageError(f"environment '{target}', kwargs: {text}") from error
        raise EnvironmentFailed(
            f"the constructor of environment '{target}' raised {type(error).__name__}: {text}"
        ) from error
    return env


def _wrapped(env: gym.Env[Any, Any], wrapper: Wrapper, folder: Path | None) -> gym.Env[Any, Any]:
    try:
        if wrapper.name == "frame_stack":
            return _frame_stack(env, **wrapper.arguments)
        if wrapper.name == "atari":
            return AtariPreprocessing(env, **wrapper.arguments)
        return _own_wrapper(wrapper.name, folder)(env, **wrapper.arguments)
    except HoldfastError:
        raise
    except Exception as error:
        hint = ""
        if wrapper.name == "atari" and "frame-skipping" in str(error):
            hint = " (add `kwargs: {frameskip: 1}` to the task)"
        raise UsageError(
            f"wrappers.{wrapper.name}: {type(error).__name__}: {error}{hint}"
        ) from error


def _frame_stack(env: gym.Env[Any, Any], n: int = 4, **options: Any) -> gym.Env[Any, Any]:
    """Stack the last ``n`` observations; vectors are laid end to end, oldest first."""
    vector = len(env.observation_space.shape or ()) == 1
    stacked: gym.Env[Any, Any] = FrameStackObservation(env, n, **options)
    return FlattenObservation(stacked) if vector else stacked


def _own_wrapper(target: str, folder: Path | None) -> type[gym.Wrapper[Any, Any, Any, Any]]:
    module, _, name = target.rpartition(":")
    if not module:
        raise UsageError(
            f"wrappers: no wrapper '{target}'; known: frame_stack, atari, module:Class"
        )
    source = imported(module, folder)
    found = getattr(source, name, None)
    if found is None:
        near = closest(name, _classes(source))
        hint = f"; did you mean '{module}:{near}'?" if near else ""
        raise UsageError(f"wrappers: module '{module}' has no class '{name}'{hint}")
    if isinstance(found, type) and issubclass(found, gym.Wrapper):
        return found
    raise UsageError(f"wrappers: '{target}' is not a class derived from gymnasium.Wrapper")
