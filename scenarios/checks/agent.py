"""Checks of ``agent:``: does the algorithm take the arguments that it is given?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdfast.offers import offers
from holdfast.registry import AGENTS, ALGORITHMS, SUPERVISED, TEAM_ALGORITHMS, algorithm, closest
from holdfast.scenarios.checks.arguments import Mismatch, convert, fit_arguments, out_of_range
from holdfast.scenarios.checks.messages import (
    Checked,
    Finding,
    choice,
    did_you_mean,
    home,
    mapping,
    show,
    unknown_key,
)
from holdfast.scenarios.checks.references import (
    NotUsable,
    is_derived,
    is_offered,
    is_own,
    read_offered,
    read_own,
    run_inside,
    why_not,
)
from holdfast.scenarios.schema.agent import Agent
from holdfast.scenarios.schema.method_spec import ACTIVATIONS, LAYER_NORMS, OPTIMIZERS, callback_of
from holdfast.scenarios.source import bounds
from holdfast.scenarios.source.yaml_file import KeyPath
from holdfast.signature import Signature, signature

RESERVED = {
    "env": "the environments are those of tasks:; remove it",
    "seed": "write seeds: [...] at the top level",
    "verbose": "holdfast shows progress itself; remove it",
    "tensorboard_log": "TensorBoard files go into the run folder; remove it",
    "_init_setup_model": "the model is always set up; remove it",
    "rollout_buffer_class": "methods change the rollout buffer; write a method instead",
}
# By name, whatever the algorithm: lowest, highest, and whether the lowest itself is refused.
_RANGES: dict[str, tuple[float, float | None, bool]] = {
    name: (low, high, is_open)
    for low, high, is_open, names in (
        (-1, None, False, "gradient_steps sde_sample_freq"),
        (0, None, False, "learning_starts ent_coef vf_coef weight_decay cg_damping"),
        (0, None, False, "target_policy_noise target_noise_clip top_quantiles_to_drop_per_net"),
        (0, None, True, "learning_rate clip_range clip_range_vf max_grad_norm target_kl"),
        (0, None, True, "rms_prop_eps"),
        (0, 1, False, "gamma gae_lambda momentum exploration_fraction exploration_initial_eps"),
        (0, 1, False, "exploration_final_eps trace_lambda sparsity"),
        (0, None, True, "kappa kappa_policy kappa_value"),
        (0, 1, True, "tau line_search_shrinking_factor"),
        (1, None, False, "n_steps batch_size n_epochs buffer_size train_freq hidden policy_delay"),
        (
            1,
            None,
            False,
            "target_update_interval stats_window_size cg_max_steps embed_dim",
        ),
        (1, None, False, "line_search_max_iter hypernet_dim n_critic_updates sub_sampling_factor"),
    )
    for name in names.split()
}

# What Stable-Baselines3 calls by a class has a plain form of its own.
_POLICY_FORMS = {
    "activation_fn": "activation: relu",
    "optimizer_class": "optimizer: adam",
    "features_extractor_class": "features_extractor: module:Class",
}
POLICY_PLAIN = (
    *("activation", "layer_norm", "dropout_rate"),
    *("optimizer", "weight_decay", "features_extractor"),
)
"""Entries of ``policy_kwargs`` that are Holdfast's own."""
_POLICY_GIVEN = ("observation_space", "action_space", "lr_schedule", "id_width", *_POLICY_FORMS)


def meant_algorithm(data: Any) -> str | None:
    """Return the algorithm that an ``agent:`` section means: ``PPO`` means ``ppo``.

    The misspelling is reported; with what is meant, the rest can be checked all the same.
    """
    name = mapping(data).get("algorithm")
    if not isinstance(name, str) or not name:
        return None
    if name in AGENTS or is_own(name) or is_offered("agents", name):
        return name
    return closest(name, [*AGENTS, *offers("agents")])


def argument_names(data: Any, folder: Path | None) -> tuple[str, ...]:
    """Return the arguments that the section's algorithm takes; PPO's where none is named."""
    try:
        known = algorithm_signature(meant_algorithm(data) or "ppo", folder)
    except NotUsable:
        return ()
    return tuple(argument.name for argument in known.arguments)


def check_agent(agent: Mapping[str, Any], folder: Path | None) -> Checked:
    """Return the ``agent:`` section as its algorithm takes it, and what is wrong with it.

    The section's own keys are left to its model.
    """
    written, name = agent.get("algorithm"), meant_algorithm(agent)
    found: list[Finding] = []
    if isinstance(written, str) and written and name != written:
        hint = did_you_mean(written, [*AGENTS, *offers("agents")])
        found.append(Finding(("agent", "algorithm"), f"no algorithm '{written}'{hint}"))
    if name is None:
        return Checked(found, agent)
    try:
        known = algorithm_signature(name, folder)
    except NotUsable as error:
        return Checked([*found, Finding(("agent", "algorithm"), str(error))], agent)
    closed = (*RESERVED, "policy", "device")
    arguments = {a.name: a for a in known.arguments if a.name not in closed}
    fitted = dict(agent)
    for key in [key for key in agent if key not in Agent.model_fields]:
        if len(found) > bounds.PROBLEMS:
            break
        path = ("agent", key)
        if key in RESERVED:
            found.append(Finding(path, f"not for scenarios: {RESERVED[key]}", at_key=True))
        elif key in arguments:
            wrong, fitted[key] = _fit(key, agent[key], arguments[key].annotation, path)
            found += wrong
        elif not known.takes_any and isinstance(key, str):
            found.append(Finding(path, _unknown(key, name, known), at_key=True))
    found += _check_team(fitted, name)
    wrong, options = _fit_policy(fitted, known, folder)
    if "policy_kwargs" in fitted:
        fitted["policy_kwargs"] = options
    found += [*wrong, *_check_init(fitted.get("init"), folder)]
    found += _check_callbacks(agent, folder)
    found += _check_buffer(agent, folder)
    normalizes = fitted.get("normalize_advantage", "normalize_advantage" in arguments)
    if fitted.get("batch_size") == 1 and normalizes and name in ("ppo", "maskable_ppo", "mappo"):
        message = "must be at least 2: advantages are normalised over each batch"
        found.append(Finding(("agent", "batch_size"), message))
    return Checked(found, fitted)


def _check_team(data: Mapping[str, Any], name: str) -> Iterator[Finding]:
    """Yield what is wrong where an algorithm trains a team centrally."""
    if name not in TEAM_ALGORITHMS:
        return
    if data.get("policies") is None:
        others = ", ".join(ALGORITHMS)
        message = (
            f"'{name}' trains a team centrally: add agent.policies (shared, independent, or "
            f"groups) and PettingZoo tasks; for a single agent there are {others}"
        )
        yield Finding(("agent", "algorithm"), message)
    closed = {
        "share_features_extractor": (
            "the critic sees the state and the actor does not: they share nothing; remove it"
        ),
        "features_extractor": f"'{name}' takes vectors of all agents as they are; remove it",
    }
    key = "features_extractor" if "joint" in algorithm(name).shown else "share_features_extractor"
    if key in mapping(data.get("policy_kwargs")):
        yield Finding(("agent", "policy_kwargs", key), closed[key], at_key=True)


def algorithm_signature(name: str, folder: Path | None) -> Signature:
    """Return the signature of an algorithm: a known one, one's own, or an installed package's.

    Raises:
        NotUsable: It is not there.
    """
    if name in AGENTS:
        return signature(AGENTS[name].target)
    return read_offered("agents", name, folder, "agent")


def _unknown(key: str, algorithm: str, known: Signature) -> str:
    """Return where an argument belongs that the algorithm does not have."""
    not_one = f"'{algorithm}' has no argument '{key}'"
    if key in (*POLICY_PLAIN, *_POLICY_FORMS, *_policy_arguments(known)):
        return f"{not_one}; write policy_kwargs: {{{_POLICY_FORMS.get(key, f'{key}: ...')}}}"
    own = [a.name for a in known.arguments if a.name not in (*RESERVED, "policy", "device")]
    if elsewhere := home(key, ("agent",)):
        return f"{not_one}; it belongs {elsewhere}"
    others = [other for other, names in _all_arguments().items() if key in names]
    if others:
        return f"{not_one}; it is one of {', '.join(others)}"
    return not_one + unknown_key(key, ("agent",), own).removeprefix("unknown key")


def _all_arguments() -> dict[str, set[str]]:
    """Return the argument names of every algorithm."""
    return {
        name: {argument.name for argument in signature(entry.target).arguments}
        for name, entry in AGENTS.items()
    }


def _fit(key: str, value: Any, annotation: str, path: KeyPath) -> Checked:
    """Return an argument as its annotation wants it, and what is wrong with it."""
    if key == "train_freq" and isinstance(value, list) and value[1:] != ["step"]:
        message = "write a number of steps; a task's budget is exact, so episodes cannot count"
        return Checked([Finding(path, message)], value)
    try:
        value = convert(annotation, value)
    except Mismatch as error:
        return Checked([Finding(path, str(error))], value)
    found = list(_check_range(key, value, path))
    if key in ("ent_coef", "target_entropy") and isinstance(value, str):
        start, _, rest = value.partition("_")
        if start != "auto" or (rest and (key != "ent_coef" or not _is_positive(rest))):
            form = "auto, auto_0.1 or a number" if key == "ent_coef" else "auto or a number"
            found.append(Finding(path, f"expected {form}, got {show(value)}"))
    return Checked(found, value)


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _check_range(key: str, value: Any, path: KeyPath) -> Iterator[Finding]:
    if isinstance(value, float) and not math.isfinite(value):
        yield Finding(path, f"must be a finite number, got {value}")
        return
    if key not in _RANGES:
        return
    if isinstance(value, Mapping):  # a schedule may end at 0
        for entry in value.get("linear", ()):
            if not 0 <= entry < math.inf:
                yield Finding(path, f"must be a finite number from 0 at both ends, got {entry}")
        return
    number = value[0] if isinstance(value, list) and value else value
    if key == "gradient_steps" and number == 0:
        yield Finding(path, "must not be 0: nothing would be learned (-1: as many as steps taken)")
    elif wrong := out_of_range(number, *_RANGES[key]):
        yield Finding(path, wrong)


def _fit_policy(data: Mapping[str, Any], known: Signature, folder: Path | None) -> Checked:
    """Return ``policy_kwargs`` as the policies take them, and what is wrong with the policy."""
    policies = known.names.get("policy_aliases", {})
    policy, options = data.get("policy", "auto"), data.get("policy_kwargs")
    found: list[Finding] = []
    if policies and isinstance(policy, str) and policy not in ("", "auto", *policies):
        found.append(Finding(("agent", "policy"), choice(policy, ["auto", *policies])))
    if not isinstance(options, Mapping) or not policies:
        return Checked(found, options)
    arguments, fitted = _policy_arguments(known), dict(options)
    found += _check_networks(data, options)
    for key, value in options.items():
        path = ("agent", "policy_kwargs", str(key))
        if key in POLICY_PLAIN:
            found += _check_plain(key, value, path, folder)
        elif key in _POLICY_FORMS:
            found.append(Finding(path, f"takes a class; write {_POLICY_FORMS[key]}", at_key=True))
        elif key in arguments:
            wrong, fitted[key] = _fit(key, value, arguments[key], path)
            found += wrong
        else:
            hint = did_you_mean(str(key), [*POLICY_PLAIN, *arguments], "a policy takes")
            found.append(Finding(path, f"unknown key{hint}", at_key=True))
    return Checked(found, fitted)


def _policy_arguments(known: Signature) -> dict[str, str]:
    """Return name and annotation of what a scenario may give the algorithm's policies."""
    arguments: dict[str, str] = {}
    for target in known.names.get("policy_aliases", {}).values():
        taken = signature(target).arguments
        arguments |= {a.name: a.annotation for a in taken if a.name not in _POLICY_GIVEN}
    return arguments


def _check_plain(key: str, value: Any, path: KeyPath, folder: Path | None) -> Iterator[Finding]:
    if key == "features_extractor":
        if wrong := why_not(read_own, str(value), folder, "features extractor"):
            yield Finding(path, wrong)
        return
    if key in ("weight_decay", "dropout_rate"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        most = 1 if key == "dropout_rate" else math.inf
        if not is_number or not 0 <= value < most:
            form = "number from 0 to below 1" if most == 1 else "finite number of at least 0"
            yield Finding(path, f"expected a {form}, got {show(value)}")
        return
    names = {"activation": ACTIVATIONS, "layer_norm": LAYER_NORMS, "optimizer": OPTIMIZERS}[key]
    if value not in names:
        yield Finding(path, choice(value, names))


def _check_networks(data: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a finding for a form that needs networks which the algorithm does not open."""
    name = meant_algorithm(data)
    is_open = "networks" in algorithm(str(name)).doors
    path = ("agent", "policy_kwargs")
    for key in ("activation", "layer_norm"):
        if key in options and (key == "layer_norm" or options[key] == "crelu") and not is_open:
            others = ", ".join(n for n, entry in ALGORITHMS.items() if "networks" in entry.doors)
            form = "layer_norm" if key == "layer_norm" else "crelu"
            message = f"'{name}' does not open its networks for {form}; these do: {others}"
            yield Finding((*path, key), message)
    if not _has_critics(str(name)):
        others = ", ".join(n for n in ALGORITHMS if _has_critics(n))
        for key in ("layer_norm", "dropout_rate"):
            if options.get(key) == "critics" or (key in options and key == "dropout_rate"):
                message = f"'{name}' has no critics of actions; these do: {others}"
                yield Finding((*path, key), message)
    if options.get("activation") == "crelu" and data.get("use_sde"):
        yield Finding((*path, "activation"), "crelu cannot be used with agent.use_sde; remove one")
    if "weight_decay" in options and "weight_decay" in mapping(options.get("optimizer_kwargs")):
        message = "optimizer_kwargs has weight_decay too; remove one of them"
        yield Finding((*path, "weight_decay"), message)


def _has_critics(name: str) -> bool:
    """Return whether an algorithm has critics of box actions, in networks that are open."""
    entry = algorithm(name)
    return not entry.on_policy and entry.actions == {"Box"} and "networks" in entry.doors


def _check_callbacks(agent: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with ``agent.callbacks``; forms are left to the model."""
    path, seen = ("agent", "callbacks"), set[str]()
    given = agent.get("callbacks")
    if not given:
        return
    if agent.get("policies") is not None or agent.get("algorithm") == SUPERVISED:
        what = "a team" if agent.get("policies") is not None else "the supervised agent"
        message = f"{what} calls no callbacks, only a single agent does; remove them"
        yield Finding(path, message, at_key=True)
        return
    for index, entry in enumerate(given if isinstance(given, list) else ()):
        spec, place = callback_of(entry), (*path, index)
        if spec is None or not spec["name"]:
            continue
        name = spec["name"]
        if not is_own(name):
            yield Finding(place, f"a callback is module:Class, such as my_lab:Probe, not '{name}'")
            continue
        if name in seen:
            yield Finding(place, f"'{name}' is there twice; remove one")
        seen.add(name)
        try:
            known = read_own(name, folder, "callback")
        except NotUsable as error:
            yield Finding(place, str(error))
            continue
        if not is_derived(name, _CALLBACK, folder):
            text = f"'{name}' is not derived from stable_baselines3.common.callbacks.{_CALLBACK}"
            yield Finding(place, text)
            continue
        inside = (*place, name) if spec["arguments"] else place
        yield from fit_arguments(spec["arguments"], name, known, inside).findings


def _check_buffer(agent: Mapping[str, Any], folder: Path | None) -> Iterator[Finding]:
    """Yield what is wrong with ``agent.replay_buffer_class``."""
    path, target = ("agent", "replay_buffer_class"), agent.get("replay_buffer_class")
    if not isinstance(target, str) or not is_own(target):
        return  # reported with the other forms
    if agent.get("policies") is not None:
        yield Finding(path, "a team keeps its transitions in buffers of its own; remove it")
    elif wrong := why_not(read_own, target, folder, "replay buffer"):
        yield Finding(path, wrong)
    elif not is_derived(target, _BUFFER, folder):
        text = f"'{target}' is not derived from stable_baselines3.common.buffers.{_BUFFER}"
        yield Finding(path, text)


_CALLBACK, _BUFFER = "BaseCallback", "ReplayBuffer"


def _check_init(init: Any, folder: Path | None) -> Iterator[Finding]:
    if not isinstance(init, str) or not init:
        return
    path = ("agent", "init")
    place = (folder or Path()) / init
    if place.is_dir():
        if not (place / "checkpoints").is_dir():
            message = f"'{place}' is not a run folder: it has no checkpoints/"
            yield Finding(path, message + run_inside(place, init))
    elif not place.is_file():
        yield Finding(path, f"there is no '{place}' (paths count from the scenario's folder)")
    elif place.suffix != ".zip":
        yield Finding(path, f"'{place}' is neither a run folder nor a Stable-Baselines3 .zip")
