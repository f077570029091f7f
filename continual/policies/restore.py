"""A trained agent from the checkpoints of a run, with the views that its methods keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from holdfast import seeding
from holdfast.agents.base.agent import Agent, Files
from holdfast.agents.sb3.weights_io import read_zip
from holdfast.continual.method import Method
from holdfast.continual.run_folder import checkpoint
from holdfast.continual.run_folder.record import SCENARIO, RunFolder
from holdfast.errors import CheckpointUnusable, HoldfastError, UsageError
from holdfast.scenarios.schema.scenario import Pool, Scenario
from holdfast.scenarios.source.regular_file import is_there

Parts = Any
"""A ``Kind`` of ``kinds/protocol.py``: its spaces, stream, agent, methods and ``bring_back``."""


class Restored(NamedTuple):
    """An agent that was trained.

    Attributes:
        scenario: What it was trained on.
        spaces: The spaces of the stream, in the form of its kind; None where it is one of data
            sets.
        agent: The agent; its training environments are closed.
    """

    scenario: Scenario
    spaces: Any
    agent: Agent


Restore = Callable[[RunFolder, int | None], Restored]
"""Returns the agent of a run at the end of a stage, by default of the last one that finished."""


def restore(parts: Parts, folder: RunFolder, stage: int | None = None) -> Restored:
    """Return the agent of a run as it was at a task boundary.

    The model is built as at the start of that task, by methods that know the tasks before it, so
    that its networks have the shape they had then; the weights of the task's end go into it.

    Args:
        parts: Of the run's scenario, ``unpooled``.
        folder: The run.
        stage: Stage of the stream at whose end; by default the last one that was finished.

    Raises:
        UsageError: If the run has no checkpoint yet.
        CheckpointUnusable: If that one cannot be read, or the one before it, which the shape
            depends on; an older one is never taken in its place.
    """
    stage = checkpoint.asked_stage(folder, stage)
    with _of_data(folder):
        spaces = parts.spaces()
        stream = parts.stream(folder.seed, spaces).train_stream
        agent = _agent_after(folder, parts, stream[stage])
        parts.bring_back(folder, agent, stage)
    return Restored(parts.scenario, spaces, agent)


@contextmanager
def _of_data(folder: RunFolder) -> Iterator[None]:
    """Tell what nobody foresaw about a run folder as a fault of the folder, for it is data."""
    try:
        yield
    except HoldfastError:
        raise
    except Exception as error:
        raise CheckpointUnusable(
            f"{folder.path}: its agent cannot be built: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _loading(member: Path) -> Iterator[None]:
    """Name the file of a checkpoint whose tensors do not fit what they are loaded into."""
    try:
        yield
    except CheckpointUnusable:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise CheckpointUnusable(
            f"{member}: its tensors do not fit the agent of this run: {text}"
        ) from error


def bring_back(parts: Parts, folder: RunFolder, team: Any, stage: int) -> None:
    """Bring back the groups of a team that learned before a stage and not in it.

    Args:
        parts: Of the run's scenario, ``unpooled``.
        folder: The run.
        team: The ``TeamAgent`` that has started this stage, or will; see its ``resting``.
        stage: The stage.

    Raises:
        CheckpointUnusable: If the checkpoint of a group's last stage cannot be read.
    """
    stream = parts.stream(folder.seed).train_stream
    met = set(stream[stage].groups)
    for experience in stream[:stage][::-1]:
        absent = [group for group in experience.groups if group not in met]
        if absent:
            before = _agent_after(folder, parts, experience)
            team.resting |= {group: before.member(group) for group in absent}
            met.update(absent)


def unpooled(scenario: Scenario) -> Scenario:
    """Return a scenario whose environments are built in this process: nothing will be stepped."""
    return scenario.model_copy(update={"pool": Pool()})


def _agent_after(folder: RunFolder, parts: Parts, experience: Any) -> Any:
    """Return the agent as it was at the end of a stage."""
    stage = experience.stage
    saved = checkpoint.load_stage(folder, stage)
    place = checkpoint.task_folder(folder.path / checkpoint.FOLDER, stage)
    agent, methods = parts.agent(), parts.methods()
    with seeding.isolated(folder.seed):
        if stage:
            before = checkpoint.load_stage(folder, stage - 1)
            load_methods(agent, methods, before, place.with_name(f"task-{stage - 1}"))
        for method in methods:
            method.pre_adapt(agent.doors(method), experience.train())
        agent.start(experience)
    agent.close()
    with _loading(place):
        agent.load_trained(saved.files)
    load_methods(agent, methods, saved, place)
    return agent


def load_methods(
    agent: Agent, methods: Sequence[Method], saved: checkpoint.Checkpoint, place: Path
) -> None:
    """Load what a checkpoint holds of an agent's methods.

    Args:
        agent: The agent.
        methods: Its methods.
        saved: The checkpoint.
        place: Its folder, for the text of an error.

    Raises:
        CheckpointUnusable: If a method cannot take its tensors, or keeps other ones than they are.
    """
    for index, method in enumerate(methods):
        tensors = saved.files.get(f"method-{index}", {})
        with _loading(place / f"method-{index}.safetensors"):
            if "plugins" not in method.doors:
                _check_shapes(tensors, saved.files)
            method.load_state(agent.doors(method), tensors)


def needed_to_act(methods: Sequence[Method]) -> Callable[[str, str], bool]:
    """Return what ``restore`` takes of an old stage, by the stem of a file and a tensor's name.

    Args:
        methods: Of the run.
    """

    def is_needed(stem: str, name: str) -> bool:
        number = stem.removeprefix("method-")
        if number == stem or not number.isdecimal():
            return stem.rpartition(".")[2] in ("policy", "normalization")  # of a team, by group
        method = methods[int(number)]
        return bool(getattr(method, "is_acted_by", lambda _: True)(name))

    return is_needed


def _check_shapes(tensors: Mapping[str, Tensor], files: Files) -> None:
    """Raise unless a method's tensors that go by a weight's name have the shape of the weight.

    Their paths end in that name; those of a team begin with the group. Rows of outputs do not go by
    one, though an output may be called as a weight is (``log_std``). Avalanche's networks grow, and
    what its plugins keep of earlier ones may be smaller.

    Raises:
        UsageError: One has another shape.
    """
    for path, tensor in tensors.items():
        group, _, rest = path.partition("/")
        weights = files.get(f"{group}.policy")
        weights, place = (files.get("policy", {}), path) if weights is None else (weights, rest)
        parts = place.split("/")
        if "label" in parts:  # of `Labelled`
            continue
        for start in range(len(parts)):
            weight = weights.get("/".join(parts[start:]))
            if weight is not None and weight.shape != tensor.shape:
                raise UsageError(
                    f"{path[:200]} has the shape {tuple(tensor.shape)}, and the policy's "
                    f"{tuple(weight.shape)}"
                )


def initial_files(scenario: Scenario) -> Files:
    """Return the weights that ``agent.init`` names: a run folder's newest, or a zip's.

    Raises:
        UsageError: If there are none.
        CheckpointUnusable: If the newest cannot be read.
    """
    path = scenario.place / str(scenario.agent.init)
    if path.suffix == ".zip":
        return read_zip(path)
    if not is_there(path / SCENARIO):
        raise UsageError(f"agent.init: {path} is no run folder; name one, or a .zip")
    run = RunFolder(path)
    saved = checkpoint.load_stage(run, checkpoint.newest_stage(run, "agent.init: "))
    return {name: saved.files[name] for name in ("policy", "normalization") if name in saved.files}
