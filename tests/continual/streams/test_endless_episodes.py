"""Episodes that never end: evaluation cuts them after a stated number of steps, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from team_runs import team_scenario
from typer.testing import CliRunner

import holdfast
from holdfast.cli import app
from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.streams.evaluation import evaluate
from holdfast.continual.tools.measure import Plan, measure
from holdfast.continual.training.cell import run_cell
from holdfast.scenarios.load import load
from holdfast.scenarios.source.bounds import EPISODE_STEPS

WORLDS = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Endless(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


class Late(Endless):
    def reset(self, *, seed=None, options=None):
        self.count = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.count += 1
        return *super().step(action)[:2], self.count == 12_000, False, {}


gym.register("Limited-v0", entry_point=Endless, max_episode_steps=30)
gym.register("Long-v0", entry_point=Endless, max_episode_steps=20_000)
"""
SCENARIO = """\
tasks:
  - {name: endless, env: "worlds:ENV", steps: 16}
agent: {algorithm: ppo, n_steps: 16, batch_size: 16, n_epochs: 1}
evaluation: {episodes: 2}
"""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def written(env: str, *overrides: str) -> Any:
        (tmp_path / "worlds.py").write_text(WORLDS)
        (tmp_path / "demo.yaml").write_text(SCENARIO.replace("ENV", env))
        return load(tmp_path / "demo.yaml", overrides)

    return written


def test_fault_46_what_never_ends_is_cut_recorded_and_told_once(
    written: Any, tmp_path: Path
) -> None:
    scenario = written("Endless", "evaluation.most_steps=40")
    (folder,) = prepare(tmp_path / "runs", scenario, overwrite=False)
    notes: list[str] = []
    run_cell(folder, lambda progress: notes.append(progress.note))
    scores = folder.scores()
    assert {(s["length"], s["return"], s["cut"]) for s in scores} == {(40, 40.0, True)}
    assert len(scores) == 4
    told = [note for note in notes if "were cut" in note]
    assert told == [
        "2 of 2 evaluation episodes did not end within 40 steps and were cut there (task endless): "
        "their returns are of so many steps. Give the task a time limit (changes: {time_limit: "
        "steps}), or say how long they last (evaluation: {most_steps: steps})"
    ]
    made = measure(folder.path, Plan(episodes=2))
    assert made.episodes == scores[2:]
    assert "were cut there" in made.text
    assert made.csv.splitlines()[0].endswith(",cut")
    done = CliRunner().invoke(app, ["eval", str(folder.path), "--episodes", "1"])
    assert "did not end within 40 steps" in " ".join(done.output.split())
    assert done.exit_code == 0


@pytest.mark.slow
def test_fault_46_by_default_an_evaluation_ends(written: Any, tmp_path: Path) -> None:
    (run,) = holdfast.run(written("Late", "evaluation.episodes=1"), runs=tmp_path / "runs")
    assert [score["length"] for score in run.scores] == [10_000, 10_000]


@pytest.mark.parametrize(
    ("env", "overrides", "most"),
    [
        ("Endless", (), EPISODE_STEPS),
        ("Endless", ("tasks[0].changes.time_limit=25",), 25),
        ("Limited-v0", (), 30),
        ("Long-v0", (), 20_000),
        ("Limited-v0", ("evaluation.most_steps=7",), 7),
    ],
)
def test_the_cap_is_the_scenarios_the_time_limit_the_specs_or_a_default(
    written: Any, env: str, overrides: tuple[str, ...], most: int
) -> None:
    scenario = written(env, *overrides)
    (experience,) = kind_of(scenario).stream(0).eval_stream
    assert experience.most_steps == most
    experience.close()
    assert scenario.evaluation.most_steps == (7 if most == 7 else None)


def test_where_nothing_is_cut_the_record_and_the_scenario_are_as_before(
    written: Any, tmp_path: Path
) -> None:
    scenario = written("Limited-v0")
    assert "most_steps" not in scenario.to_yaml()
    (run,) = holdfast.run(scenario, runs=tmp_path / "runs")
    assert {score["length"] for score in run.scores} == {30}
    assert not any("cut" in score for score in run.scores)


def test_fault_46_in_an_envpool(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    (tmp_path / "demo.yaml").write_text(
        SCENARIO.replace('"worlds:ENV"', "Pendulum-v1") + "backend: envpool\n"
    )
    scenario = load(
        tmp_path / "demo.yaml", ["agent.n_steps=16", "evaluation.most_steps=12", "n_envs=2"]
    )
    kind = kind_of(scenario)
    stream = kind.stream(0)
    agent = kind.agent()
    agent.start(stream.train_stream[0])
    scores = evaluate(agent, stream.eval_stream, scenario.evaluation, 0, stage=0, step=0)
    assert [(score["length"], score["cut"]) for score in scores] == [(12, True)] * 2
    (whole,) = kind_of(load(tmp_path / "demo.yaml", ["n_envs=2"])).stream(0).eval_stream
    assert whole.most_steps == 200
    agent.close()


def test_fault_46_in_a_team(tmp_path: Path) -> None:
    task = {"env": "relays:Relay"}
    scenario = team_scenario("ppo", task, evaluation={"episodes": 2, "most_steps": 2})
    kind = kind_of(scenario)
    stream = kind.stream(0)
    agent = kind.agent()
    agent.start(stream.train_stream[0])
    scores = evaluate(agent, stream.eval_stream, scenario.evaluation, 0, stage=0, step=0)
    assert [(score["length"], score["cut"]) for score in scores] == [(2, True)] * 2
    agent.close()


def test_fault_46_a_game_that_is_cut_counts_as_drawn() -> None:
    pytest.importorskip("pettingzoo")
    from holdfast.continual.policies.matches import fixed_players, game_of, play_match

    scenario = holdfast.load("connect-four-selfplay", ["seeds=[0]"])
    env = game_of(scenario, scenario.tasks[0])
    player = fixed_players(env, scenario)["random"]
    names = ("random", "other")
    whole = play_match(env, names, (player, player), 4, 0)
    assert 0.5 not in whole.scores
    cut = play_match(env, names, (player, player), 4, 0, most_moves=2)
    assert cut.scores == (0.5, 0.5, 0.5, 0.5)
    env.close()
