"""Checks of supervised scenarios: their benchmarks, and sections that only others have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.registry import BENCHMARKS, SUPERVISED
from holdfast.scenarios.checks.arguments import fit_arguments
from holdfast.scenarios.checks.messages import (
    Checked,
    Finding,
    did_you_mean,
    entries,
    refused,
    tasks_of,
    unwanted,
)
from holdfast.scenarios.checks.references import NotUsable, is_own, read_own
from holdfast.scenarios.schema.task import ENV_OR_BENCHMARK
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import Signature, function_signature

# What only environments have, by section; the value that is left as it is, and what to do.
_OF_ENVIRONMENTS: tuple[tuple[KeyPath, Any, str], ...] = (
    (("n_envs",), 1, "a data set is one; remove it"),
    (("pool", "workers"), 0, "data sets are not stepped; remove it"),
    (("on_nan",), "error", "data sets are not stepped; remove it"),
    (("spaces", "observation"), "same", "inputs are never padded; remove it"),
    (("spaces", "action"), "same", "a data set has no actions; remove it"),
    (("agent", "policy"), "auto", "write hidden: [100], or model: module:Class"),
    (("agent", "normalize"), None, "inputs are learned from as the benchmark gives them"),
    (("agent", "resets"), None, "there is no replay buffer to learn from again; remove it"),
    (("carry", "replay_buffer"), False, "write the method avalanche-replay instead"),
    (("evaluation", "episodes"), 1, "an evaluation is the whole test set, once; remove it"),
    (("evaluation", "deterministic"), True, "the likeliest class is the answer; remove it"),
    (("checkpoint", "every"), "off", "a task of a data set is saved at its end alone; remove it"),
)
_OF_ENVIRONMENT_TASKS = dict.fromkeys(
    ("changes", "wrappers", "python", "exclusive", "cost", "demonstrations"),
    "only an environment has this; remove it",
)
_DECIDED = {"return_task_id": "stream.task_id says whether there is a head per task; remove it"}

TASK_ID_ADVICE = (
    "say what the supervised agent is told: hidden (one head over all classes: class-incremental, "
    "or domain-incremental where the classes stay) or heads (task-incremental: a head per task, "
    "which evaluation chooses by the task)"
)


def check_supervised(
    data: Mapping[str, Any], algorithm: str | None, folder: Path | None
) -> Checked:
    """Return the tasks as their benchmarks take them, and what is wrong if data sets are learned.

    Args:
        data: The whole scenario.
        algorithm: What ``agent.algorithm`` means; None where that is not known.
        folder: The scenario's folder.
    """
    found: list[Finding] = []
    fitted = list(entries(data.get("tasks")))
    for index, task in tasks_of(data):
        wrong, fitted[index] = _check_task(task, ("tasks", index), algorithm, folder)
        found += wrong
    if algorithm == SUPERVISED:
        found += _check_sections(data)
    return Checked(found, fitted)


def _check_task(
    task: Mapping[str, Any], path: KeyPath, algorithm: str | None, folder: Path | None
) -> Checked:
    env, benchmark = task.get("env"), task.get("benchmark")
    found: list[Finding] = []
    if (env is None) == (benchmark is None):
        return Checked([Finding(path, ENV_OR_BENCHMARK)], task)
    if env is not None:
        if algorithm == SUPERVISED:
            message = f"'{SUPERVISED}' learns data sets; write benchmark: and experience: instead"
            found.append(Finding((*path, "env"), message, at_key=True))
        if task.get("experience") is not None:
            message = "only a benchmark has experiences; an env has none"
            found.append(Finding((*path, "experience"), message, at_key=True))
        return Checked(found, task)
    if algorithm is not None and algorithm != SUPERVISED:
        message = f"'{algorithm}' learns environments; for a benchmark write algorithm: supervised"
        found.append(Finding((*path, "benchmark"), message, at_key=True))
    found += refused(task, _OF_ENVIRONMENT_TASKS, path)
    if task.get("experience") is None:
        message = "missing: which experience of the benchmark, counted from 0"
        found.append(Finding((*path, "experience"), message))
    if not isinstance(benchmark, str) or not benchmark:
        return Checked(found, task)
    wrong, kwargs = _check_benchmark(task, path, folder)
    return Checked([*found, *wrong], {**task, "kwargs": kwargs} if kwargs else task)


def _check_benchmark(task: Mapping[str, Any], path: KeyPath, folder: Path | None) -> Checked:
    """Return the arguments of a task's benchmark as it takes them, and what is wrong with them."""
    name, given = task["benchmark"], task.get("kwargs") or {}
    try:
        known = benchmark_signature(name, folder)
    except NotUsable as error:
        return Checked([Finding((*path, "benchmark"), str(error))], given)
    if not isinstance(given, Mapping):
        return Checked([], given)  # reported with the other wrong forms
    place = (*path, "kwargs")
    decided = [Finding((*place, k), _DECIDED[k], at_key=True) for k in given if k in _DECIDED]
    free = {key: value for key, value in given.items() if key not in _DECIDED}
    offered = tuple(argument for argument in known.arguments if _is_offered(argument.name))
    wrong, kwargs = fit_arguments(free, name, replace(known, arguments=offered), place)
    experience = _check_experience(task.get("experience"), kwargs, known, path)
    return Checked([*decided, *wrong, *experience], kwargs)


def benchmark_signature(name: str, folder: Path | None = None) -> Signature:
    """Return the signature of a benchmark in the registry or of ``module:function``.

    Raises:
        NotUsable: With the nearest name.
    """
    if name in BENCHMARKS:
        return function_signature(BENCHMARKS[name])
    if is_own(name):
        return read_own(name, folder, "benchmark", "function")
    raise NotUsable(f"no benchmark '{name}'{did_you_mean(name, list(BENCHMARKS))}")


def _is_offered(argument: str) -> bool:
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
    for finding in unwanted(data, _OF_ENVIRONMENTS):
        yield finding._replace(message=f"not for the supervised agent: {finding.message}")
    stream = data.get("stream", {})
    if isinstance(stream, Mapping) and stream.get("task_id", "observed") == "observed":
        path = ("stream", "task_id") if "task_id" in stream else ("stream",)
        yield Finding(path, f"stream.task_id: {TASK_ID_ADVICE}")
    if data.get("score") == "success":
        yield Finding(("score",), "a data set reports no success; remove it: accuracy is the score")
