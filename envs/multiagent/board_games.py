"""Games of rows of stones, such as connect four, and how far ahead minimax sees in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Board = tuple[int, int]
"""Stones of the player to move and of the other one: a bit for each cell, row by row."""


@dataclass(frozen=True)
class RowGame:
    """Two players set stones by turns; who first has ``length`` of them in a line wins.

    Attributes:
        rows: Rows of the board, the first one on top.
        columns: Columns of the board.
        length: Stones in a line that win.
        falls: Whether a move is a column, in which the stone falls; else it is a cell.
    """

    rows: int
    columns: int
    length: int
    falls: bool

    @cached_property
    def lines(self) -> tuple[tuple[int, ...], ...]:
        """The winning lines through each cell, as bits."""
        through: list[list[int]] = [[] for _ in range(self.rows * self.columns)]
        ways = ((0, 1), (1, 0), (1, 1), (1, -1))
        for row, column, (down, right) in product(range(self.rows), range(self.columns), ways):
            ends = row + down * (self.length - 1), column + right * (self.length - 1)
            if 0 <= ends[0] < self.rows and 0 <= ends[1] < self.columns:
                first, step = row * self.columns + column, down * self.columns + right
                cells = range(first, first + self.length * step, step)
                for cell in cells:
                    through[cell].append(sum(1 << cell for cell in cells))
        return tuple(map(tuple, through))

    def board(self, observation: NDArray[Any]) -> Board:
        """Return the board that PettingZoo shows the player to move.

        Args:
            observation: Shape (rows, columns, 2): where own stones are, and where the other's.
        """
        cells = np.asarray(observation).reshape(-1, 2)
        own, other = (sum(1 << int(cell) for cell in np.flatnonzero(cells[:, k])) for k in (0, 1))
        return own, other

    def moves(self, board: Board) -> dict[int, int]:
        """Return the cell that each allowed move takes."""
        taken = board[0] | board[1]
        cells = self.rows * self.columns
        if not self.falls:
            return {cell: cell for cell in range(cells) if not taken >> cell & 1}
        found = {}
        for column in range(self.columns):
            for cell in range(cells - self.columns + column, -1, -self.columns):
                if not taken >> cell & 1:
                    found[column] = cell
                    break
        return found

    def wins(self, stones: int, cell: int) -> bool:
        """Return whether these stones have a line through a cell."""
        return any(stones & line == line for line in self.lines[cell])

    def value(self, board: Board, depth: int, low: float = -1e9, high: float = 1e9) -> float:
        """Return what a position is worth to the player to move, ``depth`` moves ahead.

        A win ``k`` moves before the horizon counts ``k + 1``, so that sooner wins are better and
        later losses too; a draw counts 0, and so does what lies beyond the horizon. Alpha-beta
        (Knuth and Moore 1975): exact between ``low`` and ``high``, else a bound.
        """
        best = -1e9
        moves = self.moves(board) if depth else {}
        for cell in moves.values():
            best = max(best, self.move_value(board, cell, depth, max(low, best), high))
            if best >= high:
                break
        return best if moves else 0.0

    def move_value(
        self, board: Board, cell: int, depth: int, low: float = -1e9, high: float = 1e9
    ) -> float:
        """Return what a move to a cell is worth to who makes it; see ``value``."""
        own, other = board[0] | 1 << cell, board[1]
        if self.wins(own, cell):
            return float(depth)
        return -self.value((other, own), depth - 1, -high, -low)


ROW_GAMES: Mapping[str, RowGame] = {
    "connect_four_v3": RowGame(rows=6, columns=7, length=4, falls=True),
    "tictactoe_v3": RowGame(rows=3, columns=3, length=3, falls=False),
}
"""By the name in the ``metadata`` of PettingZoo's environment."""


@lru_cache(maxsize=1 << 14)  # games begin alike
def best_moves(game: RowGame, board: Board, depth: int) -> tuple[int, ...]:
    """Return the moves that minimax of a depth finds best, all of them of one worth.

    >>> ttt = ROW_GAMES["tictactoe_v3"]
    >>> best_moves(ttt, (0b000000011, 0b000011000), depth=1)  # it wins in cell 2
    (2,)
    """
    worth = {move: game.move_value(board, cell, depth) for move, cell in game.moves(board).items()}
    best = max(worth.values())
    return tuple(move for move, value in worth.items() if value == best)
