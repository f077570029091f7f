"""A scenario as frozen models: tasks, agent, methods, seeds, evaluation, what the learner may know.

These models check one value at a time. What needs two of them, or the installed packages, is
checked by :mod:`holdfast.scenarios.check`; :func:`holdfast.scenarios.load.load` does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, cycle, islice, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from holdfast.errors import Problem
from holdfast.registry import SUPERVISED
from holdfast.scenarios.schema.changes import Changes, MujocoChanges
from holdfast.scenarios.schema.fields import SECTION, Name, Positive, Seeds, Text
from holdfast.scenarios.schema.method_spec import Method, MethodPart, Wrapper, labelled
from holdfast.scenarios.schema.opponents import Opponents, OpponentSpec, Partner, Past
from holdfast.scenarios.schema.pool import Pool
from holdfast.scenarios.schema.resources import Resources
from holdfast.scenarios.schema.sections import Carry, Evaluation, Normalize, Spaces
from holdfast.scenarios.schema.sweep import Values
from holdfast.scenarios.schema.task import Drift, Score, ScoreForm, Task
from holdfast.scenarios.schema.tune import Tune

__all__ = [
    "Agent",
    "Backend",
    "Carry",
    "Cell",
    "Changes",
    "Drift",
    "Evaluation",
    "Method",
    "MethodPart",
    "MujocoChanges",
    "Normalize",
    "OpponentSpec",
    "Opponents",
    "Partner",
    "Past",
    "Policies",
    "Pool",
    "Resources",
    "Scenario",
    "Score",
    "Spaces",
    "Stream",
    "Task",
    "Tune",
    "Wrapper",
    "json_schema",
]

Backend = Literal["gymnasium", "envpool", "auto"]
Policies = Literal["shared", "independent"] | dict[Name, tuple[Text, ...]]


def _word_or_list(value: Any) -> str:
    # Another word is more likely a task's name, which belongs in a list.
    return "word" if isinstance(value, str) and value.startswith("shuf") else "list"


Order = Annotated[
    Annotated[Literal["shuffled"], Tag("word")]
    | Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")],
    Discriminator(_word_or_list),
]


def _word_or_groups(value: Any) -> str:
    return "groups" if isinstance(value, Mapping) else "word"


class Stream(BaseModel):
    """In which order tasks come, and what the learner may know about it."""

    model_config = SECTION

    order: Order | None = Field(
        default=None,
        description="Names of tasks in training order, which may repeat; or shuffled: each seed has"
        " an order of its own, new at every repetition. Default: as listed.",
    )
    repeat: Positive = Field(default=1, description="How many times the order is gone through.")
    steps: Positive | None = Field(
        default=None,
        description="Instead of repeat: the order is gone through until so many steps are taken.",
    )
    task_id: Literal["hidden", "observed", "heads"] = Field(
        default="observed",
        description="Nothing, a one-hot beside the observation, or a head per task.",
    )
    boundaries: Literal["known", "hidden"] = Field(
        default="known", description="Whether methods are told where a task ends."
    )
    task_count: Literal["known", "unknown"] = Field(
        default="unknown", description="Whether methods are told how many tasks there are."
    )
    max_tasks: Positive | None = Field(
        default=None, description="Width of the one-hot. Default: the number of tasks."
    )


def _device(value: str) -> str:
    kind, _, number = value.partition(":")
    if value in ("cpu", "cuda", "auto") or (kind == "cuda" and number.isdecimal()):
        return value
    raise ValueError(f"{value!r} is not a device; write cpu, cuda, cuda:0 or auto")


class Agent(BaseModel):
    """The learner: an algorithm and its own arguments, as further keys of this section."""

    model_config = ConfigDict(frozen=True, extra="allow")

    algorithm: Text = Field(description="ppo, a2c, dqn, sac, td3, ... or module:Class.")
    policies: (
        Annotated[
            Annotated[Literal["shared", "independent"], Tag("word")]
            | Annotated[
                dict[Name, Annotated[tuple[Text, ...], Field(min_length=1)]],
                Field(min_length=1),
                Tag("groups"),
            ],
            Discriminator(_word_or_groups),
        ]
        | None
    ) = Field(
        default=None,
        description="For tasks with many agents (PettingZoo): one policy shared by all, or "
        "independent ones, or groups by name: {predators: [adversary_*], prey: [agent_0]}.",
    )
    policy: Text = Field(
        default="auto", description="auto chooses MlpPolicy, CnnPolicy or MultiInputPolicy."
    )
    device: Annotated[Text, AfterValidator(_device)] = Field(
        default="cpu", description="cpu, cuda, cuda:0 or auto."
    )
    normalize: Normalize | None = Field(
        default=None, description="Scaling of observations and rewards."
    )
    init: Text | None = Field(
        default=None, description="Weights to start from: a run folder or a Stable-Baselines3 zip."
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The algorithm's own arguments, in plain form, as the scenario gives them."""
        return dict(self.__pydantic_extra__ or {})


class Cell(NamedTuple):
    """One run of a scenario: a method, a seed, and a point of the sweep.

    Attributes:
        method: With the arguments that are swept.
        seed: The seed.
        label: Names its folder.
        sweep: Every swept key that concerns it, as written, and its value.
        point: What is swept and concerns all methods, as text: ``learning_rate=0.001``. Cells of
            one point are compared with each other.
        listed: Place of the method among those that the scenario lists.
    """

    method: Method
    seed: int
    label: str
    sweep: Mapping[str, Any] = {}
    point: str = ""
    listed: int = 0


def _is_empty(value: Any) -> bool:
    return not value


class Scenario(BaseModel):
    """A checked, frozen scenario. Two are equal where their resolved YAML is."""

    model_config = SECTION

    name: Name = Field(
        default="scenario", description="Folder under runs/. Default: the file's name."
    )
    description: Annotated[str, Field(strict=True)] = Field(default="", description="Free text.")
    tasks: tuple[Task, ...] = Field(min_length=1, description="The tasks, in training order.")
    stream: Stream = Field(default_factory=Stream, description="Order, and what is known of it.")
    spaces: Spaces = Field(default_factory=Spaces, description="What to do with unequal spaces.")
    n_envs: Positive = Field(default=1, description="Environments stepped side by side.")
    pool: Pool = Field(default_factory=Pool, description="Processes for the training environments.")
    resources: Resources = Field(
        default_factory=Resources, description="What a cell takes of a node of a Ray cluster."
    )
    backend: Backend = Field(
        default="gymnasium",
        description="Where env: is looked for: Gymnasium, EnvPool, or the faster one (auto).",
    )
    agent: Agent = Field(description="The learner and its arguments.")
    carry: Carry = Field(default_factory=Carry, description="What survives a task switch.")
    methods: Annotated[tuple[Method, ...], Field(min_length=1), AfterValidator(labelled)] = Field(
        default_factory=lambda: (Method.of("naive"),),
        description="What is compared: each entry a name, {name: {arguments}}, or a list of those.",
    )
    seeds: Seeds = Field(default=(0,), description="One run of every method for each.")
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="When and how the agent is measured."
    )
    sweep: dict[Text, Values] = Field(
        default_factory=dict,
        exclude_if=_is_empty,
        description="Values of any key, compared with each other: {agent.learning_rate: [1e-4, "
        "3e-4], methods.ewc.strength: {log: [1, 100, 3]}}.",
    )
    tune: Tune | None = Field(
        default=None, exclude_if=_is_empty, description="What holdfast tune looks for, and on what."
    )
    tuned: dict[Text, Text] = Field(
        default_factory=dict,
        exclude_if=_is_empty,
        description="How values were found, by method; holdfast tune writes it for the record.",
    )
    score: ScoreForm | None = Field(
        default=None,
        description="How returns become scores: {random: a, reference: b}, or success.",
    )
    on_nan: Literal["error", "truncate"] = Field(
        default="error", description="NaN from an environment: stop, or cut the episode there."
    )

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

    _document: Any = PrivateAttr(None)  # the Source that it was read from, or None
    _source: Path | None = PrivateAttr(None)
    _folder: Path | None = PrivateAttr(None)

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
        """Where ``module:Name`` and ``agent.init`` are looked for: that file's folder, or None."""
        return self._folder

    def problem(self, path: str, message: str) -> Problem:
        """Return what is wrong with a key, ``tasks[1].env``; with its line, where that is known."""
        if self._document is None:
            return Problem(message, path=path, file=str(self.source or ""))
        from holdfast.scenarios.source.override import undotted  # here, as below

        found: Problem = self._document.problem(undotted(path), message)
        return found

    @property
    def is_supervised(self) -> bool:
        """Whether data sets are learned rather than environments."""
        return is_supervised(self.agent)

    @property
    def stream_tasks(self) -> tuple[int, ...]:
        """Index of the task trained at each stage of the stream.

        What the stream leaves to chance is drawn in a cell's own scenario; see ``only``.
        """
        names = [task.name for task in self.tasks]
        order = self.stream.order if isinstance(self.stream.order, tuple) else names
        once = tuple(names.index(name) for name in order)
        if self.stream.steps is None:
            return once * self.stream.repeat
        ends = accumulate(self.tasks[index].steps for index in cycle(once))
        stages = 1 + sum(1 for _ in takewhile(lambda end: end < (self.stream.steps or 0), ends))
        return tuple(islice(cycle(once), stages))

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Environment steps of each stage: the task's, or what the stream's budget leaves."""
        steps = [self.tasks[index].steps for index in self.stream_tasks]
        if self.stream.steps is not None:
            steps[-1] -= sum(steps) - self.stream.steps
        return tuple(steps)

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
        from holdfast.scenarios.cells import cells  # here: it is built on this module

        return cells(self)

    def only(self, cell: Cell) -> Scenario:
        """Return the scenario of this cell alone, as its run folder keeps it.

        It has just this method, seed and point of the sweep, and what the stream leaves to chance
        is drawn for it.
        """
        from holdfast.scenarios.cells import at  # here, as below
        from holdfast.scenarios.schema.streams import drawn  # here: it is built on this module

        alone: dict[str, Any] = {"methods": (cell.method,), "seeds": (cell.seed,)}
        alone |= {"sweep": {}, "tune": None}
        return drawn(at(self, cell.sweep).model_copy(update=alone), cell.seed)

    def to_yaml(self) -> str:
        """Return the resolved scenario, defaults filled in; it loads back equal."""
        from holdfast.scenarios.source.yaml_file import (
            dump,  # here: most users of the schema write no YAML
        )

        return dump(self.model_dump())


def is_supervised(agent: Any) -> bool:
    """Return whether an ``agent:`` section, read or not, means the supervised agent."""
    if isinstance(agent, Mapping):
        return agent.get("algorithm") == SUPERVISED
    return getattr(agent, "algorithm", None) == SUPERVISED


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of scenario files, for editors with yaml-language-server."""
    # Here, because it is built on this module.
    from holdfast.scenarios.json_schema import add_arguments

    schema = Scenario.model_json_schema()
    add_arguments(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema
