"""A method for a team: one of its kind for each group, at the doors of that group's learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from holdfast.continual.method import Method

if TYPE_CHECKING:
    from holdfast.agents.teams.team import TeamDoors


class PerGroup(Method):
    """The same method, by itself in every group of agents.

    Args:
        make: Returns a new one.

    Attributes:
        members: By group, those that were needed so far.
    """

    def __init__(self, make: Callable[[], Method]) -> None:
        self._make, self._any = make, make()
        self.members: dict[str, Method] = {}
        self.doors = self._any.doors  # type: ignore[misc]  # of the instance, read like a class's

    def member(self, group: str) -> Method:
        """Return a group's own."""
        if group not in self.members:
            self.members[group] = self._make()
        return self.members[group]

    # The doors are those of a team: one set for each group.

    def pre_adapt(self, doors: TeamDoors, experience: Any) -> None:  # type: ignore[override]  # as above
        """Add to the doors of the groups that are in the coming task."""
        for group in experience.groups:
            member = self.member(group)
            member.pre_adapt(doors.of(group, member), experience.part(group))

    def post_adapt(self, doors: TeamDoors, experience: Any) -> None:  # type: ignore[override]
        """Take what later tasks must keep from each of them."""
        for group in experience.groups:
            member = self.member(group)
            member.post_adapt(doors.of(group, member), experience.part(group))

    def state(self) -> dict[str, Tensor]:
        """Return what the members keep, by group."""
        states = {group: member.state() for group, member in self.members.items()}
        return {f"{group}/{n}": t for group, state in states.items() for n, t in state.items()}

    def load_state(self, doors: TeamDoors, tensors: dict[str, Tensor]) -> None:  # type: ignore[override]
        """Take back what ``state`` returned."""
        groups: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            group, _, name = path.partition("/")
            groups.setdefault(group, {})[name] = tensor
        for group, own in groups.items():
            member = self.member(group)
            member.load_state(doors.of(group, member), own)

    def is_acted_by(self, name: str) -> bool:
        """Return whether an old policy of a group needs a tensor of its method."""
        return self._any.is_acted_by(name.partition("/")[2])
