"""Dashboard of a cell in TensorBoard: one fixed set of hyperparameters, and its charts.

The columns of the hparams table are those that the first run names, and charts of one title are
drawn twice where their content differs. So every cell of every scenario, method and algorithm names
the same columns, and a chart's title tells all that its content depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from holdfast import registry
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.run_folder.plasticity_record import FREE, QUANTITIES
from holdfast.continual.training.memory_budget import argument
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.shipped import shipped
from holdfast.signature import signature

Value = str | float
Layout = dict[str, dict[str, tuple[str, ...]]]
"""Sections of charts; a chart shows every tag that one of its regular expressions matches."""


MOST_LINES = 30
"""Most tasks whose curves share a chart; of more, so many evenly over the scenario."""


class Column(NamedTuple):
    """A hyperparameter in the table.

    Attributes:
        text: What it is.
        known: Of a text, its values: all of them where they are few, for TensorBoard offers just
            these to choose from; of ten and more it makes a field for a regular expression, by
            which others are found as well. None for a number.
        is_first: Whether it is among the five that are shown unless others are chosen.
    """

    text: str
    known: tuple[str, ...] | None = None
    is_first: bool = False


COLUMNS: dict[str, Column] = {
    "scenario": Column("Name of the scenario.", tuple(sorted(shipped())), is_first=True),
    "method": Column("Label of the method.", tuple(registry.METHODS), is_first=True),
    "seed": Column("Seed of the cell.", tuple(map(str, range(10))), is_first=True),
    "algorithm": Column("Algorithm of the agent.", tuple(registry.AGENTS), is_first=True),
    "learning_rate": Column("At the start of a task, where it follows a schedule.", is_first=True),
    "gamma": Column("Discount."),
    "batch_size": Column("Rows per gradient step."),
    "normalize": Column(
        "How observations are normalised.", ("no", "running", "first_task", "per_task")
    ),
    "policies": Column(
        "How agents share policies.", ("one agent", "shared", "independent", "groups")
    ),
    "n_envs": Column("Environments stepped side by side."),
    "task_id": Column("What the learner is told of the task.", ("hidden", "observed", "heads")),
    "stages": Column("Stages of the stream."),
    "steps": Column("Environment steps of the whole stream."),
}
"""Hyperparameters of a cell; one that its algorithm does not have is blank."""

METRICS: dict[str, str] = {
    "continual/average_performance": "average performance",
    "continual/average_performance_boundary": "performance at the boundary",
    "continual/forgetting": "forgetting",
    "continual/forgetting_boundary": "forgetting at the boundary",
    "continual/backward_transfer": "backward transfer",
    "continual/auc": "area under the curve",
    "system/parameters": "parameters",
    "system/stored_bytes": "stored bytes",
    "system/wall_s": "wall time (s)",
}
"""Scalars that are a cell's results, by tag; the latest value stands in the table."""


def hyperparameters(scenario: Scenario, label: str) -> dict[str, Value]:
    """Return the value of each of ``COLUMNS`` in a cell; without those that it does not have.

    Args:
        scenario: The cell's own.
        label: Of its method.
    """
    agent, normalize = scenario.agent, scenario.agent.normalize
    policies = agent.policies or "one agent"
    found: dict[str, Any] = {
        "scenario": scenario.name,
        "method": label,
        "seed": str(scenario.seeds[0]),  # as a number it would be shown as 3.0000
        "algorithm": agent.algorithm,
        "policies": policies if isinstance(policies, str) else "groups",
        "learning_rate": _number(scenario, "learning_rate"),
        "gamma": _number(scenario, "gamma"),
        "batch_size": _number(scenario, "batch_size"),
        "normalize": (normalize.observations if normalize else None) or "no",
        "n_envs": scenario.n_envs,
        "task_id": scenario.stream.task_id,
        "stages": len(scenario.stream_tasks),
        "steps": scenario.total_steps,
    }
    return {name: found[name] for name in COLUMNS if found[name] is not None}


def _number(scenario: Scenario, name: str) -> float | None:
    """Return an argument of the algorithm, given or default; None where it is no number."""
    given = argument(scenario, name)
    if isinstance(given, Mapping):  # a schedule: {linear: [start, end]}
        given = next(iter(given.values()))[0]
    return float(given) if isinstance(given, int | float) else None


def layout(scenario: Scenario, *, has_success: bool) -> Layout:
    """Return the charts of a cell: all tasks in one, the metrics, its methods, plasticity.

    Args:
        scenario: The cell's own.
        has_success: Whether an environment reports success.
    """
    kind, tasks = kind_of(scenario), dict[str, tuple[str, ...]]()
    count = len(scenario.tasks)
    which, of = r"[^/]+", "every task"
    if count > MOST_LINES:  # the browser draws each of them, and nobody tells them apart
        shown = sorted({place * (count - 1) // (MOST_LINES - 1) for place in range(MOST_LINES)})
        which, of = f"({'|'.join(map(str, shown))})_[^/]+", f"{MOST_LINES} of {count} tasks"
    if any(map(kind.has_own_score, range(count))):
        tasks[f"score of {of}"] = (rf"task/{which}/score$",)
    if any(task.cost is not None for task in scenario.tasks):
        tasks[f"cost of an episode of {of}"] = (rf"task/{which}/cost$",)
        tasks[f"share of violating episodes of {of}"] = (rf"task/{which}/violations$",)
    if has_success:
        tasks[f"success rate of {of}"] = (rf"task/{which}/success_rate$",)
    title = kind.words.chart.replace("every task", of)
    tasks[title] = (rf"task/{which}/{kind.words.total}$",)
    metrics = {tag: title for tag, title in METRICS.items() if tag.startswith("continual/")}
    found: Layout = {
        "Tasks": tasks,
        "Continual learning": {title: (rf"{tag}$",) for tag, title in metrics.items()},
    }
    if methods := _method_charts(scenario):
        found["Methods"] = methods
    if kind.is_diagnosed:
        found["Plasticity"] = {
            title: (rf"plasticity/{name}/",) for name, (title, _) in QUANTITIES.items()
        }
    if kind.is_diagnosed and any(a.get("has_importance") for a in _attributes(scenario).values()):
        found["Free weights"] = {
            title: (rf"plasticity/{name}/",) for name, (title, _) in FREE.items()
        }
    return found


def _method_charts(scenario: Scenario) -> dict[str, tuple[str, ...]]:
    return {
        f"{name}: {title}": (rf"(agent/[^/]+/)?method/{name}/{tag}",)
        for name, attributes in _attributes(scenario).items()
        for tag, title in attributes.get("logs", {}).items()
    }


def _attributes(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Return the class attributes of the cell's methods by name, plugins left out."""
    names = [part.name for part in scenario.methods[0].parts if part.name not in registry.PLUGINS]
    return {
        name: signature(registry.method_target(name), scenario.folder).attributes for name in names
    }
