"""Sections of a report on teams: returns of groups and of agents at the end of the stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.continual.reports.tables import head, over
from holdfast.continual.results.document import EMPTY, Section, Table, given
from holdfast.continual.results.study import MethodResults, Results
from holdfast.continual.run_folder.episodes import Episode
from holdfast.scenarios.schema.agent import Policies, grouped

Returns = dict[str, dict[str, float]]


def agent_returns(scores: Sequence[Episode], stage: int) -> Returns:
    """Return each agent's mean return at the end of a stage, by task.

    >>> rows = [{"stage": 1, "task": "a", "agents": {"x": 1.0, "y": 2.0}},
    ...         {"stage": 1, "task": "a", "agents": {"x": 3.0, "y": 2.0}}]
    >>> agent_returns(rows, 1)
    {'a': {'x': 2.0, 'y': 2.0}}
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in scores:
        for agent, total in row.get("agents", {}).items() if row["stage"] == stage else ():
            found.setdefault(row["task"], {}).setdefault(agent, []).append(total)
    return {
        task: {agent: float(np.mean(totals)) for agent, totals in agents.items()}
        for task, agents in found.items()
    }


def group_returns(returns: Returns, policies: Policies) -> Returns:
    """Return each group's mean over its agents, by task.

    >>> group_returns({"t": {"wolf_0": 1.0, "wolf_1": 3.0, "hare": -5.0}},
    ...               {"hunters": ("wolf_*",), "prey": ("hare",)})
    {'t': {'hunters': 2.0, 'prey': -5.0}}
    """
    return {
        task: {
            group: float(np.mean([agents[name] for name in names]))
            for group, names in grouped(policies, list(agents), task).items()
            if names
        }
        for task, agents in returns.items()
    }


def team_sections(results: Results) -> list[Section]:
    """Return the sections of a report on a team; none where the scenario has one agent."""
    policies = results.scenario.agent.policies
    done = [method for method in results.methods if method.cells]
    if not policies or not done:
        return []
    stage = len(results.scenario.stream_tasks)
    agents = {m.label: [agent_returns(cell.scores, stage) for cell in m.cells] for m in done}
    groups = {label: [group_returns(r, policies) for r in cells] for label, cells in agents.items()}
    shown = [("agents", agents)]
    if any(len(group) > 1 for cells in groups.values() for group in cells[0].values()):
        shown.insert(0, ("groups", groups))  # else it would say again what the returns say
    return [
        Section(f"Returns of {title} at the end", (_table(done, found),)) for title, found in shown
    ]


def _table(done: Sequence[MethodResults], found: dict[str, list[Returns]]) -> Table:
    """Return one row for each method and task, one column for each group or agent."""
    first = next(iter(found.values()))[0]
    names = list(dict.fromkeys(name for of_task in first.values() for name in of_task))
    rows = []
    for method in done:
        for task in first:
            numbers = [
                over([cell[task][name] for cell in found[method.label]])
                if name in first[task]
                else EMPTY
                for name in names
            ]
            rows.append((given(method.label), given(task), *numbers))
    return Table(head("method", "task", *map(given, names)), tuple(rows))
