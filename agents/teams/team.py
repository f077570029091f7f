"""Many agents: a Stable-Baselines3 learner for each group, all of them stepping the same copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from greenlet import getcurrent, greenlet
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from holdfast import seeding
from holdfast.agents.base.agent import Act, Files, Log, Shown, Start, Watch
from holdfast.agents.base.pauses import Again, Inside, Pauses
from holdfast.agents.doors.doors import Doors
from holdfast.agents.sb3.inside_task import Alone
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.agents.teams.inactive_agents import learn_from_present
from holdfast.scenarios.schema.scenario import Scenario

Acts = dict[str, Act]
"""A frozen policy for each group; a group that has learned nothing yet is missing."""


class TeamStart(Start, Protocol):
    """Start of a team's task.

    Attributes:
        groups: The groups that have agents in this task.
    """

    groups: Sequence[str]

    def make_seats(self, again: Again | None = None) -> Mapping[str, Any]:
        """Return the vector environment of each group, newly built, over the same copies.

        Args:
            again: Where inside the task they go on; None at its start.
        """

    def is_absent(self, info: Any) -> bool:
        """Return whether an info says that its seat did not act."""


@dataclass
class GroupStart:
    """One group's part of a team's experience: a ``TaskStart`` whose steps are those of its agents.

    An environment step of ``k`` agents of a group counts ``k`` for its algorithm, as that many
    transitions are there to learn from.
    """

    stage: int
    task_index: int
    steps: int
    first_step: int
    seed: int
    seats: VecEnv
    is_hidden: bool = False

    def make_env(
        self,
        *,
        interleaved: bool = False,
        turns: Sequence[Any] = (),  # noqa: ARG002
        begun: int = 0,  # noqa: ARG002
    ) -> VecEnv:
        """Return the group's seats."""
        assert not interleaved  # `joint` is refused by validate
        return self.seats

    def build_again(self, env: VecEnv, again: Again, *, interleaved: bool = False) -> VecEnv:
        """Refuse: a team builds for all groups at once."""
        raise AssertionError(env, again, interleaved)

    def worlds(self, env: VecEnv, *, interleaved: bool = False) -> list[Any]:  # noqa: ARG002
        """Return nothing: a team's copies go on with nothing but their seeds."""
        return []

    def demonstrations(self) -> Shown | None:
        """Return nothing: single agents alone are shown any."""
        return None


class TeamAgent:
    """A team: for each group a learner with doors of its own, in the same environments.

    Every learner runs as if it were the only one: its ``learn`` is suspended
    where it steps its environments, until all groups have chosen their actions. There are no
    threads. With one group nothing is suspended.

    Attributes:
        members: The learner of each group that was met so far.
        current_task: Index of the task that the models were built for.
        resting: Learners that were restored to act for groups which have learned, and are absent
            from the current task; in a run that was never interrupted, their own members do.
        initial: Always empty: a team begins with fresh weights.
        notices: What methods warn of, in a line each.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.members: dict[str, StableBaselinesAgent] = {}
        self.resting: dict[str, StableBaselinesAgent] = {}
        self.current_task = 0
        self.initial: Files = {}
        self._active: dict[str, GroupStart] = {}
        self._begun: TeamStart | None = None

    def member(self, group: str) -> StableBaselinesAgent:
        """Return a group's learner."""
        if group not in self.members:
            self.members[group] = StableBaselinesAgent(self.scenario)
        return self.members[group]

    @property
    def notices(self) -> list[str]:
        """Warnings of methods; taking them empties the members' lists."""
        return [notice for member in self.members.values() for notice in member.notices]

    @notices.setter
    def notices(self, value: list[str]) -> None:
        for member in self.members.values():
            member.notices = list(value)

    @property
    def policy(self) -> Any:
        """The policies of all groups, as one module."""
        return torch.nn.ModuleDict({name: member.policy for name, member in self._acting.items()})

    @property
    def _acting(self) -> dict[str, StableBaselinesAgent]:
        """The learner of each group that has a policy."""
        return {group: m for group, m in self.members.items() if m.model} | self.resting

    def doors(self, method: Any) -> TeamDoors:  # noqa: ARG002  # each group's method is asked for
        """Return the doors of every group's learner, for ``PerGroup``."""
        return TeamDoors(self)

    def output(self) -> dict[str, Any]:
        """Return the output of each group's policy in this task."""
        return {group: self.member(group).output() for group in self._active}

    # -- learning ----------------------------------------------------------------------------------

    def start(self, experience: TeamStart) -> None:
        """Build a fresh model for each group of this task and load what is carried into it."""
        self.current_task = experience.task_index
        self._active, self._begun = {}, experience
        for number, (group, seats) in enumerate(experience.make_seats().items()):
            per_copy = seats.num_envs // self.scenario.n_envs
            begun = self._active[group] = GroupStart(
                experience.stage,
                experience.task_index,
                experience.steps * per_copy,
                experience.first_step,
                seeding.group_seed(experience.seed, number, group),
                seats,
            )
            member = self.member(group)
            member.start(begun)
            self.resting.pop(group, None)
            absent = partial(getattr, seats, "absent")
            learn_from_present(member.model, absent, experience.is_absent)

    def learn(
        self, experience: TeamStart, watch: Watch, log: Log, pauses: Pauses | None = None
    ) -> None:
        """Make every group take and learn from exactly ``experience.steps`` environment steps."""
        learners = []
        together = None if pauses is None else Together(self, pauses, experience.steps)
        for number, (group, start) in enumerate(self._active.items()):
            scale = start.steps // experience.steps
            last = number == len(self._active) - 1
            tell = partial(_scaled, watch, scale) if last else _ignore
            prefix = f"agent/{group}/" if len(self._active) > 1 else ""
            note = partial(_placed, log, prefix, experience.first_step, scale)
            member, turn = self.member(group), None
            if together is not None:
                turn = member.turn(together.pauses, together, start.steps, scale)
            learners.append(partial(member.learn_by_turns, start, tell, note, turn))
        if len(learners) == 1:
            learners[0]()
        else:
            self._take_turns(learners, together)

    def _take_turns(
        self, learners: Sequence[Callable[[], None]], together: Together | None
    ) -> None:
        hub = getcurrent()
        self._let_wait(hub.switch)
        if together is not None:
            together.hub = hub
        running = [greenlet(learner) for learner in learners]
        try:
            while running:
                for one in running:
                    one.switch()
                running = [one for one in running if not one.dead]
                if together is not None and together.act(len(self._active)):
                    self._let_wait(hub.switch)  # in new seats
        finally:
            for one in running:
                if not one.dead:
                    one.throw()  # lets go of what it holds open

    def _let_wait(self, wait: Callable[[], None]) -> None:
        for start in self._active.values():
            start.seats.wait = wait  # type: ignore[attr-defined]  # Seats

    # -- pauses ------------------------------------------------------------------------------------

    def inside(self, number: int) -> Inside:
        """Return all that the groups of this task are inside it, by group."""
        whole = Inside(values={"members": {}})
        for group in self._active:
            inside = self.member(group).inside(number)
            whole.files |= {f"{group}.{name}": tensors for name, tensors in inside.files.items()}
            whole.parts |= {f"{group}.{name}": made for name, made in inside.parts.items()}
            whole.values["members"][group] = inside.values
        return whole

    def put_back(self, inside: Inside) -> None:
        """Put back what ``inside`` gave, into a task that has just begun."""
        for group in self._active:
            self.member(group).put_back(of_member(group, inside))

    def worlds(self) -> list[Any]:
        """Return nothing: a team's copies begin again from their seeds alone."""
        return []

    def build_again(self, again: Again) -> None:
        """Close the environments and go on in new ones, all groups in the same."""
        assert self._begun is not None
        self.close()
        for group, seats in self._begun.make_seats(again).items():
            member, start = self.member(group), self._active[group]
            start.seats = seats
            if isinstance(member.model, OnPolicyAlgorithm):
                buffer: Any = member.model.rollout_buffer  # see ``PresentRollouts``
                buffer.absent = partial(getattr, seats, "absent")
            member.go_on_in(seats)

    def close(self) -> None:
        """Close the training environments of the current task, where they are open."""
        for member in self.members.values():
            member.close()

    # -- acting ------------------------------------------------------------------------------------

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose id the policies are shown, and whether a view is missing."""
        shown = [member.shown_task(task_index) for member in self._acting.values()]
        return (shown[0][0], any(unseen for _, unseen in shown)) if shown else (task_index, True)

    @property
    def random_spaces(self) -> tuple[Any, ...]:
        """The spaces whose generators training draws from."""
        return tuple(space for member in self._acting.values() for space in member.random_spaces)

    @contextmanager
    def view(self, task_index: int) -> Iterator[Acts]:
        """Act as for that task, each group in its own view."""
        with ExitStack() as opened:
            yield {
                group: opened.enter_context(member.view(task_index))
                for group, member in self._acting.items()
            }

    # -- checkpoints -------------------------------------------------------------------------------

    def files(self) -> Files:
        """Return what the next task start needs, by group and file."""
        return {
            f"{group}.{name}": tensors
            for group, member in self.members.items()
            for name, tensors in member.files().items()
        }

    def load_files(self, files: Files) -> None:
        """Take back what ``files`` gave."""
        for group, own in _by_group(files).items():
            self.member(group).load_files(own)

    def load_trained(self, files: Files) -> None:
        """Take the weights of the end of the task that was started."""
        for group, own in _by_group(files).items():
            if self.member(group).model:
                self.member(group).load_trained(own)


class Together:
    """Makes the groups of a team pause at once: when the last has come to the pause.

    All come to it after the same step of their copies, and after the updates that follow it.

    Args:
        team: The team.
        pauses: What keeps the pauses.
        steps: Of the task.

    Attributes:
        hub: Where a group that waits for others goes; None where there is one group alone.
    """

    def __init__(self, team: TeamAgent, pauses: Pauses, steps: int) -> None:
        self.pauses = pauses
        self.hub: Any = None
        self._alone = Alone(team, pauses, steps)
        self._asked: list[Callable[[], None]] = []

    def pause(self, step: int, *, is_last: bool) -> None:
        """Wait until all groups pause at this step."""
        self._wait(partial(self._alone.pause, step, is_last=is_last))

    def resume(self) -> None:
        """Wait until all groups have begun their task, and go on with it."""
        self._wait(self._alone.resume)

    def _wait(self, act: Callable[[], None]) -> None:
        if self.hub is None:
            act()
            return
        self._asked.append(act)
        self.hub.switch()

    def act(self, groups: int) -> bool:
        """Do what the groups have asked for, once all of them have; return whether they had."""
        if not self._asked:
            return False
        assert len(self._asked) == groups
        act = self._asked[0]
        self._asked.clear()
        act()
        return True


@dataclass
class TeamDoors:
    """The doors of every group's learner.

    Attributes:
        team: The team.
    """

    team: TeamAgent

    def of(self, group: str, method: Any) -> Doors:
        """Return what a group's own method is handed."""
        return self.team.member(group).doors(method)


def _by_group(files: Files) -> dict[str, Files]:
    groups: dict[str, Files] = {}
    for path, tensors in files.items():
        group, found, name = path.rpartition(".")
        if found:
            groups.setdefault(group, {})[name] = tensors
    return groups


def of_member(group: str, inside: Inside) -> Inside:
    """Return one group's part of what a team is inside a task."""
    prefix = f"{group}."
    files = {n.removeprefix(prefix): f for n, f in inside.files.items() if n.startswith(prefix)}
    parts = {n.removeprefix(prefix): p for n, p in inside.parts.items() if n.startswith(prefix)}
    return Inside(files, parts, inside.values["members"][group])


def _ignore(step: int) -> None:
    """Leave it to another group to tell of the step."""


def _scaled(watch: Watch, scale: int, step: int) -> None:
    watch(step // scale)


def _placed(
    log: Log, prefix: str, first: int, scale: int, scalars: Mapping[str, float], step: int
) -> None:
    log(
        {f"{prefix}{tag}": value for tag, value in scalars.items()}, first + (step - first) // scale
    )
