"""Teams, partners and opponents: what is refused, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load
from holdfast.scenarios.shipped import shipped

GAME = """\
tasks:
  - name: game
    env: classic/connect_four_v3
    steps: 1000
    opponents: OPPONENTS
agent: {algorithm: maskable_ppo}
n_envs: 4
"""
TEAM = """\
tasks:
  - {name: spread, env: mpe2.simple_spread_v3, steps: 1000, partners: PARTNERS}
agent: {algorithm: ppo, policies: POLICIES}
"""


def first(problems, text, *overrides):
    found = problems(text, *overrides)
    return [f"{problem.path}: {problem.message}" for problem in found]


@pytest.mark.parametrize(
    ("opponents", "message"),
    [
        ("{against: [randm]}", "against[0]: 'randm' is not one of random, past; did you mean"),
        ("{against: [{minmax: 2}]}", "against[0].minmax: unknown key; did you mean 'minimax'?"),
        ("{against: [{minimax: 0}]}", "against[0].minimax: must be greater than 0, got 0"),
        ("{against: [{minimax: 2, stage: 1}]}", "against[0]: stage and task belong to run:"),
        ("{against: [{}]}", "against[0]: write one of {minimax: 2} and {run: runs/x"),
        ("{against: []}", "against: must not be empty"),
        ("{against: [{run: empty}]}", "is no run with a checkpoint; a run is in it: empty/naive/"),
        ("{against: [past], measured: [past]}", "measured[0]: past selves change while it learns"),
        ("{against: [random], past: {every: 8}}", "past: nobody plays against past selves"),
        ("{against: [past], past: {every: 10}}", "past.every: 10 is not a multiple of n_envs (4)"),
        ("{against: [past], past: {sample: new}}", "past.sample: 'new' is not one of latest,"),
        ("[random]", "expected a mapping, got a list; write {against: [random]}"),
    ],
)
def test_opponents(problems, tmp_path: Path, opponents, message):
    (tmp_path / "empty" / "naive" / "seed-0" / "checkpoints").mkdir(parents=True)
    (found,) = first(problems, GAME.replace("OPPONENTS", opponents))
    assert found.startswith("tasks[0].opponents")
    assert message in found


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks[0].env=classic/connect_for_v3", "did you mean 'classic/connect_four"),
        ("tasks[0].env=CartPole-v1", "'CartPole-v1' has one agent, and opponents are for many"),
        ("agent.algorithm=ppo", "'ppo' also chooses moves that a game does not allow"),
        ("pool={workers: 2}", "past selves play in the process that trains"),
        ("methods=[joint]", "'joint' has no task whose start past selves could be kept at"),
        ("agent.normalize={observations: running}", "past selves see what the game shows"),
        ("tasks[0].changes={action_delay: 1}", "not for games with opponents"),
        ("agent.policies=shared", "opponents play inside a game with one learner"),
    ],
)
def test_what_games_cannot_have(problems, override, message):
    found = first(problems, GAME.replace("OPPONENTS", "{against: [past]}"), override)
    assert any(message in text for text in found), found


@pytest.mark.parametrize(
    ("policies", "partners", "message"),
    [
        ("{me: [agent_0], them: ['agent_[12]']}", "{then: {run: x}}", "did you mean 'them'?"),
        ("{me: [agent_0], them: ['agent_[12]']}", "{them: {ru: x}}", "did you mean 'run'?"),
        ("{me: [agent_0], them: ['agent_[12]']}", "{them: {run: y}}", "is no run with a checkpoi"),
        ("{me: ['*']}", "{me: {run: x}}", "every group is frozen, so that nobody would learn"),
        ("shared", "{shared: {run: x}}", "shared is one group, so that nobody would learn"),
        ("null", "{them: {run: x}}", "partners are groups of a team"),
    ],
)
def test_partners(problems, tmp_path: Path, policies, partners, message):
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    (tmp_path / "y").mkdir()
    text = TEAM.replace("POLICIES", policies).replace("PARTNERS", partners)
    found = first(problems, text)
    assert any(message in text for text in found), found


@pytest.mark.parametrize("algorithm", ["[ppo]", "{ppo: 1}"])
def test_a_teams_algorithm_of_another_form_is_told(problems, algorithm):
    text = TEAM.replace("POLICIES", "shared").replace("PARTNERS", "{}")
    assert "algorithm: ppo" in text
    found = problems(text.replace("algorithm: ppo", f"algorithm: {algorithm}"))
    assert any(problem.path == "agent.algorithm" for problem in found)


def test_a_run_that_is_not_there_is_to_be_run_first(problems, write, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    game = GAME.replace("OPPONENTS", "{against: [{run: runs/later/naive/seed-0}]}")
    (missing,) = problems(game)
    assert missing.path == "tasks[0].opponents.against[0].run"
    assert "'runs/later/naive/seed-0' is no run folder" in missing.message
    assert "run it first: the scenario 'later' with the method naive and seed-0" in missing.message
    write(game, "later.yaml")
    (missing,) = problems(game)
    command = f"run it first: holdfast run {tmp_path}/later.yaml 'methods=[naive]' 'seeds=[0]'"
    assert missing.message.endswith(command)


def test_the_shipped_partners_say_how_they_are_made(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    runs = shipped()["partners"].parents[2] / "runs"
    if (runs / "partners-before").exists():
        pytest.skip("they were made here")
    with pytest.raises(ScenarioError) as caught:
        load("partners")
    assert [problem.line for problem in caught.value.problems] == [29, 32, 35]
    assert caught.value.problems[0].message.endswith(
        "run it first: holdfast run partners name=partners-before 'tasks[0].partners={}' "
        "'tasks[1].partners={}' 'tasks[2].partners={}' 'methods=[naive]' 'seeds=[0, 1, 2]' "
        f"--runs {runs}"
    )
    made = load("partners", [f"tasks[{index}].partners={{}}" for index in range(3)])
    assert not made.tasks[0].partners


def test_what_is_good_loads_back_equal(write, tmp_path: Path):
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    for opponents in (
        "{against: [random, {minimax: 2}, {run: x, stage: 1}]}",
        "{against: [past], past: {sample: latest, every: 100, most: 5}, seat: player_0}",
    ):
        scenario = load(write(GAME.replace("OPPONENTS", opponents)))
        assert load(write(scenario.to_yaml(), "again.yaml")) == scenario
    partners = TEAM.replace("POLICIES", "{me: [agent_0], them: ['agent_[12]']}")
    scenario = load(write(partners.replace("PARTNERS", "{them: {run: x, group: us}}")))
    assert load(write(scenario.to_yaml(), "again.yaml")) == scenario
    assert scenario.tasks[0].partners["them"].group == "us"


CROWD = """
    tasks:
      - {name: two, env: mpe2.simple_spread_v3, kwargs: {N: 2}, steps: 400}
    agent: {algorithm: ppo, policies: shared}
"""


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("tasks[0].env=mpe2.simple_spred_v3", "did you mean 'mpe2.simple_spread_v3'"),
        ("tasks[0].changes={time_limit: 9}", "not for many agents; each can have action_map"),
        ("tasks[0].drift={gravity: {linear: [1, 2]}}", "not for many agents"),
        ("agent.init=runs/x", "begins with fresh weights"),
        ("agent.algorithm=recurrent_ppo", "'recurrent_ppo' cannot learn in a team"),
        ("n_envs=2 pool={workers: 2}", "stepped in this process"),
        ("on_nan=truncate", "stops at NaN"),
        ("methods=[joint]", "'joint' does not work in a team"),
        ("methods=[[ewc, clear]]", "'clear' does not work in a team"),
        ("agent.policies=shred", "did you mean 'shared'"),
        ("agent.policies={}", "must not be empty"),
        ("agent.policies={a: []}", "must not be empty"),
    ],
)
def test_what_a_team_cannot_have_is_refused(problems, override: str, text: str) -> None:
    found = problems(CROWD, *override.split(" ", 1 if override.startswith("n_envs") else 0))
    assert any(text in problem.message for problem in found), found
