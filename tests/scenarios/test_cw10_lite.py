"""Continual World for a laptop: its shipped scenario on the real simulator, cut short."""

from __future__ import annotations

import pytest

import holdfast
from holdfast.continual.results.study import gather
from holdfast.scenarios.load import load

CUT = [
    "task_defaults.steps=64",
    "tasks.2.steps=64",
    "task_defaults.changes.time_limit=20",
    "n_envs=4",
    "agent.learning_starts=16",
    "agent.gradient_steps=1",
    "seeds=[0]",
    "evaluation={every: 64, episodes: 2}",
]


def test_it_is_cw10_with_other_tasks_in_the_places_of_those_that_take_longer() -> None:
    pytest.importorskip("envpool")
    lite, ten = map(load, ("cw10-lite", "cw10"))
    assert {task.steps for task in lite.tasks} == {60_000, 90_000}
    for task, theirs in zip(lite.tasks, ten.tasks, strict=True):
        assert (task.kwargs, task.changes) == (theirs.kwargs, theirs.changes)
    own = [i for i in range(10) if lite.tasks[i].env == ten.tasks[i].env]
    assert [lite.tasks[i].name for i in own] == [
        "faucet-close",
        "handle-press-side",
        "window-close",
    ]
    assert lite.score == ten.score == "success"
    assert lite.stream == ten.stream
    assert lite.evaluation.deterministic


def test_its_tuning_is_of_the_same_stream_and_agent() -> None:
    pytest.importorskip("envpool")
    shipped, tuning = load("cw10-lite"), load("cw10-lite-tuning")
    assert tuning.tasks == shipped.tasks[:5]
    for key in ("stream", "agent", "backend", "n_envs", "evaluation", "score"):
        assert getattr(shipped, key) == getattr(tuning, key), key
    assert set(tuning.seeds).isdisjoint(shipped.seeds)
    points = [method.parts[0].name for method in tuning.methods]
    assert points == [name for name in ("ewc", "cloning", "packnet") for _ in range(2)]
    assert all(method in tuning.methods for method in shipped.methods[2:])


@pytest.mark.slow
def test_every_method_runs_and_packnet_alone_keeps_the_first_task(tmp_path) -> None:
    pytest.importorskip("envpool")
    whole = load("cw10-lite", CUT)
    scenario = whole.model_copy(update={"tasks": whole.tasks[:3]})
    outcomes = holdfast.run(scenario, runs=tmp_path)
    assert len(outcomes) == len(scenario.methods) == 5
    kept = {}
    for method in gather(tmp_path / "cw10-lite").methods:
        (cell,) = method.cells
        assert {row["success"] for row in cell.scores} <= {0.0, 1.0}
        assert len(cell.scores) == 4 * 3 * 2  # points, tasks, episodes
        first = [row for row in cell.scores if row["task"] == scenario.tasks[0].name]
        returns = [[r["return"] for r in first if r["step"] == step] for step in (64, 128, 192)]
        kept[method.label] = returns[0] == returns[1] == returns[2]
    # A network of its own, or weights of its own; the others learn on in what they have.
    wanted = {"isolated": True, "naive": False, "ewc": False, "cloning": False, "packnet": True}
    assert kept == wanted
