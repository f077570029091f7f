"""Build what the cells of a scenario will build: every refusal comes before anything runs."""

from __future__ import annotations

import re
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast import seeding
from holdfast.agents.base.agent import Agent
from holdfast.continual.method import Method
from holdfast.continual.streams.task_stream import TaskExperience, make_stream
from holdfast.continual.training.buffer_size import Buffer, check_room, replay_buffer
from holdfast.continual.training.cell import initial_files, make_agent, make_methods
from holdfast.envs.base.compatibility import check_actions, check_policy
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.make import stream_spaces
from holdfast.envs.vector import task_env
from holdfast.errors import ScenarioError, UsageError
from holdfast.registry import algorithm
from holdfast.scenarios.schema.scenario import Scenario

if TYPE_CHECKING:
    from holdfast.continual.streams.data_stream import DataExperience

_REFUSALS = (ValueError, TypeError, AssertionError)


def build(scenario: Scenario, *, jobs: int = 1) -> Buffer | None:
    """Build every environment, and the agent under every method; return the replay buffer's size.

    Of a supervised scenario the data are loaded, and downloaded where they are not there yet.
    Everything is closed again and nothing is stepped or written. Random state stays as it was.

    Args:
        scenario: The scenario.
        jobs: Cells that will run side by side; their replay buffers must fit into the memory.

    Raises:
        UsageError: What does not fit together, such as an algorithm that cannot take the actions,
            an argument that Stable-Baselines3 refuses, or networks that a method cannot extend.
        EnvironmentFailed: The constructor of an environment raised.
    """
    robots = [task.name for task in scenario.tasks if task.exclusive]
    if robots and jobs > 1:
        raise UsageError(f"--jobs {jobs}: task '{robots[0]}' is exclusive; run one cell at a time")
    # In this process: starting a pool for each method would take longer than all the rest.
    scenario = scenario.model_copy(update={"pool": scenario.pool.model_copy(update={"workers": 0})})
    seed = scenario.seeds[0]
    with seeding.isolated(seed):
        buffers: dict[str, Buffer | None] = {}
        for cell in scenario.cells()[:: len(scenario.seeds)]:
            alone = scenario.only(cell)
            if cell.point not in buffers:  # all methods of a point have the same environments
                experience, buffers[cell.point] = _first_experience(alone, seed)
                check_room(alone, buffers[cell.point], jobs)
            _build_agent(alone, experience, f"methods[{cell.listed}]")
    return next(iter(buffers.values()))


def _first_experience(
    scenario: Scenario, seed: int
) -> tuple[TaskExperience | DataExperience, Buffer | None]:
    """Return the first stage, and the size of the replay buffer, after building every task."""
    if scenario.is_supervised:
        return make_stream(scenario, seed).train_stream[0], None
    if scenario.agent.policies is not None:
        # Here: PettingZoo is an extra, and only some scenarios need it.
        from holdfast.continual.streams.team_stream import make_team_stream
        from holdfast.envs.multiagent.parallel import team_spaces

        team = team_spaces(scenario)
        for group in team.groups.values():
            check_actions(scenario, group)
            check_policy(scenario, group.observation)
        if any(task.partners for task in scenario.tasks):
            from holdfast.continual.policies.partners import check_partners  # here, as above

            check_partners(scenario, team)
        return make_team_stream(scenario, seed, team).train_stream[0], None
    spaces = stream_spaces(scenario)
    _check_opponents(scenario, spaces)
    check_actions(scenario, spaces)
    check_policy(scenario, spaces.observation)
    experience: TaskExperience = make_stream(scenario, seed, spaces).train_stream[0]
    return experience, _replay_buffer(scenario, experience)


def _check_opponents(scenario: Scenario, spaces: StreamSpaces) -> None:
    """Build every opponent of every game, those of earlier runs included."""
    for index, task in enumerate(scenario.tasks):
        if task.opponents is None:
            continue
        try:
            env: Any = task_env(scenario, index, spaces)
            with closing(env):
                env.unwrapped.check_opponents()
        except UsageError as error:
            found = scenario.problem(f"tasks[{index}].opponents", str(error))
            raise ScenarioError([found]) from error


def _replay_buffer(scenario: Scenario, experience: TaskExperience) -> Buffer | None:
    if algorithm(scenario.agent.algorithm).on_policy:
        return None
    envs = experience.make_env()
    try:
        return replay_buffer(scenario, envs.observation_space, envs.action_space)
    finally:
        envs.close()


def _build_agent(
    scenario: Scenario, experience: TaskExperience | DataExperience, path: str
) -> None:
    """Build the agent of the first task as a cell of this method does, then drop it."""
    agent: Agent = make_agent(scenario)
    methods = _make_methods(scenario, path)
    try:
        if scenario.agent.init is not None:
            agent.initial = initial_files(scenario)
        for method in methods:
            method.pre_adapt(agent.doors(method), experience.train())
        agent.start(experience)
        if any("output" in method.doors for method in methods) or scenario.is_supervised:
            agent.output()
    except _REFUSALS as error:
        _refuse(error, scenario, _argument_named_in(str(error), scenario))
    finally:
        agent.close()


def _make_methods(scenario: Scenario, path: str) -> list[Method]:
    try:
        return make_methods(scenario)
    except _REFUSALS as error:
        _refuse(error, scenario, path)


def _refuse(error: Exception, scenario: Scenario, path: str) -> NoReturn:
    """Raise the refusal of a package as ours; an exception of our own code stays what it is."""
    module, line = _origin(error.__traceback__)
    if module.startswith("holdfast.") and "__init__()" not in str(error):
        raise error
    text = f"{error or type(error).__name__} (refused by {module}, line {line})"
    raise ScenarioError([scenario.problem(path, text)]) from error


def _origin(trace: TracebackType | None) -> tuple[str, int]:
    """Return the module and line that raised."""
    module, line = "", 0
    while trace is not None:
        module, line = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_lineno
        trace = trace.tb_next
    return module, line


def _argument_named_in(text: str, scenario: Scenario) -> str:
    """Return the key of the argument that a message names, else that of the whole section."""
    arguments: dict[str, Any] = scenario.agent.arguments
    inner = arguments.get("policy_kwargs") or {}
    named = {f"agent.policy_kwargs.{name}": name for name in inner}
    named |= {f"agent.{name}": name for name in arguments}
    if scenario.agent.policy != "auto":
        named["agent.policy"] = scenario.agent.policy
    for key, name in named.items():
        if re.search(rf"\b{re.escape(name)}\b", text):
            return key
    return "agent"
