"""Whether a scenario with many agents (``agent.policies``) asks for what a team has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.registry import ALGORITHMS
from holdfast.scenarios.checks.messages import Finding
from holdfast.scenarios.checks.references import NotUsable, check_team_environment
from holdfast.scenarios.schema.changes import OF_AN_AGENT, Changes
from holdfast.scenarios.source.yaml_file import KeyPath

# What single agents alone have, by section; the value that is left as it is, and what to do.
_OF_ONE_AGENT: tuple[tuple[KeyPath, Any, str], ...] = (
    (("pool", "workers"), 0, "a team's environments are stepped in this process; remove it"),
    (("backend",), "gymnasium", "PettingZoo's environments have no other backend; remove it"),
    (("on_nan",), "error", "a team's run stops at NaN; remove it"),
    (("agent", "init"), None, "a team begins with fresh weights; remove it"),
)
_OF_ONE_AGENTS_TASK = (
    *("wrappers", "sample", "randomize", "drift", "rate", "python", "exclusive"),
)
# Their loops are not a plain sequence of steps of all environments.
_ALGORITHMS = tuple(name for name in ALGORITHMS if name != "recurrent_ppo")


def is_team(data: Mapping[str, Any]) -> bool:
    """Return whether a scenario has many agents."""
    agent = data.get("agent")
    return isinstance(agent, Mapping) and agent.get("policies") is not None


def check_team(data: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with a scenario that has ``agent.policies``."""
    for path, usual, remedy in _OF_ONE_AGENT:
        section: Any = data
        for key in path[:-1]:
            section = section.get(key) if isinstance(section, Mapping) else None
        value = section.get(path[-1], usual) if isinstance(section, Mapping) else usual
        if value != usual:
            yield Finding(path, remedy, at_key=True)
    algorithm = data["agent"].get("algorithm")
    if algorithm in ALGORITHMS and algorithm not in _ALGORITHMS:
        message = f"'{algorithm}' cannot learn in a team; {', '.join(_ALGORITHMS)} can"
        yield Finding(("agent", "algorithm"), message)
    for index, task in enumerate(data["tasks"]):
        if not isinstance(task, Mapping):
            continue  # reported with the other wrong forms
        for key in _OF_ONE_AGENTS_TASK:
            if task.get(key):
                message = "not for many agents; give the environment's own kwargs instead"
                yield Finding(("tasks", index, key), message, at_key=True)
        changes = task.get("changes")
        for key in changes if isinstance(changes, Mapping) else ():
            if key in Changes.model_fields and key not in OF_AN_AGENT:
                message = f"not for many agents; each can have {', '.join(OF_AN_AGENT)}"
                yield Finding(("tasks", index, "changes", key), message, at_key=True)
        env = task.get("env")
        if isinstance(env, str) and env:
            try:
                check_team_environment(env, folder)
            except NotUsable as error:
                yield Finding(("tasks", index, "env"), str(error))
