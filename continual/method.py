"""A Method: a mitigation of forgetting, which reaches the agent by the doors it declares only."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from holdfast.agents.doors.doors import Doors
from holdfast.continual.experience import Experience

__all__ = ["Doors", "Experience", "Method"]


class Method(Protocol):
    """One mitigation.

    The loop calls, for each task of the stream:

        method.pre_adapt(doors, experience)   # before the task's model is built: add to doors
        ...                                   # agent.start, agent.learn
            method.due(doors, name)           # work that was asked for inside the task
        method.post_adapt(doors, experience)  # importance pass, storing, distilling
        method.state()                        # saved with the checkpoint of this task boundary

    After a restart, ``load_state`` takes back the last ``state`` before the next ``pre_adapt``.
    Where the stream hides its boundaries, a method that needs none lives on without them: it counts
    on no ``pre_adapt`` but the first, and keeps all else that it needs by updates and steps.

    What is due inside a task is known by name and step (``lifecycle.after_steps``), contexts are
    opened by ``pre_adapt`` alone, and ``state`` may be asked for inside a task too: after a restart
    there, ``pre_adapt`` is called for that task again and the task is begun, then ``load_state``
    gets that state, with the model as it was at the task's start, then what was still due
    is put back by its names. Generators that ``pre_adapt`` took from the experience, and the state
    of functions at the gradient door, are put back beside; all else that changes while a task is
    learned belongs into ``state``.

    ``doors`` has the doors that the class declares; reading another raises.

        gradients   add, add_moving, scale, project, revise, watch, rewrite: functions of each
                    update; parameters by group, fresh weights, hidden units, the algorithm's loss
        memory      rows of the task, rollouts, batches; mix old rows into batches
        networks    map the modules of the coming model to others
        lifecycle   what a task start carries; trials; work at steps; a view of each finished task
        output      what actor and critic say, as a function of parameters and observations
        plugins     Avalanche's plugins, of the supervised agent

    Without declaring: ``doors.facts`` (see ``Facts``), ``doors.step``, ``doors.log(tag, value)``,
    ``doors.warn(text)``.

    What a gradient function computes is a pure function of named tensors. Its state and what the
    host draws for the update are handed in; shapes are fixed; it reads no tensor on the host and
    takes no branch on data:

        class Pull(Method):
            doors = ("gradients",)

            def pre_adapt(self, doors, experience):
                doors.gradients.add(pull, state={"old": self.old}, groups=("actor",))

            def post_adapt(self, doors, experience):
                self.old = snapshot(doors.gradients.parameters("actor"))

        def pull(parameters, state, batch):
            return {n: parameters[n] - old for n, old in state["old"].items() if n in parameters}

    The few that cannot are in ``registry.ON_HOST``, each with its reason.

    Both adapt calls carry the names of Avalanche's ``Adaptable`` protocol. The experience they get
    hides what the scenario hides: reading it raises Avalanche's ``MaskedAttributeError``.

    What it is and needs stands in literal class attributes, which ``validate`` and ``list`` read
    without importing it. Its arguments are those of its ``__init__``, or the fields of a dataclass.

    Attributes:
        needs: What it must be told: ``boundaries``; ``task_id`` in training; ``evaluation_task_id``
            when it is measured or used; ``task_count``; ``score``, how returns become scores.
        doors: Doors it goes through, of the table above.
        on_policy: Restricts it to on-policy (True) or off-policy (False) algorithms.
        algorithms: The only algorithms that can take it; all that have the doors where empty.
        not_in_teams: Why it cannot work in a team; empty where it can.
        takes_heads: Whether what it maps networks to works with ``task_id: heads`` too.
        claims: What no other method composed with it may have too: ``views``, ``projection``,
            ``exploration``, ``weights`` (it sets them outside of updates).
        alone: Whether it composes with nothing: a whole way of learning the stream.
        packages: What it imports that may be missing; ``validate`` looks.
        limits: Smallest and largest value of numeric arguments; None where there is no largest. An
            argument may state its own: ``samples: Annotated[int, (1, None)] = 10_000``.
        acts_by: First parts of those names in ``state`` that an old policy needs to be built and to
            act, such as masks; None: all of them. The rest is dropped from old checkpoints.
        needs_without: Pairs of an argument, and what it must be told where that is not given.
        refuses: Keys of ``carry:``, each with the value that it cannot work with, and why.
        off_policy_arguments: Arguments that only off-policy algorithms can take.
        cost_arguments: Arguments that ask what the steps of rollouts cost.
        grows: What it keeps of every task, which ``validate`` projects for the stream: ``samples``
            (as many rows as that argument says), ``share`` (of the stream, ``samples`` at most),
            ``transitions`` (all), ``networks`` (one more), or ``columns`` (one more, fed by all
            before it); empty where it grows with none.
        work: The argument that says how many updates of its own it does after a task, which
            ``run --dry-run`` measures a few of; empty where it has none.
        memory: What it keeps, in a few words.
        extra: Updates or steps that it takes beside the task's own, in a few words.
        convention: What its strength multiplies, in one line; printed in reports, because the same
            name means different numbers in other papers and libraries (a factor 1/2, a sum or a
            mean).
        has_importance: Whether it gives each weight an importance of its own, which diagnostics ask
            ``free`` about.
        logs: What it logs as ``method/<name>/<what>``, each with a title for its chart.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    doors: ClassVar[tuple[str, ...]] = ()
    on_policy: ClassVar[bool | None] = None
    algorithms: ClassVar[tuple[str, ...]] = ()
    not_in_teams: ClassVar[str] = ""
    takes_heads: ClassVar[bool] = False
    claims: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    needs_without: ClassVar[tuple[tuple[str, str], ...]] = ()
    refuses: ClassVar[tuple[tuple[str, bool, str], ...]] = ()
    off_policy_arguments: ClassVar[tuple[str, ...]] = ()
    cost_arguments: ClassVar[tuple[str, ...]] = ()
    grows: ClassVar[str] = ""
    work: ClassVar[str] = ""
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {}
    acts_by: ClassVar[tuple[str, ...] | None] = None
    memory: ClassVar[str] = "nothing"
    extra: ClassVar[str] = ""
    convention: ClassVar[str] = ""
    has_importance: ClassVar[bool] = False
    logs: ClassVar[dict[str, str]] = {}

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add to the doors for the coming task; its model is built after this call."""

    def due(self, doors: Doors, name: str) -> None:  # noqa: ARG002  # of the contract
        """Do the work of this name, which the lifecycle door was asked to call for."""
        raise TypeError(f"{type(self).__name__} asked for '{name}' and has no due")

    def post_adapt(self, doors: Doors, experience: Experience) -> None:
        """Take from the trained model what later tasks must keep."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that must survive a restart, as named tensors.

        What never changes once it is there may be called ``settled/<block>/...``: checkpoints
        write such a block once. The name of a block that is gone is not given to another.
        """
        return {}

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take back what ``state`` returned; of an old stage, what ``acts_by`` says of it."""

    def free(self) -> dict[str, Tensor]:
        """Return by name which weights it would hold and mattered to no finished task, as masks.

        An importance of exactly zero counts, before any floor. Empty where nothing is held yet, or
        nothing is known.
        """
        return {}

    def is_acted_by(self, name: str) -> bool:
        """Return whether an old policy needs a tensor of ``state`` to act."""
        return self.acts_by is None or name.partition("/")[0] in self.acts_by
