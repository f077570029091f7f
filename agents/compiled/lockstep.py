"""Lockstep: agents that learn side by side in one process, and whose updates are taken together.

Each runs in a thread of its own as it would alone, and only one of them at a time. Where an agent
is to be updated it waits for the others; the last one to come has the updates of all done at once.
What belongs to the process and not to an agent, such as the global generators of random numbers, is
put away and brought back whenever another one goes on.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol


class Scene(Protocol):
    """What belongs to the process, as one of the agents has it; made as it is now."""

    def leave(self) -> None:
        """Put it away."""

    def enter(self) -> None:
        """Bring it back."""


class Offer(NamedTuple):
    """What an agent brings to a meeting.

    Attributes:
        kind: Offers of one kind are taken together.
        given: Its own part.
        together: Makes a list of results of a list of parts.
    """

    kind: Hashable
    given: Any
    together: Callable[[list[Any]], list[Any]]


class Member:
    """The place of one agent.

    Args:
        lockstep: Those that learn together.
        scene: Its own.
    """

    def __init__(self, lockstep: Lockstep, scene: Scene) -> None:
        self.scene = scene
        self.thread: threading.Thread | None = None
        self.offer: Offer | None = None
        self.result: Any = None
        self.is_running = True
        self._lockstep = lockstep
        self._baton = threading.Lock()
        self._baton.acquire()

    def meet(self, kind: Hashable, given: Any, together: Callable[[list[Any]], list[Any]]) -> Any:
        """Wait for the others, let parts of one kind be taken together, and return one's result.

        Raises:
            KeyboardInterrupt: All were told to stop.
        """
        self.offer = Offer(kind, given, together)
        following = self._lockstep.next_after(self)
        if following is not self:
            self.scene.leave()
            following.go_on()
            self.wait()
        result, self.result = self.result, None
        if isinstance(result, BaseException):
            raise result
        return result

    def go_on(self) -> None:
        """Let it go on, which whoever calls this must not."""
        self._lockstep.going = self
        self._baton.release()

    def wait(self) -> None:
        """Wait until it may go on."""
        self._baton.acquire()
        self.scene.enter()
        if self._lockstep.stops:
            raise KeyboardInterrupt


class Lockstep:
    """Agents that learn side by side.

    Args:
        scenes: Of each.

    Attributes:
        stops: Whether all were told to stop.
        going: The one that runs.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.stops = False
        self.going: Member | None = None
        self._members = [Member(self, scene) for scene in scenes]
        self._ended = threading.Event()
        self._errors: list[BaseException] = []
        self._interrupts = threading.Lock()  # held while one is sent, or a member ends

    def run(self, bodies: Sequence[Callable[[], None]]) -> None:
        """Run a function for each agent; return when all have ended.

        Raises:
            BaseException: The first that one of them raised. A KeyboardInterrupt of this thread is
                raised in each of them, and then here.
        """
        for member, body in zip(self._members, bodies, strict=True):
            member.thread = threading.Thread(target=self._run, args=(member, body), daemon=True)
            member.thread.start()
        self._members[0].go_on()
        try:
            self._wait()
        except KeyboardInterrupt:
            self._stop()
            self._wait()
            raise
        for member in self._members:
            assert member.thread is not None
            member.thread.join()
        if self._errors:
            raise self._errors[0]

    def _wait(self) -> None:
        """Wait for all to end.

        A signal that comes just before a lock is waited for is seen only when that waiting ends.
        """
        while not self._ended.wait(timeout=0.5):
            pass

    def next_after(self, member: Member) -> Member:
        """Return who goes on when an agent waits or has ended; where all wait, they have met."""
        place = self._members.index(member)
        order = [*self._members[place + 1 :], *self._members[: place + 1]]
        running = [one for one in order if one.is_running]
        if self.stops:
            return running[0]
        following = next((one for one in running if one.offer is None), None)
        if following is None:
            _take_together(running)
            return member if member.is_running else running[0]
        return following

    def _run(self, member: Member, body: Callable[[], None]) -> None:
        try:
            member.wait()
            _HERE.member = member
            body()
        except BaseException as error:  # told in the thread that waits for all
            self._errors.append(error)
        self._end(member)
        if any(one.is_running for one in self._members):
            self.next_after(member).go_on()
        else:
            self._ended.set()

    def _end(self, member: Member) -> None:
        """Note that one has ended; a KeyboardInterrupt that is under way to it arrives in here."""
        while member.is_running:
            with suppress(KeyboardInterrupt), self._interrupts:
                member.is_running = False
        with suppress(KeyboardInterrupt):
            for _ in range(100):  # it is raised between two instructions
                pass

    def _stop(self) -> None:
        """Raise KeyboardInterrupt in the agent that runs; the others raise it when they go on."""
        self.stops = True
        going = self.going
        with self._interrupts:
            if going is not None and going.is_running and going.thread is not None:
                ident = ctypes.c_ulong(going.thread.ident or 0)
                raised = ctypes.py_object(KeyboardInterrupt)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, raised)


def here() -> Member | None:
    """Return the place of the agent that this thread runs; None where it learns alone."""
    return getattr(_HERE, "member", None)


_HERE = threading.local()


def _take_together(members: list[Member]) -> None:
    """Let offers of one kind be taken together, and leave each agent its result."""
    kinds: dict[Hashable, list[tuple[Member, Offer]]] = {}
    for member in members:
        assert member.offer is not None
        kinds.setdefault(member.offer.kind, []).append((member, member.offer))
    for of_kind in kinds.values():
        try:
            results = of_kind[0][1].together([offer.given for _, offer in of_kind])
        except Exception as error:  # raised by each of them
            results = [error] * len(of_kind)
        for (member, _), result in zip(of_kind, results, strict=True):
            member.offer, member.result = None, result
