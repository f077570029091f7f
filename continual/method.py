"""A Method: a mitigation of forgetting, which reaches the agent by its four doors only."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor


class Method(Protocol):
    """One mitigation.

    The loop calls, for each task of the stream::

        method.pre_adapt(agent, experience)   # before the task's model is built: open doors
        ...                                   # agent.start, agent.learn
        method.post_adapt(agent, experience)  # importance pass, storing, distilling
        method.state()                        # saved with the checkpoint of this task boundary

    After a restart, ``load_state`` takes back the last ``state`` before the next ``pre_adapt``.
    Both adapt calls carry the names of Avalanche's ``Adaptable`` protocol. The experience they get
    hides what the scenario hides: reading it raises Avalanche's ``MaskedAttributeError``.

    What it is and needs stands in literal class attributes, which ``validate`` and ``list`` read
    without importing it.

    Attributes:
        needs: What it must be told: ``boundaries``; ``task_id`` in training; ``evaluation_task_id``
            when it is measured or used; ``task_count``; ``score``, how returns become scores.
        doors: Doors it goes through: ``gradients``, ``memory``, ``networks``, ``lifecycle``; and
            ``output`` where it reads the policy's output.
        on_policy: Restricts it to on-policy (True) or off-policy (False) algorithms.
        algorithms: The only algorithms that can take it; all that have the doors where empty.
        not_in_teams: Why it cannot work in a team; empty where it can.
        claims: What no other method composed with it may have too: ``views``, ``projection``,
            ``exploration``.
        alone: Whether it composes with nothing: a whole way of learning the stream.
        packages: What it imports that may be missing; ``validate`` looks.
        limits: Smallest and largest value of numeric arguments; None where there is no largest.
        memory: What it keeps, in a few words.
        extra: Updates or steps that it takes beside the task's own, in a few words.
        convention: What its strength multiplies, in one line; printed in reports, because the same
            name means different numbers elsewhere (METHODS, section 8).
        logs: What it logs as ``method/<name>/<what>``, each with a title for its chart.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    doors: ClassVar[tuple[str, ...]] = ()
    on_policy: ClassVar[bool | None] = None
    algorithms: ClassVar[tuple[str, ...]] = ()
    not_in_teams: ClassVar[str] = ""
    claims: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {}
    memory: ClassVar[str] = "nothing"
    extra: ClassVar[str] = ""
    convention: ClassVar[str] = ""
    logs: ClassVar[dict[str, str]] = {}

    # Agent and experience are Any, because a method names those that it was written for; all have
    # at least what ``continual/experience.py`` says.

    def pre_adapt(self, agent: Any, experience: Any) -> None:
        """Open doors for the coming task; its model is built after this call."""

    def post_adapt(self, agent: Any, experience: Any) -> None:
        """Take from the trained model what later tasks must keep."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that must survive a restart, as named tensors."""
        return {}

    def load_state(self, agent: Any, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
