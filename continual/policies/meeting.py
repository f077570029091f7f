"""Meetings of policies from several runs: in games against each other, in teams mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from holdfast.continual.results.document import Section
from holdfast.continual.run_folder.record import RunFolder

Sections = tuple[list[Section], list[dict[str, Any]]]
"""The sections of a page, and the rows of a table."""


class Policy(NamedTuple):
    """The policy of a run at the end of a stage."""

    run: RunFolder
    stage: int

    @property
    def name(self) -> str:
        """Its name in tables, and in the record of games against it."""
        return self.run.policy_name(self.stage)


class Plan(NamedTuple):
    """Settings of a meeting.

    Attributes:
        games: Games of each two in a game, episodes of each mixture of a team.
        deterministic: The most likely action of each policy rather than a sample.
        seed: Of everything that is drawn.
        tell: Takes how many matches or mixtures were played, and of how many.
    """

    games: int = 100
    deterministic: bool = False
    seed: int = 0
    tell: Callable[[int, int], None] = lambda *_: None


class Meeting(NamedTuple):
    """Meeting of policies in one task.

    Attributes:
        counted: What a plan's ``games`` are, in words.
        play: Returns what came of it.
    """

    counted: str
    play: Callable[[Sequence[Policy], Plan], Sections]
