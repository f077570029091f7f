"""Build what the cells of a scenario will build: every refusal comes before anything runs."""

from __future__ import annotations

import re
import traceback
from typing import Any, NoReturn

from holdfast import seeding
from holdfast.continual.experience import Experience
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.restore import initial_files
from holdfast.continual.training.memory_budget import Buffer, check_room, check_seeds, replay_buffer
from holdfast.errors import ScenarioError, UsageError
from holdfast.scenarios.schema.scenario import Scenario

_REFUSALS = (ValueError, TypeError, AssertionError)


def build(scenario: Scenario, *, jobs: int = 1) -> Buffer | None:
    """Build every environment, and the agent under every method; return the replay buffer's size.

    Of a supervised scenario the data are loaded, and downloaded where they are not there yet.
    Everything is closed again and nothing is stepped or written. Random state stays as it was.

    Args:
        scenario: The scenario.
        jobs: Processes that will run cells side by side; all replay buffers must fit into the
            memory, of seeds that learn in lockstep too.

    Raises:
        UsageError: What does not fit together, such as an algorithm that cannot take the actions,
            an argument that Stable-Baselines3 refuses, or networks that a method cannot extend.
        EnvironmentFailed: The constructor of an environment raised.
    """
    robots = [task.name for task in scenario.tasks if task.exclusive]
    if robots and jobs > 1:
        raise UsageError(f"--jobs {jobs}: task '{robots[0]}' is exclusive; run one cell at a time")
    check_seeds(scenario, jobs)
    # In this process: starting a pool for each method would take longer than all the rest.
    scenario = scenario.model_copy(update={"pool": scenario.pool.model_copy(update={"workers": 0})})
    seed = scenario.seeds[0]
    with seeding.isolated(seed):
        buffers: dict[tuple[str, bool], Buffer | None] = {}
        for cell in scenario.cells()[:: len(scenario.seeds)]:
            alone = scenario.only(cell)
            # All methods of a point have the same environments; the buffer of some goes on.
            if (point := (cell.point, alone.is_one_task)) not in buffers:
                experience, transition = kind_of(alone).build(seed)
                buffers[point] = transition and replay_buffer(alone, *transition)
                check_room(alone, buffers[point], jobs * scenario.seeds_in_lockstep)
            _build_agent(alone, experience, f"methods[{cell.listed}]")
    return next(iter(buffers.values()))


def _build_agent(scenario: Scenario, experience: Experience, path: str) -> None:
    """Build the agent of the first task as a cell of this method does, then drop it."""
    kind = kind_of(scenario)
    agent = kind.agent()
    try:
        methods = kind.methods()
    except _REFUSALS as error:
        _refuse(error, scenario, path)
    try:
        if scenario.agent.init is not None:
            agent.initial = initial_files(scenario)
        for method in methods:
            method.pre_adapt(agent.doors(method), experience.train())
        agent.start(experience)
        kind.try_output(agent, methods)
    except _REFUSALS as error:
        _refuse(error, scenario, _argument_named_in(str(error), scenario))
    finally:
        agent.close()


def _refuse(error: Exception, scenario: Scenario, path: str) -> NoReturn:
    """Raise the refusal of a package as ours; an exception of our own code stays what it is."""
    frame, line = [*traceback.walk_tb(error.__traceback__)][-1]
    module = str(frame.f_globals.get("__name__"))
    if module.startswith("holdfast.") and "__init__()" not in str(error):
        raise error
    text = f"{error or type(error).__name__} (refused by {module}, line {line})"
    raise ScenarioError([scenario.problem(path, text)]) from error


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
