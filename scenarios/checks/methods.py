"""Whether each method exists, takes its arguments, and can work with this agent and stream."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast import registry
from holdfast.registry import (
    AGENTS,
    ALGORITHMS,
    METHODS,
    PLUGINS,
    SUPERVISED,
    TEAM_ALGORITHMS,
    Algorithm,
    Plugin,
    Signature,
    signature,
)
from holdfast.scenarios.checks.annotation_types import Mismatch, convert
from holdfast.scenarios.checks.messages import Finding, did_you_mean
from holdfast.scenarios.checks.references import NotUsable, is_own, own_class
from holdfast.scenarios.schema.method_spec import Method
from holdfast.scenarios.schema.scenario import Carry, Stream
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import broken_contract


@dataclass(frozen=True)
class Setting:
    """What methods are checked against; None where that section itself is wrong."""

    algorithm: str | None
    stream: Stream | None
    carry: Carry | None
    arguments: Mapping[str, Any]
    folder: Path | None
    has_scores: bool = True
    is_team: bool = False

    @property
    def table(self) -> Algorithm | None:
        """What is known of the algorithm."""
        own = self.algorithm is not None and is_own(self.algorithm)
        known = self.algorithm in AGENTS or own
        return registry.algorithm(self.algorithm) if known and self.algorithm else None


def check_methods(data: list[Any], setting: Setting) -> Iterator[Finding]:
    """Yield what is wrong with the entries of ``methods:``.

    Whole numbers written as ``1e5`` become integers in ``data``.
    """
    yield from _check_carry(setting)
    seen: dict[int, Method] = {}
    for index, entry in enumerate(data):
        try:
            method = Method.model_validate(entry)
        except ValueError:
            continue  # reported with the other wrong forms
        first = next((earlier for earlier, other in seen.items() if other == method), None)
        if first is not None:
            message = f"the same method as methods[{first}]; for more runs, list more seeds"
            yield Finding(("methods", index), message)
        seen[index] = method
        yield from _check_method(method, entry, ("methods", index), setting)


def method_signature(name: str, folder: Path | None = None) -> Signature:
    """Return the signature of a method in the registry or of ``module:Name``.

    Raises:
        NotUsable: With the nearest name.
    """
    if name in METHODS:
        return signature(METHODS[name])
    if name in PLUGINS:
        return _plugin_signature(PLUGINS[name])
    if is_own(name):
        known = own_class(name, folder, "method")
        return _as_plugin(known) if _AVALANCHE_PLUGIN in known.bases else known
    raise NotUsable(f"no method '{name}'{did_you_mean(name, [*METHODS, *PLUGINS])}")


_AVALANCHE_PLUGIN = "avalanche.core:BaseSGDPlugin"


def _plugin_signature(plugin: Plugin) -> Signature:
    """Return the signature of one of Avalanche's plugins, as a method's."""
    known = signature(plugin.target)
    arguments = tuple(a for a in known.arguments if a.name not in plugin.objects)
    attributes = {
        "convention": plugin.convention,
        "memory": plugin.memory,
        "extra": plugin.extra,
        "limits": plugin.limits,
        "claims": plugin.claims,
    }
    return _as_plugin(replace(known, arguments=arguments), **attributes)


def _as_plugin(known: Signature, **attributes: Any) -> Signature:
    """Return a signature with what every plugin needs: it is told where experiences end."""
    needed = {"doors": ("plugins",), "needs": ("boundaries",)}
    return replace(known, attributes={**known.attributes, **needed, **attributes})


def _check_carry(setting: Setting) -> Iterator[Finding]:
    carry, table = setting.carry, setting.table
    if carry is None or table is None or not carry.replay_buffer:
        return
    if table.on_policy:
        message = f"'{setting.algorithm}' learns from rollouts and has no replay buffer; remove it"
        yield Finding(("carry", "replay_buffer"), message)
    elif setting.arguments.get("optimize_memory_usage"):
        message = "agent.optimize_memory_usage keeps no successors to carry; remove one of them"
        yield Finding(("carry", "replay_buffer"), message)


def _check_method(method: Method, entry: Any, path: KeyPath, setting: Setting) -> Iterator[Finding]:
    composed = isinstance(entry, list)
    signatures: dict[str, Signature] = {}
    for position, part in enumerate(method.parts):
        place = (*path, position) if composed else path
        try:
            known = signatures[part.name] = method_signature(part.name, setting.folder)
        except NotUsable as error:
            yield Finding(place, str(error))
            continue
        form = entry[position] if composed else entry
        if len(method.parts) > 1 and known.attributes.get("alone"):
            message = (
                f"'{part.name}' composes with nothing; a list inside methods: composes, "
                "what is to be compared are entries side by side"
            )
            yield Finding(place, message)
            continue
        if setting.is_team and known.attributes.get("not_in_teams"):
            why = known.attributes["not_in_teams"]
            yield Finding(place, f"'{part.name}' does not work in a team: {why}")
            continue
        yield from _check_packages(part.name, known, place)
        if is_own(part.name) and (broken := broken_contract(part.name, setting.folder)):
            yield Finding(place, f"'{part.name}': {broken}")
        yield from _check_arguments(form, part.name, known, place)
        yield from _check_needs(part.name, known, place, setting)
        yield from _check_doors(part.name, known, place, setting)
    yield from _check_claims(signatures, path)
    yield from _check_networks(signatures, path, setting)


def _check_packages(name: str, known: Signature, place: KeyPath) -> Iterator[Finding]:
    for package in words(known, "packages"):
        if importlib.util.find_spec(package) is None:
            message = f"'{name}' needs the package '{package}', which is not installed; "
            yield Finding(place, f"{message}install it with: pip install {package}")


def _check_arguments(form: Any, name: str, known: Signature, place: KeyPath) -> Iterator[Finding]:
    given: dict[str, Any] = (form.get(name) if isinstance(form, Mapping) else None) or {}
    arguments = {argument.name: argument for argument in known.arguments}
    for key in list(given):
        path = (*place, name, key)
        if key in arguments:
            try:
                given[key] = convert(arguments[key].annotation, given[key])
            except Mismatch as error:
                yield Finding(path, str(error))
                continue
            yield from _check_limits(given[key], known.attributes.get("limits", {}).get(key), path)
        elif not known.takes_any:
            takes = f"; it takes: {', '.join(arguments)}" if arguments else "; it takes none"
            near = registry.closest(str(key), arguments)
            hint = f"; did you mean '{near}'?" if near else takes
            yield Finding(path, f"'{name}' has no argument '{key}'{hint}", at_key=True)
    for argument in known.arguments:
        if argument.required and argument.name not in given:
            kind = f" ({argument.annotation})" if argument.annotation else ""
            message = f"'{name}' needs the argument '{argument.name}'{kind}"
            yield Finding((*place, name) if given else place, message)


def _check_limits(value: Any, limits: Any, path: KeyPath) -> Iterator[Finding]:
    """Yield a finding where a number is outside of what the method's ``limits`` say."""
    if limits is None or isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = limits
    if not (low <= value < math.inf and (high is None or value <= high)):
        span = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        yield Finding(path, f"must be {span}, got {value:g}")


def words(known: Signature, attribute: str) -> tuple[str, ...]:
    """Return a class attribute that holds words: ``needs``, ``doors``."""
    value = known.attributes.get(attribute, ())
    return tuple(value) if isinstance(value, tuple | list) else (str(value),)


def _check_needs(
    name: str, known: Signature, place: KeyPath, setting: Setting
) -> Iterator[Finding]:
    if "score" in words(known, "needs") and not setting.has_scores:
        message = (
            f"'{name}' must be told how returns become scores, for every task; write "
            "score: {random: a, reference: b}, or score: success"
        )
        yield Finding(place, message)
    stream = setting.stream
    if stream is None:
        return
    hidden = {
        "boundaries": (stream.boundaries == "hidden", "where tasks end", "boundaries: known"),
        "task_id": (stream.task_id == "hidden", "which task it is in", "task_id: observed"),
        "evaluation_task_id": (
            stream.task_id == "hidden",
            "which task it is measured on",
            "task_id: observed",
        ),
        "task_count": (stream.task_count == "unknown", "how many tasks come", "task_count: known"),
    }
    missing = [hidden[need] for need in words(known, "needs") if hidden.get(need, (False,))[0]]
    if missing:
        told = " and ".join(what for _, what, _ in missing)
        remedies = ", ".join(dict.fromkeys(remedy for _, _, remedy in missing))
        message = f"'{name}' must be told {told}, which stream: hides; "
        yield Finding(place, f"{message}write stream: {{{remedies}}}")


def _check_doors(
    name: str, known: Signature, place: KeyPath, setting: Setting
) -> Iterator[Finding]:
    table, algorithm = setting.table, setting.algorithm
    if table is None or algorithm is None:
        return
    doors = words(known, "doors")
    if table.on_policy and known.attributes.get("on_policy") is False:
        others = _algorithms(lambda entry: not entry.on_policy)
        message = (
            f"'{name}' needs an off-policy algorithm ({others}); on-policy '{algorithm}' "
            "keeps no transitions: use 'cloning', which stores observations and policy outputs"
        )
        yield Finding(place, message)
        return
    if table.on_policy is False and known.attributes.get("on_policy") is True:
        others = _algorithms(lambda entry: entry.on_policy)
        message = (
            f"'{name}' needs an on-policy algorithm ({others}); '{algorithm}' learns from a replay "
            "buffer: use 'replay'"
        )
        yield Finding(place, message)
        return
    only = words(known, "algorithms")
    if only and algorithm in AGENTS and algorithm not in only:
        yield Finding(place, f"'{name}' works with {', '.join(only)}, not with '{algorithm}'")
        return
    for door in doors:
        has = table.output is not None if door == "output" else door in table.doors
        if has:
            continue
        if door == "output":
            what, others = "policy output", _algorithms(lambda entry: entry.output is not None)
        else:
            what, others = f"{door} door", _with_door(door)
        usable = ", ".join(_methods_for(algorithm)) or "none"
        message = (
            f"'{name}' needs the {what} of the algorithm, which '{algorithm}' does not have; "
            f"algorithms that have it: {others}; methods for '{algorithm}': {usable}"
        )
        yield Finding(place, message)
        return
    if "output" in doors and setting.arguments.get("use_sde"):
        message = f"'{name}' needs a policy without state-dependent noise; remove agent.use_sde"
        yield Finding(place, message)
    if "memory" in doors and setting.arguments.get("optimize_memory_usage"):
        message = f"'{name}' cannot use a buffer with agent.optimize_memory_usage; remove it"
        yield Finding(place, message)


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
    if setting.stream and setting.stream.task_id == "heads":
        message = f"'{growing[0]}' rebuilds the networks, and so does stream.task_id: heads; "
        yield Finding(path, message + "write stream: {task_id: observed}")
    policy = setting.arguments.get("policy_kwargs")
    if isinstance(policy, Mapping) and policy.get("activation") == "crelu":
        message = f"crelu doubles what layers put out, which '{growing[0]}' does not follow; "
        yield Finding(("agent", "policy_kwargs", "activation"), message + "write relu")
    if setting.carry and setting.carry.optimizer:
        message = f"moments of the optimizer cannot follow networks that '{growing[0]}' rebuilds; "
        yield Finding(("carry", "optimizer"), message + "remove it")


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def check_heads(setting: Setting) -> Iterator[Finding]:
    """Yield a finding where heads are asked of an algorithm whose networks are closed."""
    table = setting.table
    if setting.stream is None or setting.stream.task_id != "heads" or table is None:
        return
    if setting.algorithm == SUPERVISED:  # its heads are Avalanche's
        return
    if "networks" not in table.doors:
        message = (
            f"'{setting.algorithm}' does not open its networks for a head per task; "
            f"algorithms that do: {_with_door('networks')}; or write task_id: observed"
        )
        yield Finding(("stream", "task_id"), message)
