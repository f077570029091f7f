"""Make the environment of a task: loaded, changed, wrapped, guarded; the spaces of a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing, FlattenObservation, FrameStackObservation

from holdfast.envs.base.loading import build, class_names, imported, naming
from holdfast.envs.base.spaces import StreamSpaces, merged_spaces
from holdfast.envs.endless import check_endless
from holdfast.envs.envpool.single import EnvPoolSingle
from holdfast.envs.wrappers.at_work import AT_WORK
from holdfast.envs.wrappers.changes import apply_changes
from holdfast.envs.wrappers.cost import Costs
from holdfast.envs.wrappers.drift import Applied, Drifting, Randomized
from holdfast.envs.wrappers.guard import Guard
from holdfast.envs.wrappers.robot import Paced
from holdfast.errors import HoldfastError, Problem, ScenarioError, UsageError
from holdfast.offers import meant
from holdfast.registry import suggestion
from holdfast.scenarios.schema.observation_keys import MASKS
from holdfast.scenarios.schema.scenario import Scenario, Task, Wrapper

_NO_MASKS = (
    f"task '{{}}': maskable_ppo needs an environment with a method {MASKS}(), which returns one "
    "truth value for each action; without one, write algorithm: ppo"
)


def make_env(
    scenario: Scenario,
    task: Task,
    *,
    render_mode: str | None = None,
    n_envs: int = 1,
    applied: Applied | None = None,
    taken: int = 0,
) -> gym.Env[Any, Any]:
    """Return a new environment for the task: what drifts, ``changes``, ``wrappers``, the guard.

    Where the task asks for no changes, trajectories equal those of ``gymnasium.make`` bit for bit.

    Args:
        scenario: Its folder is searched for ``module:`` names after what is installed; its
            ``backend``, ``pool`` (the timeouts) and ``on_nan`` hold for all tasks.
        task: One of its tasks, which samples nothing any more.
        render_mode: For example ``rgb_array``; None renders nothing.
        n_envs: How many will be stepped side by side; what drifts does so by their common steps.
        applied: Called with what a drift sets.
        taken: Steps of the task that an environment in its place has taken before.

    Raises:
        UsageError: A name, argument or change is wrong; see the classes in this module.
        EnvironmentFailed: The constructor raised something else.
    """
    AT_WORK.enter(f"task '{task.name}' ({task.env}), being built")
    env = bare(scenario, task, render_mode)
    _check_spaces(env, task)
    env = changed(env, scenario, task, n_envs=n_envs, applied=applied, taken=taken)
    return Guard(env, task.name, scenario.on_nan)


def _check_spaces(env: gym.Env[Any, Any], task: Task) -> None:
    """Raise UsageError unless an environment says what it shows and takes."""
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gym.Space):
            env.close()
            raise UsageError(
                f"task '{task.name}': '{task.env}' has no {name} of the gymnasium package; set "
                f"self.{name} in its constructor, for example to gymnasium.spaces.Box(-1, 1, (3,))"
            )


def bare(scenario: Scenario, task: Task, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Return the task's environment as its author made it, with the task's time limit.

    Arguments and errors are those of :func:`make_env`.
    """
    assert task.env is not None  # a benchmark's task never comes here
    assert scenario.backend != "auto"  # settled before anything is built
    limit = task.changes.time_limit
    with naming(task):
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
    taken: int = 0,
) -> gym.Env[Any, Any]:
    """Return the environment with all that the task does to it, the guard left out.

    Arguments and errors are those of :func:`make_env`; after one, the environment is closed.
    """
    with naming(task):
        try:
            if task.cost is not None:
                env = Costs(env, task.cost, task.name)
            if task.rate is not None:
                env = Paced(env, task.rate)
            if task.randomize:
                env = Randomized(env, task.randomize)
            if task.drift:
                env = Drifting(env, task.drift, task.steps, n_envs, applied, taken=taken)
            env = apply_changes(env, task.changes)
            for wrapper in task.wrappers:
                env = _wrapped(env, wrapper, scenario.folder)
        except BaseException:
            env.close()
            raise
    return env


def _wrapped(env: gym.Env[Any, Any], wrapper: Wrapper, folder: Path | None) -> gym.Env[Any, Any]:
    try:
        shipped = {"frame_stack": _frame_stack, "atari": AtariPreprocessing}
        wrap: Any = shipped.get(wrapper.name) or _own_wrapper(wrapper.name, folder)
        return wrap(env, **wrapper.arguments)  # type: ignore[no-any-return]  # an environment
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
    module, _, name = meant("changes", target).rpartition(":")
    if not module:
        raise UsageError(
            f"wrappers: no wrapper '{target}'; known: frame_stack, atari, module:Class"
        )
    source = imported(module, folder)
    found = getattr(source, name, None)
    if found is None:
        hint = suggestion(name, class_names(source), f"; did you mean '{module}:{{}}'?")
        raise UsageError(f"wrappers: module '{module}' has no class '{name}'{hint}")
    if isinstance(found, type) and issubclass(found, gym.Wrapper):
        return found
    raise UsageError(f"wrappers: '{target}' is not a class derived from gymnasium.Wrapper")


def stream_spaces(scenario: Scenario) -> StreamSpaces:
    """Return the spaces of the stream; build each task's environment once and close it.

    Differing tasks follow the rules of :func:`~holdfast.envs.base.spaces.merged_spaces`.

    Raises:
        ScenarioError: Every task that cannot be built, or the tasks that differ and the key to set.
        EnvironmentFailed: The constructor of an environment raised, or it does not tell its cost.
    """
    problems: list[Problem] = []
    found: list[StreamSpaces] = []
    cause: UsageError | None = None
    for index, task in enumerate(scenario.tasks):
        try:
            env = make_env(scenario, task)
        except UsageError as error:
            problems.append(scenario.problem(f"tasks[{index}]", str(error)))
            cause = cause or error
            continue
        try:
            if scenario.endless:
                check_endless(env, is_saved=scenario.saves_worlds)
            if task.cost is not None and not (task.exclusive or task.rate is not None):
                _take_a_step(env)
            found.append(StreamSpaces(env.observation_space, env.action_space))
            if scenario.agent.algorithm == "maskable_ppo" and not env.has_wrapper_attr(MASKS):
                problems.append(scenario.problem(f"tasks[{index}]", _NO_MASKS.format(task.name)))
        except UsageError as error:
            problems.append(scenario.problem(f"tasks[{index}].env", f"task '{task.name}': {error}"))
            cause = cause or error
        finally:
            env.close()
    if problems:
        raise ScenarioError(problems) from cause
    return merged_spaces(scenario, found)


def _take_a_step(env: gym.Env[Any, Any]) -> None:
    """Step an environment once: what costs shows with a step alone."""
    env.reset(seed=0)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
