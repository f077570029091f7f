"""Load an environment by its name: an id, a class of a module, or one under another interpreter."""

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
from gymnasium.wrappers import TimeLimit

from holdfast.envs.base.mujoco_log import tell_once
from holdfast.envs.processes.remote import RemoteEnv
from holdfast.errors import EnvironmentFailed, HoldfastError, MissingExtra, UsageError
from holdfast.offers import meant
from holdfast.registry import append_path, suggestion
from holdfast.scenarios.checks.processes import check_interpreter, interpreter
from holdfast.scenarios.checks.references import REGISTERED_BY, NotUsable
from holdfast.scenarios.schema.scenario import Pool, Task

_EXTRAS = ("mujoco", "minigrid", "envpool")
"""Packages that an extra of the same name installs."""


_NO_PICTURES = (
    "takes no render_mode, and pictures need it: an argument render_mode=None of the constructor, "
    "and a render() that returns (height, width, 3) of uint8"
)


class UnknownEnvironment(UsageError):
    """No environment has this id, or the module has no class of this name."""


class MissingPackage(UsageError):
    """A package that an environment needs is not installed; the text says how to install it."""


class ImportFailed(UsageError):
    """The module of an environment was found, but importing it raised an exception (the cause)."""


class OldGym(UsageError):
    """The environment is written for the old ``gym`` package, not for Gymnasium."""


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
        target: ``Id-v0``, ``module:Id-v0`` (imports the module first), ``module:Class``, or what an
            installed package offers.
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
    if target not in gym.registry:
        target = meant("environments", target)
    module, _, name = target.rpartition(":")
    source = imported(module, folder) if module else None
    if hasattr(source, name):
        env = _constructed(target, _checked_class(getattr(source, name), target), options)
        return env if time_limit is None else TimeLimit(env, time_limit)
    _check_registered(name, source)
    if time_limit is not None:
        limit(options, time_limit)
    # The passive checker tests every step; `holdfast check-env` tests more, once.
    return _constructed(target, gym.make, {"id": name, "disable_env_checker": True, **options})


def limit(options: dict[str, Any], time_limit: int) -> None:
    """Set the time limit among the arguments of a registered environment.

    Raises:
        UsageError: They have one already.
    """
    if "max_episode_steps" in options:
        raise UsageError("changes.time_limit and kwargs.max_episode_steps: give one of the two")
    options["max_episode_steps"] = time_limit


@contextlib.contextmanager
def naming(task: Task) -> Iterator[None]:
    """Put the task's name before what goes wrong inside."""
    try:
        yield
    except HoldfastError as error:
        error.args = (f"task '{task.name}': {error}",)
        raise


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
        files = [file.stem for file in folder.glob("*.py")] if folder else []
        hint = suggestion(module, files, otherwise=_install(missing.partition(".")[0]))
        place = f" and none in {folder.resolve()}" if folder else ""
        raise MissingPackage(f"no module '{missing}' is installed{place}; {hint}") from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(
            f"importing '{module}' failed: {type(error).__name__}: {error}"
        ) from error


def _install(package: str) -> str:
    if package in _EXTRAS:
        return f'install it with: pip install "holdfast[{package}]"'
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
            known += class_names(source)
            where = f"no environment or class '{name}' in module '{source.__name__}'"
            prefix = f"{source.__name__}:"
        hint = suggestion(name, known, f"did you mean '{prefix}{{}}'?", str(error))
        for start, package in REGISTERED_BY.items():
            if name.startswith(start) and source is None:
                hint = f"name the package that has it: '{package}:{name}'"
        raise UnknownEnvironment(f"{where}; {hint}") from error
    except gym.error.Error as error:
        raise UnknownEnvironment(f"'{name}' is no environment id: {error}") from error


def class_names(source: ModuleType) -> list[str]:
    """Return the names of a module's classes."""
    return [name for name, value in vars(source).items() if inspect.isclass(value)]


def _constructed(target: str, construct: Any, options: dict[str, Any]) -> gym.Env[Any, Any]:
    tell_once(options.get("id", target))
    try:
        return construct(**options)  # type: ignore[no-any-return]  # of a checked class
    except HoldfastError:
        raise
    except DependencyNotInstalled as error:
        extra = next((extra for extra in _EXTRAS if extra in str(error).lower()), None)
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
            why = f", kwargs: {text}{_taken(construct)}"
            why = f" {_NO_PICTURES}" if "'render_mode'" in text else why
            raise UsageError(f"environment '{target}'{why}") from error
        raise EnvironmentFailed(
            f"the constructor of environment '{target}' raised {type(error).__name__}: {text}"
        ) from error


def _taken(construct: Any) -> str:
    """Return which arguments a class takes, as the end of an error text; nothing of a function."""
    if not isinstance(construct, type):
        return ""
    with contextlib.suppress(TypeError, ValueError):  # of a class that is not Python's
        names = [name for name in inspect.signature(construct).parameters if name != "render_mode"]
        return f"; it takes {', '.join(names)}" if names else "; it takes none"
    return ""
