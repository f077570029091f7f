"""Checks of an environment of one agent, as `holdfast check-env` runs them."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from holdfast.envs.base.compatibility import algorithms_for
from holdfast.envs.base.loading import OldGym, build
from holdfast.envs.base.spaces import StreamSpaces, not_learnable
from holdfast.envs.checks.check_result import CheckResult, CrashedError, crashes_at, form, told
from holdfast.envs.checks.probes import check_rebuilding, check_seeding, check_values, measure_speed
from holdfast.envs.make import bare, changed
from holdfast.errors import EnvironmentFailed, HoldfastError
from holdfast.scenarios.schema.scenario import Scenario, Task

if TYPE_CHECKING:
    from holdfast.envs.multiagent.players import FrozenPlayers

# What the two published checkers say that is no news to a user of this platform.
_NOT_NEWS = (
    "is different from the unwrapped version",
    "probably too low",
    "probably too high",
    "Not able to test alternative render modes",
    "symmetric and normalized",  # said once, in plain words, by _check_spaces
)


class Subject(NamedTuple):
    """The environment to check.

    Attributes:
        author: The environment as its author made it.
        env: The same one with all that a task does to it.
        exclusive: Whether a task says that it exists once.
    """

    author: gym.Env[Any, Any]
    env: gym.Env[Any, Any]
    exclusive: bool = False

    @property
    def stop(self) -> Callable[[], Any] | None:
        """The method ``stop`` of a robot's class, which brings it to rest, or None."""
        found = getattr(self.env.unwrapped, "stop", None)
        return found if callable(found) else None

    @property
    def is_robot(self) -> bool:
        """True for a robot, which never repeats itself to the last bit."""
        return self.exclusive or self.stop is not None


def check_env(
    target: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    python: str | None = None,
) -> CheckResult:
    """Return what was found about an environment; builds and closes it, three times if it may.

    Looks at the version of the interface, the values of observations and rewards, whether arrays
    are reused between steps, repeatability under a seed, and speed; then runs Gymnasium's and
    Stable-Baselines3's own checkers, unless there are errors to mend first.

    A robot is moved at random, and built once. Its method ``stop`` is called before it is closed.

    Args:
        target: ``Id-v0``, ``module:Id-v0`` or ``module:Class``.
        kwargs: Arguments of the constructor.
        folder: Where ``module`` is looked for after what is installed.
        python: Another interpreter, under which the environment runs.

    Raises:
        UsageError: The name is wrong, or a package is missing.
    """

    def make() -> Subject:
        env = build(target, kwargs or {}, folder=folder, python=python)
        return Subject(env, env)

    return _checked(CheckResult(target), make)


def check_task(scenario: Scenario, task: Task, frozen: FrozenPlayers | None = None) -> CheckResult:
    """Return what was found about a task's environment, as the scenario builds it for training.

    That is with the task's changes, drifts and wrappers, by the scenario's backend, under the
    task's interpreter; without padding and task id. Otherwise as :func:`check_env`.

    Args:
        scenario: The scenario.
        task: One of its tasks, which samples nothing any more.
        frozen: Finds opponents that earlier runs left.

    Raises:
        UsageError: A name, argument or change is wrong, or a package is missing.
    """

    def make() -> Subject:
        author: Any = bare(scenario, task)
        env = changed(author, scenario, task, n_envs=scenario.n_envs)
        if task.opponents is not None:
            from holdfast.envs.multiagent.self_play import Legal  # here: only games need PettingZoo

            author.frozen = frozen
            author, env = Legal(author), Legal(env)  # the checks draw any action
        return Subject(author, env, task.exclusive)

    return _checked(CheckResult(task.name), make)


def _checked(result: CheckResult, make: Callable[[], Subject]) -> CheckResult:
    """Build, look at everything, bring to rest, close."""
    try:
        subject = make()
    except (OldGym, EnvironmentFailed) as error:
        result.add("error", str(error))
        return result
    except HoldfastError:
        raise
    except Exception as error:  # of a class without spaces, under changes that need them
        result.add("error", f"building it raised {told(error)}")
        return result
    env = subject.env
    try:
        _check_spaces(env, result)
        if wrong := _interface_error(subject):
            result.add("error", wrong)
        else:
            result.add("ok", "reset() and step() have the form of Gymnasium")
            check_values(env, result)
            if result.ok:  # what is not finite is no repetition of anything
                check_seeding(env, result, is_robot=subject.is_robot)
                measure_speed(env, result)
        if result.ok:
            _run_published_checkers(subject, result)
            if not subject.is_robot:
                check_rebuilding(lambda: make().env, result)
        else:
            result.add("advice", "mend the errors first; Gymnasium's and SB3's checkers come after")
    except (CrashedError, EnvironmentFailed) as crash:  # the latter in a process of its own
        result.add("error", str(crash))
    finally:
        _end(subject, result)
    return result


def _end(subject: Subject, result: CheckResult) -> None:
    """Bring a robot to rest, and close the environment twice."""
    try:
        stop = subject.stop
        if stop is not None:
            stop()
            result.add("ok", "stop() brings it to rest; it was called before close()")
        elif subject.exclusive:
            result.add(
                "advice",
                "the task is exclusive, but its class has no method stop(): nothing brings a robot "
                "to rest when a run ends, fails or is interrupted",
            )
    except (Exception, SystemExit) as error:
        result.add("error", f"stop() fails: {told(error)}")
    try:
        subject.env.close()
        subject.env.close()
    except (Exception, SystemExit) as error:
        result.add("error", f"close() fails, or fails when called twice: {told(error)}")


def _check_spaces(env: gym.Env[Any, Any], result: CheckResult) -> None:
    """Say which algorithms can take the actions, and what about the spaces needs thought."""
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gym.Space):
            raise CrashedError(f"{name} is missing, or is not a space of the gymnasium package")
    result.spaces = StreamSpaces(env.observation_space, env.action_space)
    text = not_learnable(env.observation_space)
    result.add("error" if text else "ok", text or f"observation space {env.observation_space}")
    action = env.action_space
    able = algorithms_for(action)
    if not able:
        result.add("error", f"no known algorithm can take the action space {action}")
        return
    result.add("ok", f"action space {action}; algorithms that can take it: {', '.join(able)}")
    if isinstance(action, spaces.Box):
        if not action.is_bounded():
            result.add("error", f"the action space {action} needs finite bounds")
        elif (action.low != -1).any() or (action.high != 1).any():
            result.add(
                "advice",
                f"actions lie in {action.low.min():g} to {action.high.max():g}; on-policy "
                "algorithms start with a spread of 1, so that bounds of -1 to 1 work best",
            )
    if isinstance(action, spaces.Discrete) and action.start != 0:
        listed = [int(action.start) + number for number in range(int(action.n))]
        result.add("error", f"actions do not start at 0; use `changes: {{action_map: {listed}}}`")


def _interface_error(subject: Subject) -> str:
    """Return how reset and step differ from today's form; wrappers would hide it."""
    env = _as_made_by_its_author(subject.author)
    reset: Callable[..., Any] = subject.author.reset
    try:
        first: Any = reset(seed=0)
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and "seed" in str(error):
            return "reset() takes no `seed`: the API of the old gym (before 0.26)"
        raise CrashedError(f"reset(seed=0) raised {told(error)}") from error
    if not (isinstance(first, tuple) and len(first) == 2 and isinstance(first[1], dict)):
        return (
            f"reset() returns {form(first)}; it must return (observation, info). Returning the "
            "observation alone is the API of the old gym (before 0.26)"
        )
    with crashes_at("the first step()"):
        stepped: Any = env.step(env.action_space.sample())
    if not isinstance(stepped, tuple) or len(stepped) != 5:
        return (
            f"step() returns {form(stepped)}; it must return (observation, reward, terminated, "
            "truncated, info). Four values with one `done` are the API of the old gym (before "
            "0.26): return `terminated` where the task ended and `truncated` where time ran out"
        )
    for name, value in (("terminated", stepped[2]), ("truncated", stepped[3])):
        if not isinstance(value, bool | np.bool_):
            return f"`{name}` is {value!r}; it must be True or False"
    if not isinstance(stepped[4], dict):
        return f"`info` is {form(stepped[4])}; it must be a dict"
    return ""


def _run_published_checkers(subject: Subject, result: CheckResult) -> None:
    from gymnasium.utils.env_checker import check_env as gymnasium_checks
    from stable_baselines3.common.env_checker import check_env as sb3_checks  # imports torch

    def floats(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        # Arrays without a dimension, which a run takes and the checkers do not, were told.
        is_told = any("without a dimension" in finding.text for finding in result.findings)
        return gym.wrappers.TransformReward(env, float) if is_told else env

    def gymnasium_checker() -> None:
        author = floats(_as_made_by_its_author(subject.author))
        gymnasium_checks(author, skip_render_check=True, skip_close_check=True)

    # That a robot does not repeat itself is said in plain words by check_seeding.
    known = "eterminis" if subject.is_robot else None
    run_checker("Gymnasium's checker", gymnasium_checker, result, known)
    run_checker(
        "Stable-Baselines3's checker",
        lambda: sb3_checks(floats(subject.env), warn=True),
        result,
        known,
    )


def run_checker(
    name: str, checker: Callable[[], Any], result: CheckResult, known: str | None = None
) -> None:
    """Run a published checker, and tell what it raised and warned of.

    Args:
        name: Of the checker.
        checker: Raises what is wrong.
        result: Takes the findings.
        known: A word of errors that need no telling.
    """
    failure = ""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            checker()
        except (Exception, SystemExit) as error:
            if known and known in str(error):
                return
            failure = str(error) if isinstance(error, AssertionError) else told(error)
            failure = failure or type(error).__name__
    if failure:
        result.add("error", f"{name}: {failure}")
    for warning in caught:
        said = re.sub(r"\x1b\[\d+m|^.*?WARN: ", "", str(warning.message)).strip()
        if not any(news in said for news in _NOT_NEWS):
            result.add("advice", f"{name}: {said}")
    if not failure:
        result.add("ok", f"{name} found no error")


def _as_made_by_its_author(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return the environment without the wrappers of gymnasium.make.

    They fail on another number of values than five, and Gymnasium's checker complains about them.
    """
    while isinstance(env, TimeLimit | OrderEnforcing):
        env = env.env
    return env
