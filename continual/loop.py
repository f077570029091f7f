"""The loop: every task of the stream, in order, without a single word of an algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holdfast.agents.base.agent import Agent, Watch
    from holdfast.agents.base.pauses import Pauses
    from holdfast.continual.experience import Experience
    from holdfast.continual.method import Method
    from holdfast.continual.slots import Slots


class Journal(Protocol):
    """Record of a run as the loop tells it: scores, checkpoints, TensorBoard, progress."""

    def log(self, scalars: Mapping[str, float], step: int, /) -> None:
        """Take numbers by tag at a step of the stream."""

    def before_learning(self) -> None:
        """Measure the agent that has learned nothing yet."""

    def watch(self, experience: Experience) -> Watch:
        """Return what is called after every environment step: dense evaluation, progress."""

    def pauses(self, experience: Experience, told: Experience) -> Pauses | None:
        """Return where checkpoints are taken inside the task, and the one that it goes on from.

        Args:
            experience: The task.
            told: The same, as methods were told of it.
        """

    def slots(self, told: Experience) -> Slots:
        """Return the slots between detected boundaries, the one that a run goes on in begun.

        Args:
            told: The first experience, as methods are told of it.
        """

    def learned(self) -> None:
        """Be told that the agent has learned the task; what comes now is the methods' own work."""

    def finished(self, experience: Experience) -> None:
        """Measure the agent at the task's end and save a checkpoint."""


def run_stream(
    experiences: Sequence[Experience],
    agent: Agent,
    methods: Sequence[Method],
    journal: Journal,
) -> None:
    """Train the agent on each experience; evaluate before, inside and after each.

    Args:
        experiences: The train stream, or what is left of it after a restart.
        agent: The learner.
        methods: Mitigations, in the order of the scenario.
        journal: Takes what happened.
    """
    if experiences and experiences[0].first is not None:
        _run_unannounced(experiences[0].first, experiences, agent, methods, journal)
        return
    for experience in experiences:
        told = experience.train()  # a copy without what the scenario hides from the learner
        for method in methods:
            method.pre_adapt(agent.doors(method), told)
        agent.start(experience)
        pauses = journal.pauses(experience, told)
        if experience.stage == 0 and (pauses is None or pauses.resumed is None):
            journal.before_learning()
        agent.learn(experience, journal.watch(experience), journal.log, pauses)
        journal.learned()
        for method in methods:
            method.post_adapt(agent.doors(method), told)
        journal.finished(experience)


def _run_unannounced(
    first: Experience,
    experiences: Sequence[Experience],
    agent: Agent,
    methods: Sequence[Method],
    journal: Journal,
) -> None:
    """Train over boundaries that neither the agent nor a method is told of.

    Both begin once, and learn the stream as one task; what is measured and saved between two stages
    is outside of them. Where a detector finds boundaries, methods are told of those.
    """
    told = first.train()
    given = {"boundary": journal.slots(told).begin_next} if first.is_detected else {}
    for method in methods:
        method.pre_adapt(agent.doors(method), told)
    agent.start(first)
    for experience in experiences:
        pauses = journal.pauses(experience, told)
        if experience.stage == 0 and (pauses is None or pauses.resumed is None):
            journal.before_learning()
        agent.learn(experience, journal.watch(experience), journal.log, pauses, **given)
        journal.learned()
        if experience is experiences[-1]:
            for method in methods:
                method.post_adapt(agent.doors(method), told)
        journal.finished(experience)
