"""The model card of a run: what was trained on what, how well it does, how to load it, its limits.

Its front matter is that of the Hugging Face Hub, so that a run folder can be uploaded as it is. All
numbers are those of the record.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.results import metrics
from holdfast.continual.results.curves import curves
from holdfast.continual.results.formatting import (
    NA,
    coded,
    duration,
    fenced,
    number,
    plain,
    table,
)
from holdfast.continual.results.metrics import FORMULAS
from holdfast.continual.run_folder.episodes import Episode
from holdfast.continual.run_folder.files import write_whole
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.source.yaml_file import dump

CARD = "README.md"


def write_card(folder: RunFolder) -> Path:
    """Write the card of a finished run into its folder, and return its path.

    Raises:
        OSError: If it cannot be written.
    """
    path = folder.path / CARD
    write_whole(path, card(folder).encode())
    return path


def card(folder: RunFolder) -> str:
    """Return the card of a run as markdown."""
    scenario, scores, info = folder.scenario, folder.scores(), folder.info()
    stages = len(scenario.stream_tasks)
    last = [score for score in scores if score["stage"] == stages]
    head = dump(_front_matter(folder, scenario, last))
    parts = [
        f"---\n{head.strip()}\n---",
        f"# {plain(scenario.name)}: {plain(folder.label)}, seed {folder.seed}",
        _what(scenario, folder.label, info),
        "## Stream",
        _stream(scenario),
        "## Scores",
        _scores(scenario, last),
        _metrics(scenario, scores),
        "## Use",
        _use(scenario),
        "## Limits",
        _limits(scenario),
        "## Origin",
        _origin(info),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(folder: RunFolder, scenario: Scenario, last: list[Episode]) -> dict[str, Any]:
    methods = [part.name for part in scenario.methods[0].parts]
    words = kind_of(scenario).words
    tags = ["continual-learning", words.task, words.library, scenario.agent.algorithm, *methods]
    results = []
    for task in scenario.tasks:
        if found := [score["return"] for score in last if score["task"] == task.name]:
            value = f"{np.mean(found):.2f} +/- {np.std(found):.2f}"
            metric = {"type": words.metric, "name": words.metric, "value": value, "verified": False}
            kind = {"type": words.task, "name": words.task}
            world = {"type": _world(task), "name": task.name}
            results.append({"task": kind, "dataset": world, "metrics": [metric]})
    name = f"{scenario.name}-{folder.label}-seed-{folder.seed}"
    return {
        "library_name": "holdfast",
        "tags": list(dict.fromkeys([*tags, *map(_world, scenario.tasks)])),
        "model-index": [{"name": name, "results": results}],
    }


def _world(task: Task) -> str:
    return str(task.env or task.benchmark)


def _what(scenario: Scenario, label: str, info: dict[str, Any]) -> str:
    agent, stream = scenario.agent, scenario.stream
    place, size = kind_of(scenario).words.place, info.get("parameters")
    parameters = f" ({size:,} parameters)" if size else ""
    text = (
        f"An agent trained with {coded(agent.algorithm)}{place}{parameters} on a stream of "
        f"{len(scenario.stream_tasks)} tasks, one after the other, with {coded(label)} against "
        f"forgetting: {scenario.total_steps:,} steps in all. The task id is {stream.task_id}, "
        f"boundaries are {stream.boundaries}, the number of tasks is {stream.task_count}."
    )
    return f"{plain(scenario.description)}\n\n{text}" if scenario.description else text


def _stream(scenario: Scenario) -> str:
    rows = []
    stages = zip(scenario.stream_tasks, scenario.stage_steps, strict=True)
    for stage, (index, steps) in enumerate(stages):
        task = scenario.tasks[index]
        given = task.model_dump(exclude_defaults=True, mode="json")
        keys = [key for key in ("kwargs", "changes", "randomize", "drift") if given.get(key)]
        changes = plain(str({key: given[key] for key in keys})) if keys else ""
        rows.append([str(stage), plain(task.name), coded(_world(task)), f"{steps:,}", changes])
    return table(["stage", "task", "environment", "steps", "changes"], rows)


def _scores(scenario: Scenario, last: list[Episode]) -> str:
    points = curves(last, scenario).values
    scores = points[-1] if len(points) else [math.nan] * len(scenario.tasks)
    rows = []
    for task, score in zip(scenario.tasks, scores, strict=True):
        own = [one for one in last if one["task"] == task.name]
        returns = [one["return"] for one in own]
        successes = [one["success"] for one in own if one["success"] is not None]
        reached = f"{_mean(returns)} ± {number(float(np.std(returns)))}" if returns else NA
        rate = _mean(successes) if successes else NA
        rows.append([plain(task.name), reached, rate, number(float(score)), str(len(own))])
    choice = "most likely" if scenario.evaluation.deterministic else "sampled"
    total = kind_of(scenario).words.total
    text = (
        f"At the end of the stream, {choice} actions; {total} is mean ± standard deviation over "
        "episodes."
    )
    return f"{text}\n\n{table(['task', total, 'success rate', 'score', 'episodes'], rows)}"


def _mean(values: list[float]) -> str:
    return number(float(np.mean(values)))


def _metrics(scenario: Scenario, scores: list[Episode]) -> str:
    found = metrics.summary(curves(scores, scenario))
    del found["forward_transfer/cw"]  # it needs other runs
    rows = [[FORMULAS[name].title, number(value), f"`{name}`"] for name, value in found.items()]
    shown = table(["metric", "value", "variant"], rows)
    return f"{shown}\n\nOver the whole stream; the formula of each is in `holdfast report`."


def _use(scenario: Scenario) -> str:
    name = scenario.tasks[scenario.stream_tasks[-1]].name
    opened = f'agent = holdfast.open_run("this/folder").agent("{name}")'
    code = "\n".join(["import holdfast", opened, kind_of(scenario).words.use])
    return (
        f"{fenced(code, 'python')}\n\n`holdfast eval this/folder --task {name}` measures it, "
        "`holdfast export this/folder --format onnx` writes it for other programs."
    )


def _limits(scenario: Scenario) -> str:
    lines = [
        "One run with one seed: it says nothing about how often training ends like this.",
        f"Measured with {scenario.evaluation.episodes} episodes a task, in the environments above "
        "and no others.",
    ]
    if scenario.stream.task_id != "hidden":
        lines.append("It must be told which task it is in.")
    if scenario.stream.task_id == "hidden" and len(set(scenario.stream_tasks)) > 1:
        lines.append("It is not told which task it is in.")
    lines.append("Licence: none was chosen; whoever shares the run chooses one.")
    return "\n".join(f"- {line}" for line in lines)


def _origin(info: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in (info.get("versions") or {}).items())
    took = info.get("wall_s")
    lines = [
        ("Versions", versions),
        ("Commit", info.get("commit")),
        ("Ended", info.get("ended")),
        ("Wall time", duration(took) if took else None),
    ]
    return "\n".join(f"- {title}: {plain(str(found))}" for title, found in lines if found)
