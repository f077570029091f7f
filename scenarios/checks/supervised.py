"""Whether tasks that name a benchmark fit the supervised agent, and the other sections fit both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.registry import BENCHMARKS, SUPERVISED, Signature, function_signature
from holdfast.scenarios.checks.annotation_types import Mismatch, convert
from holdfast.scenarios.checks.messages import Finding, did_you_mean
from holdfast.scenarios.checks.references import NotUsable, is_own, own_function
from holdfast.scenarios.schema.task import ENV_OR_BENCHMARK
from holdfast.scenarios.source.yaml_file import KeyPath

# What only environments have, by section; the value that is left as it is, and what to do.
_OF_ENVIRONMENTS: tuple[tuple[KeyPath, Any, str], ...] = (
    (("n_envs",), 1, "a data set is one; remove it"),
    (("pool", "workers"), 0, "data sets are not stepped; remove it"),
    (("on_nan",), "error", "data sets are not stepped; remove it"),
    (("spaces", "observation"), "same", "inputs are never padded; remove it"),
    (("spaces", "action"), "same", "a data set has no actions; remove it"),
    (("agent", "policy"), "auto", "write hidden: [100], or model: module:Class"),
    (("agent", "normalize"), None, "inputs are learned from as the benchmark gives them"),
    (("carry", "replay_buffer"), False, "write the method avalanche-replay instead"),
    (("evaluation", "episodes"), 1, "an evaluation is the whole test set, once; remove it"),
    (("evaluation", "deterministic"), True, "the likeliest class is the answer; remove it"),
)
_OF_ENVIRONMENT_TASKS = ("changes", "wrappers", "python", "exclusive")
_DECIDED = {"return_task_id": "stream.task_id says whether there is a head per task; remove it"}

TASK_ID_ADVICE = (
    "say what the supervised agent is told: hidden (one head over all classes: class-incremental, "
    "or domain-incremental where the classes stay) or heads (task-incremental: a head per task, "
    "which evaluation chooses by the task)"
)


def check_supervised(
    data: Mapping[str, Any], algorithm: str | None, folder: Path | None
) -> Iterator[Finding]:
    """Yield what is wrong with benchmarks, and with the rest of a supervised scenario.

    Whole numbers written as ``1e5`` become integers in the benchmarks' arguments.

    Args:
        data: The whole scenario.
        algorithm: What ``agent.algorithm`` means; None where that is not known.
        folder: The scenario's folder.
    """
    tasks = data.get("tasks")
    for index, task in enumerate(tasks if isinstance(tasks, list) else ()):
        if isinstance(task, Mapping):
            yield from _check_task(task, ("tasks", index), algorithm, folder)
    if algorithm == SUPERVISED:
        yield from _check_sections(data)


def _check_task(
    task: Mapping[str, Any], path: KeyPath, algorithm: str | None, folder: Path | None
) -> Iterator[Finding]:
    env, benchmark = task.get("env"), task.get("benchmark")
    if (env is None) == (benchmark is None):
        yield Finding(path, ENV_OR_BENCHMARK)
        return
    if env is not None:
        if algorithm == SUPERVISED:
            message = f"'{SUPERVISED}' learns data sets; write benchmark: and experience: instead"
            yield Finding((*path, "env"), message, at_key=True)
        if task.get("experience") is not None:
            message = "only a benchmark has experiences; an env has none"
            yield Finding((*path, "experience"), message, at_key=True)
        return
    if algorithm is not None and algorithm != SUPERVISED:
        message = f"'{algorithm}' learns environments; for a benchmark write algorithm: supervised"
        yield Finding((*path, "benchmark"), message, at_key=True)
    for key in _OF_ENVIRONMENT_TASKS:
        if task.get(key):
            yield Finding((*path, key), "only an environment has this; remove it", at_key=True)
    yield from _check_benchmark(task, path, folder)


def _check_benchmark(
    task: Mapping[str, Any], path: KeyPath, folder: Path | None
) -> Iterator[Finding]:
    name = task["benchmark"]
    if task.get("experience") is None:
        message = "missing: which experience of the benchmark, counted from 0"
        yield Finding((*path, "experience"), message)
    if not isinstance(name, str) or not name:
        return
    try:
        known = benchmark_signature(name, folder)
    except NotUsable as error:
        yield Finding((*path, "benchmark"), str(error))
        return
    given = task.get("kwargs") or {}
    if isinstance(given, dict):
        yield from _check_arguments(given, name, known, (*path, "kwargs"))
        yield from _check_experience(task.get("experience"), given, known, path)


def benchmark_signature(name: str, folder: Path | None = None) -> Signature:
    """Return the signature of a benchmark in the registry or of ``module:function``.

    Raises:
        NotUsable: With the nearest name.
    """
    if name in BENCHMARKS:
        return function_signature(BENCHMARKS[name])
    if is_own(name):
        return own_function(name, folder, "benchmark")
    raise NotUsable(f"no benchmark '{name}'{did_you_mean(name, list(BENCHMARKS))}")


def _check_arguments(
    given: dict[str, Any], name: str, known: Signature, path: KeyPath
) -> Iterator[Finding]:
    arguments = {a.name: a for a in known.arguments if is_offered(a.name)}
    for key in list(given):
        if key in _DECIDED:
            yield Finding((*path, key), _DECIDED[key], at_key=True)
        elif key in arguments:
            try:
                given[key] = convert(arguments[key].annotation, given[key])
            except Mismatch as error:
                yield Finding((*path, key), str(error))
        elif not known.takes_any:
            hint = did_you_mean(str(key), list(arguments), "it takes")
            yield Finding((*path, key), f"'{name}' has no argument '{key}'{hint}", at_key=True)
    for argument in arguments.values():
        if argument.required and argument.name not in given:
            kind = f" ({argument.annotation})" if argument.annotation else ""
            yield Finding(path, f"'{name}' needs the argument '{argument.name}'{kind}")


def is_offered(argument: str) -> bool:
    """Return whether a scenario may give this argument of a benchmark: transforms are objects."""
    return argument not in _DECIDED and not argument.endswith("_transform")


def _check_experience(
    experience: Any, given: Mapping[str, Any], known: Signature, path: KeyPath
) -> Iterator[Finding]:
    """Yield a finding where the arguments say that there are fewer experiences."""
    defaults = {argument.name: argument.default for argument in known.arguments}
    count = given.get("n_experiences", defaults.get("n_experiences"))
    if isinstance(count, int) and isinstance(experience, int) and experience >= count:
        message = f"there are {count} experiences (n_experiences), counted from 0; got {experience}"
        yield Finding((*path, "experience"), message)


def _check_sections(data: Mapping[str, Any]) -> Iterator[Finding]:
    for path, unchanged, advice in _OF_ENVIRONMENTS:
        value: Any = data
        for key in path:
            value = value.get(key, unchanged) if isinstance(value, Mapping) else unchanged
        if value != unchanged:
            message = f"not for the supervised agent: {advice}"
            yield Finding(path, message, at_key=True)
    stream = data.get("stream", {})
    if isinstance(stream, Mapping):
        told = stream.get("task_id", "observed")
        if told == "observed":
            path = ("stream", "task_id") if "task_id" in stream else ("stream",)
            yield Finding(path, f"stream.task_id: {TASK_ID_ADVICE}")
    if data.get("score") == "success":
        yield Finding(("score",), "a data set reports no success; remove it: accuracy is the score")
