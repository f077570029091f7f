"""Cells that learn in lockstep: each is what it would be whatever is beside it, and ends alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import compiled_agents
import gymnasium as gym
import pytest
from cells import Interrupted
from gymnasium.envs.classic_control import CartPoleEnv
from kills import Kills, assert_same, content

from holdfast.continual.jobs.queue import Turn, Turns, Unwatched
from holdfast.continual.jobs.run import run_cells
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.schema.scenario import Scenario


def scenario(
    name: str, seeds: Sequence[int], at_once: int, method: Any = "naive", **more: Any
) -> dict[str, Any]:
    agent = {"seeds_at_once": at_once, **more.pop("agent", {})}
    return compiled_agents.scenario(name, method, agent=agent, **more) | {"seeds": list(seeds)}


def cells(runs: Path, data: dict[str, Any]) -> dict[int, RunFolder]:
    """Return the folders of a scenario's cells, by seed."""
    return {folder.seed: folder for folder in prepare(runs, Scenario.model_validate(data))}


def ran(runs: Path, data: dict[str, Any], **given: Any) -> dict[int, RunFolder]:
    """Run a scenario, and return its folders by seed."""
    folders = cells(runs, data)
    outcomes = run_cells([*folders.values()], **given)
    assert {outcome.status for outcome in outcomes} <= {"finished", "skipped"}, outcomes
    return folders


METHODS: dict[str, Any] = {
    "ewc": {"ewc": {"samples": 40}},
    "cloning": {"cloning": {"samples": 40, "batch_size": 8}},
    "agem": {"agem": {"samples": 40, "batch_size": 8}},
    "packnet": "packnet",
    "si": "si",
    "progressive": "progressive",
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("ppo", "naive"),
        *(
            pytest.param(name, method, marks=pytest.mark.slow)
            for name, method in [
                *((name, "naive") for name in ("a2c", "dqn", "sac", "td3")),
                *((name, method) for name in ("ppo", "sac") for method in METHODS),
            ]
        ),
    ],
)
def test_a_seed_is_the_same_whatever_learns_beside_it(
    name: str, method: str, tmp_path: Path
) -> None:
    given = {"method": METHODS.get(method, method), "stream": {"task_count": "known"}}
    three = ran(tmp_path / "three", scenario(name, [0, 1, 2], 3, **given))
    one = ran(tmp_path / "one", scenario(name, [1], 8, **given))
    assert_same(three[1], one[1])
    assert three[1].info()["lockstep"] is one[1].info()["lockstep"] is True
    weights = [
        content(folder)["checkpoints/task-1/policy.safetensors"] for folder in three.values()
    ]
    assert len(set(weights)) == 3
    alone = ran(tmp_path / "alone", scenario(name, [1], 1, **given))[1]
    assert alone.info()["lockstep"] is False
    assert alone.info()["updates"] == three[1].info()["updates"] > 0
    assert alone.info()["extra_updates"] == three[1].info()["extra_updates"]
    assert content(alone).keys() == content(three[1]).keys()


@pytest.mark.slow
def test_one_that_fails_goes_on_alone_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in lockstep, whatever the file says by then."""
    straight = ran(tmp_path / "straight", scenario("ppo", [0, 1], 2))
    folders = cells(tmp_path / "killed", scenario("ppo", [0, 1], 2))
    with monkeypatch.context() as patch:
        Kills(patch, [140])  # the first of them to come there
        first = run_cells([*folders.values()], retries=0)
    assert sorted(outcome.status for outcome in first) == ["failed", "finished"]
    failed = next(f for f in folders.values() if f.info()["status"] == "failed")
    assert Interrupted.__name__ in failed.info()["reason"]
    folders = ran(tmp_path / "killed", scenario("ppo", [0, 1], 1))
    for seed, folder in folders.items():
        assert folder.info()["lockstep"] is True
        assert_same(folder, straight[seed])


@pytest.mark.slow
def test_a_cell_that_began_alone_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = ran(tmp_path / "straight", scenario("ppo", [0], 1))
    folders = cells(tmp_path / "killed", scenario("ppo", [0], 1))
    with monkeypatch.context() as patch:
        Kills(patch, [140])
        run_cells([*folders.values()], retries=0)
    folders = ran(tmp_path / "killed", scenario("ppo", [0], 2))
    assert folders[0].info()["lockstep"] is False
    assert_same(folders[0], straight[0])


# -- what ends one, or all -------------------------------------------------------------------------


class Fragile(CartPoleEnv):
    """Whatever luck its seed has drawn decides how it ends."""

    raises: ClassVar[set[float]] = set()
    pays: ClassVar[dict[float, float]] = {}

    def __init__(self, luck: float = 0.5) -> None:
        super().__init__()
        self.luck, self.count = luck, 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.luck in self.raises and self.count > 60:
            raise ZeroDivisionError("out of luck")
        observation, _, *rest = super().step(action)
        return observation, self.pays.get(self.luck, 1.0), *rest


@pytest.fixture
def fragile() -> Iterator[dict[str, Any]]:
    """Return the tasks of a scenario whose seeds have luck of their own."""
    gym.register("Fragile-v0", Fragile)
    task = {"env": "Fragile-v0", "steps": 160, "sample": {"luck": "uniform(0, 1)"}}
    yield {"tasks": [{"name": name, **task} for name in ("first", "second")]}
    Fragile.raises.clear()
    Fragile.pays.clear()
    del gym.registry["Fragile-v0"]


def luck(folder: RunFolder) -> list[float]:
    """Return what the tasks of a cell have drawn."""
    return [task.changes.set["luck"] for task in folder.scenario.tasks]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the sums of rewards
@pytest.mark.parametrize("how", ["raises", "diverges"])
def test_a_seed_whose_environment_fails_or_that_diverges_ends_alone(
    how: str, fragile: dict[str, Any], tmp_path: Path
) -> None:
    data = scenario("ppo", [0, 1, 2], 3) | fragile
    folders = cells(tmp_path, data)
    bad = luck(folders[1])[0]
    Fragile.raises |= {bad} if how == "raises" else set()
    Fragile.pays |= {bad: 1e38} if how == "diverges" else {}
    outcomes = run_cells([*folders.values()], retries=0)
    assert [outcome.status for outcome in outcomes] == ["finished", "failed", "finished"]
    failure = outcomes[1].failure
    assert failure is not None
    assert ("out of luck" if how == "raises" else "not finite") in failure.text
    assert folders[1].info()["status"] == "failed"
    for seed in (0, 2):
        beside = ran(tmp_path / str(seed), scenario("ppo", [seed], 3) | fragile)
        assert_same(folders[seed], beside[seed])


KILLED = """\
name: demo
tasks:
  - {name: one, env: CartPole-v1, steps: 2048}
  - {name: two, env: CartPole-v1, steps: 2048, changes: {action_map: [1, 0]}}
score: {random: 0.0, reference: 500.0}
n_envs: 4
agent:
  {algorithm: ppo, engine: compiled, seeds_at_once: 3, n_steps: 64, policy_kwargs: {net_arch: [16]}}
methods: [naive, ewc: {samples: 64}]
seeds: [0, 1, 2]
evaluation: {every: 512, episodes: 2}
checkpoint: {every: 256}
"""


def command(place: Path, *arguments: str) -> subprocess.Popen[str]:
    (place / "demo.yaml").write_text(KILLED, "utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", "run", "demo.yaml", *arguments],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def by_path(place: Path) -> dict[str, RunFolder]:
    found = (place / "runs" / "demo").glob("*/seed-*")
    return {f"{path.parent.name}/{path.name}": RunFolder(path) for path in found}


def began(place: Path) -> dict[str, Any]:
    """Return when the last attempt at each cell began."""
    return {name: folder.info().get("started") for name, folder in by_path(place).items()}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_stopped_at_random_moments_equals_never_stopped(
    jobs: int, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("straight", "killed")]
    for place in places:
        place.mkdir()
    process = command(places[0], "--jobs", str(jobs))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    rng, ends = random.Random(jobs), []
    for number in [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]:
        before = began(places[1])
        process = command(places[1], "--jobs", str(jobs))
        until = time.monotonic() + 60
        while began(places[1]) == before:
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(rng.uniform(4, 12))
        process.send_signal(number)
        process.communicate(timeout=60)
        ends.append(process.returncode)
        if number in (signal.SIGTERM, signal.SIGINT) and process.returncode:
            for name, folder in by_path(places[1]).items():
                if began(places[1])[name] != before.get(name):  # in this attempt
                    assert folder.info()["status"] in ("stopped", "finished")
    process = command(places[1], "--jobs", str(jobs))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert set(ends[:2]) == {-signal.SIGKILL, 75}
    straight, killed = (by_path(place) for place in places)
    assert straight.keys() == killed.keys()
    for name, folder in killed.items():
        assert_same(folder, straight[name])


DEATH = """\
import os
from pathlib import Path
from gymnasium.envs.classic_control import CartPoleEnv

class Fatal(CartPoleEnv):
    def __init__(self, luck=0.5):
        super().__init__()
        self.luck, self.count = luck, 0

    def step(self, action):
        self.count += 1
        if self.count == 5:
            print(f"luck {self.luck}", flush=True)
        if self.count == 70:
            mark = Path(os.environ["HOLDFAST_TEST"], "dead")
            if self.luck > 0.5 and not mark.exists():
                mark.touch()
                os._exit(9)
        return super().step(action)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [3])
def test_a_process_that_dies_takes_its_cells_with_it_and_each_is_tried_again_alone(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fatal.py").write_text(DEATH, "utf-8")
    monkeypatch.setenv("HOLDFAST_TEST", str(tmp_path))
    task = {"env": "fatal:Fatal", "steps": 160, "sample": {"luck": "uniform(0, 1)"}}
    tasks = {"tasks": [{"name": name, **task} for name in ("first", "second")]}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    data = scenario("ppo", [0, 1, 2, 3], at_once) | tasks
    folders = ran(tmp_path / "died", data, jobs=2)
    assert (tmp_path / "dead").exists()
    failures = [len(folder.info()["failures"]) for folder in folders.values()]
    assert sum(failures) in (1, 3)  # of those in lockstep that one of them took with it
    straight = ran(tmp_path / "straight", data, jobs=2)
    for seed, folder in folders.items():
        assert_same(folder, straight[seed])
        printed = (straight[seed].path / "log.txt").read_text("utf-8")
        told = {line for line in printed.splitlines() if line.startswith("luck ")}
        assert told == {f"luck {drawn}" for drawn in luck(folder)}  # and no other seed's


# -- who learns together ---------------------------------------------------------------------------


def taken(turns: Turns) -> list[list[str]]:
    found = []
    while turns:
        together = turns.take()
        found.append([f"{turn.folder.label}/{turn.folder.path.name}" for turn in together])
    return found


def test_seeds_of_a_method_are_taken_together_as_many_as_may_be(tmp_path: Path) -> None:
    data = scenario("ppo", [0, 1, 2], 2) | {"methods": ["naive", "l2"]}
    folders = prepare(tmp_path, Scenario.model_validate(data))
    turns = Turns(folders, 2, Unwatched())
    naive, l2 = ([f"{name}/seed-{seed}" for seed in range(3)] for name in ("naive", "l2"))
    assert taken(turns) == [naive[:2], naive[2:], l2[:2], l2[2:]]


def test_one_that_is_tried_again_is_taken_alone(tmp_path: Path) -> None:
    folders = prepare(tmp_path, Scenario.model_validate(scenario("ppo", [0, 1, 2], 3)))
    turns = Turns(folders, 2, Unwatched())
    turns._line[1] = Turn(folders[1], attempt=2)
    assert taken(turns) == [["naive/seed-0", "naive/seed-2"], ["naive/seed-1"]]


@pytest.mark.parametrize(
    ("agent", "count"),
    [
        ({}, 8),
        ({"policy_kwargs": {"net_arch": {"pi": [64, 64], "vf": [32]}}}, 8),
        ({"policy_kwargs": {"net_arch": [65]}}, 1),
        ({"policy_kwargs": {"net_arch": {"pi": [64], "vf": [128]}}}, 1),
        ({"policy": "CnnPolicy"}, 1),
        ({"policy_kwargs": {"features_extractor_class": "own:Own"}}, 1),
        ({"algorithm": "dqn"}, 1),
        ({"engine": "sb3", "seeds_at_once": 1}, 1),
    ],
)
def test_auto_decides_by_algorithm_and_width(agent: dict[str, Any], count: int) -> None:
    data = scenario("ppo", [0], 2)
    data["agent"] = {"algorithm": "ppo", "engine": "compiled", "seeds_at_once": "auto", **agent}
    assert Scenario.model_validate(data).agent.most_in_lockstep == count


def test_how_many_seeds_learn_at_once_makes_no_other_scenario(tmp_path: Path) -> None:
    cells(tmp_path, scenario("ppo", [0], 2))
    (folder,) = cells(tmp_path, scenario("ppo", [0], 3)).values()
    assert "lockstep" not in json.loads((folder.path / "run.json").read_text("utf-8"))
