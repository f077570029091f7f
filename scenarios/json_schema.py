"""JSON Schema of the arguments of methods and algorithms, so that editors complete them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from holdfast.registry import AGENTS
from holdfast.scenarios.checks.arguments import annotation_options, form_of, literal_values
from holdfast.scenarios.checks.papers import KEY, PAPERS, PRESET, presets, zoo
from holdfast.scenarios.describe import describe_algorithms, describe_methods
from holdfast.scenarios.schema.method_spec import ACTIVATIONS, LAYER_NORMS, OPTIMIZERS
from holdfast.scenarios.schema.scenario import Scenario
from holdfast.scenarios.source.task_defaults import KEY as TASK_DEFAULTS
from holdfast.signature import Argument

_TYPES = {
    "int": "integer",
    "float": "number",
    "str": "string",
    "bool": "boolean",
    "None": "null",
    **dict.fromkeys(("list", "tuple", "Sequence"), "array"),
    **dict.fromkeys(("dict", "Mapping", "Schedule", "Callable", "ActionNoise"), "object"),
}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of scenario files, for editors with yaml-language-server."""
    schema = Scenario.model_json_schema()
    _add_arguments(schema["$defs"])
    _add_task_defaults(schema)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _add_arguments(definitions: dict[str, Any]) -> None:
    """Add what each method and each algorithm takes."""
    for form in _methods_by_name(definitions["Method"]):
        for row in describe_methods():
            form["properties"][row.name] = {
                "description": row.summary,
                "type": ["object", "null"],
                "properties": _properties(row.arguments) | _paper(row.name),
                "additionalProperties": False,
            }
    agent = definitions["Agent"]
    own = {"type": "string", "pattern": r"^[\w.]+:\w+$"}
    description = agent["properties"]["algorithm"]["description"]
    either = {"anyOf": [{"enum": list(AGENTS)}, own], "description": description}
    agent["properties"]["algorithm"] = either
    agent["allOf"] = [
        {
            "if": {"properties": {"algorithm": {"const": row.name}}, "required": ["algorithm"]},
            "then": {
                "properties": _properties(row.arguments) | _paper(row.name) | _preset(row.name)
            },
        }
        for row in describe_algorithms()
    ]


def _add_task_defaults(schema: dict[str, Any]) -> None:
    """Add ``task_defaults:``, which the model does not have: there, tasks are written out."""
    task = schema["$defs"]["Task"]
    common = {name: entry for name, entry in task["properties"].items() if name != "name"}
    schema["properties"][TASK_DEFAULTS] = {
        "description": "Keys of all tasks; what a task says itself wins, and kwargs and changes "
        "are merged.",
        "type": "object",
        "properties": common,
        "additionalProperties": False,
    }
    task["required"] = ["name"]


def _methods_by_name(method: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield the schema of ``{name: {arguments}}``, alone and in a composition."""
    for form in method["anyOf"]:
        if form.get("type") == "object":
            yield form
        elif form.get("type") == "array":
            yield from _methods_by_name(form["items"])


def _properties(arguments: Iterable[Argument]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for argument in arguments:
        properties[argument.name] = entry = _type(argument.annotation)
        entry["description"] = argument.annotation or "any"
        if not argument.required:
            entry["description"] += f", default {argument.default_text}"
    if "policy_kwargs" in properties:
        properties["policy_kwargs"]["properties"] = {
            "net_arch": {"type": ["array", "object"], "description": "Hidden layers: [64, 64]."},
            "activation": {"enum": list(ACTIVATIONS)},
            "layer_norm": {
                "enum": list(LAYER_NORMS),
                "description": "LayerNorm after all hidden layers, the first of each network, or "
                "all of the critics.",
            },
            "dropout_rate": {
                "type": "number",
                "minimum": 0,
                "exclusiveMaximum": 1,
                "description": "Dropout after all hidden layers of the critics, targets included.",
            },
            "optimizer": {"enum": list(OPTIMIZERS)},
            "weight_decay": {
                "type": "number",
                "minimum": 0,
                "description": "adam: added to the gradient (L2); adamw: beside it (decoupled).",
            },
            "features_extractor": {"type": "string", "description": "module:Class"},
        }
    return properties


def _paper(name: str) -> dict[str, Any]:
    """Return the key that takes the constants of a paper, where one has some for this name."""
    papers = [paper for paper, preset in PAPERS.items() if name in preset]
    return {KEY: {"enum": papers, "description": "Constants of a paper."}} if papers else {}


def _preset(algorithm: str) -> dict[str, Any]:
    """Return the key that takes rl-zoo3's numbers for an environment, where it has some."""
    known = list(presets().get(algorithm, ()))
    about = f"Numbers of {zoo()['source']} for an environment; what is written beside it wins."
    return {PRESET: {"enum": known, "description": about}} if known else {}


def _type(annotation: str) -> dict[str, Any]:
    """Return the JSON type of an annotation; nothing where JSON has no such kind."""
    types: list[str] = []
    values: list[Any] = []
    options: list[ast.expr] = annotation_options(annotation)
    for option in options:
        kind = form_of(option)
        if kind == "Literal":
            values += literal_values(option)
        elif kind in _TYPES:
            types.append(_TYPES[kind])
        else:
            return {}
    if values and not types:
        return {"enum": values}
    return {"type": sorted(set(types))} if types and not values else {}
