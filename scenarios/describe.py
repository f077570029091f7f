"""Rows of ``holdfast list methods`` and ``agents``, read from the source without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from holdfast.registry import AGENTS, METHODS, PLUGINS, algorithm
from holdfast.scenarios.checks.agent import RESERVED, algorithm_signature
from holdfast.scenarios.checks.methods import can_take, method_signature, words
from holdfast.signature import Argument


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        name: As scenarios write it.
        summary: First line of its docstring.
        needs: What the stream must tell it; see ``holdfast.continual.method``.
        doors: How it reaches the agent; ``output`` where it needs the policy's output.
        algorithms: The algorithms of the registry that it works with.
        arguments: Of its constructor.
        memory: What it keeps, in a few words.
        extra: Updates or steps beside the task's own, in a few words.
        convention: What its strength multiplies.
        not_in_teams: Why it cannot work in a team; empty where it can.
    """

    name: str
    summary: str
    needs: tuple[str, ...]
    doors: tuple[str, ...]
    algorithms: tuple[str, ...]
    arguments: tuple[Argument, ...]
    memory: str
    extra: str
    convention: str
    not_in_teams: str


@dataclass(frozen=True)
class AlgorithmRow:
    """One algorithm.

    Attributes:
        name: As scenarios write it.
        summary: First line of its docstring.
        on_policy: Whether it learns from rollouts (True), from a replay buffer (False), or from
            data sets (None).
        actions: Gymnasium action spaces that it takes.
        doors: By which methods reach it.
        output: What its policy's output is, or None.
        arguments: That a scenario may give.
    """

    name: str
    summary: str
    on_policy: bool | None
    actions: tuple[str, ...]
    doors: tuple[str, ...]
    output: str | None
    arguments: tuple[Argument, ...]


def describe_method(name: str, folder: Path | None = None) -> MethodRow:
    """Return the row of a method in the registry or of ``module:Name``."""
    known = method_signature(name, folder)
    return MethodRow(
        name=name,
        summary=known.summary,
        needs=words(known, "needs"),
        doors=words(known, "doors"),
        algorithms=tuple(algorithm for algorithm in AGENTS if can_take(algorithm, known)),
        arguments=known.arguments,
        memory=str(known.attributes.get("memory", "")),
        extra=str(known.attributes.get("extra", "")),
        convention=str(known.attributes.get("convention", "")),
        not_in_teams=str(known.attributes.get("not_in_teams", "")),
    )


def describe_methods() -> tuple[MethodRow, ...]:
    """Return a row for every method of the registry."""
    return tuple(describe_method(name) for name in (*METHODS, *PLUGINS))


def describe_algorithm(name: str) -> AlgorithmRow:
    """Return the row of an algorithm in the registry, or that an installed package offers."""
    entry, known = algorithm(name), algorithm_signature(name, None)
    own = tuple(a for a in known.arguments if a.name not in (*RESERVED, "policy", "device"))
    doors, actions = tuple(sorted(entry.doors)), tuple(sorted(entry.actions))
    return AlgorithmRow(name, known.summary, entry.on_policy, actions, doors, entry.output, own)


def describe_algorithms() -> tuple[AlgorithmRow, ...]:
    """Return a row for every algorithm of the registry."""
    return tuple(describe_algorithm(name) for name in AGENTS)
