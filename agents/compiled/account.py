"""What compiled programs did that nothing else sees: optimizer steps, and seconds of making them.

Torch's hooks see no step inside a program, nor those of streaming learners in NumPy; and whoever
times learning times the making too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class Account:
    """Sums of one stretch of time.

    Attributes:
        steps: That optimizers took.
        making_s: In which programs were traced and compiled, their first call included.
    """

    steps: int = 0
    making_s: float = 0.0


class _Open(threading.local):
    """Those of this thread: agents that learn in lockstep have one each."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []


_OPEN = _Open()


@contextmanager
def opened() -> Iterator[Account]:
    """Count what the compiled programs of this thread do inside the block."""
    account = Account()
    _OPEN.accounts.append(account)
    try:
        yield account
    finally:
        _OPEN.accounts.remove(account)


def add(*, steps: int = 0, making_s: float = 0.0) -> None:
    """Add to every account that is open."""
    for account in _OPEN.accounts:
        account.steps += steps
        account.making_s += making_s
