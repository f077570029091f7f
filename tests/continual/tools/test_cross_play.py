"""Policies that meet: win rates of games, and returns of teams that were mixed."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Interrupted, interrupting, run_all
from game_runs import games

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.policies.matches import Match, match_rows, ratings
from holdfast.continual.policies.mixed_teams import MixedTeams, gap, mixture_tables, shown_as
from holdfast.continual.reports.report import report
from holdfast.continual.results.markdown_page import markdown
from holdfast.continual.results.statistics import wilson
from holdfast.continual.tools.cross_play import Plan, cross_play
from holdfast.continual.training.cell import run_cell
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "cross-play.csv").open() as file:
        return list(csv.DictReader(file))


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# -- games -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_policies_of_stages_and_seeds_play_each_other_and_those_they_are_measured_against(
    tmp_path: Path,
) -> None:
    measured = ["random", {"minimax": 1}, {"minimax": 9}]
    scenario = games(tmp_path, "random", "past", measured=measured, seeds=(0, 1), every=32)
    run_all(scenario, tmp_path)
    runs = tmp_path / "games" / "naive"
    before = hashes(runs)
    made = cross_play(tmp_path / "games", Plan(games=12), stages="all")
    assert hashes(runs) == before
    again = cross_play(runs, Plan(games=12), stages="all")
    assert (again.markdown, again.csv) == (made.markdown, made.csv)
    assert (tmp_path / "games" / "cross-play.csv").read_text() == made.csv
    other = cross_play(runs, Plan(games=12, seed=1), stages="all")
    assert other.csv != made.csv

    policies = [f"naive-seed-{seed}-{stage}" for seed in (0, 1) for stage in (0, 1)]
    fixed = ["random", "minimax-1", "minimax-9"]
    rows = {(row["player"], row["opponent"]): row for row in rows_of(tmp_path / "games")}
    everybody = {*policies, *fixed}
    assert set(rows) == {(a, b) for a in everybody for b in everybody if a != b}
    for (one, two), row in rows.items():
        rate, turned = float(row["win_rate"]), float(rows[two, one]["win_rate"])
        assert rate + turned == pytest.approx(1, abs=1e-3)
        assert (float(row["low"]), float(row["high"])) == pytest.approx(wilson(rate, 12), abs=1e-3)
        seats = [float(row[f"win_rate_player_{seat}"]) for seat in (1, 2)]
        assert np.mean(seats) == pytest.approx(rate, abs=1e-3)
        if two == "minimax-9":
            assert rate <= 0.5  # a perfect player never loses tic-tac-toe
    elo = {one: float(row["elo"]) for (one, _), row in rows.items()}
    assert elo["random"] == 0
    assert max(elo, key=lambda name: elo[name]) == "minimax-9"
    told = report(tmp_path / "games").markdown
    shown = made.markdown.replace("\n#", "\n##")
    assert told.endswith(f"\n#{shown}")  # one level lower: it is a section here
    assert told.index("## Win rates at the end") < told.index("\n## Cross-play: games\n")
    assert "\n### Win rates\n" in told
    line = next(x for x in made.markdown.splitlines() if x.startswith("| minimax-9 | 0."))
    assert (
        line.split("|")[2].split()[0] == f"{float(rows['minimax-9', policies[0]]['win_rate']):.2f}"
    )


@pytest.mark.thorough
def test_a_policy_alone_meets_those_it_is_measured_against(tmp_path: Path) -> None:
    (run,) = run_all(games(tmp_path, "random"), tmp_path)
    made = cross_play(run.path, Plan(games=4, deterministic=True))
    assert [row["player"] for row in rows_of(run.path)] == ["naive-seed-0-1", "random"]
    assert "the interval between them means nothing" in made.markdown


def test_matches_by_hand() -> None:
    match = Match((1.0, 0.5, 1.0, 0.0), ("north", "south", "north", "south"))
    assert (match.rate(), match.rate("north"), match.rate("south")) == (0.625, 1.0, 0.25)
    turned = match.turned(["north", "south"])
    assert (turned.rate(), turned.rate("north"), turned.rate("south")) == (0.375, 0.75, 0.0)
    # 2.5 points of 4, and one drawn game: 3 of 5.
    found = {("me", "random"): match, ("random", "me"): turned}
    assert ratings(found) == {"me": pytest.approx(400 * np.log10(3 / 2)), "random": 0}
    assert [row["win_rate_south"] for row in match_rows(found, ["north", "south"])] == [0.25, 0.0]
    # By hand: 0.5 -+ 1.96 sqrt(0.25 / 100 + 1.96^2 / 40,000) / (1 + 1.96^2 / 100).
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


# -- teams -----------------------------------------------------------------------------------------


def relays(policies: Any, algorithm: str = "ppo", **keys: Any) -> Scenario:
    """Agents that are paid their action; of five steps `second` is in two and `third` in three."""
    arguments = {"n_steps": 32, "batch_size": 32, "n_epochs": 1} if "ppo" in algorithm else {}
    given = {
        "name": "relays",
        "tasks": [{"name": "run", "env": "relays:Relay", "steps": 64}],
        "agent": {"algorithm": algorithm, "policies": policies, **arguments},
        "stream": {"task_id": "hidden"},
        "n_envs": 2,
        "evaluation": {"episodes": 3},
    }
    return Scenario.model_validate(given | keys)


class Constant:
    """A team whose agents all take the same action always."""

    def __init__(self, action: int, groups: list[str], width: int = 0) -> None:
        self.action, self.groups, self.width = action, groups, width

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        return task_index, False

    @contextmanager
    def view(self, task_index: int) -> Iterator[dict[str, Any]]:
        yield dict.fromkeys(self.groups, self.act)

    def act(self, observations: Any, state: Any, starts: Any, **options: Any) -> Any:
        shape = (len(starts), self.width) if self.width else (len(starts),)
        return np.full(shape, self.action), None


def mixed(scenario: Scenario, groups: list[str], width: int = 0) -> Any:
    teams = MixedTeams(scenario, 0, 3)
    agents: Any = {"none": Constant(0, groups, width), "most": Constant(2, groups, width)}
    return teams, teams.play(agents, Plan(deterministic=True))


def means(mixtures: Any) -> dict[tuple[str, str, str], tuple[float, float]]:
    return {key: (float(m.team.mean()), float(m.own.mean())) for key, m in mixtures.items()}


@pytest.mark.parametrize("policies", ["shared", "independent"])
def test_one_agent_after_the_other_is_exchanged(policies: Any) -> None:
    names = ["first", "second", "third"]
    teams, found = mixed(relays(policies), ["shared"] if policies == "shared" else names)
    points = {"first": 5 * 2, "second": 2 * 2, "third": 3 * 2}  # of who always takes action 2
    assert means(found) == {
        key: pytest.approx(value)
        for name in names
        for key, value in {
            (name, "most", "most"): (20 / 3, points[name]),
            (name, "none", "none"): (0, 0),
            (name, "most", "none"): (points[name] / 3, points[name]),
            (name, "none", "most"): ((20 - points[name]) / 3, 0),
        }.items()
    }
    assert gap(found) == pytest.approx((10 / 3, 10 / 3))
    text = markdown(mixture_tables(found, ["none", "most"], teams.parts, are_peers=True))
    assert "| most | 2.22 ± 0.00 | 6.67 ± 0.00 |" in text  # 20 / 9: one of three, on average


def test_groups_are_exchanged_as_a_whole() -> None:
    teams, found = mixed(
        relays({"front": ["first"], "rest": ["second", "third"]}), ["front", "rest"]
    )
    assert not teams.are_peers
    assert means(found) == {
        ("front", "none", "none"): (0, 0),
        ("front", "none", "most"): pytest.approx((10 / 3, 0)),
        ("front", "most", "none"): pytest.approx((10 / 3, 10)),
        ("front", "most", "most"): pytest.approx((20 / 3, 10)),
        ("rest", "none", "none"): (0, 0),
        ("rest", "none", "most"): pytest.approx((10 / 3, 0)),
        ("rest", "most", "none"): pytest.approx((10 / 3, 5)),
        ("rest", "most", "most"): pytest.approx((20 / 3, 5)),
    }
    sections = mixture_tables(found, ["none", "most"], teams.parts, are_peers=False)
    expected = ["Team returns, exchanging front", "Returns of front", "Returns of rest"]
    assert [section.title for section in sections] == expected


def test_of_joint_actions_one_agents_column_is_exchanged() -> None:
    _, found = mixed(relays("shared", "vdn"), ["shared"], width=3)
    assert means(found)["second", "most", "none"] == pytest.approx((4 / 3, 4))
    assert means(found)["second", "none", "most"] == pytest.approx((16 / 3, 0))


def test_a_group_that_somebody_has_not_learned_acts_at_random() -> None:
    teams = MixedTeams(relays({"front": ["first"], "rest": ["second", "third"]}), 0, 20)
    agents: Any = {"early": Constant(0, ["front"]), "late": Constant(0, ["front", "rest"])}
    found = means(teams.play(agents, Plan(deterministic=True)))
    assert found["front", "early", "late"] == (0, 0)
    assert 1 < found["front", "late", "early"][0] < 7 / 3  # on average 1 a step, of 5 in 3 agents


def test_the_id_of_a_task_is_the_one_whose_head_acts() -> None:
    seen = []

    def act(observations: Any, *rest: Any, **options: Any) -> Any:
        seen.append(observations)
        return None, None

    vector = np.array([[7.0, 0, 0, 1], [8.0, 0, 0, 1]], np.float32)
    shown_as(act, 1, 3)(vector, None, None, deterministic=True)
    assert seen[0].tolist() == [[7, 0, 1, 0], [8, 0, 1, 0]]
    assert vector[0].tolist() == [7, 0, 0, 1]
    entries = {"observation": vector, "task_id": np.eye(3, dtype=np.float32)[[2, 2]]}
    shown_as(act, 0, 3)(entries, None, None, deterministic=True)
    assert seen[1]["task_id"].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert seen[1]["observation"] is vector


def two_step(**keys: Any) -> Scenario:
    task = {"name": "game", "env": "team_worlds:TwoStep", "steps": 64}
    return relays("independent", tasks=[task], **keys)


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", "mappo"])
def test_teams_as_they_were_trained_reach_what_their_record_says(
    tmp_path: Path, algorithm: str
) -> None:
    """Nothing is drawn in this game, nor by policies that take their likeliest action."""
    runs = run_all(two_step(algorithm=algorithm, seeds=[0, 1, 2]), tmp_path)
    folder = tmp_path / "relays"
    before = hashes(folder / "naive")
    made = cross_play(folder, Plan(games=2, deterministic=True))
    assert hashes(folder / "naive") == before
    assert cross_play(folder, Plan(games=2, deterministic=True)).csv == made.csv
    found = {(r["part"], r["policy"], r["others"]): float(r["return"]) for r in rows_of(folder)}
    assert len(found) == 2 * 3 * 3
    for run in runs:
        (final, *_) = [row["return"] for row in run.scores() if row["stage"] == 1]
        name = f"naive-{run.path.name}-0"
        assert found["agent_0", name, name] == found["agent_1", name, name] == final
    own = np.mean([total for (_, one, two), total in found.items() if one == two])
    other = np.mean([total for (_, one, two), total in found.items() if one != two])
    assert f"self-play and cross-play (Hu et al. 2020, arXiv:2003.02979): {own - other:.2f}." in (
        made.markdown
    )


# -- what cannot meet ------------------------------------------------------------------------------


@pytest.mark.thorough
def test_who_cannot_meet_is_told_why(tmp_path: Path) -> None:
    plan = Plan(games=2)
    with pytest.raises(UsageError, match="no run folders in"):
        cross_play(tmp_path, plan)
    run_all(two_step(), tmp_path)
    with pytest.raises(UsageError, match=r"naive-seed-0-0 is the only policy.*--stages all"):
        cross_play(tmp_path / "relays", plan)
    with pytest.raises(UsageError, match="no task 'gme'; did you mean 'game'"):
        cross_play(tmp_path / "relays", plan, task="gme")

    alone = {"name": "alone", "kwargs": {"N": 1, "max_cycles": 5}, "env": "mpe2.simple_spread_v3"}
    run_all(relays("shared", name="alone", tasks=[{**alone, "steps": 64}], seeds=[0, 1]), tmp_path)
    with pytest.raises(UsageError, match="task 'alone': one agent learns, and nobody can be"):
        cross_play(tmp_path / "alone", plan)

    single = {"name": "pole", "env": "CartPole-v1", "steps": 64}
    agent = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32}
    run_all(Scenario.model_validate({"name": "pole", "tasks": [single], "agent": agent}), tmp_path)
    with pytest.raises(UsageError, match="task 'pole' is neither a game with opponents: nor a"):
        cross_play(tmp_path / "pole", plan)

    seated = games(tmp_path, "random", name="seated")
    (run,) = run_all(seated, tmp_path)
    told = run.path / "scenario.yaml"
    told.write_text(told.read_text().replace("seat: alternate", "seat: player_1"))
    with pytest.raises(UsageError, match=r"in the seat player_1 alone .* with seat: alternate"):
        cross_play(tmp_path / "seated", plan)


@pytest.mark.thorough
def test_runs_that_are_not_finished_are_named(tmp_path: Path) -> None:
    scenario = games(tmp_path, "random", seeds=(0, 1, 2))
    done, half, none = prepare(tmp_path, scenario)
    run_cell(done, lambda progress: None)
    with pytest.raises(Interrupted):
        run_cell(half, interrupting(96))
    with pytest.raises(UsageError, match=r"last stage in naive/seed-1, naive/seed-2; .*--stages"):
        cross_play(tmp_path / "games", Plan(games=2))
    with pytest.raises(UsageError, match=r"no stage was finished yet in naive/seed-2; run the"):
        cross_play(tmp_path / "games", Plan(games=2), stages="all")
    (none.path / "scenario.yaml").unlink()
    cross_play(tmp_path / "games", Plan(games=2), stages="all")
    assert {row["player"] for row in rows_of(tmp_path / "games")} == {
        *("naive-seed-0-0", "naive-seed-0-1", "naive-seed-1-0", "random")
    }
