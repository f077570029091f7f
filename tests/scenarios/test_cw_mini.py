"""Continual World in miniature: its shipped scenario runs on the real simulator, cut short."""

from __future__ import annotations

import pytest

import holdfast
from holdfast.continual.results.study import gather
from holdfast.scenarios.load import load

CUT = [
    *(f"tasks[{index}].steps=64" for index in range(3)),
    *(f"tasks[{index}].changes.time_limit=20" for index in range(3)),
    "n_envs=4",
    "agent.learning_starts=16",
    "agent.gradient_steps=1",
    "seeds=[0]",
    "evaluation.every=64",
    "evaluation.episodes=2",
]


def test_its_tasks_are_cw10s_own_in_the_same_order():
    pytest.importorskip("envpool")
    mini, ten = map(load, ("cw-mini", "cw10"))
    whole = [(task.env, task.kwargs, task.changes) for task in ten.tasks]
    places = [whole.index((task.env, task.kwargs, task.changes)) for task in mini.tasks]
    assert (len(places), places) == (3, sorted(places))
    assert mini.score == "success"
    assert mini.evaluation.deterministic
    assert mini.seeds == (0, 1, 2)


@pytest.mark.slow
def test_every_method_runs_and_packnet_alone_keeps_the_first_task(tmp_path):
    pytest.importorskip("envpool")
    scenario = load("cw-mini", CUT)
    outcomes = holdfast.run(scenario, runs=tmp_path)
    assert len(outcomes) == len(scenario.methods)
    results = gather(tmp_path / "cw-mini")
    kept = {}
    for method in results.methods:
        (cell,) = method.cells
        assert {row["success"] for row in cell.scores} <= {0.0, 1.0}
        assert len(cell.scores) == 4 * 3 * 2  # points, tasks, episodes
        first = [row for row in cell.scores if row["task"] == scenario.tasks[0].name]
        returns = [[r["return"] for r in first if r["step"] == step] for step in (64, 128, 192)]
        kept[method.label] = returns[0] == returns[1] == returns[2]
    # A network of its own, or weights of its own; the others learn on in what they have.
    assert kept == {"isolated": True, "naive": False, "cloning": False, "packnet": True}
