"""A dry run's numbers against those of the run itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

import holdfast
from holdfast.continual.jobs import estimate as measured
from holdfast.continual.jobs.estimate import estimate
from holdfast.continual.training.preflight import build
from holdfast.scenarios.schema.scenario import Scenario

METHODS = ["naive", {"ewc": {"samples": 200}}, {"cloning": {"samples": 700}}, "isolated"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_disk_is_estimated_to_a_few_percent(
    make_scenario: Callable[..., Scenario],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
) -> None:
    """The sample sees fewer observations than a method will keep: what it keeps is extrapolated."""
    monkeypatch.setattr(measured, "STRETCH_S", 0.05)
    tasks = [
        {"name": name, "env": "Pendulum-v1", "steps": 512, "changes": {"time_limit": 20}}
        for name in ("left", "right")
    ]
    agent = {
        "ppo": {"n_steps": 64, "batch_size": 64, "n_epochs": 2},
        "sac": {"buffer_size": 600, "batch_size": 8, "train_freq": 16, "gradient_steps": 1},
    }[algorithm]
    methods = (
        [*METHODS, "perfect-memory", {"replay": {"samples": 300}}]
        if algorithm == "sac"
        else METHODS
    )
    scenario = make_scenario(
        tasks=tasks,
        agent={"algorithm": algorithm, **agent},
        methods=methods,
        evaluation={"episodes": 1},
    )
    costs = estimate(scenario, build(scenario))
    assert list(costs) == [method.label for method in scenario.methods]
    for run in holdfast.run(scenario, runs=tmp_path):
        cost = costs[run.folder.label]
        files = run.folder.path.glob("checkpoints/*/*.safetensors")
        assert cost.disk_bytes == pytest.approx(sum(f.stat().st_size for f in files), rel=0.1)
        assert 0 < cost.least_s <= cost.most_s
        assert cost.steps_per_s > 10
        assert cost.memory_bytes > 1e8
        assert not cost.is_open


SAMPLE = {"every": 10, "tasks": {"sample": 1, "boundaries": "all"}}


def test_evaluations_are_counted_as_the_loop_makes_them(
    make_scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    for plan in ({"tasks": "all"}, {"tasks": "seen"}, {"every": 10, "tasks": "seen"}, SAMPLE):
        scenario = make_scenario(
            name=f"plan{len(str(plan))}",
            tasks=[{"name": n, "env": "CartPole-v1", "steps": 32} for n in ("left", "right")],
            agent={"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1},
            stream={"order": ["left", "right", "left"]},
            evaluation={"episodes": 1, **plan},
        )
        (run,) = holdfast.run(scenario, runs=tmp_path)
        assert measured._evaluations(scenario) == len(run.scores)
