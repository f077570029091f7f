"""Text of `holdfast run --dry-run`: cells, steps, and measured time, memory and disk."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.continual.jobs.estimate import Cost, estimate
from holdfast.continual.results.formatting import NA, duration, plural, size
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.memory_budget import SEED_BYTES
from holdfast.continual.training.preflight import build
from holdfast.errors import CheckpointUnusable
from holdfast.printing import aligned
from holdfast.scenarios.checks.memory import memory_bytes

if TYPE_CHECKING:
    from holdfast.scenarios.schema.scenario import Scenario


def dry_run(scenario: Scenario, *, runs: Path, jobs: int) -> str:
    """Return what running the scenario would take; nothing is written.

    Raises:
        UsageError: What ``run`` would refuse when it builds the scenario.
    """
    buffer = build(scenario, jobs=jobs)
    cells = scenario.cells()
    finished = {cell.label: 0 for cell in cells}
    for cell in cells:
        finished[cell.label] += _is_finished(
            runs / scenario.name / cell.label / f"seed-{cell.seed}"
        )
    steps = sum(scenario.only(cell).total_steps for cell in cells)
    lines = [f"{steps:,} steps in all{_adapting(scenario)}"]
    if any(finished.values()):
        lines.append(f"{sum(finished.values())} of them are finished in {runs} and will be skipped")
    robots = [task.name for task in scenario.tasks if task.exclusive]
    if robots:
        listed = ", ".join(robots)
        return "\n".join(
            [*lines, f"Times are not measured: {listed} is exclusive and must not move."]
        )
    costs = estimate(scenario, buffer)
    head = ("method", "cells left", "steps/s", "time per cell", "memory", "kept per task", "disk")
    left = {label: len(scenario.seeds) - count for label, count in finished.items()}
    rows = [_row(label, left[label], cost) for label, cost in costs.items()]
    return "\n".join(
        [*lines, "", *aligned([head, *rows], right=True), "", *_sums(scenario, costs, left, jobs)]
    )


def _adapting(scenario: Scenario) -> str:
    """Return how much learning ``adapt:`` adds, which the times below do not count."""
    asked = scenario.adapt
    if asked is None:
        return ""
    own = [scenario.only(cell) for cell in scenario.cells()]
    stages = [
        len(one.stream_tasks) if asked.stages == "all" else 1 for one in own if not one.closed
    ]
    agents = sum(1 + count for count in stages) * len(scenario.held_out)  # one of them is fresh
    return (
        f", and then {agents:,} agents that adapt in {asked.steps:,} steps each, which the times "
        "below leave out"
    )


def _row(label: str, left: int, cost: Cost) -> tuple[str, ...]:
    return (
        label,
        str(left),
        f"{cost.steps_per_s:,.0f}",
        _span(cost.least_s, cost.most_s),
        size(cost.memory_bytes),
        size(cost.kept_bytes),
        size(cost.disk_bytes),
    )


def _sums(scenario: Scenario, costs: dict[str, Cost], left: dict[str, int], jobs: int) -> list[str]:
    """Return the lines about all cells together.

    Seeds that learn in lockstep share a process, and take their turns in it.
    """
    count = sum(left.values())
    abreast = scenario.seeds_in_lockstep
    processes = max(1, min(jobs, sum(ceil(cells / abreast) for cells in left.values())))
    least = sum(cost.least_s * left[label] for label, cost in costs.items()) / processes
    most = sum(cost.most_s * left[label] for label, cost in costs.items()) / processes
    beside = max(1, min(processes * abreast, count))
    shared = max(cost.memory_bytes for cost in costs.values()) * processes
    own = max(cost.own_bytes for cost in costs.values()) + SEED_BYTES
    memory = shared + own * (beside - processes)
    disk = sum(cost.disk_bytes * left[label] for label, cost in costs.items())
    lines = [
        f"In all, {plural(beside, 'cell')} at a time: {_span(least, most) if count else NA}, "
        f"{size(memory)} of {size(memory_bytes())} memory, {size(disk)} on disk.",
        "Measured just now on a short stretch of each method; where two times are given, the "
        "second is for episodes that last until their time limit.",
    ]
    if memory > memory_bytes():
        lines.append("That is more memory than there is: use fewer --jobs, or keep less per task.")
    if any(cost.is_open for cost in costs.values()):
        lines.append("No time limit of the first task is known: evaluation may take longer.")
    return lines


def _span(least: float, most: float) -> str:
    low, high = duration(least), duration(most)
    return low if low == high else f"{low} to {high}"


def _is_finished(path: Path) -> bool:
    try:
        return RunFolder(path).info().get("status") == "finished"
    except CheckpointUnusable:
        return False
