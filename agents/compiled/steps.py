"""Optimizer steps inside compiled programs, which torch's hooks do not see."""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[int], None]] = []


def register_compiled_steps(listener: Callable[[int], None]) -> Callable[[], None]:
    """Call ``listener`` with their number whenever steps have been taken, in this process.

    Returns:
        What ends that; it may be called again.
    """
    _listeners.append(listener)

    def end() -> None:
        if listener in _listeners:
            _listeners.remove(listener)

    return end


def taken(steps: int) -> None:
    """Tell of steps."""
    for listener in _listeners:
        listener(steps)
