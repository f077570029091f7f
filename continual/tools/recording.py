"""Recording of demonstrations: a policy, a controller or a Minari data set into one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast import registry, seeding
from holdfast.agents.base.buffers import Arrays, by_name
from holdfast.agents.base.demonstrations import SUFFIX, check_rows, content_of
from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.restore import Restored, initial_files, unpooled
from holdfast.continual.policies.trained_agent import TaskAgent
from holdfast.continual.run_folder.cells import task_index
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.record import SCENARIO
from holdfast.envs.make import make_env
from holdfast.errors import MissingExtra, UsageError
from holdfast.scenarios.load import load
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.source.bounds import EPISODE_STEPS
from holdfast.scenarios.source.regular_file import is_there

Controller = Callable[[Any], Any]
"""An observation, as the task's own environment shows it, to an action."""


@dataclass(frozen=True)
class Plan:
    """What is recorded.

    Attributes:
        task: Name of the task.
        episodes: How many are kept.
        seed: Of the episodes.
        stage: Of a run, the policy at whose end acts; None for the last.
        successes: Whether only episodes that end in success are kept.
    """

    task: str
    episodes: int = 20
    seed: int = 0
    stage: int | None = None
    successes: bool = False


class Recorded(NamedTuple):
    """What was written.

    Attributes:
        path: The file.
        returns: Of each episode.
        transitions: How many.
        successes: Episodes that ended in success; None where the environment does not tell.
    """

    path: Path
    returns: list[float]
    transitions: int
    successes: int | None


class Episode(NamedTuple):
    """One episode: its rows, and whether it ended in success, if that is told."""

    rows: Arrays
    success: bool | None


def record(
    source: Path,
    plan: Plan,
    output: Path,
    *,
    controller: str | None = None,
    policy: Path | None = None,
    minari: str | None = None,
    trust_code: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Write demonstrations of one task.

    Args:
        source: A run folder, whose policy acts; or a scenario, whose task somebody else acts in.
        plan: What is recorded.
        output: The file.
        controller: ``module:callable`` beside the scenario: an observation to an action.
        policy: A Stable-Baselines3 zip with weights of the scenario's agent.
        minari: Id of a Minari data set on this machine, of the task's own spaces.
        trust_code: Import what the scenario of a run folder names.
        tell: Called with the episodes that are kept, and how many there will be.

    Raises:
        UsageError: There is no such task, policy, controller or data set, or what it gives does not
            fit the task.
    """
    if output.suffix != SUFFIX:
        raise UsageError(f"{output}: the file's name must end in {SUFFIX}")
    if is_there(output):
        raise UsageError(f"{output}: is there already; remove it, or name another file")
    given = [name for name in (controller, policy, minari) if name is not None]
    is_run = source.is_dir() and is_there(source / SCENARIO)
    if len(given) != (0 if is_run else 1):
        raise UsageError(
            f"{source}: "
            + (
                "in a run folder its own policy acts; name the scenario's file for another"
                if is_run
                else "say who acts: --controller module:callable, --policy model.zip or --minari id"
            )
        )
    if minari is not None:
        scenario = load(source)
        index = task_index(scenario, plan.task, str(source))
        found = _of_minari(minari, plan)
        task = scenario.tasks[index]
    else:
        scenario, index, act, begin = _actor(source, plan, controller, policy, trust_code)
        task = scenario.tasks[index]
        found = _played(scenario, task, act, begin, plan)
    kept = []
    for episode in found:
        kept.append(episode)
        if tell is not None:
            tell(len(kept), plan.episodes)
    return _written(output, scenario, task, kept, about=str(given[0] if given else source))


def _written(
    output: Path, scenario: Scenario, task: Task, kept: list[Episode], about: str
) -> Recorded:
    rows = {name: np.concatenate([episode.rows[name] for episode in kept]) for name in kept[0].rows}
    with closing(make_env(scenario, task)) as env:
        spaces = env.observation_space, env.action_space
    try:
        check_rows(rows, *spaces)
    except ValueError as error:
        raise UsageError(f"{about}: does not fit task '{task.name}': {error}") from error
    write_whole(output, content_of(rows, {"task": task.name, "of": Path(about).name}))
    told = [episode.success for episode in kept if episode.success is not None]
    returns = [float(episode.rows["rewards"].sum()) for episode in kept]
    return Recorded(output, returns, len(rows["rewards"]), sum(told) if told else None)


# -- who acts --------------------------------------------------------------------------------------


def _actor(
    source: Path, plan: Plan, controller: str | None, policy: Path | None, trust_code: bool
) -> tuple[Scenario, int, Controller, Callable[[], None]]:
    """Return the scenario, the task's index, what acts, and what is called before an episode."""
    if controller is not None:
        scenario = load(source)
        made = _imported(controller, scenario.folder)
        return scenario, task_index(scenario, plan.task, str(source)), made, lambda: None
    if policy is not None:
        scenario = load(source, [f"agent.init={policy.resolve()}"])
        index = task_index(scenario, plan.task, str(source))
        agent: Any = kind_of(scenario).act(_with_weights(scenario, index), index)
    else:
        run = open_run(source, trust_code=trust_code)
        scenario = run.scenario
        index = task_index(scenario, plan.task, str(source))
        agent = run.agent(plan.task, stage=plan.stage)
    if not isinstance(agent, TaskAgent):
        raise UsageError(f"{source}: single agents alone show anything, no team and no classifier")
    return scenario, index, agent.act, agent.reset


def _imported(controller: str, folder: Path | None) -> Controller:
    """Return a user's function.

    Raises:
        UsageError: There is none of this name, or its module cannot be imported.
    """
    try:
        made: Any = registry.load(controller, folder)
    except Exception as error:  # of the user's own module, too
        what = f"{type(error).__name__}: {error}"
        raise UsageError(f"--controller {controller}: cannot be imported: {what}") from error
    if not callable(made) or isinstance(made, type):
        raise UsageError(f"--controller {controller}: is no function of an observation")
    return made  # type: ignore[no-any-return]  # as it says


def _with_weights(scenario: Scenario, index: int) -> Restored:
    """Return the scenario's agent with the weights of ``agent.init``, which has learned nothing."""
    kind = kind_of(unpooled(scenario))
    stages = scenario.stream_tasks
    if index not in stages:
        raise UsageError(f"task '{scenario.tasks[index].name}' is no part of the stream")
    spaces = kind.spaces()
    experience = kind.stream(scenario.seeds[0], spaces).train_stream[stages.index(index)]
    agent = kind.agent()
    agent.initial = initial_files(scenario)
    with seeding.isolated(scenario.seeds[0]):
        agent.start(experience)
    agent.close()
    return Restored(kind.scenario, spaces, agent)


def _played(
    scenario: Scenario, task: Task, act: Controller, begin: Callable[[], None], plan: Plan
) -> Iterator[Episode]:
    """Yield episodes of a task, played until so many are kept.

    Raises:
        UsageError: An action is none, or too few episodes succeed.
    """
    kept = played = 0
    with closing(make_env(scenario, task)) as env:
        while kept < plan.episodes:
            seed = seeding.derive(plan.seed, "record", played)
            begin()
            episode = _episode(env, act, seed, task)
            played += 1
            if not plan.successes or episode.success:
                kept += 1
                yield episode
            elif played >= 10 * plan.episodes:
                raise UsageError(
                    f"task '{task.name}': {kept} of {played} episodes ended in success, and "
                    f"{plan.episodes} were asked for; ask for fewer, or record without --successes"
                )


def _episode(env: Any, act: Controller, seed: int, task: Task) -> Episode:
    """Play one episode."""
    seen, _ = env.reset(seed=seed)
    steps: list[tuple[Any, Any, Any, float, bool, bool]] = []
    info: Mapping[str, Any] = {}
    is_over = False
    while not is_over:
        action = np.asarray(act(seen), env.action_space.dtype).reshape(env.action_space.shape)
        if not env.action_space.contains(action if action.shape else action[()]):
            raise UsageError(
                f"task '{task.name}': the action {action.tolist()} is not in {env.action_space}"
            )
        following, reward, terminated, truncated, info = env.step(
            action if action.shape else action[()]
        )
        truncated = truncated or (len(steps) + 1 >= EPISODE_STEPS and not terminated)
        steps.append((seen, following, action, float(reward), bool(terminated), bool(truncated)))
        seen, is_over = following, terminated or truncated
    before, after, actions, rewards, ends, cuts = zip(*steps, strict=True)
    success = info.get("is_success", info.get("success"))
    rows = {
        **by_name("observations", _stacked(before)),
        **by_name("next_observations", _stacked(after)),
        "actions": np.stack(actions),
        "rewards": np.array(rewards, np.float32),
        "terminations": np.array(ends),
        "truncations": np.array(cuts),
    }
    return Episode(rows, None if success is None else bool(success))


def _stacked(observations: Any) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([one[key] for one in observations]) for key in observations[0]}
    return np.stack(observations)


# -- Minari ----------------------------------------------------------------------------------------


def _of_minari(name: str, plan: Plan) -> Iterator[Episode]:
    """Yield episodes of a Minari data set that is on this machine.

    Raises:
        MissingExtra: Minari is not installed.
        UsageError: There is no such data set, or it has fewer episodes.
    """
    try:
        import minari  # here: an extra
    except ImportError as error:
        raise MissingExtra("record --minari", "minari", "minari") from error
    try:
        dataset = minari.load_dataset(name)
    except Exception as error:  # of the package, by what is wrong with the folder
        raise UsageError(
            f"{name}: no Minari data set of this machine: {error}; `minari download {name}` gets it"
        ) from error
    kept = 0
    for episode in dataset.iterate_episodes():
        success = _minari_success(episode.infos)
        if plan.successes and not success:
            continue
        kept += 1
        yield Episode(_minari_rows(episode), success)
        if kept == plan.episodes:
            return
    raise UsageError(f"{name}: has {kept} such episodes, and {plan.episodes} were asked for")


def _minari_rows(episode: Any) -> Arrays:
    """Return the transitions of an episode, which has one observation more than actions."""

    def part(chosen: slice) -> Any:
        seen = episode.observations
        return {k: v[chosen] for k, v in seen.items()} if isinstance(seen, dict) else seen[chosen]

    return {
        **by_name("observations", part(slice(None, -1))),
        **by_name("next_observations", part(slice(1, None))),
        "actions": np.asarray(episode.actions),
        "rewards": np.asarray(episode.rewards, np.float32),
        "terminations": np.asarray(episode.terminations, np.bool_),
        "truncations": np.asarray(episode.truncations, np.bool_),
    }


def _minari_success(infos: Any) -> bool | None:
    """Return whether an episode ended in success, where its infos tell."""
    for key in ("is_success", "success"):
        values: NDArray[Any] | None = (infos or {}).get(key)
        if values is not None and len(values):
            return bool(values[-1])
    return None
