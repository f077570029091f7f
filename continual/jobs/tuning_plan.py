"""Plan of a tuning study: the method, the search space, and the part of the stream it may use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.results import metrics
from holdfast.errors import ScenarioError
from holdfast.scenarios.checks.messages import did_you_mean
from holdfast.scenarios.schema.cells import Axis, with_values
from holdfast.scenarios.schema.scenario import Cell, Method, Scenario, Tune

TRIALS = "tune"
"""The folder of a scenario's studies, beside its runs."""


@dataclass(frozen=True)
class Plan:
    """Plan of a study.

    Attributes:
        scenario: The whole study's.
        tune: Its ``tune:``.
        method: The method that is tuned, as listed.
        space: Dimensions of the keys that concern the method.
        seeds: That each trial is run with.
        folder: Of the study.
    """

    scenario: Scenario
    tune: Tune
    method: Method
    space: tuple[Axis, ...]
    seeds: tuple[int, ...]
    folder: Path

    @property
    def protocol(self) -> str:
        """Data that tuning may use, in words."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        held = "held-out " if self.tune.seeds else ""
        part = "the whole stream"
        if self.tune.percent is not None:
            part = f"the first {self.tune.percent:g} percent of the stream"
        return f"{part}, {held}{seeds}"

    def trial(self, values: Mapping[str, Any], seed: int) -> Scenario:
        """Return what a trial runs with a seed.

        Raises:
            ValidationError: Of pydantic, if the scenario cannot have these values.
        """
        own = [axis for axis in self.space if axis.method is not None and axis.key in values]
        method = with_values(self.method, [(axis.path[2:], values[axis.key]) for axis in own])
        whole = self.scenario.only(Cell(method, seed, self.method.label, values))
        return whole if self.tune.percent is None else cut(whole, self.tune.percent)


def plan(scenario: Scenario, runs: Path) -> Plan:
    """Return what ``tune:`` of a scenario means.

    Raises:
        ScenarioError: If it means nothing that can be tried.
    """

    def refuse(path: str, message: str) -> ScenarioError:
        return ScenarioError([scenario.problem(path, message)])

    tune = scenario.tune
    if tune is None:
        example = "tune: {space: {agent.learning_rate: {log: [1e-5, 1e-3]}}, percent: 10}"
        raise refuse("", f"says nothing to tune; write {example}")
    beyond = ("forward_transfer", "adaptation")  # of other runs than the one that is tried
    known = [name for name in metrics.FORMULAS if not name.startswith(beyond)]
    if tune.metric not in known:
        hint = did_you_mean(tune.metric, known, "there are")
        raise refuse("tune.metric", f"no metric '{tune.metric}' of a single run{hint}")
    labels = [method.label for method in scenario.methods]
    if tune.method is None and len(labels) > 1:
        raise refuse("tune", f"say which method: is tuned, one of {', '.join(labels)}")
    if tune.method is not None and tune.method not in labels:
        hint = did_you_mean(tune.method, labels, "the scenario has")
        raise refuse("tune.method", f"no method '{tune.method}'{hint}")
    index = labels.index(tune.method or labels[0])
    space = tuple(axis for axis in scenario.axes(tune.space) if axis.method in (None, index))
    if not space:
        raise refuse("tune.space", f"no key of it concerns '{labels[index]}'")
    looked_for = [axis.path for axis in space]
    for axis in scenario.axes(scenario.sweep):
        if axis.method in (None, index) and axis.path not in looked_for:
            message = "is swept and not tuned; put it into tune.space, or add 'sweep={}'"
            raise refuse(f"sweep.{axis.key}", message)
    seeds, folder = tune.seeds or scenario.seeds, runs / scenario.name / TRIALS / labels[index]
    made = Plan(scenario, tune, scenario.methods[index], space, seeds, folder)
    try:
        made.trial({}, seeds[0])
    except ValueError as error:
        raise refuse("tune.percent", str(error)) from error
    return made


def cut(scenario: Scenario, percent: float) -> Scenario:
    """Return a cell's scenario with the first part of its stream alone.

    Tasks that come later stay in the scenario, whose spaces and task ids depend on them, and are
    never stepped: only tasks that were trained are measured. What depends on the length of the
    stream or of a stage, a task count that is told or a schedule, is that of the part.

    Args:
        scenario: Of one cell: nothing in it is left to chance.
        percent: Of its steps, rounded down to whole steps of all environments.

    Raises:
        ValueError: If that is none, or the scenario has no steps to cut.
    """
    if why := kind_of(scenario).uncuttable:
        raise ValueError(why)
    whole = math.floor(scenario.total_steps * percent / 100 + 1e-9)
    steps = whole - whole % scenario.n_envs
    if not steps:
        raise ValueError(f"{percent:g} percent of {scenario.total_steps:,} steps are none")
    stream = scenario.stream.model_copy(update={"steps": steps, "repeat": 1})
    seen = scenario.evaluation.model_copy(update={"tasks": "seen"})
    return scenario.model_copy(update={"stream": stream, "evaluation": seen})
