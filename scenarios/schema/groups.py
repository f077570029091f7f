"""Which agents of a team share a policy, as ``agent.policies`` says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Policies


def grouped(policies: Policies, agents: Sequence[str], where: str) -> dict[str, tuple[str, ...]]:
    """Return the agents of each group.

    >>> grouped("shared", ["a", "b"], ""), grouped("independent", ["a", "b"], "")
    ({'shared': ('a', 'b')}, {'a': ('a',), 'b': ('b',)})
    >>> grouped({"hunters": ("wolf_*",), "prey": ("hare",)}, ["wolf_0", "hare", "wolf_1"], "")
    {'hunters': ('wolf_0', 'wolf_1'), 'prey': ('hare',)}

    Raises:
        UsageError: An agent is in no group, or in two.
    """
    if policies == "shared":
        return {"shared": tuple(agents)}
    if policies == "independent":
        return {agent: (agent,) for agent in agents}
    assert isinstance(policies, Mapping)
    groups = {
        name: tuple(a for a in agents if any(fnmatchcase(a, pattern) for pattern in patterns))
        for name, patterns in policies.items()
    }
    for agent in agents:
        inside = [name for name, members in groups.items() if agent in members]
        if len(inside) != 1:
            what = f"is in the groups {' and '.join(inside)}" if inside else "is in no group"
            raise UsageError(f"{where}: agent '{agent}' {what} of agent.policies")
    return groups
