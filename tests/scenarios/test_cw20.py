"""CW20 is twenty tasks: twenty ids, heads and rows of scores."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import holdfast
from holdfast.scenarios.load import load


@pytest.mark.slow
def test_twenty_tasks_with_twenty_heads_and_rows(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    agent = [
        "batch_size=16",
        "learning_starts=16",
        "buffer_size=200",
        "train_freq=8",
        "gradient_steps=1",
    ]
    given = [
        *(f"tasks[{index}].steps=32" for index in range(20)),
        "methods=[{ewc: {paper: continual-world, samples: 16}}]",
        "evaluation={episodes: 1, most_steps: 8}",
        *(f"agent.{key}" for key in (*agent, "policy_kwargs={net_arch: [8, 8]}")),
    ]
    (run,) = holdfast.run(load("cw20", given), runs=tmp_path)
    assert run.folder.info()["status"] == "finished"
    assert len({score["task"] for score in run.scores}) == 20
    assert {score["stage"] for score in run.scores} == set(range(21))
    policy = load_file(run.folder.path / "checkpoints" / "task-19" / "policy.safetensors")
    assert policy["actor.mu.heads.weight"].shape == (20 * 4, 8)
