"""Matches of a turn-based game: win rates of players against each other, and their ratings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdfast import seeding
from holdfast.continual.policies.meeting import Plan, Policy, Sections
from holdfast.continual.results import document as doc
from holdfast.continual.results.elo import Game, elo
from holdfast.continual.results.statistics import wilson
from holdfast.envs.make import make_env
from holdfast.envs.multiagent.players import Player, PolicyPlayer, make_player
from holdfast.envs.multiagent.self_play import SelfPlay
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import RANDOM, OpponentSpec
from holdfast.scenarios.schema.scenario import Scenario, Task
from holdfast.scenarios.source.bounds import EPISODE_STEPS

Row = dict[str, Any]


class Match(NamedTuple):
    """Games of one player against another.

    Attributes:
        scores: Of each game: 1 for a win, 0.5 for a draw, 0 for a loss.
        seats: Where the player sat in each.
    """

    scores: tuple[float, ...]
    seats: tuple[str, ...]

    def rate(self, seat: str | None = None) -> float:
        """Return the mean score, in one seat or all; NaN where it never sat there."""
        pairs = zip(self.scores, self.seats, strict=True)
        scores = [score for score, own in pairs if seat in (None, own)]
        return float(np.mean(scores)) if scores else math.nan

    def turned(self, seats: Sequence[str]) -> Match:
        """Return the same games as the other player had them, in the other of two seats."""
        other = {seats[0]: seats[1], seats[1]: seats[0]}
        return Match(tuple(1 - s for s in self.scores), tuple(other[s] for s in self.seats))


Frozen = Callable[[OpponentSpec, Path | None], PolicyPlayer]
"""Returns the player that a run left."""

Matches = dict[tuple[str, str], Match]
"""By player and opponent, both ways."""


def game_of(scenario: Scenario, task: Task) -> SelfPlay:
    """Return the game of a task, in which either seat may be played.

    Raises:
        UsageError: It is not one between two, or one seat alone has learned.
    """
    assert task.opponents is not None
    seat = task.opponents.seat
    if seat not in ("alternate", "drawn"):
        raise UsageError(
            f"task '{task.name}': its policies learned in the seat {seat} alone (opponents.seat), "
            "and cannot play each other; with seat: alternate they could"
        )
    env = make_env(scenario, task.model_copy(update={"wrappers": ()})).unwrapped
    assert isinstance(env, SelfPlay)
    if len(env.seats) != 2:
        raise UsageError(
            f"task '{task.name}': {env.kind} has {len(env.seats)} seats, and win rates and ratings "
            "are of games between two"
        )
    return env


def fixed_players(env: SelfPlay, scenario: Scenario) -> dict[str, Player]:
    """Return a random player, and those that the game's policies are measured against, by name."""
    found = {}
    for entry in (RANDOM, *env.opponents.in_evaluation):
        player = make_player(entry, env.kind, scenario.place, env.frozen)
        # Runs elsewhere may have the names of the policies that they meet here.
        path = "" if isinstance(entry, str) or entry.run is None else f"{entry.run}:"
        found[path + player.name] = player
    return found


def play_match(
    env: SelfPlay,
    names: tuple[str, str],
    players: Sequence[Player],
    games: int,
    seed: int,
    *,
    most_moves: int = EPISODE_STEPS,
) -> Match:
    """Return games of the first of two players against the second, by turns from both seats.

    Args:
        env: The game.
        names: Of the players; the seed of each game is derived from them and ``seed``.
        players: The two.
        games: How many.
        seed: Of everything that is drawn.
        most_moves: Moves of the first after which a game is cut, and counts as drawn.
    """
    one, other = players
    scores, seats = [], []
    for number in range(games):
        seat = env.seats[number % len(env.seats)]
        own = seeding.derive(seed, "cross-play", *names, number)
        rng = np.random.default_rng(own)
        observation, _ = env.reset(seed=own, options={"seat": seat, "opponent": other})
        info: dict[str, Any] = {"success": 0.5}
        for _ in range(most_moves):
            action = one.act(observation, env.action_masks(), rng)
            observation, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                break
        else:
            info = {"success": 0.5}
        scores.append(float(info["success"]))
        seats.append(seat)
    return Match(tuple(scores), tuple(seats))


def meet(
    scenario: Scenario, task_index: int, policies: Sequence[Policy], plan: Plan, *, frozen: Frozen
) -> Sections:
    """Play a game with policies against each other, and return the results.

    Args:
        scenario: That all policies learned by.
        task_index: The game.
        policies: Those that meet.
        plan: Settings of the meeting.
        frozen: Returns the player that a run left.
    """
    task, greedy = scenario.tasks[task_index], plan.deterministic
    with closing(game_of(scenario, task)) as env:
        env.frozen = frozen
        players: dict[str, Player] = {}
        for policy in policies:
            run = str(policy.run.path.resolve())
            player = frozen(OpponentSpec(run=run, stage=policy.stage, task=task.name), None)
            players[policy.name] = PolicyPlayer(policy.name, player.chances, deterministic=greedy)
        players |= fixed_players(env, scenario)
        most = scenario.evaluation.most_steps or EPISODE_STEPS
        played = play_matches(env, players, plan, most_moves=most)
        tables = match_tables(played, list(players), deterministic=greedy)
        return tables, match_rows(played, env.seats)


def play_matches(
    env: SelfPlay, players: Mapping[str, Player], plan: Plan, *, most_moves: int = EPISODE_STEPS
) -> Matches:
    """Return the matches of everybody against everybody else, two or more; see ``play_match``."""
    found: Matches = {}
    pairs = list(itertools.combinations(players.items(), 2))
    for done, ((one, first), (other, second)) in enumerate(pairs):
        plan.tell(done, len(pairs))
        both = (one, other), (first, second)
        match = play_match(env, *both, plan.games, plan.seed, most_moves=most_moves)
        found[one, other], found[other, one] = match, match.turned(env.seats)
    plan.tell(len(pairs), len(pairs))
    return found


def ratings(matches: Matches) -> dict[str, float]:
    """Return everybody's Elo rating, random's at 0.

    A drawn game of each with random is added, so that who won or lost all has a rating, too.
    """
    once = {tuple(sorted(pair)): pair for pair in matches}.values()
    games = [Game(*pair, score) for pair in once for score in matches[pair].scores]
    return elo(games, anchor=RANDOM, prior=1.0)


def match_rows(matches: Matches, seats: Sequence[str]) -> list[Row]:
    """Return a row for each player and opponent, with the win rate in all seats and in each."""
    rated = ratings(matches)
    rows = []
    for (player, opponent), match in matches.items():
        low, high = wilson(match.rate(), len(match.scores))
        found = {"games": len(match.scores), "win_rate": match.rate(), "low": low, "high": high}
        of_seats = {f"win_rate_{seat}": match.rate(seat) for seat in seats}
        row = {"player": player, "opponent": opponent, **found, **of_seats, "elo": rated[player]}
        rows.append(row)
    return sorted(rows, key=lambda row: (row["player"], row["opponent"]))


def match_tables(
    matches: Matches, names: Sequence[str], *, deterministic: bool
) -> list[doc.Section]:
    """Return the sections of a page on matches: win rates, and ratings, the strongest first.

    Args:
        matches: All of them.
        names: Of the players, in their order.
        deterministic: Whether policies drew no moves.
    """
    rows: list[tuple[doc.Cell, ...]] = [
        (doc.given(player), *(_cell(matches.get((player, opponent))) for opponent in names))
        for player in names
    ]
    rated = sorted(ratings(matches).items(), key=lambda pair: -pair[1])
    games = len(next(iter(matches.values())).scores)
    told = (
        f"Of the row against the column, in {games} games, by turns from both seats: a win counts "
        "1, a draw 0.5. In parentheses Wilson's 95% interval." + (_ALIKE if deterministic else "")
    )
    won = doc.Table((doc.EMPTY, *map(doc.given, names)), tuple(rows))
    finite = (
        "By maximum likelihood, random at 0; one drawn game of each with random is added, so that "
        "ratings are finite."
    )
    rows = [(doc.given(name), doc.Cell(f"{rating:.0f}", rating)) for name, rating in rated]
    elos = doc.Table((doc.Cell("player"), doc.Cell("Elo")), tuple(rows))
    return [
        doc.Section("Win rates", (doc.paragraph(told), won)),
        doc.Section("Elo", (doc.paragraph(finite), elos)),
    ]


_ALIKE = (
    " Two policies that draw no moves play the same game from each seat again and again, so that "
    "the interval between them means nothing."
)


def _cell(match: Match | None) -> doc.Cell:
    if match is None:
        return doc.EMPTY
    low, high = wilson(match.rate(), len(match.scores))
    return doc.Cell(f"{match.rate():.2f} ({low:.2f} to {high:.2f})", match.rate())
