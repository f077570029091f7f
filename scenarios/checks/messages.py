"""Findings about a scenario, in the words of somebody who writes one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from holdfast.offers import offers
from holdfast.registry import closest, suggestion
from holdfast.scenarios.schema.fields import descriptions
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.task_defaults import KEY as TASK_DEFAULTS
from holdfast.scenarios.source.yaml_file import KeyPath


class Finding(NamedTuple):
    """Something wrong at a value of the scenario, or at its key."""

    path: KeyPath
    message: str
    at_key: bool = False


class Checked(NamedTuple):
    """The mistakes in data, and the data as they are meant: presets filled in, ``1e5`` an int."""

    findings: list[Finding]
    data: Any


def mapping(value: Any) -> Mapping[Any, Any]:
    """Return a section; an empty one for another form, which the model reports."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> Sequence[Any]:
    """Return the entries of a list; none for another form, which the model reports."""
    return value if isinstance(value, list | tuple) else ()


def tasks_of(data: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield index and task, but for those of another form, which the model reports."""
    tasks = enumerate(entries(data.get("tasks")))
    return ((index, task) for index, task in tasks if isinstance(task, Mapping))


def unwanted(
    data: Mapping[str, Any], usual: Iterable[tuple[KeyPath, Any, str]]
) -> Iterator[Finding]:
    """Yield a finding for each key that has another value than its usual one, with the advice."""
    for path, unchanged, advice in usual:
        section: Mapping[Any, Any] = data
        for key in path[:-1]:
            section = mapping(section.get(key))
        if section.get(path[-1], unchanged) != unchanged:
            yield Finding(path, advice, at_key=True)


def refused(
    section: Mapping[Any, Any], advice: Mapping[str, str], path: KeyPath = ()
) -> Iterator[Finding]:
    """Yield a finding for each key of a section that must say nothing, with its advice."""
    for key, text in advice.items():
        if section.get(key):
            yield Finding((*path, key), text, at_key=True)


def _sections(
    section: type[BaseModel], path: KeyPath = ()
) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """Yield the path and the model of a section and of all inside it."""
    yield path, section
    for name, field in section.model_fields.items():
        for below, model in _models(field.annotation):
            yield from _sections(model, (*path, name, *below))


def _models(annotation: Any) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """Yield the models that an annotation names, and the path to each: ``*`` for any entry."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    many = ("*",) if get_origin(annotation) in (tuple, dict) else ()
    for inner in get_args(annotation):
        yield from (((*many, *below), model) for below, model in _models(inner))


_IN_SHORT = frozenset({"methods", "wrappers", "callbacks"})
SECTIONS = {path: model for path, model in _sections(Scenario) if not _IN_SHORT & {*path}}
"""The model of each section, but for those that are written in short."""

_SYNONYMS = {
    "lr": "learning_rate",
    "algo": "algorithm",
    "model": "agent",
    "environment": "env",
    "env_id": "env",
    "id": "env",
    "env_kwargs": "kwargs",
    "timesteps": "steps",
    "total_timesteps": "steps",
    "budget": "steps",
    "seed": "seeds",
    "method": "methods",
    "mitigations": "methods",
    "num_envs": "n_envs",
    "discount": "gamma",
    "eval": "evaluation",
    "eval_freq": "every",
    "n_eval_episodes": "episodes",
    "max_episode_steps": "time_limit",
    "defaults": TASK_DEFAULTS,
}

_FORMS: dict[KeyPath, str] = {
    ("tasks",): "start every task with '- name: ...'",
    ("tasks", "*"): "write {name: ..., env: CartPole-v1, steps: 10000}",
    ("agent",): "write {algorithm: ppo}",
    ("methods",): "write [naive, ewc]",
    ("stream",): "write {task_id: hidden}",
    ("spaces",): "write {observation: pad}",
    ("evaluation",): "write {every: 1000, episodes: 10}",
    ("score",): "write {random: 20, reference: 500}, or success",
    ("tasks", "*", "score"): "write {random: 20, reference: 500}, or success",
    ("tasks", "*", "wrappers"): "write [atari]",
    ("tasks", "*", "changes"): "write {action_delay: 2}",
    ("tasks", "*", "demonstrations"): "write {data: expert.safetensors}",
    ("tasks", "*", "opponents"): "write {against: [random]}",
    ("tasks", "*", "opponents", "against"): "write [random, {minimax: 2}]",
    ("tasks", "*", "opponents", "measured"): "write [random, {minimax: 2}]",
    ("tasks", "*", "opponents", "past"): "write {sample: uniform, every: 10000}",
    ("tasks", "*", "partners"): "write {helpers: {run: runs/x/naive/seed-0}}",
    ("carry",): "write {optimizer: true}",
    ("agent", "normalize"): "write {observations: running}",
    ("sweep",): "write {agent.learning_rate: [1e-4, 3e-4]}",
    ("tune",): "write {space: {agent.learning_rate: {log: [1e-5, 1e-3]}}, percent: 10}",
    ("tune", "space"): "write {agent.learning_rate: {log: [1e-5, 1e-3]}}",
}

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

_MOST_SHOWN = 32  # seeds that an example lists
_LIMITS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def findings(
    errors: Iterable[ErrorDetails], data: Any, agent_arguments: Collection[str] = ()
) -> Iterator[Finding]:
    """Yield one finding for each error of pydantic.

    Args:
        errors: From ``ValidationError.errors()``.
        data: What was validated.
        agent_arguments: Names of the algorithm's own arguments, for keys in the wrong section.
    """
    for error in errors:
        path = _path(error, data)
        kind = error["type"]
        if kind == "extra_forbidden":
            message = unknown_key(str(path[-1]), path[:-1], agent_arguments)
            yield Finding(path, message, at_key=True)
        elif kind == "missing":
            yield Finding(path, _missing(path))
        elif kind == "too_short" and error["input"]:
            continue  # pydantic counts the entries that are right; the wrong ones are reported
        elif kind == "invalid_key":
            yield Finding(path, f"a key is text; {show(error['loc'][-1])} is not", at_key=True)
        else:
            yield Finding(path, _message(error, path))


def show(value: Any) -> str:
    """Return a value as an error text names it.

    >>> show("100k"), show(None), show([1]), show(True), show(0.5)
    ("the text '100k'", 'nothing', 'a list', 'true', '0.5')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else str(value)


def did_you_mean(name: str, known: Collection[str], noun: str = "known") -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or else all, unless noun is empty.

    >>> did_you_mean("ecw", ["ewc", "naive"]), did_you_mean("zzz", ["ewc", "naive"])
    ("; did you mean 'ewc'?", '; known: ewc, naive')
    """
    listed = f"; {noun}: {', '.join(known)}" if known and noun else ""
    return suggestion(name, known, "; did you mean '{}'?", listed)


def unknown_key(key: str, section: KeyPath, agent_arguments: Collection[str] = ()) -> str:
    """Return what to write instead of a key that its section does not have."""
    model = _model(section)
    own = list(model.model_fields) if model else []
    if section == ("agent",):
        own += agent_arguments
    elif not section:
        own.append(TASK_DEFAULTS)
    if section and section[-1] == "changes" and key in ("drift", "randomize", "sample"):
        return f"unknown key here; '{key}' is a key of the task, beside changes:"
    if section and section[-1] == "changes" and not closest(key, own):
        if key in offers("changes"):
            by = offers("changes")[key].origin
            return f"'{key}' is a wrapper that {by} offers; write wrappers: [{key}] beside changes:"
        return (
            f"unknown key; an attribute of the environment is set with set: {{{key}: value}}, "
            "a MuJoCo model's physics with mujoco: (gravity, mass, friction, damping, gear)"
        )
    meant = _SYNONYMS.get(key, key)
    if meant in own:
        return f"unknown key; did you mean '{meant}'?"
    elsewhere = home(meant, section, agent_arguments)
    near = closest(key, own)
    if elsewhere and not (near and key.casefold() == near.casefold()):
        as_what = "it" if meant == key else f"'{meant}'"
        return f"unknown key here; {as_what} belongs {elsewhere}"
    if _general(section) == ("tasks", "*"):
        also = f"an argument of the environment is written kwargs: {{{key}: value}}"
        return f"unknown key; did you mean '{near}'? Or: {also}" if near else f"unknown key; {also}"
    return "unknown key" + did_you_mean(key, own, "this section takes")


def home(key: str, section: KeyPath, agent_arguments: Collection[str] = ()) -> str | None:
    """Return where a key belongs that another section has."""
    for path, model in SECTIONS.items():
        if key in model.model_fields and path != _general(section) and not _DEEP.intersection(path):
            if not path:
                return "at the top level, without indentation"
            return "in each task" if path == ("tasks", "*") else f"under {_dotted(path)}:"
    if key in agent_arguments and section != ("agent",):
        return "under agent:"
    return None


_DEEP = frozenset(
    {"score", "drift", "opponents", "partners", "tune", "cost", "constraint", "demonstrations"}
)  # nobody looks for a key there


def _model(section: KeyPath) -> type[BaseModel] | None:
    """Return the model of a section; some sections have keys of the user's own above them."""
    general = _general(section)
    for path, model in SECTIONS.items():
        if len(path) == len(general) and all(
            part in ("*", own) for part, own in zip(path, general, strict=True)
        ):
            return model
    return None


def _dotted(path: KeyPath) -> str:
    return ".".join("tasks[...]" if part == "tasks" else str(part) for part in path if part != "*")


def _general(path: KeyPath) -> KeyPath:
    return tuple("*" if isinstance(part, int) else part for part in path)


def _path(error: ErrorDetails, data: Any) -> KeyPath:
    """Return where the error is in the data, without the marks that unions leave in it."""
    path: list[str | int] = []
    here = data
    keep_last = error["type"] == "missing"
    for position, part in enumerate(error["loc"]):
        inside = (isinstance(here, Mapping) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        )
        if inside:
            here = here[part]
        if inside or (keep_last and position == len(error["loc"]) - 1):
            path.append(part)
    return tuple(path)


def _missing(path: KeyPath) -> str:
    model = _model(path[:-1])
    described = descriptions(model).get(str(path[-1])) if model else None
    return f"missing: {described}" if described else "missing"


def _message(error: ErrorDetails, path: KeyPath) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _EXPECTED:
        form = _FORMS.get(_general(path)) or value_hint(value, _EXPECTED[kind])
        wanted = f"expected {_EXPECTED[kind]}, got {show(value)}"
        if _general(path) == ("seeds",):
            form = _seeds_meant(value)
        elif _general(path) == ("stream", "order", "*"):
            form = "write names of tasks: [first, second]"
        return f"{wanted}; {form}" if form else wanted
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        limit = context[name]
        text = "4294967295 (2**32 - 1)" if limit == 2**32 - 1 else f"{limit:g}"
        return f"must be {words} {text}, got {value}"
    if kind == "literal_error":
        return choice(value, re.findall(r"'([^']*)'", context["expected"]), path)
    if kind == "string_pattern_mismatch":
        fixed = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-._")
        advice = f"; for example {fixed!r}" if fixed else ""
        return f"{value!r} is not a name: letters, digits, '.', '_' and '-'{advice}"
    if kind == "finite_number":
        return f"must be a finite number, got {value}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return error["msg"][0].lower() + error["msg"][1:]


def _seeds_meant(value: Any) -> str:
    """Return how to write seeds that are no list."""
    if isinstance(value, int):
        return f"write [{value}] for that seed, or [0, 1, 2] for three"
    span = re.fullmatch(r"(\d{1,3})\s*(?:-|\.\.|:)\s*(\d{1,3})", str(value))
    if span and 0 <= int(span[2]) - int(span[1]) < _MOST_SHOWN:
        return f"write {list(range(int(span[1]), int(span[2]) + 1))}"
    numbers = re.findall(r"\d+", str(value))
    return f"write [{', '.join(numbers)}]" if numbers and not span else "write [0, 1, 2]"


def choice(value: Any, options: Collection[str], path: KeyPath = ()) -> str:
    """Return that a value is none of the options, and the nearest of them."""
    if list(options) == ["success"] and path:
        return f"expected a mapping or success, got {show(value)}; {_FORMS[_general(path)]}"
    hint = did_you_mean(value, options, "") if isinstance(value, str) else ""
    shown = repr(value) if isinstance(value, str) else show(value)
    return f"{shown} is not one of {', '.join(options)}{hint}"


def value_hint(value: Any, wanted: str) -> str:
    """Return how to write a value of the wanted kind that was written in another way.

    >>> value_hint("100k", "a whole number")
    'write 100000'
    >>> value_hint("yes", "true or false")
    'write true'
    """
    if isinstance(value, str) and "number" in wanted:
        text = value.replace(",", "").replace(" ", "")
        thousands = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM])", text)
        power = re.fullmatch(r"(\d+)(?:\^|\*\*)(\d{1,2})", text)
        if thousands:
            return f"write {float(thousands[1]) * {'k': 1e3, 'm': 1e6}[thousands[2].lower()]:.0f}"
        if power and int(power[1]) <= 100:
            return f"write {int(power[1]) ** int(power[2])}"
        if unit := re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|sec|min|h|steps|Hz|%)", text):
            return f"write the number alone, without '{unit[2]}'"
        if re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", text):
            return f"write {text} without quotes" if text == value else f"write {text}"
    if isinstance(value, str) and wanted == "true or false":
        words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        word = words.get(value.lower(), value.lower())
        return f"write {word}" if word in ("true", "false") else ""
    if isinstance(value, bool | int | float) and wanted == "text":
        return f"if it is a name, put it in quotes: '{show(value)}'"
    return ""
