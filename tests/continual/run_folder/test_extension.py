"""A finished cell takes up more tasks: what it learns then is what it would have learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kills import Kills, silent
from safetensors.torch import load_file
from team_runs import team_scenario

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.results.study import gather
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.training.cell import run_cell
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario

NETS = {"policy_kwargs": {"net_arch": [16]}}
PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 16, "n_epochs": 2, **NETS}
SAC = {"algorithm": "sac", "learning_starts": 20, "batch_size": 16, "buffer_size": 300, **NETS}
CHANGES: tuple[dict[str, Any], ...] = ({}, {"action_map": [1, 0]}, {"reward_scale": 2.0})


def scenario(
    tasks: int, agent: dict[str, Any] = PPO, method: Any = "naive", **more: Any
) -> dict[str, Any]:
    """Return a scenario of the first of three tasks."""
    env, changes = "CartPole-v1", CHANGES
    if agent["algorithm"] == "sac":
        env, changes = "Pendulum-v1", tuple({"set": {"g": 9.0 - place}} for place in range(3))
    return {
        "name": "demo",
        "tasks": [
            {"name": name, "env": env, "steps": 64, "changes": change}
            for name, change in zip("abc"[:tasks], changes, strict=False)
        ],
        "stream": {"max_tasks": 3},
        "agent": agent,
        "methods": [method],
        "evaluation": {"every": 32, "episodes": 1},
        "checkpoint": {"every": 24, "keep": "all"},
        **more,
    }


def prepared(runs: Path, data: dict[str, Any], said: list[str] | None = None) -> RunFolder:
    tell = (lambda _: None) if said is None else said.append
    (folder,) = prepare(runs, Scenario.model_validate(data), tell=tell)
    return folder


def ran(runs: Path, *made: dict[str, Any]) -> RunFolder:
    """Run a scenario to its end, then each longer one."""
    for data in made:
        folder = prepared(runs, data)
        assert run_cell(folder, silent)
    return folder


def assert_same(longer: RunFolder, whole: RunFolder) -> None:
    """Compare tensors of every stage and scores, bit for bit.

    Of tasks that came later the early scores are not there.
    """
    names = [str(p.relative_to(whole.path)) for p in whole.path.glob("checkpoints/*/*.safetensors")]
    assert len(names) >= 3
    for name in names:
        one, other = load_file(longer.path / name), load_file(whole.path / name)
        assert one.keys() == other.keys()
        for key, tensor in other.items():
            assert one[key].numpy().tobytes() == tensor.numpy().tobytes(), (name, key)
    first = {"a": 0, "b": 0, "c": 128}
    wanted = [s for s in whole.scores() if s["step"] > first[s["task"]] or s["task"] != "c"]
    assert longer.scores() == wanted
    assert wanted != whole.scores()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("agent", "method", "more"),
    [
        (PPO, {"ewc": {"samples": 16}}, {}),
        (SAC, "naive", {"carry": {"replay_buffer": True, "optimizer": True}}),
        pytest.param(
            *(PPO, "naive", {"stream": {"max_tasks": 4, "task_id": "heads"}}),
            marks=pytest.mark.slow,
        ),
        pytest.param(PPO, "progressive", {}, marks=pytest.mark.slow),
        pytest.param(PPO, {"cloning": {"samples": 16}}, {}, marks=pytest.mark.slow),
        pytest.param(PPO, "naive", {"stream": {"task_id": "hidden"}}, marks=pytest.mark.slow),
        pytest.param(SAC, {"agem": {"samples": 16}}, {}, marks=pytest.mark.slow),
        pytest.param(SAC, "isolated", {}, marks=pytest.mark.slow),
        pytest.param({**PPO, "engine": "compiled"}, "naive", {}, marks=pytest.mark.slow),
        pytest.param(
            *({**PPO, "normalize": {"observations": "running"}}, "naive", {}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_longer_run_is_one_that_always_had_the_task(
    tmp_path: Path, agent: dict[str, Any], method: Any, more: dict[str, Any]
) -> None:
    short, whole = (scenario(tasks, agent, method, **more) for tasks in (2, 3))
    longer = ran(tmp_path / "longer", short, whole)
    assert_same(longer, ran(tmp_path / "whole", whole))
    info = longer.info()
    assert info["status"] == "finished"
    assert info["extended"] == [{"stage": 2, "tasks": ["c"]}]
    assert len(RunFolder(longer.path).scenario.tasks) == 3


@pytest.mark.slow
def test_killed_on_its_way_it_is_still_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, whole = (scenario(tasks, SAC) for tasks in (2, 3))
    straight = ran(tmp_path / "whole", whole)
    ran(tmp_path / "longer", short)
    with monkeypatch.context() as inner:
        longer = Kills(inner, [140, 170]).run(prepared(tmp_path / "longer", whole))
    assert_same(longer, straight)
    assert not run_cell(prepared(tmp_path / "longer", whole), silent)  # finished: nothing is left


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "qmix"])
def test_a_team_takes_up_a_task(tmp_path: Path, algorithm: str) -> None:
    tasks = [{"env": "team_worlds:Leaving", "changes": {"reward_scale": 1.0 + n}} for n in range(3)]
    more = {"stream": {"max_tasks": 3}, "checkpoint": {"keep": "all"}}
    short, whole = (
        team_scenario(algorithm, *tasks[:count], **more).model_dump() for count in (2, 3)
    )
    longer, always = ran(tmp_path / "longer", short, whole), ran(tmp_path / "whole", whole)
    for path in always.path.glob("checkpoints/*/*.safetensors"):
        one, other = load_file(longer.path / path.relative_to(always.path)), load_file(path)
        assert {k: t.tolist() for k, t in one.items()} == {k: t.tolist() for k, t in other.items()}


@pytest.mark.thorough
def test_a_task_comes_again(tmp_path: Path) -> None:
    said: list[str] = []
    short, twice = (
        scenario(2, stream={"order": order, "max_tasks": 2}) for order in (["a", "b"], [*"aba"])
    )
    ran(tmp_path, short)
    folder = prepared(tmp_path, twice, said)
    assert said == ["1 cell goes on: 1 more stage"]
    assert run_cell(folder, silent)
    assert folder.info()["extended"] == [{"stage": 2, "tasks": ["a"]}]
    (method,) = gather(tmp_path / "demo").methods
    assert method.cells[0].metrics["average_performance/cw"] > 0
    assert prepared(tmp_path, twice, said).info()["status"] == "finished"
    assert len(said) == 1


@pytest.mark.thorough
def test_metrics_of_a_longer_run_are_those_of_the_whole(tmp_path: Path) -> None:
    short, whole = (scenario(tasks) for tasks in (2, 3))
    ran(tmp_path / "longer", short, whole)
    ran(tmp_path / "whole", whole)
    one, other = (
        gather(tmp_path / name / "demo").methods[0].cells[0] for name in ("longer", "whole")
    )
    assert str(one.metrics) == str(other.metrics)  # as text: a metric that is n/a is NaN


@pytest.mark.parametrize(
    ("short", "longer", "words"),
    [
        ({"stream": {}}, {"stream": {}}, "its task id is 2 wide, and would have to be 3"),
        (
            {"stream": {"task_id": "hidden", "boundaries": "hidden"}},
            {"stream": {"task_id": "hidden", "boundaries": "hidden"}},
            "whose schedules ended with it",
        ),
        (
            {"stream": {"max_tasks": 3, "task_count": "known"}},
            {"stream": {"max_tasks": 3, "task_count": "known"}},
            "were told how many tasks come",
        ),
        ({"spaces": {"observation": "pad"}}, {"spaces": {"observation": "pad"}}, "were padded"),
        ({}, {"n_envs": 2}, "+n_envs: 2"),  # what was is refused as ever
    ],
)
def test_what_would_change_the_past_is_refused(
    tmp_path: Path, short: dict[str, Any], longer: dict[str, Any], words: str
) -> None:
    folder = ran(tmp_path, scenario(2, **short))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        prepared(tmp_path, scenario(3, **longer))
    assert words in str(caught.value)
    assert str(folder.path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.thorough
def test_more_steps_of_a_task_are_told_how(tmp_path: Path) -> None:
    data = scenario(2)
    ran(tmp_path, data)
    more = scenario(2)
    more["tasks"][1]["steps"] = 128
    with pytest.raises(UsageError, match=r"stream: \{order: \[a, b, b\]\}"):
        prepared(tmp_path, more)


@pytest.mark.thorough
def test_a_stream_that_becomes_shorter_is_another_scenario(tmp_path: Path) -> None:
    ran(tmp_path, scenario(3))
    with pytest.raises(UsageError, match="is of a different scenario"):
        prepared(tmp_path, scenario(2))
