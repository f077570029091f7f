"""Run folders of a study that never ran: every file a report reads, with scores that are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.continual.jobs.run_folders import prepare
from holdfast.scenarios.schema.scenario import Scenario


def write_study(
    runs: Path,
    *,
    methods: int = 10,
    seeds: int = 10,
    tasks: int = 10,
    points: int = 50,
    episodes: int = 5,
    **keys: Any,
) -> Path:
    """Write the finished cells of a study and return its folder.

    A task's success rises while it is trained and falls afterwards, by a rate of the method's own.

    Args:
        runs: The folder of all results.
        methods: How many; the first is ``naive``, the last ``isolated``.
        seeds: Cells of each method.
        tasks: Tasks, each trained once.
        points: Evaluation points over the whole stream, a multiple of ``tasks``.
        episodes: Of each task at each evaluation point.
        **keys: More keys of the scenario.
    """
    every = 100
    steps = every * points // tasks
    between: list[Any] = [{"ewc": {"strength": 10.0**k}} for k in range(methods - 2)]
    given: dict[str, Any] = {
        "name": "study",
        "tasks": [
            {"name": f"task-{i}", "env": "CartPole-v1", "steps": steps} for i in range(tasks)
        ],
        "agent": {"algorithm": "ppo"},
        "methods": ["naive", *between, "isolated"],
        "seeds": list(range(seeds)),
        "evaluation": {"every": every, "episodes": episodes},
        "score": "success",
    }
    scenario = Scenario.model_validate(given | keys)
    for index, folder in enumerate(prepare(runs, scenario)):
        rng = np.random.default_rng(index)
        fade = rng.uniform(0.2, 0.3) * (index // seeds) / methods
        lines = []
        for point in range(points + 1):
            step = point * every
            learned = np.clip((step - steps * np.arange(tasks)) / steps, 0, 1)
            after = np.clip((step - steps * np.arange(1, tasks + 1)) / (steps * tasks), 0, 1)
            for task, rate in enumerate(np.clip(learned - fade * after, 0, 1)):
                for episode in range(episodes):
                    won = float(rng.random() < rate)
                    line = {
                        "stage": step // steps,
                        "step": step,
                        "task": f"task-{task}",
                        "episode": episode,
                        "return": float(rng.normal(100 * won, 20)),
                        "length": int(rng.integers(20, 200)),
                        "success": won,
                        "unseen": False,
                    }
                    lines.append(json.dumps(line) + "\n")
        (folder.path / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
        folder.update(
            status="finished",
            ended="2026-01-01T00:00:00+00:00",
            wall_s=100.0 + index,
            steps_per_s=900.0 + index,
            parameters=5000,
            stored_bytes=20_000,
            extra_steps=0,
            peak_memory_bytes=600_000_000 + index,
            versions={"holdfast": "0.1.0"},
            commit="0" * 40,
            host="node",
            conventions={"ewc": "strength x half the distance"} if index >= seeds else {},
        )
    return runs / scenario.name
