"""Elo ratings: how strong players are, from the games between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from holdfast.continual.run_folder.episodes import Episode

SCALE = 400 / np.log(10)
"""Points of rating for each unit of log odds: 400 points are odds of ten to one (Elo 1978)."""


class Game(NamedTuple):
    """A game that was played.

    Attributes:
        player: One of the two.
        opponent: The other one.
        score: The player's: 1 for a win, 0.5 for a draw, 0 for a loss.
    """

    player: str
    opponent: str
    score: float


def games_of(scores: Iterable[Episode], player: str = "stage") -> list[Game]:
    """Return the games in a record of evaluation; the learner is ``<player>-<stages finished>``.

    Episodes that are no games are left out.
    """
    return [
        Game(f"{player}-{episode['stage']}", episode["opponent"], episode["success"])
        for episode in scores
        if "opponent" in episode and episode["success"] is not None
    ]


def elo(
    games: Sequence[Game], *, anchor: str, at: float = 0.0, prior: float = 0.0
) -> dict[str, float]:
    """Return the rating of each player, by maximum likelihood.

    The chance that ``i`` beats ``j`` is 1 / (1 + 10^((R_j - R_i) / 400)), and a draw counts as half
    a win and half a loss. What is found does not depend on the order of the games.

    Args:
        games: All games.
        anchor: A player, whose rating is ``at``: games fix differences alone.
        at: That rating.
        prior: Draws between each player and the anchor that are added to the games, so that
            ratings are finite where somebody won or lost all of them.

    Raises:
        ValueError: The anchor has not played, a score is not in 0..1, or the games bound no
            rating: some players never took a point from the others, or never met them.

    Source: Bradley and Terry 1952 (doi:10.2307/2334029); when a maximum exists, Ford 1957
    (doi:10.2307/2308513); the scale, Elo 1978, "The Rating of Chessplayers".

    >>> three_of_four = [Game("a", "b", score) for score in (1, 1, 1, 0)]
    >>> round(elo(three_of_four, anchor="b")["a"], 2)  # 400 log10(3)
    190.85
    """
    players = sorted({name for game in games for name in (game.player, game.opponent)})
    if anchor not in players:
        raise ValueError(f"'{anchor}' has played no game; there are: {', '.join(players)}")
    first = players.index(anchor)
    won = _won(games, players)
    others = np.arange(len(players)) != first
    won[others, first] += prior / 2
    won[first, others] += prior / 2
    _check_connected(won, players)
    strengths = _fit(won, first) * SCALE + at
    return dict(zip(players, strengths.tolist(), strict=True))


def _won(games: Sequence[Game], players: Sequence[str]) -> NDArray[np.float64]:
    """Return the points that each player (row) took from each other one (column)."""
    number = {name: index for index, name in enumerate(players)}
    won = np.zeros((len(players), len(players)))
    for game in games:
        if not 0 <= game.score <= 1:
            raise ValueError(f"the score of {game} is not between 0 and 1")
        if game.player != game.opponent:
            won[number[game.player], number[game.opponent]] += game.score
            won[number[game.opponent], number[game.player]] += 1 - game.score
    return won


def _check_connected(won: NDArray[np.float64], players: Sequence[str]) -> None:
    """Raise unless there is a chain of points from each player to each other one."""
    reached = (won > 0) | np.eye(len(players), dtype=bool)
    for middle in range(len(players)):
        reached |= np.outer(reached[:, middle], reached[middle])
    for row, column in np.argwhere(~reached):
        raise ValueError(
            f"the games bound no rating: no chain of points leads from '{players[row]}' to "
            f"'{players[column]}'; play more, or give prior="
        )


def _fit(won: NDArray[np.float64], anchor: int) -> NDArray[np.float64]:
    """Return the log strengths of greatest likelihood, by Newton's method; the anchor's is 0."""
    played = won + won.T
    free = np.arange(len(won)) != anchor
    strengths = np.zeros(len(won))
    for _ in range(_MOST_ITERATIONS):
        chances = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))  # row beats column
        slope = won.sum(1) - (played * chances).sum(1)
        spread = played * chances * (1 - chances)
        curvature = np.diag(spread.sum(1)) - spread  # minus the Hessian, positive definite if free
        step = np.zeros(len(won))
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
        longest = np.abs(step).max()
        # The likelihood is concave; a step of at most one unit keeps Newton's method near it.
        strengths += step / max(1.0, longest)
        if longest < _TOLERANCE:
            return strengths
    raise ValueError("the ratings did not converge; give prior= for players who hardly lost")


_MOST_ITERATIONS, _TOLERANCE = 500, 1e-10
