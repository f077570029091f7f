"""A trained agent from the checkpoints of a run, with the views that its methods keep."""

from __future__ import annotations

from typing import Any, NamedTuple

from holdfast import seeding
from holdfast.agents.base.agent import Agent
from holdfast.continual.results import checkpoint
from holdfast.continual.results.record import RunFolder
from holdfast.continual.streams.task_stream import make_stream
from holdfast.continual.training.cell import make_agent, make_methods
from holdfast.envs.base.spaces import StreamSpaces
from holdfast.envs.make import stream_spaces
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Pool, Scenario


class Restored(NamedTuple):
    """An agent that was trained.

    Attributes:
        scenario: What it was trained on.
        spaces: The spaces of the stream; None where it is one of data sets or of a team.
        agent: The agent; its training environments are closed.
    """

    scenario: Scenario
    spaces: StreamSpaces | None
    agent: Agent


def restore(folder: RunFolder, stage: int | None = None) -> Restored:
    """Return the agent of a run as it was at a task boundary.

    The model is built as at the start of that task, by methods that know the tasks before it, so
    that its networks have their shape of then; the weights of the task's end go into it.

    Args:
        folder: The run.
        stage: Stage of the stream at whose end; by default the last one that was finished.

    Raises:
        UsageError: If the run has no checkpoint yet.
        CheckpointUnusable: If none can be read, or the one before it, which the shape depends on.
    """
    place = folder.path / "checkpoints"
    if stage is None:
        saved, _ = checkpoint.latest(place)
        if saved is None:
            raise UsageError(f"{folder.path} has no checkpoint: no task was finished yet")
        stage = int(saved.state["stage"])
    scenario = _unpooled(folder)
    is_one = not scenario.is_supervised and scenario.agent.policies is None
    spaces = stream_spaces(scenario) if is_one else None
    stream = make_stream(scenario, folder.seed, spaces).train_stream
    agent = _agent_after(folder, scenario, stream[stage])
    if scenario.agent.policies is not None:
        bring_back(folder, agent, stage)
    return Restored(scenario, spaces, agent)


def bring_back(folder: RunFolder, team: Any, stage: int) -> None:
    """Let the groups of a team that learned before a stage, and not in it, act as they did then.

    Args:
        folder: The run.
        team: The ``TeamAgent`` that has started this stage, or will; see its ``resting``.
        stage: The stage.

    Raises:
        CheckpointUnusable: If the checkpoint of a group's last stage cannot be read.
    """
    scenario = _unpooled(folder)
    stream = make_stream(scenario, folder.seed).train_stream
    met = set(stream[stage].groups)
    for experience in stream[:stage][::-1]:
        absent = set(experience.groups) - met
        if absent:
            before = _agent_after(folder, scenario, experience)
            team.resting |= {group: before.member(group) for group in absent}
            met |= absent


def _unpooled(folder: RunFolder) -> Scenario:
    return folder.scenario.model_copy(update={"pool": Pool()})  # nothing will be stepped


def _agent_after(folder: RunFolder, scenario: Scenario, experience: Any) -> Any:
    """Return the agent as it was at the end of a stage."""
    place, stage = folder.path / "checkpoints", experience.stage
    saved = checkpoint.load(checkpoint.task_folder(place, stage))
    agent, methods = make_agent(scenario), make_methods(scenario)
    with seeding.isolated(folder.seed):
        if stage:
            before = checkpoint.load(checkpoint.task_folder(place, stage - 1))
            for index, method in enumerate(methods):
                method.load_state(agent.doors(method), before.files.get(f"method-{index}", {}))
        for method in methods:
            method.pre_adapt(agent.doors(method), experience.train())
        agent.start(experience)
    agent.close()
    agent.load_trained(saved.files)
    for index, method in enumerate(methods):
        method.load_state(agent.doors(method), saved.files.get(f"method-{index}", {}))
    return agent
