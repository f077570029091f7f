"""A dry run's numbers against those of the run itself."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.jobs import estimate as measured
from holdfast.continual.jobs.estimate import estimate
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.training.cell import run_cell
from holdfast.continual.training.preflight import build
from holdfast.scenarios.schema.scenario import Scenario

METHODS = ["naive", {"ewc": {"samples": 200}}, {"cloning": {"samples": 700}}, "isolated"]


@pytest.mark.slow
def test_making_programs_is_no_part_of_the_pace(
    make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiled program takes seconds to be made, and a sample of a task much less to learn."""
    monkeypatch.setattr(measured, "STRETCH_S", 0.2)
    costs = {}
    for engine in ("sb3", "compiled"):
        agent = {"algorithm": "ppo", "n_steps": 64, "batch_size": 16, "engine": engine}
        scenario = make_scenario(agent=agent, methods=["naive"], evaluation={"episodes": 1})
        costs[engine] = estimate(scenario, build(scenario))["naive"]
    # With the making it would be a twentieth.
    assert costs["compiled"].steps_per_s > costs["sb3"].steps_per_s / 3
    assert costs["compiled"].least_s > 0.5  # the making is counted, once a task


def test_slots_are_estimated_as_tasks_though_a_sample_has_none(
    make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "STRETCH_S", 0.05)
    stream = {"boundaries": "detected", "task_id": "hidden"}
    agent = {"algorithm": "ppo", "n_steps": 64, "batch_size": 16}
    methods = [{"ewc": {"samples": 200}}]
    scenario = make_scenario(agent=agent, methods=methods, stream=stream)
    cost = estimate(scenario, build(scenario))["ewc"]
    assert cost.steps_per_s > 0
    assert 0 < cost.least_s <= cost.most_s


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


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("algorithm", "methods", "stream"),
    [
        ("ppo", ["joint", "clear"], {}),
        ("sac", ["joint"], {}),
        ("sac", ["naive"], {"boundaries": "hidden", "task_id": "hidden"}),
    ],
)
def test_the_disk_of_one_model_for_the_stream_and_of_a_share_of_it(
    make_scenario: Callable[..., Scenario],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    methods: list[str],
    stream: dict[str, str],
) -> None:
    monkeypatch.setattr(measured, "STRETCH_S", 0.05)
    agent = {
        "ppo": {"n_steps": 64, "batch_size": 64, "n_epochs": 2},
        "sac": {"buffer_size": 600, "batch_size": 8, "train_freq": 16, "gradient_steps": 1},
    }[algorithm]
    task = {"env": "Pendulum-v1", "steps": 512, "changes": {"time_limit": 20}}
    scenario = make_scenario(
        tasks=[{"name": name, **task} for name in ("left", "right")],
        stream=stream,
        agent={"algorithm": algorithm, **agent},
        methods=methods,
        evaluation={"episodes": 1},
    )
    costs = estimate(scenario, build(scenario))
    for run in holdfast.run(scenario, runs=tmp_path):
        files = run.folder.path.glob("checkpoints/*/*.safetensors")
        found = sum(f.stat().st_size for f in files)
        assert costs[run.folder.label].disk_bytes == pytest.approx(found, rel=0.15)


SAC = {"algorithm": "sac", "buffer_size": 600, "batch_size": 16, "learning_starts": 16}


def two_tasks(make_scenario: Callable[..., Scenario], **given: Any) -> Scenario:
    tasks = [
        {"name": name, "env": "Pendulum-v1", "steps": 512, "changes": {"time_limit": 20}}
        for name in ("left", "right")
    ]
    known = {"task_count": "known"}
    return make_scenario(tasks=tasks, stream=known, evaluation={"episodes": 2}, **given)


@pytest.mark.thorough
def test_fault_45_a_dry_run_never_does_a_methods_whole_work(
    make_scenario: Callable[..., Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    real = StableBaselinesAgent.train_more

    def counted(agent: StableBaselinesAgent, updates: int) -> None:
        done.append(updates)
        real(agent, updates)

    monkeypatch.setattr(StableBaselinesAgent, "train_more", counted)
    monkeypatch.setattr(measured, "STRETCH_S", 0.2)  # many updates: a difference of few is noise
    methods = [{"packnet": {"retrain_updates": 100_000}}]
    scenario = two_tasks(make_scenario, agent=SAC, methods=methods)
    (cost,) = estimate(scenario, build(scenario)).values()
    assert 0 < sum(done) <= 2 * measured._MOST_UPDATES
    # All of them are in the estimate: at least a tenth of a millisecond each.
    assert cost.least_s > 100_000 * 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "method"),
    [
        ({"algorithm": "ppo", "n_steps": 128, "batch_size": 64, "n_epochs": 5}, "naive"),
        ({"algorithm": "ppo", "n_steps": 128, "batch_size": 64, "n_epochs": 5}, "ewc"),
        (SAC, "cloning"),
        (SAC, {"packnet": {"retrain_updates": 1000}}),
    ],
    ids=["ppo", "ewc", "cloning", "packnet"],
)
def test_time_is_estimated_within_a_factor_of_one_and_a_half(
    make_scenario: Callable[..., Scenario],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agent: dict[str, Any],
    method: Any,
) -> None:
    """In processor time: what else the machine does takes no part."""
    monkeypatch.setattr(measured, "time", SimpleNamespace(monotonic=time.process_time))
    scenario = two_tasks(make_scenario, agent=agent, methods=[method])
    scenario = scenario.model_copy(
        update={"tasks": tuple(t.model_copy(update={"steps": 2048}) for t in scenario.tasks)}
    )
    (cost,) = estimate(scenario, build(scenario)).values()
    (folder,) = prepare(tmp_path, scenario)
    began = time.process_time()
    run_cell(folder, lambda progress: None)
    spent_s = time.process_time() - began
    assert spent_s / 1.5 < cost.least_s < spent_s * 1.5


SAMPLE = {"every": 10, "tasks": {"sample": 1, "boundaries": "all"}}


@pytest.mark.thorough
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
