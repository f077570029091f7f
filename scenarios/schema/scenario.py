"""A scenario as frozen models: tasks, agent, methods, seeds, evaluation, what the learner may know.

These models check one value at a time. What needs two of them, or the installed packages, is
checked by :mod:`holdfast.scenarios.checks`; :func:`holdfast.scenarios.load.load` does both.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, model_validator

from holdfast.errors import Problem
from holdfast.registry import AT_ONCE
from holdfast.scenarios.schema.agent import Agent, is_supervised
from holdfast.scenarios.schema.cells import Axis, Cell, axes_of, cells
from holdfast.scenarios.schema.detector import Detector
from holdfast.scenarios.schema.fields import SECTION, Flag, Name, Positive, Seeds, Text, Trackers
from holdfast.scenarios.schema.method_spec import Method, MethodPart, Wrapper, labelled
from holdfast.scenarios.schema.sections import (
    Adapt,
    Carry,
    Checkpoint,
    Evaluation,
    Pool,
    Resources,
    Spaces,
)
from holdfast.scenarios.schema.streams import Stream, drawn, stages
from holdfast.scenarios.schema.studies import Tune, Values
from holdfast.scenarios.schema.task import Score, ScoreForm, Task
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.override import plain_data, put, resolved, undotted
from holdfast.scenarios.source.yaml_file import Source, dump

__all__ = ["Cell", "Method", "MethodPart", "Pool", "Scenario", "Score", "Task", "Tune", "Wrapper"]

Backend = Literal["gymnasium", "envpool", "auto"]


class Scenario(BaseModel):
    """A checked, frozen scenario. Two are equal where their resolved YAML is."""

    model_config = SECTION

    name: Name = "scenario"
    """Folder under runs/. Default: the file's name."""
    description: Annotated[str, Field(strict=True)] = ""
    """Free text."""
    tasks: tuple[Task, ...] = Field(min_length=1)
    """The tasks, in training order."""
    stream: Stream = Field(default_factory=Stream)
    """Order, and what is known of it."""
    endless: Annotated[Flag, Field(exclude_if=operator.not_)] = False
    """The environments have no episodes: nothing is reset at a boundary or a checkpoint."""
    detector: Detector | None = Field(default=None, exclude_if=operator.not_)
    """Test that finds where tasks end, under stream: {boundaries: detected}."""
    spaces: Spaces = Field(default_factory=Spaces)
    """Treatment of unequal spaces."""
    n_envs: Annotated[Positive, Field(le=bounds.N_ENVS)] = 1
    """Environments stepped side by side."""
    pool: Pool = Field(default_factory=Pool)
    """Processes for the training environments."""
    resources: Resources = Field(default_factory=Resources)
    """Share of a Ray cluster's node that a cell takes."""
    backend: Backend = "gymnasium"
    """Backend of env: Gymnasium, EnvPool, or the faster one (auto)."""
    agent: Agent
    """The learner and its arguments."""
    carry: Carry = Field(default_factory=Carry)
    """State that survives a task switch."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(labelled)] = Field(
        default_factory=lambda: (Method.of("naive"),)
    )
    """Methods to compare: each a name, {name: {arguments}}, or a list of those (composed)."""
    seeds: Seeds = (0,)
    """One run of every method for each."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """Plan of measuring the agent."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint)
    """Checkpoints of each cell."""
    adapt: Adapt | None = Field(default=None, exclude_if=operator.not_)
    """Learning of the tasks that the stream does not train, by every stage: {steps: 5_000}."""
    track: Annotated[Trackers, Field(exclude_if=operator.not_)] = ()
    """Experiment trackers beside TensorBoard: wandb, mlflow, trackio, or a list of them."""
    sweep: dict[Text, Values] = Field(default_factory=dict, exclude_if=operator.not_)
    """Values of any key, compared with each other: {agent.learning_rate: [1e-4, 3e-4],
    methods.ewc.strength: {log: [1, 100, 3]}}.
    """
    tune: Tune | None = Field(default=None, exclude_if=operator.not_)
    """Search that holdfast tune runs."""
    tuned: dict[Text, Text] = Field(default_factory=dict, exclude_if=operator.not_)
    """Record of how values were found, by method; holdfast tune writes it."""
    score: ScoreForm | None = None
    """Rule by which returns become scores: {random: a, reference: b}, or success."""
    on_nan: Literal["error", "truncate"] = "error"
    """NaN from an environment: stop, or cut the episode there."""

    @model_validator(mode="before")
    @classmethod
    def _supervised_defaults(cls, data: Any) -> Any:
        """Measure a supervised agent once on each test set; its accuracy is its score."""
        if not isinstance(data, Mapping) or not is_supervised(data.get("agent")):
            return data
        plan = data.get("evaluation", {})
        if isinstance(plan, Mapping):
            plan = {"episodes": 1, **plan}
        return {"score": {"random": 0.0, "reference": 1.0}, **data, "evaluation": plan}

    @model_validator(mode="before")
    @classmethod
    def _default_detector(cls, data: Any) -> Any:
        """Detect by the default test where boundaries are detected and nothing else is written."""
        if not isinstance(data, Mapping) or data.get("detector") is not None:
            return data
        stream = data.get("stream")
        asked = stream.get("boundaries") if isinstance(stream, Mapping) else None
        asked = stream.boundaries if isinstance(stream, Stream) else asked
        return {**data, "detector": {}} if asked == "detected" else data

    @model_validator(mode="before")
    @classmethod
    def _kept_for_adapting(cls, data: Any) -> Any:
        """Keep every stage's checkpoint whole where every stage adapts and nothing is said."""
        asked = data.get("adapt") if isinstance(data, Mapping) else None
        stages = asked.stages if isinstance(asked, Adapt) else "all"
        stages = asked.get("stages", stages) if isinstance(asked, Mapping) else stages
        plan = data.get("checkpoint", {}) if asked else None
        if stages == "last" or not isinstance(plan, Mapping):
            return data
        return {**data, "checkpoint": {"keep": "all", **plan}}

    _document: Source | None = PrivateAttr(None)  # what it was read from
    _source: Path | None = PrivateAttr(None)
    _folder: Path | None = PrivateAttr(None)
    _place: Path | None = PrivateAttr(None)
    _trusts_code: bool = PrivateAttr(False)

    def __eq__(self, other: object) -> bool:
        """Compare what ran: neither the file nor the labels count."""
        return isinstance(other, Scenario) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]  # holds dicts; pydantic would hash the fields

    @property
    def source(self) -> Path | None:
        """The file that the scenario was read from, or None."""
        return self._source

    @property
    def folder(self) -> Path | None:
        """The folder where ``module:Name`` are found, or None: nothing is imported from anywhere.

        It is that of the file which the user gave; a run folder gives none by itself.
        """
        return self._folder

    @property
    def place(self) -> Path:
        """The folder that the paths of other runs count from; they are read as data."""
        return self._folder or self._place or Path()

    @property
    def trusts_code(self) -> bool:
        """True where the user trusts the code that the runs named in here name in turn."""
        return self._trusts_code

    def trusting_code(self) -> Scenario:
        """Return the same scenario with ``trusts_code``."""
        trusting = self.model_copy()
        trusting._trusts_code = True
        return trusting

    def problem(self, path: str, message: str) -> Problem:
        """Return what is wrong with a key, ``tasks[1].env``; with its line, where that is known."""
        if self._document is None:
            return Problem(message, path=path, file=str(self.source or ""))
        return self._document.problem(undotted(path), message)

    @property
    def stated(self) -> Mapping[str, Any]:
        """What the file that it was read from says, with overrides and without defaults."""
        data = None if self._document is None else self._document.data
        return data if isinstance(data, Mapping) else {}

    def states(self, *path: str) -> bool:
        """Return whether the file that it was read from has this key; defaults are not stated."""
        found: Any = None if self._document is None else self._document.data
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return False
            found = found[key]
        return True

    @property
    def is_supervised(self) -> bool:
        """True where data sets are learned rather than environments."""
        return is_supervised(self.agent)

    @property
    def stream_tasks(self) -> tuple[int, ...]:
        """Index of the task trained at each stage of the stream.

        What the stream leaves to chance is drawn in a cell's own scenario; see ``only``.
        """
        return stages(self.tasks, self.stream)

    @property
    def held_out(self) -> tuple[int, ...]:
        """Index of each task that the stream does not train."""
        return tuple(i for i in range(len(self.tasks)) if i not in self.stream_tasks)

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Environment steps of each stage: the task's, or what the stream's budget leaves."""
        steps = [self.tasks[index].steps for index in self.stream_tasks]
        if self.stream.steps is not None:
            steps[-1] -= sum(steps) - self.stream.steps
        return tuple(steps)

    @property
    def hides_boundaries(self) -> bool:
        """Whether one learner lives through the stream, and nothing tells it where a task ends.

        Also where a detector tells methods of one. Old runs of teams and games have the key as
        well; they began again at every task.
        """
        return self.stream.boundaries != "known" and self._has_one_model

    @property
    def recurs(self) -> bool:
        """Whether a slot between detected boundaries may be taken up again."""
        return self.detects_boundaries and self.detector is not None and self.detector.recurring

    @property
    def detects_boundaries(self) -> bool:
        """Whether methods are told of the boundaries that a detector finds."""
        return self.stream.boundaries == "detected" and self._has_one_model

    @property
    def is_one_task(self) -> bool:
        """Whether one model lives through the stream as through a single task.

        That is where boundaries are hidden, and where a method learns all tasks at once.
        """
        names = (part.name for part in self.methods[0].parts)
        return self.hides_boundaries or (self._has_one_model and any(n in AT_ONCE for n in names))

    @property
    def closed(self) -> str:
        """Why a run of it cannot take up more stages once it has ended; empty where it can."""
        if self.is_supervised:
            return "a supervised model is built for the classes of all its tasks"
        if self.is_one_task:
            return (
                "one model learned the stream as a single task, whose schedules ended with it; "
                "begin with a longer stream"
            )
        if self.stream.task_count == "known":
            return "methods were told how many tasks come; begin with stream: {task_count: unknown}"
        return ""

    @property
    def keeps_worlds(self) -> bool:
        """Whether a world lives from the first step to the last, over boundaries and checkpoints.

        An endless stream whose worlds may begin again is one of hidden boundaries otherwise.
        """
        return self.endless and not self.checkpoint.resets

    @property
    def saves_worlds(self) -> bool:
        """Whether a world that lives on is put back: from a checkpoint, or in the next stage."""
        is_put_back = self.checkpoint.every != "off" or len(self.stream_tasks) > 1
        return self.keeps_worlds and is_put_back

    @property
    def _has_one_model(self) -> bool:
        plays = any(task.opponents is not None for task in self.tasks)
        return self.agent.policies is None and not self.is_supervised and not plays

    @property
    def seeds_in_lockstep(self) -> int:
        """How many seeds of a method learn in lockstep in one process."""
        return min(self.agent.most_in_lockstep, len(self.seeds))

    @property
    def total_steps(self) -> int:
        """Environment steps of one cell over the whole stream."""
        return sum(self.stage_steps)

    @property
    def id_width(self) -> int:
        """Width of the one-hot task id; 0 where the task id is hidden."""
        if self.stream.task_id == "hidden":
            return 0
        return self.stream.max_tasks or len(self.tasks)

    def score_of(self, task: int) -> Score | Literal["success"] | None:
        """Return how a task's returns become scores; None where they stay raw."""
        return self.tasks[task].score or self.score

    def cells(self) -> tuple[Cell, ...]:
        """Return every run: for each point of the sweep all methods, for each method all seeds."""
        return cells(self.methods, self.seeds, self.axes(self.sweep))

    def axes(self, given: Mapping[str, Any]) -> list[Axis]:
        """Return the axes of a sweep or of a search space; raises as ``axes_of`` does."""
        return axes_of(plain_data(self.model_dump(exclude={"sweep", "tune"})), given)

    def only(self, cell: Cell) -> Scenario:
        """Return the scenario of this cell alone, as its run folder keeps it.

        It has just this method, seed and point of the sweep, and what the stream leaves to chance
        is drawn for it.

        Raises:
            NoSuchPlace: If a swept key leads nowhere.
            ValidationError: Of pydantic, if the scenario cannot have such a value.
        """
        at = self._at(cell.sweep)
        tasks, stream = drawn(at.tasks, at.stream, cell.seed)
        alone: dict[str, Any] = {
            "methods": (cell.method,),
            "seeds": (cell.seed,),
            "sweep": {},
            "tune": None,
        }
        return at.model_copy(update={**alone, "tasks": tasks, "stream": stream})

    def _at(self, sweep: Mapping[str, Any]) -> Scenario:
        """Return the scenario with values of keys; those of methods stand in the cell's method."""
        values = {key: value for key, value in sweep.items() if undotted(key)[0] != "methods"}
        if not values:
            return self
        plain = plain_data(self.model_dump())
        for key, value in values.items():
            put(plain, resolved(plain, undotted(key)), deepcopy(value))
        changed = Scenario.model_validate(plain)
        changed._document, changed._source = self._document, self._source
        changed._folder, changed._place = self._folder, self._place
        changed._trusts_code = self._trusts_code
        return changed

    def to_yaml(self) -> str:
        """Return the resolved scenario, defaults filled in; it loads back equal."""
        return dump(self.model_dump())
