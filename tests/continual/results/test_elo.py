"""Elo ratings, worked by hand."""

from __future__ import annotations

import math
import random

import pytest

from holdfast.continual.results.elo import Game, elo, games_of


def test_two_players_differ_by_400_log10_of_their_odds():
    games = [Game("a", "b", 1)] * 10 + [Game("a", "b", 0)]
    assert elo(games, anchor="b")["a"] == pytest.approx(400)
    assert elo(games, anchor="a", at=1500) == pytest.approx({"a": 1500, "b": 1100})


def test_a_draw_is_half_a_win():
    drawn = [Game("a", "b", 0.5)] * 2 + [Game("b", "a", 0)]  # two of three points
    assert elo(drawn, anchor="b")["a"] == pytest.approx(400 * math.log10(2))


def test_ratings_add_up_along_a_chain():
    """Where each pair but one has met, differences are those of the pairs."""
    games = [Game("a", "b", 1)] * 3 + [Game("b", "a", 1)]
    games += [Game("b", "c", 1)] * 9 + [Game("c", "b", 1)]
    found = elo(games, anchor="c")
    assert found["b"] == pytest.approx(400 * math.log10(9))
    assert found["a"] == pytest.approx(400 * math.log10(27))


def test_of_a_cycle_all_are_alike_and_expected_points_are_those_taken():
    cycle = [Game("a", "b", 1), Game("b", "c", 1), Game("c", "a", 1)]
    assert elo(cycle, anchor="a") == pytest.approx({"a": 0, "b": 0, "c": 0})

    draw = random.Random(0)
    names = "abcde"
    games = [Game(*draw.sample(names, 2), draw.choice([0, 0.5, 1])) for _ in range(80)]
    found = elo(games, anchor="a")
    for name in names:  # the score equations of maximum likelihood
        taken = sum(g.score if g.player == name else 1 - g.score for g in games if name in g[:2])
        expected = sum(
            1 / (1 + 10 ** ((found[other] - found[name]) / 400))
            for g in games
            if name in g[:2]
            for other in g[:2]
            if other != name
        )
        assert taken == pytest.approx(expected)
    assert elo(games[::-1], anchor="a") == pytest.approx(found)


def test_who_won_all_needs_a_prior():
    games = [Game("a", "b", 1)] * 9
    with pytest.raises(ValueError, match="no chain of points leads from 'b' to 'a'"):
        elo(games, anchor="b")
    # One draw more: 9.5 points of 10.
    assert elo(games, anchor="b", prior=1)["a"] == pytest.approx(400 * math.log10(19))


@pytest.mark.parametrize(
    ("games", "anchor", "message"),
    [
        ([Game("a", "b", 0.5)], "c", "'c' has played no game; there are: a, b"),
        ([Game("a", "b", 2)], "a", "is not between 0 and 1"),
        ([Game("a", "b", 0.5), Game("c", "d", 0.5)], "a", "no chain of points"),
    ],
)
def test_what_cannot_be_rated(games, anchor, message):
    with pytest.raises(ValueError, match=message):
        elo(games, anchor=anchor)


def test_games_are_read_from_a_record(make_scores):
    scores = make_scores(2, 100, left=1.0)
    scores[0] |= {"opponent": "random", "seat": "player_0", "success": 0.5}
    assert games_of(scores, "me") == [Game("me-2", "random", 0.5)]
