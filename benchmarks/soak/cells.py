"""The cells that are killed: each kind of learner, with checkpoints inside its tasks."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
WALK, CROWD = "golden_worlds:Walk", "golden_worlds:Crowd"

PPO: dict[str, Any] = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 2}
SAC: dict[str, Any] = {
    "algorithm": "sac",
    "learning_starts": 40,
    "buffer_size": 300,
    "batch_size": 16,
}
NETS: dict[str, Any] = {"policy_kwargs": {"net_arch": [16, 16]}}


def tasks(env: str, steps: int, **same: Any) -> list[dict[str, Any]]:
    """Return two tasks whose wind differs; a crowd's differ in how long they last."""
    kwargs: list[dict[str, Any]] = [{"wind": 0.0}, {"wind": 1.0}]
    if env == CROWD:
        kwargs = [{"length": 8}, {"length": 6}]
    return [
        {"name": name, "env": env, "steps": steps, "kwargs": {**same, **own}}
        for name, own in zip("ab", kwargs, strict=True)
    ]


CELLS: dict[str, dict[str, Any]] = {
    "ppo": {
        "tasks": tasks(WALK, 512),
        "n_envs": 2,
        "agent": {**PPO, **NETS, "normalize": {"observations": "running"}},
        "methods": [["ewc", {"cloning": {"samples": 32}}]],
        "checkpoint": {"every": 128},
    },
    "sac": {
        "tasks": tasks(WALK, 240, actions="push"),
        "agent": {**SAC, **NETS},
        "methods": [[{"ewc": {"samples": 32}}, {"replay": {"samples": 48}}]],
        "checkpoint": {"every": 60},
    },
    "team": {
        "tasks": tasks(CROWD, 384),
        "agent": {**PPO, **NETS, "policies": {"first": ["first"], "second": ["second"]}},
        "methods": ["si"],
        "checkpoint": {"every": 96},
    },
    "pool": {
        "tasks": tasks(WALK, 512),
        "n_envs": 4,
        "pool": {"workers": 2},
        "agent": {**PPO, **NETS},
        "stream": {"task_count": "known"},
        "methods": ["packnet"],
        "checkpoint": {"every": 256},
    },
}
EVALUATION = {"every": 96, "episodes": 2}
SCORE = {"random": 0.0, "reference": 12.0}


def write(name: str, folder: Path) -> Path:
    """Write a cell's scenario and its worlds into a folder, and return the scenario's file."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE.parent / "golden_worlds.py", folder)
    made = {"name": name, "score": SCORE, "evaluation": EVALUATION, "seeds": [3], **CELLS[name]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False), "utf-8")
    return path


def cell_of(runs: Path) -> Path:
    """Return the only run folder below a folder of results."""
    (found,) = runs.glob("*/*/seed-*/scenario.yaml")
    return found.parent


def result(cell: Path) -> dict[str, str]:
    """Return a hash of the scores, of the drifts and of every tensor of the last checkpoint."""
    from golden import last_checkpoint, tensors

    found = {"scores.jsonl": hashlib.sha256((cell / "scores.jsonl").read_bytes()).hexdigest()}
    for file in sorted(last_checkpoint(cell).glob("*.safetensors")):
        found[file.name] = hashlib.sha256(json.dumps(tensors(file)).encode()).hexdigest()
    status = json.loads((cell / "run.json").read_text("utf-8"))["status"]
    return found | {"status": status}


def position(cell: Path) -> tuple[int, int]:
    """Return (stage, step) of the newest whole checkpoint; (0, 0) before the first."""
    states = cell.glob("checkpoints/task-*/state.json")
    whole = [state for state in states if ".tmp-" not in state.parent.name]
    return max(map(_position, whole), default=(0, 0))


def _position(state: Path) -> tuple[int, int]:
    """Return the stage and the step that a checkpoint continues at."""
    stage, _, step = state.parent.name.removeprefix("task-").partition(".at-")
    return (int(stage), int(step)) if step else (int(stage) + 1, 0)
