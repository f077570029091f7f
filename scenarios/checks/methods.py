"""Checks of ``methods:``: their names, arguments, and fit with the agent and the stream."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast import registry
from holdfast.offers import offers
from holdfast.registry import (
    AGENTS,
    ALGORITHMS,
    METHODS,
    PLUGINS,
    SUPERVISED,
    TEAM_ALGORITHMS,
    Algorithm,
    Plugin,
)
from holdfast.scenarios.checks.agent import meant_algorithm
from holdfast.scenarios.checks.arguments import fit_arguments
from holdfast.scenarios.checks.messages import (
    Checked,
    Finding,
    did_you_mean,
    entries,
    mapping,
    tasks_of,
)
from holdfast.scenarios.checks.references import NotUsable, is_offered, is_own, read_offered
from holdfast.scenarios.schema.method_spec import parts_of
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import Signature, broken_contract, signature


@dataclass(frozen=True)
class Setting:
    """The plain data of other sections, against which methods are checked.

    Attributes:
        algorithm: What ``agent.algorithm`` means; None where that is not known.
        stream: The section, empty where it is no mapping.
        carry: Likewise.
        arguments: Of the agent.
        folder: The scenario's.
        has_scores: Whether every task says how its returns become scores.
        is_team: Whether there are many agents.
        sampled: Index of the first task that is drawn at every visit; None where none is.
        has_costs: Whether every task has a ``cost:``.
    """

    algorithm: str | None
    stream: Mapping[str, Any]
    carry: Mapping[str, Any]
    arguments: Mapping[str, Any]
    folder: Path | None
    has_scores: bool = True
    is_team: bool = False
    sampled: int | None = None
    has_costs: bool = False

    @property
    def table(self) -> Algorithm | None:
        """The algorithm's entry in the registry, None where it is not known."""
        name = self.algorithm
        known = name and (name in AGENTS or is_own(name) or is_offered("agents", name))
        return registry.algorithm(name) if known and name else None


def setting_of(data: Mapping[str, Any], folder: Path | None) -> Setting:
    """Return what the methods of a scenario's data are checked against."""
    agent, stream, carry = (mapping(data.get(key)) for key in ("agent", "stream", "carry"))
    own = [mapping(task).get("score") for task in entries(data.get("tasks"))]
    return Setting(
        algorithm=meant_algorithm(agent),
        stream=stream,
        carry=carry,
        arguments=agent,
        folder=folder,
        has_scores=data.get("score") is not None or (bool(own) and None not in own),
        is_team=agent.get("policies") is not None,
        sampled=next((index for index, task in tasks_of(data) if task.get("sample")), None),
        has_costs=all(task.get("cost") is not None for _, task in tasks_of(data)),
    )


def check_methods(methods: Sequence[Any], setting: Setting) -> Checked:
    """Return ``methods:`` with arguments as each method takes them, and what is wrong."""
    found = [*_check_heads(setting), *_check_carry(setting), *_check_resets(setting)]
    seen: dict[int, list[dict[str, Any]]] = {}
    fitted = list(methods)
    for index, entry in enumerate(methods):
        parts = parts_of(entry)
        if not parts:
            continue  # reported with the other wrong forms
        path = ("methods", index)
        first = next((earlier for earlier, other in seen.items() if other == parts), None)
        if first is not None:
            message = f"the same method as methods[{first}]; for more runs, list more seeds"
            found.append(Finding(path, message))
        seen[index] = parts
        wrong, fitted[index] = _check_method(parts, entry, path, setting)
        found += wrong
    if not any(_NO_ID in finding.message for finding in found):
        found += _check_sampled(setting)
    return Checked(found, fitted)


_NO_ID = "every visit to a sampled task is a task of its own"


def _check_sampled(setting: Setting) -> Iterator[Finding]:
    """Yield that sampled tasks have no id, where the stream would give them one."""
    if setting.sampled is not None and setting.stream.get("task_id", "observed") != "hidden":
        message = f"{_NO_ID}, so that no one-hot can number them; write stream: {{task_id: hidden}}"
        yield Finding(("tasks", setting.sampled, "sample"), message, at_key=True)


def method_signature(name: str, folder: Path | None = None) -> Signature:
    """Return the signature of a method in the registry or of ``module:Name``.

    Raises:
        NotUsable: With the nearest name.
    """
    if name in METHODS:
        return signature(METHODS[name])
    if name in PLUGINS:
        return _plugin_signature(PLUGINS[name])
    if is_own(name) or is_offered("methods", name):
        known = read_offered("methods", name, folder, "method")
        return _as_plugin(known) if _AVALANCHE_PLUGIN in known.bases else known
    if call := re.fullmatch(r"([\w-]+)\((.*)\)", name):
        arguments = call[2].replace("=", ": ") or "argument: value"
        raise NotUsable(f"arguments stand in braces; write {call[1]}: {{{arguments}}}")
    raise NotUsable(f"no method '{name}'{did_you_mean(name, _all_methods())}")


def _all_methods() -> list[str]:
    return [*METHODS, *PLUGINS, *offers("methods")]


_AVALANCHE_PLUGIN = "avalanche.core:BaseSGDPlugin"


def _plugin_signature(plugin: Plugin) -> Signature:
    """Return the signature of one of Avalanche's plugins, as a method's."""
    known = signature(plugin.target)
    arguments = tuple(a for a in known.arguments if a.name not in plugin.objects)
    return _as_plugin(replace(known, arguments=arguments), **vars(plugin))


def _as_plugin(known: Signature, **attributes: Any) -> Signature:
    """Return a signature with what every plugin needs: it is told where experiences end."""
    needed = {"doors": ("plugins",), "needs": ("boundaries",)}
    return replace(known, attributes={**known.attributes, **needed, **attributes})


def _check_carry(setting: Setting) -> Iterator[Finding]:
    table = setting.table
    if table is None or setting.carry.get("replay_buffer") is not True:
        return
    if table.on_policy:
        message = f"'{setting.algorithm}' learns from rollouts and has no replay buffer; remove it"
        yield Finding(("carry", "replay_buffer"), message)
    elif setting.arguments.get("optimize_memory_usage"):
        message = "agent.optimize_memory_usage keeps no successors to carry; remove one of them"
        yield Finding(("carry", "replay_buffer"), message)


def _check_resets(setting: Setting) -> Iterator[Finding]:
    """Yield that an algorithm has no replay buffer to learn from again, or networks of its own."""
    table, path = setting.table, ("agent", "resets")
    if table is None or setting.arguments.get("resets") is None or table.on_policy is None:
        return
    if table.on_policy or "networks" not in table.doors:
        able = _algorithms(lambda entry: not entry.on_policy and "networks" in entry.doors)
        message = (
            f"'{setting.algorithm}' cannot begin again with what it has seen; these can: {able}; "
            "remove it"
        )
        yield Finding(path, message, at_key=True)


def _check_kept(signatures: Mapping[str, Signature], path: KeyPath) -> Iterator[Finding]:
    """Yield the methods that keep weights, which a reset would lose."""
    for name, known in signatures.items():
        claims = {"views", "weights"} & {*words(known, "claims")}
        if claims or "networks" in words(known, "doors"):
            message = (
                f"'{name}' sets or keeps weights itself, and agent.resets draws all of them; "
                "remove one of the two"
            )
            yield Finding(path, message)


def _check_method(
    parts: Sequence[Mapping[str, Any]], entry: Any, path: KeyPath, setting: Setting
) -> Checked:
    """Return an entry with the arguments that its methods take, and what is wrong with it."""
    found: list[Finding] = []
    signatures: dict[str, Signature] = {}
    fitted: list[Any] = list(entry) if isinstance(entry, list) else [entry]
    for position, part in enumerate(parts):
        name, given = part["name"], part["arguments"]
        place = (*path, position) if isinstance(entry, list) else path
        try:
            known = signatures[name] = method_signature(name, setting.folder)
        except NotUsable as error:
            found.append(Finding(place, str(error)))
            continue
        if wrong := _cannot_be_here(name, known, setting, alone=len(parts) == 1):
            found.append(Finding(place, wrong))
            continue
        found += _check_packages(name, known, place)
        is_foreign = name not in METHODS and name not in PLUGINS
        target = registry.method_target(name)
        if is_foreign and (broken := broken_contract(target, setting.folder)):
            found.append(Finding(place, f"'{name}': {broken}"))
        inside = (*place, name) if given else place
        wrong_arguments, arguments = fit_arguments(given, name, known, inside)
        if given:
            fitted[position] = {name: arguments}
        found += wrong_arguments
        found += _check_needs(name, known, given, place, setting)
        found += _check_refusals(name, known, given, place, setting)
        found += _check_doors(name, known, place, setting)
    found += _check_claims(signatures, path)
    found += _check_networks(signatures, path, setting)
    if setting.arguments.get("resets") is not None:
        found += _check_kept(signatures, path)
    return Checked(found, fitted if isinstance(entry, list) else fitted[0])


def _cannot_be_here(name: str, known: Signature, setting: Setting, *, alone: bool) -> str:
    """Return why a method composes with none, or does not work in a team; empty where it does."""
    if not alone and known.attributes.get("alone"):
        return (
            f"'{name}' composes with nothing; a list inside methods: composes, "
            "what is to be compared are entries side by side"
        )
    if setting.is_team and known.attributes.get("not_in_teams"):
        return f"'{name}' does not work in a team: {known.attributes['not_in_teams']}"
    if setting.stream.get("boundaries") == "detected":
        return _unfit_for_slots(name, known)
    return ""


def _unfit_for_slots(name: str, known: Signature) -> str:
    """Return why a method cannot take boundaries that a detector finds; empty where it can."""
    instead = "take another method, or write stream: {boundaries: known}"
    if unknown := [need for need in words(known, "needs") if need != "boundaries"]:
        *first, last = (_TOLD.get(need, need) for need in unknown)
        told = f"{', '.join(first)} and {last}" if first else last
        return f"'{name}' must be told {told}, which a detector does not find; {instead}"
    open_doors = set(_OF_A_LIVING_MODEL)
    if words(known, "claims") == ("exploration",):  # all that it does there, and that needs an id
        open_doors.add("lifecycle")
    if closed := [door for door in words(known, "doors") if door not in open_doors]:
        return (
            f"'{name}' goes through the {closed[0]} door, which opens where a model is built for a "
            f"task, and over detected boundaries one model lives on; {instead}"
        )
    if known.attributes.get("grows") == "transitions":
        return (
            f"'{name}' keeps every transition of a task, and a slot may be longer than what the "
            f"replay buffer holds; {instead}"
        )
    return ""


def _check_packages(name: str, known: Signature, place: KeyPath) -> Iterator[Finding]:
    for package in words(known, "packages"):
        if importlib.util.find_spec(package) is None:
            message = f"'{name}' needs the package '{package}', which is not installed; "
            yield Finding(place, f"{message}install it with: pip install {package}")


_OF_A_LIVING_MODEL = ("gradients", "memory", "output")
_TOLD = {
    "task_id": "which task it is in",
    "evaluation_task_id": "which task it is measured on",
    "task_count": "how many tasks come",
    "score": "how returns become scores",
}


def words(known: Signature, attribute: str) -> tuple[str, ...]:
    """Return a class attribute that holds words: ``needs``, ``doors``."""
    value = known.attributes.get(attribute, ())
    return tuple(value) if isinstance(value, tuple | list) else (str(value),)


def _check_refusals(
    name: str, known: Signature, given: Mapping[str, Any], place: KeyPath, setting: Setting
) -> Iterator[Finding]:
    """Yield what a method cannot work with of ``carry:``, and arguments of another algorithm's."""
    for key, value, why in known.attributes.get("refuses", ()):
        if setting.carry.get(key) is value:
            message = f"'{name}' cannot work with carry.{key}: {str(value).lower()}: {why}; "
            yield Finding(("carry", key), f"{message}remove it")
    for key in words(known, "off_policy_arguments"):
        if given.get(key) and setting.table is not None and setting.table.on_policy:
            message = f"needs a replay buffer, which on-policy '{setting.algorithm}' does not have"
            yield Finding((*place, name, key), f"{message}; remove it", at_key=True)
    for key in words(known, "cost_arguments"):
        if not given.get(key):
            continue
        if setting.table is not None and not setting.table.on_policy:
            message = f"reads what the steps of rollouts cost, and '{setting.algorithm}' has none"
            yield Finding((*place, name, key), f"{message}; remove it", at_key=True)
        elif not setting.has_costs:
            message = "asks what steps cost, and a task does not tell; write cost: for each"
            yield Finding((*place, name, key), f"{message}, or remove it", at_key=True)


def _check_needs(
    name: str, known: Signature, given: Mapping[str, Any], place: KeyPath, setting: Setting
) -> Iterator[Finding]:
    if "score" in words(known, "needs") and not setting.has_scores:
        message = (
            f"'{name}' must be told how returns become scores, for every task; write "
            "score: {random: a, reference: b}, or score: success"
        )
        yield Finding(place, message)
    task_id = setting.stream.get("task_id") == "hidden"
    hidden = {
        "boundaries": (
            setting.stream.get("boundaries") == "hidden", "where tasks end", "boundaries: known"
        ),
        "task_id": (task_id, "which task it is in", "task_id: observed"),
        "evaluation_task_id": (task_id, "which task it is measured on", "task_id: observed"),
        "task_count": (
            setting.stream.get("task_count", "unknown") == "unknown",
            "how many tasks come",
            "task_count: known",
        ),
    }  # fmt: skip
    pairs = known.attributes.get("needs_without", ())
    asked = {need: key for key, need in pairs if given.get(key) is None}
    needs = [*words(known, "needs"), *asked]
    ids = [need for need in needs if need in ("task_id", "evaluation_task_id")]
    if ids and setting.sampled is not None:
        message = (
            f"'{name}' must be told {hidden[ids[0]][1]}, and nothing can tell it: {_NO_ID}, "
            "without an id; take a method that needs none (`holdfast list methods`), or remove "
            f"tasks[{setting.sampled}].sample"
        )
        yield Finding(place, message)
        return
    lacking = dict.fromkeys(need for need in needs if hidden.get(need, (False,))[0])
    missing = [hidden[need] for need in lacking]
    if missing:
        told = " and ".join(what for _, what, _ in missing)
        remedies = ", ".join(dict.fromkeys(remedy for _, _, remedy in missing))
        message = f"'{name}' must be told {told}, which stream: hides; "
        instead = "".join(f", or give it {asked[need]}:" for need in lacking if need in asked)
        yield Finding(place, f"{message}write stream: {{{remedies}}}{instead}")


def _check_doors(
    name: str, known: Signature, place: KeyPath, setting: Setting
) -> Iterator[Finding]:
    if setting.table is None or setting.algorithm is None:
        return
    if lacking := _lacking(name, known, setting.algorithm, setting.table):
        yield Finding(place, lacking)
        return
    doors = words(known, "doors")
    if "output" in doors and setting.arguments.get("use_sde"):
        message = f"'{name}' needs a policy without state-dependent noise; remove agent.use_sde"
        yield Finding(place, message)
    if "memory" in doors and setting.arguments.get("optimize_memory_usage"):
        message = f"'{name}' cannot use a buffer with agent.optimize_memory_usage; remove it"
        yield Finding(place, message)


def _lacking(name: str, known: Signature, algorithm: str, table: Algorithm) -> str:
    """Return what an algorithm lacks for a method; empty where it has all."""
    if table.is_streaming and not set(words(known, "doors")) <= table.doors:
        usable = ", ".join(_methods_for(algorithm))
        return (
            f"'{name}' cannot reach '{algorithm}': its traces mix the gradients of many steps, and "
            f"it keeps nothing of a step; methods for '{algorithm}': {usable}"
        )
    if table.on_policy and known.attributes.get("on_policy") is False:
        others = _algorithms(lambda entry: not entry.on_policy)
        return (
            f"'{name}' needs an off-policy algorithm ({others}); on-policy '{algorithm}' "
            "keeps no transitions: use 'cloning', which stores observations and policy outputs"
        )
    if table.on_policy is False and known.attributes.get("on_policy") is True:
        others = _algorithms(lambda entry: entry.on_policy)
        return (
            f"'{name}' needs an on-policy algorithm ({others}); '{algorithm}' learns from a replay "
            "buffer: use 'replay'"
        )
    only = words(known, "algorithms")
    if only and algorithm in AGENTS and algorithm not in only:
        return f"'{name}' works with {', '.join(only)}, not with '{algorithm}'"
    for door in words(known, "doors"):
        if door == "output" and table.output is None:
            what, others = "policy output", _algorithms(lambda entry: entry.output is not None)
        elif door != "output" and door not in table.doors:
            what, others = f"{door} door", _with_door(door)
        else:
            continue
        usable = ", ".join(_methods_for(algorithm)) or "none"
        return (
            f"'{name}' needs the {what} of the algorithm, which '{algorithm}' does not have; "
            f"algorithms that have it: {others}; methods for '{algorithm}': {usable}"
        )
    return ""


def _algorithms(test: Any) -> str:
    return ", ".join(name for name, entry in ALGORITHMS.items() if test(entry))


def _with_door(door: str) -> str:
    return ", ".join(name for name, entry in AGENTS.items() if door in entry.doors)


def _methods_for(algorithm: str) -> Iterator[str]:
    """Yield the methods of the registry that this algorithm can take."""
    for name in (*METHODS, *PLUGINS):
        if can_take(algorithm, method_signature(name)):
            yield name


def can_take(algorithm: str, known: Signature) -> bool:
    """Return whether an algorithm of the registry has all that a method's class asks for."""
    table, doors = registry.algorithm(algorithm), set(words(known, "doors"))
    return (
        doors - {"output"} <= table.doors
        and ("output" not in doors or table.output is not None)
        and known.attributes.get("on_policy") in (None, table.on_policy)
        and algorithm in (words(known, "algorithms") or (algorithm,))
        and not (algorithm in TEAM_ALGORITHMS and known.attributes.get("not_in_teams"))
    )


def _check_claims(signatures: Mapping[str, Signature], path: KeyPath) -> Iterator[Finding]:
    """Yield a finding for what two composed methods would both have to themselves."""
    holders: dict[str, list[str]] = {}
    for name, known in signatures.items():
        for claim in words(known, "claims"):
            holders.setdefault(claim, []).append(name)
    for claim, names in holders.items():
        if len(names) > 1:
            message = f"{_quoted(names)} both {_CLAIMS.get(claim, f'claim {claim}')}"
            yield Finding(path, f"{message}; compose at most one of them")


_CLAIMS = {
    "views": "keep the policy of each task",
    "weights": "write weights after each step, or hold them",
    "projection": "have the last word on the gradient",
    "exploration": "choose the actions at a task's start",
    "batches": "choose the minibatches",
}


def _check_networks(
    signatures: Mapping[str, Signature], path: KeyPath, setting: Setting
) -> Iterator[Finding]:
    growing = [name for name, known in signatures.items() if "networks" in words(known, "doors")]
    if not growing:
        return
    if len(growing) > 1:
        message = f"{_quoted(growing)} both rebuild the networks; compose at most one of them"
        yield Finding(path, message)
    alone = [name for name in growing if not signatures[name].attributes.get("takes_heads")]
    if alone and setting.stream.get("task_id") == "heads":
        message = f"'{alone[0]}' rebuilds the networks, and so does stream.task_id: heads; "
        yield Finding(path, message + "write stream: {task_id: observed}")
    if mapping(setting.arguments.get("policy_kwargs")).get("activation") == "crelu":
        message = f"crelu doubles what layers put out, which '{growing[0]}' does not follow; "
        yield Finding(("agent", "policy_kwargs", "activation"), message + "write relu")
    if setting.carry.get("optimizer") is True:
        message = f"moments of the optimizer cannot follow networks that '{growing[0]}' rebuilds; "
        yield Finding(("carry", "optimizer"), message + "remove it")


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def _check_heads(setting: Setting) -> Iterator[Finding]:
    """Yield a finding where heads are asked of an algorithm whose networks are closed."""
    table = setting.table
    if table is None or setting.stream.get("task_id") != "heads":
        return
    if setting.algorithm == SUPERVISED:  # its heads are Avalanche's
        return
    if "networks" not in table.doors:
        message = (
            f"'{setting.algorithm}' does not open its networks for a head per task; "
            f"algorithms that do: {_with_door('networks')}; or write task_id: observed"
        )
        yield Finding(("stream", "task_id"), message)
