"""Opponents: who plays the seats of a turn-based game that do not learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.envs.multiagent.board_games import ROW_GAMES, RowGame, best_moves
from holdfast.errors import UsageError
from holdfast.scenarios.schema.opponents import RANDOM, OpponentSpec

Choices = Callable[[Any, NDArray[np.bool_]], NDArray[np.float64]]
"""Takes an observation and the allowed actions; returns the probability of each action."""


class Player(Protocol):
    """An opponent, without a memory of the game.

    Attributes:
        name: In the record of games.
    """

    name: str

    def act(self, observation: Any, allowed: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """Return an allowed action.

        Args:
            observation: What its seat sees, as the game shows it, without the mask.
            allowed: Shape (actions,).
            rng: The game's generator, the only source of chance.
        """


class RandomPlayer:
    """Plays every allowed move alike."""

    name = "random"

    def act(self, _: Any, allowed: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """Return an allowed action; see ``Player``."""
        return int(rng.choice(np.flatnonzero(allowed)))


class MinimaxPlayer:
    """Plays one of the best moves of a search of ``depth`` moves, each alike.

    Without an evaluation beyond the horizon: at depth 2 it wins where it can at once, and else
    prevents what would lose at once.
    """

    def __init__(self, game: RowGame, depth: int) -> None:
        self.name = f"minimax-{depth}"
        self._game, self._depth = game, depth

    def act(self, observation: Any, _: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """Return an allowed action; see ``Player``."""
        moves = best_moves(self._game, self._game.board(observation), self._depth)
        return int(rng.choice(moves))


class PolicyPlayer:
    """Plays by a policy that learns no more.

    Args:
        name: In the record of games.
        chances: The probability of each action, of an observation and the allowed actions.
        deterministic: The most likely action, of several one at random, rather than a sample.

    Attributes:
        chances: As above.
    """

    def __init__(self, name: str, chances: Choices, *, deterministic: bool = False) -> None:
        self.name, self.chances, self._deterministic = name, chances, deterministic

    def act(self, observation: Any, allowed: NDArray[np.bool_], rng: np.random.Generator) -> int:
        """Return an allowed action; see ``Player``."""
        chances = self.chances(observation, allowed)
        if self._deterministic:
            return int(rng.choice(np.flatnonzero(chances == chances.max())))
        return int(rng.choice(len(chances), p=chances))


FrozenPlayers = Callable[[OpponentSpec, Path | None], Player]
"""Takes an entry that names an earlier run, and the folder that paths count from; returns the
opponent which that run left. It restores the run, and comes from above: ``continual/kinds``."""


def make_player(
    entry: str | OpponentSpec,
    game: str,
    place: Path | None,
    frozen: FrozenPlayers | None = None,
) -> Player:
    """Return the opponent that an entry of ``opponents:`` names, ``past`` apart.

    Args:
        entry: ``random``, a search, or an earlier run.
        game: Name in the metadata of PettingZoo's environment.
        place: Of the scenario; the paths of runs count from it.
        frozen: Finds the opponents of earlier runs.

    Raises:
        UsageError: Minimax does not know the game, or the run has no policy that could play it.
    """
    if isinstance(entry, str):
        assert entry == RANDOM  # past selves are no such opponent
        return RandomPlayer()
    if entry.minimax is None:
        assert frozen is not None  # whoever plays against earlier runs hands in who finds them
        return frozen(entry, place)
    if game not in ROW_GAMES:
        known = ", ".join(ROW_GAMES)
        raise UsageError(f"opponents: minimax knows {known}, not {game}")
    return MinimaxPlayer(ROW_GAMES[game], entry.minimax)
